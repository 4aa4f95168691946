"""What is measured on a GPU: stock vLLM in two ways, alone and behind vLLM's own router, the plug-in alone, slosgate as
it ships."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slosgate.bench import processes
from slosgate.bench.errors import RunError
from slosgate.bench.gpu.lengths import as_plugin
from slosgate.gateway.state import valkey

FIRST_PORT = 8100  # of GPU 0: the gateway, then its engines; each further GPU begins 10 ports higher
START_S = 420.0  # loading, compiling and capturing graphs for the first time takes minutes
STOP_S = 40.0
ROUTER_S = 30.0
MEASURED_S = 120.0  # a replica's own measurement takes at most half a minute


@dataclass(frozen=True, slots=True)
class Engines:
    """How engines are started. Systems that have the same are measured on the same processes."""

    ours: bool = False  # `slosgate engine vllm`, which measures itself; else `vllm serve`
    registered: bool = False  # with the gateway's Redis
    options: tuple[str, ...] = ()


# The budget and the graphs that slosgate's iterations have, and vLLM's own answer to urgency.
STOCK_AT_ITS_BEST = Engines(
    options=(
        "--max-num-batched-tokens", "1024", "--max-cudagraph-capture-size", "1024", "--scheduling-policy", "priority",
    )
)  # fmt: skip
OURS = Engines(ours=True, registered=True)


@dataclass(frozen=True, slots=True)
class System:
    """Which engines, and how clients get to them: in turn, through the gateway, or through vLLM's router."""

    engines: Engines = Engines()
    gateway: bool = False
    router: str = ""  # vllm-router's policy
    by_deadline: bool = False  # clients state vLLM's priority: their deadline


SYSTEMS = {
    "vllm": System(),
    "vllm-best": System(STOCK_AT_ITS_BEST, by_deadline=True),
    "vllm-router": System(STOCK_AT_ITS_BEST, by_deadline=True, router="cache_aware"),
    "vllm-router-round-robin": System(STOCK_AT_ITS_BEST, by_deadline=True, router="round_robin"),
    "plug-in": System(Engines(ours=True)),
    "slosgate": System(OURS, gateway=True),
    # slosgate's engines, each planning for itself what comes in turn: what the gateway's routing adds to it.
    "in-turn": System(OURS),
}


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


@dataclass(frozen=True, slots=True)
class Setting:
    """What the servers of all systems of a run have in common."""

    folder: Path  # of the model
    model: str
    window: int
    classes: Sequence[str]  # that requests name
    options: Sequence[str]  # further ones for `vllm serve`, after the system's own
    out: Path
    first_gpu: int
    replicas: int

    @property
    def port(self) -> int:
        """Of what stands in front; the engines' are the next ones."""
        return FIRST_PORT + 10 * self.first_gpu

    @property
    def names(self) -> list[str]:
        return [f"vllm-{self.port + 1 + n}" for n in range(self.replicas)]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.port + 1 + n}" for n in range(self.replicas)]

    def engine_options(self, engines: Engines) -> list[str]:
        """Arguments of `vllm serve`."""
        model = MODELS[self.model]
        common = ["--load-format", "dummy", "--max-model-len", str(self.window), "--served-model-name", self.model]
        common += ["--enable-prompt-tokens-details", "--reasoning-parser", "deepseek_r1"]
        return [*common, *model.options, *engines.options, *self.options]


