"""slosbench with what a user brings: a policy, a hardware profile, a scenario, an API key; and tables to take away."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from slosgate.bench import cache, report, results, scenarios
from slosgate.bench.cli import app
from slosgate.bench.load import offer
from slosgate.bench.show import capacity_table
from slosgate.engines import profiles

POLICY = """
from functools import partial

from slosgate.engines.sim.policies.vllm import VllmPolicy
from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.round_robin import RoundRobin


class SmallSteps(RoundRobin):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, partial(VllmPolicy, budget=64))
"""
SCENARIO = """
[class.short]
lengths = "azure-code-2023"
arrivals = 1.0
slice_s = [0.0, 30.0]
window = 2000
slo = {tpot_ms = 50.0, ttft_ms = 500.0}

[scenario.mine]
title = "Mine"
hardware = "h200-opt-13b"
classes = ["short"]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of one's own, without real traces."""
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attained(*options: str) -> float:
    """Run the coder scenario, unless an option says otherwise; the share that attained."""
    command = ["run", "--scenario", "coder", "--rate", "3", "--seconds", "20", "--csv", "rows.csv", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    with open("rows.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert "classes" not in row  # a table holds plain values only
    return float(row["attainment"])


def test_a_policy_of_ones_own_is_compared_by_module_and_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "small_steps.py").write_text(POLICY)
    busy = ["--rate", "8", "--seconds", "40"]
    assert attained("--system", "small_steps:SmallSteps", *busy) < attained("--system", "vllm", *busy)
    before = cache.fingerprint(("small_steps",))
    (here / "small_steps.py").write_text(POLICY.replace("64", "512"))
    cache.fingerprint.cache_clear()
    assert cache.fingerprint(("small_steps",)) != before  # results of the old policy are not used for the new one


def test_hardware_and_scenario_may_be_files(here: Path) -> None:
    options = ["profile", "fit", str(MEASURED), "--out", "slow.json", "--terms", "1"]
    assert CliRunner().invoke(app, options).exit_code == 0
    slow = json.loads((here / "slow.json").read_bytes())
    for term in slow["perf"]["terms"]:
        term["constant_s"] = 0.2
    (here / "slow.json").write_text(json.dumps(slow))
    (here / "mine.toml").write_text(SCENARIO)
    assert attained("--system", "vllm", "--scenario", "mine.toml", "--hardware", "slow.json") == 0.0
    assert attained("--system", "vllm", "--scenario", "mine.toml") > 0.5


def test_a_trace_may_lie_beside_its_scenario(here: Path) -> None:
    (here / "mine").mkdir()
    lines = [json.dumps({"arrival_s": n / 2, "prompt_tokens": 100, "output_tokens": 10}) for n in range(20)]
    (here / "mine" / "load.jsonl").write_text("\n".join(lines))
    own = SCENARIO.replace('"azure-code-2023"', '"load.jsonl"').replace("30.0]", "10.0]")
    (here / "mine" / "mine.toml").write_text(own)
    assert attained("--system", "vllm", "--scenario", "mine/mine.toml", "--hardware", "h200-opt-13b") == 1.0
    before = files_asked("mine/mine.toml")
    (here / "mine" / "load.jsonl").write_text("\n".join(lines).replace("100", "101"))
    scenarios.pool.cache_clear()
    assert files_asked("mine/mine.toml") != before  # capacities of the old trace are not used for the new one


def test_what_a_trace_holds_and_is_not_offered_is_told(here: Path) -> None:
    lengths = [(100, 10)] * 18 + [(3000, 10), (100, 0)]
    rows = [f"2026-11-16 18:17:{n / 2:010.7f},{prompt},{output}" for n, (prompt, output) in enumerate(lengths)]
    (here / "load.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    own = SCENARIO.replace('"azure-code-2023"', '"load.csv"').replace("1.0\n", '"load.csv"\n').replace("30.0]", "10.0]")
    (here / "mine.toml").write_text(own.replace("window = 2000", "window = 4096"))
    command = ["--scenario", "mine.toml", "--system", "vllm", "--json", "result.json", "--csv", "rows.csv"]
    done = CliRunner().invoke(app, ["run", *command, "--rate", "2"])
    told = [
        "short: 1 of 19 requests of load.csv left out: longer than the window of h200-opt-13b (the scenario asks for "
        "4,096), 2,048 tokens",
        "short: load.csv: 1 row left out: no prompt or no output tokens",
    ]
    assert done.exit_code == 0
    assert all(sentence in " ".join(done.output.split()) for sentence in told)
    (row,) = json.loads((here / "result.json").read_bytes())["rows"]
    assert (row["dropped"], row["dropped_of"], row["load"]["left_out"]) == (1, 19, told)
    assert "dropped" in (here / "rows.csv").read_text()
    assert CliRunner().invoke(app, ["report", "result.json", "--out", "page.html"]).exit_code == 0
    page = (here / "page.html").read_text()
    assert all(sentence in page for sentence in told)
    done = CliRunner().invoke(app, ["capacity", *command, "--seeds", "1"])
    assert done.exit_code == 2
    assert "18 requests of mine.toml are too few to find a capacity" in " ".join(done.output.split())


