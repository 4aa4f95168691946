"""A plain `pip install slosgate`: what needs an extra says which, and nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = "matplotlib", "scipy", "pyarrow", "litellm", "ray", "tokenizers", "jinja2", "opentelemetry", "vllm"
# Read by every Python that starts with this folder in its path, also by those that the commands start.
WITHOUT_THEM = f"""
import sys
from importlib.machinery import PathFinder

class Plain(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS} else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Plain if finder is PathFinder else finder for finder in sys.meta_path]
"""
ITERATIONS = Path(__file__).parents[1] / "bench" / "measurements" / "h200_opt13b_vllm0251_iterations.jsonl"
FLEET = Path(__file__).parents[1] / "examples" / "local.toml"
CONFIG = """
[classes.interactive]
ttft_ms = 400
when_full = "overflow"
overflow = "cloud"
[overflow.cloud]
model = "openai/name"
[models.m]
tokenizer = "tokenizer.json"
[tracing]
endpoint = "http://127.0.0.1:4318"
"""


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, str]:
    """The environment of an installation without extras."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "sitecustomize.py").write_text(WITHOUT_THEM)
    (tmp_path / "slosgate.toml").write_text(CONFIG)
    path = os.pathsep.join([str(tmp_path / "plain"), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "SLOSBENCH_OFFLINE": "1", "SLOSBENCH_CACHE": str(tmp_path)}


def ended(plain: dict[str, str], folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    module = {"slosbench": "slosgate.bench.cli", "slosgate": "slosgate.gateway.cli"}[program]
    command = [sys.executable, "-c", f"from {module} import main; main()", *options]
    return subprocess.run(command, capture_output=True, text=True, env=plain, cwd=folder, timeout=100)


@pytest.mark.parametrize(
    ("command", "extras"),
    [
        (("slosbench", "profile", "fit", str(ITERATIONS)), ["bench"]),
        (("slosbench", "profile", "run", "--url", "http://127.0.0.1:1"), ["bench"]),
        (("slosbench", "reproduce", "predictor"), ["bench"]),
        (("slosbench", "reproduce", "overhead"), ["bench"]),
        (("slosbench", "traces", "stats", "azure-code-2023", "--generated", "--out", "figure.png"), ["bench"]),
        (
            ("slosbench", "run", "--scenario", "coder", "--system", "vllm", "--rate", "2", "--requests", "r.parquet"),
            ["bench"],
        ),
        (("slosgate", "check-config", "slosgate.toml"), ["litellm", "otel", "tokenizers"]),
        (("slosgate", "serve", "--config", "slosgate.toml"), ["litellm", "otel", "tokenizers"]),
        (("slosgate", "engine", "vllm", "--model", "m"), ["vllm"]),
        (("slosgate", "up", str(FLEET), "--ray"), ["ray"]),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_a_missing_extra_is_named_in_a_sentence(
    command: tuple[str, ...], extras: list[str], plain: dict[str, str], tmp_path: Path
) -> None:
    done = ended(plain, tmp_path, *command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for extra in extras:
        assert f"pip install 'slosgate[{extra}]'" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        (
            "slosbench",
            "run",
            "--scenario",
            "coder",
            "--system",
            "vllm",
            "--rate",
            "2",
            "--seconds",
            "9",
            "--json",
            "r.json",
        ),
        ("slosbench", "traces", "stats", "azure-code-2023", "--generated"),
        ("slosgate", "profile", "derive", "--model", "facebook/opt-13b", "--gpu", "H100"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_everything_else_does_without(command: tuple[str, ...], plain: dict[str, str], tmp_path: Path) -> None:
    done = ended(plain, tmp_path, *command)
    assert done.returncode == 0, done.stderr