@dataclass(frozen=True, slots=True)
class Running:
    """One engine per GPU, or group of GPUs, ready for requests. Logs are called after the first system on them."""

    engines: Engines
    label: str
    setting: Setting
    redis_url: str = ""

    @contextlib.contextmanager
    def fronted(self, system: System, label: str) -> Iterator[list[str]]:
        """Where requests of a system on these engines go. Raises RunError for a server that doesn't come up."""
        if system.gateway:
            with self._gateway(self.gateway_log(label)) as process:
                process.wait_until_up("/ready", self.setting.names, MEASURED_S)
                yield [process.url]
        elif system.router:
            with self._router(system.router, self.setting.out / f"{label}-router.log") as process:
                process.wait_until_up("/v1/models", timeout_s=ROUTER_S)
                yield [process.url]
        else:
            yield self.setting.urls

    def gateway_log(self, label: str) -> Path:
        return self.setting.out / f"{label}-gateway.log"

    def engine_log(self, n: int) -> Path:
        return self.setting.out / f"{self.label}-engine-{n}.log"

    def iteration_log(self, n: int) -> Path:
        return self.setting.out / f"{self.label}-iterations-{n}.jsonl"

    def said(self, n: int) -> list[str]:
        """What an engine of ours has said of its profile."""
        lines = self.engine_log(n).read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("slosgate:") or "slosgate plans with" in line]

    def _gateway(self, log: Path) -> contextlib.AbstractContextManager[processes.Process]:
        classes = "".join(f'[classes."{name}"]\n' for name in self.setting.classes)
        config = f"[server]\nlog_requests = true\n{classes}"
        return processes.gateway(self.redis_url, config, port=self.setting.port, log=log)

    def _router(self, policy: str, log: Path) -> contextlib.AbstractContextManager[processes.Process]:
        """vLLM's own router: its program, or its package where only that was carried."""
        program = shutil.which("vllm-router")
        command = [program] if program else [sys.executable, "-m", "vllm_router.launch_router"]
        command += ["--host", "127.0.0.1", "--port", str(self.setting.port), "--policy", policy]
        command += ["--worker-urls", *self.setting.urls, "--prometheus-port", str(processes.free_port())]
        return processes.started(command, self.setting.port, log=log)

    def _start(self, ending: contextlib.ExitStack) -> None:
        """Returns when all are ready."""
        started, spans = [], MODELS[self.setting.model].gpus
        plugin = as_plugin(self.setting.out / "plugin")
        for n in range(self.setting.replicas):
            port, first = self.setting.port + 1 + n, self.setting.first_gpu + n * spans
            environment = {**plugin, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(first, first + spans)))}
            log, command = self.engine_log(n), [sys.executable, *self._command(n, port)]
            running = processes.started(
                command, port, log=log, environment={**os.environ, **environment}, stop_s=STOP_S
            )
            started.append(ending.enter_context(running))
        for engine in started:
            engine.wait_until_up(timeout_s=START_S)
        if self.engines.ours:
            for n in range(self.setting.replicas):
                self._until_measured(n)

    def _until_measured(self, n: int) -> None:
        end_s = time.monotonic() + MEASURED_S
        while not self.said(n):
            if time.monotonic() > end_s:
                raise RunError(f"{self.label} did not measure itself within {MEASURED_S:.0f} s")
            time.sleep(0.2)
        time.sleep(1.0)  # it takes the result with a request of its own

    def _command(self, n: int, port: int) -> list[str]:
        setting, options = self.setting, self.setting.engine_options(self.engines)
        if not self.engines.ours:
            return ["-m", "vllm.entrypoints.cli.main", "serve", str(setting.folder), "--port", str(port), *options]
        command = ["-m", "slosgate.engines.vllm.command", "--model", str(setting.folder), "--port", str(port)]
        command += ["--name", setting.names[n], "--iteration-log", str(self.iteration_log(n))]
        return [*command, *(["--redis", self.redis_url] if self.redis_url else []), *options]


@contextlib.contextmanager
def running(engines: Engines, label: str, setting: Setting) -> Iterator[Running]:
    """Engines as long as the block runs. Raises RunError for one that doesn't come up."""
    with contextlib.ExitStack() as ending:
        redis_url = ""
        if engines.registered:
            redis = valkey.start()
            ending.callback(redis.stop)
            redis_url = redis.url
        found = Running(engines, label, setting, redis_url)
        found._start(ending)
        yield found
