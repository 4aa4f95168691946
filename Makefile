# Every target builds its own environment from nothing but python3 >= 3.11.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
VERSIONS ?= 0.25.1 0.32.0 0.33.0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VLLM_VENV)/.installed
RIVALS_VENV ?= .venv-rivals
RIVALS_STAMP := $(RIVALS_VENV)/.installed
RIVALS := 'vllm-router==0.1.17' 'litellm[proxy]==1.108.7'

REPRODUCTIONS := headline scaling ablation burst overhead predictor fidelity
SCENARIOS := chatbot coder summarizer mixed tool-calling reasoning

.PHONY: install install-vllm test test-browser mutants lint format demo reproduce harm bench clean test-vllm test-vllm-fleet test-ray test-litellm compat soak

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/slosgate warm-up
	touch $@

install: $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest --ignore tests/browser

# The live page and the reports in Debian's Chromium (apt-get install chromium); screenshots go to out/browser.
test-browser: $(STAMP)
	$(BIN)/python -m pytest tests/browser

# Plausible bugs, put in one at a time: fails when the tests notice fewer than 90 % of them.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --json out/mutants.json

# Real vLLM on CPUs, in an environment of its own (3 GB; see tests/vllm/install.sh); the scheduler on the sources of
# all supported versions.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt tests/vllm/install.sh tests/vllm/overrides.txt
	tests/vllm/install.sh $(VLLM_VENV) $(PYTHON)

install-vllm: $(VLLM_STAMP)

test-vllm test-vllm-fleet compat: export HF_HUB_OFFLINE := 1
test-vllm test-vllm-fleet compat: export VLLM_LOGGING_LEVEL := ERROR
test-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m tests.vllm.compatibility $(VERSIONS)
	$(VLLM_VENV)/bin/python -m pytest -W default tests/vllm/test_serving.py tests/vllm/test_agents.py

# Two real vLLM replicas as a fleet.
test-vllm-fleet: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest -W default tests/vllm/test_fleet.py

# A fleet on a Ray cluster of three simulated nodes, whose parts are killed in turn.
test-ray: $(STAMP)
	$(BIN)/python -m pytest -m ray tests/ray

# LiteLLM's proxy in front of the gateway and behind it.
test-litellm: $(STAMP) $(RIVALS_STAMP)
	$(BIN)/python -m pytest tests/gateway/test_litellm_proxy.py

# The scheduler's tests on the sources of any vLLM versions: make compat VERSIONS="0.32.0 0.33.0"
compat: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m tests.vllm.compatibility $(VERSIONS) --out docs/compatibility.md

# The pages and pictures of docs/ that are made from the source.
.PHONY: docs docs-site
docs: $(STAMP)
	$(BIN)/python -m slosgate.gateway.reference docs
	$(BIN)/python docs/pictures.py docs/images

# docs/ as a site, in out/site.
docs-site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(STAMP)
	$(BIN)/python -m slosgate.bench.demo --out out/demo

# All tables and figures of the paper's evaluation, on one page. Searches are kept: a second run asks only what changed.
reproduce: $(STAMP)
	for name in $(REPRODUCTIONS); do \
		$(BIN)/slosbench reproduce $$name --json out/reproduce/$$name.json || exit $$?; done
	$(BIN)/slosbench report $(REPRODUCTIONS:%=out/reproduce/%.json) --out out/reproduce/report.html \
		--title "The paper's evaluation, reproduced"

# slosgate beside every baseline at its best, on three kinds of hardware, at 90 and 99 %.
harm: $(STAMP)
	$(BIN)/slosbench reproduce harm --json out/harm.json --out out/harm.html

# One scenario's capacity on every system, as a page.
.PHONY: $(SCENARIOS:%=scenario-%)
$(SCENARIOS:%=scenario-%): scenario-%: $(STAMP)
	$(BIN)/slosbench capacity --scenario $* --system vllm,vllm-v0,sarathi,distserve,slosgate-ar,slosgate \
		--json out/scenario-$*.json
	$(BIN)/slosbench report out/scenario-$*.json --out out/scenario-$*.html --title "Capacity: $*"

# The proxies that gateway-bench compares with, and tests stand beside, in an environment of their own: LiteLLM's needs other versions of what we use.
$(RIVALS_STAMP): Makefile
	$(PYTHON) -m venv $(RIVALS_VENV)
	$(RIVALS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(RIVALS)
	touch $@

# What planning a call and passing through the gateway cost on this machine.
bench: $(STAMP) $(RIVALS_STAMP)
	$(BIN)/slosbench plan-bench --json out/bench/plan.json
	PATH="$(abspath $(RIVALS_VENV))/bin:$$PATH" $(BIN)/slosbench gateway-bench --against vllm-router,litellm --json out/bench/gateway.json
	$(BIN)/slosbench report out/bench/plan.json out/bench/gateway.json --out out/bench/report.html \
		--title "What slosgate costs"

# Ten minutes at 80 % load with clients that hang up at random: what stays behind fails it.
soak: $(STAMP)
	$(BIN)/python -m slosgate.bench.gateway_bench.soak --minutes 10 --json out/soak.json

clean:
	rm -rf $(VENV) out
