"""What is measured on a GPU: stock vLLM in two ways, the plug-in alone, and slosgate as it ships."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slosgate.bench import processes
from slosgate.bench.errors import RunError
from slosgate.bench.gpu.lengths import as_plugin
from slosgate.gateway.state import valkey

FIRST_PORT = 8100  # of GPU 0: the gateway, then its engines; each further GPU begins 10 ports higher
START_S = 420.0  # loading, compiling and capturing graphs for the first time takes minutes
STOP_S = 40.0
MEASURED_S = 120.0  # a replica's own measurement takes at most half a minute


@dataclass(frozen=True, slots=True)
class System:
    """How its engines are started, and how clients talk to it."""

    ours: bool = False  # `slosgate engine vllm`, which measures itself; else `vllm serve`
    gateway: bool = False
    by_deadline: bool = False  # clients state vLLM's priority: their deadline
    options: tuple[str, ...] = ()


SYSTEMS = {
    "vllm": System(),
    # The budget and the graphs that slosgate's iterations have, and vLLM's own answer to urgency.
    "vllm-best": System(
        by_deadline=True,
        options=(
            "--max-num-batched-tokens", "1024", "--max-cudagraph-capture-size", "1024",
            "--scheduling-policy", "priority",
        ),
    ),
    "plug-in": System(ours=True),
    "slosgate": System(ours=True, gateway=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A shape of `dummy_model.py` as it is served."""

    window: int
    gpus: int = 1
    options: tuple[str, ...] = ()


MODELS = {
    "llama-3.1-8b": Model(16384),
    "qwen3-32b": Model(16384, gpus=2, options=("--tensor-parallel-size", "2")),
    "opt-13b": Model(2048, options=("--no-enable-prefix-caching",)),
    "tiny-llama": Model(4096),  # for trying a measurement out, on CPUs
}


@dataclass(slots=True)
class Servers:
    """How the servers of one system are started."""

    system: System
    label: str
    folder: Path  # of the model
    model: str
    window: int
    classes: Sequence[str]  # that requests name
    options: Sequence[str]  # further ones for `vllm serve`, after the system's own
    out: Path
    first_gpu: int
    redis_url: str = ""
    engine_urls: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def serving(self, replicas: int) -> Iterator[list[str]]:
        """The addresses that requests go to, ready for them. Raises RunError for a server that doesn't come up."""
        port = FIRST_PORT + 10 * self.first_gpu
        ports = range(port + 1, port + 1 + replicas)
        self.engine_urls = [f"http://127.0.0.1:{each}" for each in ports]
        with contextlib.ExitStack() as ending:
            if not self.system.gateway:
                self._engines(ports, [], ending)
                yield self.engine_urls
                return
            redis = valkey.start()
            ending.callback(redis.stop)
            self.redis_url = redis.url
            config = "[server]\nlog_requests = true\n" + "".join(f'[classes."{name}"]\n' for name in self.classes)
            gateway = ending.enter_context(processes.gateway(redis.url, config, port=port, log=self.gateway_log))
            self._engines(ports, ["--redis", redis.url], ending)
            gateway.wait_until_up("/ready", [f"vllm-{each}" for each in ports], START_S)
            yield [gateway.url]

    @property
    def gateway_log(self) -> Path:
        return self.out / f"{self.label}-gateway.log"

    def engine_log(self, n: int) -> Path:
        return self.out / f"{self.label}-engine-{n}.log"

    def iteration_log(self, n: int) -> Path:
        return self.out / f"{self.label}-iterations-{n}.jsonl"

    def _engines(self, ports: Sequence[int], options: list[str], ending: contextlib.ExitStack) -> None:
        """One engine per port, on GPUs counted up from the first; returns when all are ready."""
        started, spans = [], MODELS[self.model].gpus
        plugin = as_plugin(self.out / "plugin")
        for n, port in enumerate(ports):
            gpus = range(self.first_gpu + n * spans, self.first_gpu + (n + 1) * spans)
            environment = {**plugin, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
            command = [sys.executable, *self._command(port, n), *options, *self.engine_options]
            running = processes.started(
                command, port, log=self.engine_log(n), environment={**os.environ, **environment}, stop_s=STOP_S
            )
            started.append(ending.enter_context(running))
        for engine in started:
            engine.wait_until_up(timeout_s=START_S)
        if self.system.ours and not self.system.gateway:  # a gateway is ready once they are registered
            for n in range(len(ports)):
                self._until_measured(n)

    def said(self, n: int) -> list[str]:
        """What an engine of ours has said of its profile."""
        lines = self.engine_log(n).read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("slosgate:") or "slosgate plans with" in line]

    def _until_measured(self, n: int) -> None:
        end_s = time.monotonic() + MEASURED_S
        while not self.said(n):
            if time.monotonic() > end_s:
                raise RunError(f"{self.label} did not measure itself within {MEASURED_S:.0f} s")
            time.sleep(0.2)
        time.sleep(1.0)  # it takes the result with a request of its own

    @property
    def engine_options(self) -> list[str]:
        model = MODELS[self.model]
        common = ["--load-format", "dummy", "--max-model-len", str(self.window), "--served-model-name", self.model]
        common += ["--enable-prompt-tokens-details", "--reasoning-parser", "deepseek_r1"]
        return [*common, *model.options, *self.system.options, *self.options]

    def _command(self, port: int, n: int) -> list[str]:
        if not self.system.ours:
            return ["-m", "vllm.entrypoints.cli.main", "serve", str(self.folder), "--port", str(port)]
        command = ["-m", "slosgate.engines.vllm.command", "--model", str(self.folder), "--port", str(port)]
        return [*command, "--name", f"vllm-{port}", "--iteration-log", str(self.iteration_log(n))]