def test_a_capacitys_table_and_report_count_what_is_left_out() -> None:
    row = {
        "scenario": "mine.toml", "system": "vllm", "hardware": "h200-opt-13b", "replicas": 1, "gpus": 1,
        "attainment_target": 0.9, "capacity_rps_per_gpu": 1.0, "attainment": 0.9, "ci_low": 0.8, "ci_high": 1.0,
        "bound_rps_per_gpu": 2.0, "share_of_bound": 0.5, "dropped": 1, "dropped_of": 19,
    }  # fmt: skip
    said = "Left out of the traces, as longer than the window: mine.toml 1 of 19 requests"
    console = Console(width=80)
    with console.capture() as shown:
        console.print(capacity_table([row]))
    assert said in " ".join(shown.get().split())
    result = results.begin("capacity", {}, seed=0, hardware="h200-opt-13b")
    result.rows.append(row)
    assert said in report.build([("result.json", result)])


def files_asked(scenario: str) -> list[str]:
    """What a kept result depends on besides names and numbers."""
    load = offer(scenarios.load(scenario), profiles.load("h200-opt-13b"), 2.0, seed=0)
    return [origin["detail"] for origin in load.record["provenance"]]


MEASURED = Path(__file__).parents[2] / "bench" / "measurements" / "h200_opt13b_vllm0251_iterations.jsonl"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--system", "nowhere_to_be_found:X"), "names a module that can't be imported"),
        (("--system", "json:nothing"), "names nothing in 'json': write module:Name"),
        (("--hardware", "missing.json"), "profile missing.json: No such file"),
        (
            ("--scenario", "missing.toml"),
            "cannot read the scenario 'missing.toml': No such file or directory; choose one of chatbot, coder, "
            "summarizer, mixed, tool-calling, reasoning, agentic, or a file like scenarios.toml",
        ),
        (("--scenario", "tpyo.toml"), "or a file like scenarios.toml; did you mean 'typo.toml'?"),
        (("--scenario", "nowhere/chatbt.toml"), "or a file like scenarios.toml; did you mean 'chatbot'?"),
        (("--scenario", "empty.toml"), "'empty.toml' must hold one [scenario.NAME]"),
        (
            ("--scenario", "typo.toml"),
            "[class.short]: Object contains unknown field `windo`; accepted: lengths",
        ),
        (("--scenario", "slo.toml"), "unknown field `tpot` - at `$.slo`; accepted: tpot_ms, ttft_slowdown, ttft_ms"),
        (("--scenario", "lost.toml"), "lost.jsonl: no such file"),
        (("--scenario", "none.toml"), "there is no [class.brief]; there are chatbot, coder"),
        (("--system", "policies.py:Number"), "write policies:Number"),
        (("--system", "policies:Number"), "'policies:Number' built a int, which has no replicas, arrive"),
        (
            ("--system", "policies:Two"),
            "'policies:Two' must take one argument, the Settings: missing a required",
        ),
        (("--json", "empty.json/result.json"), "cannot write 'empty.json/result.json': "),
        (("--hardware", "empty.json"), "profile empty.json: Object missing required field `name`"),
        (
            ("--mode", "live", "--url", "http://127.0.0.1:1", "--api-key-env", "NO_SUCH_KEY"),
            "--api-key-env names 'NO_SUCH_KEY', which is not set",
        ),
    ],
)
def test_what_is_wrong_with_them_is_said_in_a_sentence(
    options: tuple[str, ...], said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "empty.toml").write_text("")
    (here / "empty.json").write_text("{}")
    (here / "typo.toml").write_text(SCENARIO.replace("window", "windo"))
    (here / "slo.toml").write_text(SCENARIO.replace("tpot_ms", "tpot"))
    (here / "lost.toml").write_text(SCENARIO.replace("azure-code-2023", "lost.jsonl"))
    (here / "none.toml").write_text(SCENARIO.replace('["short"]', '["brief"]'))
    (here / "policies.py").write_text("Number = lambda settings: 3\nTwo = lambda settings, more: 3\n")
    done = CliRunner().invoke(app, ["run", "--scenario", "coder", "--system", "vllm", "--rate", "2", *options])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
