"""A real `slosgate engine vllm` on the CPU, with a tiny model of random weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from slosgate.bench.gpu.dummy_model import write_model
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile

MODEL = "tiny-llama"
START_S = 800.0  # importing vLLM alone takes minutes on a busy machine with a cold cache
# Roughly what two server cores do; the tests time nothing.
CPU_PROFILE = HardwareProfile(
    name="cpu-tiny-llama",
    model=MODEL,
    device="cpu",
    perf=PerfModel(terms=(Term(per_new_token_s=5e-5, per_sequence_s=1e-4, constant_s=0.01),)),
    kv_blocks=1000,
    max_model_tokens=2048,
    source="a guess: the tests that use it time nothing",
)
OPTIONS = (
    "--load-format", "dummy", "--served-model-name", MODEL, "--max-model-len", "2048", "--enforce-eager",
    "--max-num-batched-tokens", "512", "--no-enable-prefix-caching",
)  # fmt: skip


@contextmanager
def vllm_engine(name: str, redis: str, folder: Path, *options: str, measures: bool = False) -> Iterator[str]:
    """The engine's base address once it serves; one that `measures` itself gets no profile.

    Raises RuntimeError with the log's end when it does not come up.
    """
    model = write_model(MODEL, folder / "model")
    profile = folder / "profile.json"
    profile.write_bytes(msgspec.json.encode(CPU_PROFILE))
    port = _free_port()
    command = [sys.executable, "-m", "slosgate.engines.vllm.command", "--model", str(model)]
    command += [] if measures else ["--profile", str(profile)]
    command += ["--redis", redis, "--name", name, "--port", str(port), *OPTIONS, *options]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        if not _ready(url, process):
            raise RuntimeError(f"vLLM did not start: {log.read_text(errors='replace')[-4000:]}")
        yield url
    finally:
        process.terminate()
        process.wait()


def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
