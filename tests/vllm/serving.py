"""A real `slosgate engine vllm` on the CPU, with a tiny model of random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.processes import free_port, started
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile

MODEL = "tiny-llama"
STOP_S = 60.0
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
def vllm_engine(
    name: str, redis: str, folder: Path, *options: str, measures: bool = False, words: bool = False
) -> Iterator[str]:
    """The engine's base address once it serves; one that `measures` itself gets no profile. With `words` its tokens are
    words, else bytes.

    Raises RunError with the log's end when it does not come up.
    """
    model = write_model(MODEL, folder / "model", words=words)
    profile = folder / "profile.json"
    profile.write_bytes(msgspec.json.encode(CPU_PROFILE))
    port = free_port()
    command = [sys.executable, "-m", "slosgate.engines.vllm.command", "--model", str(model)]
    command += [] if measures else ["--profile", str(profile)]
    command += ["--redis", redis, "--name", name, "--port", str(port), *OPTIONS, *options]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    log = folder / f"{name}.log"
    with started(command, port, log=log, environment=environment, stop_s=STOP_S) as process:
        process.wait_until_up(timeout_s=START_S)
        yield process.url
