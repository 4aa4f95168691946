"""Measure real vLLM on one GPU: the same loads on stock `vllm serve` and on slosgate in front of it.

    python -m slosgate.bench.gpu.measure vllm     --load coder=2,3,4@560 --load chatbot=6,8 --out out/gpu
    python -m slosgate.bench.gpu.measure slosgate --load coder=4,5,6,7 --load chatbot=6,8 --out out/gpu

`slosgate` is gateway and plug-in, `plug-in` the engine alone, planning for itself. Every rate offers about the same
requests: the scenario's first ones.
Writes OUT/SYSTEM.json (a result file), OUT/SYSTEM-iterations.jsonl (slosgate: what every iteration did and took) and
the servers' logs. Needs a machine with vLLM and a GPU; the model is OPT-13B's shape with random weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from slosgate.bench import processes, results, running
from slosgate.bench.attainment import collect
from slosgate.bench.errors import choose
from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.live import Target, replay
from slosgate.bench.summary import summarize
from slosgate.gateway.state import valkey

PROFILE = "h200-opt-13b"
MODEL = "opt-13b"
FIRST_PORT = 8100  # of GPU 0: the gateway, then its engines; each further GPU begins 10 ports higher
START_S = 420.0  # loading, compiling and capturing graphs for the first time takes minutes
STOP_S = 40.0
DRAIN_S = 15.0  # answers that take longer than this after the last arrival count as missed
SYSTEMS = ("vllm", "plug-in", "slosgate")
# As in the measurements that the hardware profile was fitted to; everything else is vLLM's default.
ENGINE_OPTIONS = (
    "--load-format", "dummy", "--dtype", "float16", "--max-model-len", "2048", "--no-enable-prefix-caching",
    "--served-model-name", MODEL,
)  # fmt: skip

app = typer.Typer(add_completion=False)


@app.command()
def measure(
    system: Annotated[str, typer.Argument(help="vllm, plug-in or slosgate.")],
    load: Annotated[
        list[str] | None, typer.Option(help="SCENARIO=RATE,RATE,...[@REQUESTS]; in requests per second.")
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests offered at each rate, about, unless a load says.")] = 300,
    gpu: Annotated[int, typer.Option(help="First GPU to use.")] = 0,
    replicas: Annotated[int, typer.Option(help="Replicas, each on a GPU of its own; without a gateway in turn.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("out/gpu"),
    option: Annotated[list[str] | None, typer.Option(help="A further option for `vllm serve`, as NAME=VALUE.")] = None,
    label: Annotated[str, typer.Option(help="The system's name in the result, if not the system's own.")] = "",
    profile: Annotated[bool, typer.Option(help="Measure the engine's profile first (slosgate only).")] = False,
    minutes: Annotated[float, typer.Option(help="No further rate is started after this long.")] = 9.0,
) -> None:
    """Start one system, offer it every load, write what became of the requests."""
    choose("system", system, SYSTEMS)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=100)
    ends_s = time.monotonic() + minutes * 60
    name = label or system
    config = {
        "system": system,
        "load": load or [],
        "requests": requests,
        "replicas": replicas,
        "engine_options": [*ENGINE_OPTIONS, *(option or [])],
    }
    result = results.begin("gpu-measure", config, seed=seed, hardware=PROFILE)
    model = write_model(MODEL, out.parent / "model")
    started = _Servers(system, model, name, [part for each in option or [] for part in each.split("=", 1)], out, gpu)
    with started.serving(replicas) as urls:
        target = Target(tuple(urls), MODEL, slo_headers=system == "slosgate", slo_args=system == "plug-in")
        for url in urls:
            _warm_up(url)
        if profile:
            _profile(started, out / f"{name}-profile")
        for scenario, rate, count in _loads(load or [], requests):
            if time.monotonic() + count / rate + DRAIN_S > ends_s:
                console.print(f"no time left for {scenario} at {rate:g}")
                continue
            result.rows.append(_row(name, scenario, rate, count / rate, seed, replicas, target))
            results.write(result, out / f"{name}.json")
            console.print(running.table(result.rows[-1:]))
    console.print(running.table(result.rows))


def _warm_up(url: str) -> None:
    """Send a few requests of all lengths, so that nothing is compiled while it counts."""
    for prompt_tokens in (16, 200, 700, 1900, 40):
        body = {"model": MODEL, "prompt": [1000] * prompt_tokens, "max_tokens": 20, "ignore_eos": True}
        httpx.post(f"{url}/v1/completions", json=body, timeout=60, trust_env=False).raise_for_status()


def _profile(servers: _Servers, out: Path) -> None:
    """`slosbench profile run` against the first engine: OUT.json, its iterations beside it."""
    command = [sys.executable, "-m", "slosgate.bench", "profile", "run"]
    command += ["--url", servers.engine_url, "--redis", servers.redis_url, "--out", f"{out}.json"]
    subprocess.run([*command, "--iterations", f"{out}-iterations.jsonl", "--json", f"{out}-result.json"], check=True)


def _row(
    system: str, scenario: str, rate: float, seconds: float, seed: int, replicas: int, target: Target
) -> results.Row:
    """Offer one load and sum up what became of it."""
    experiment = running.Experiment(
        scenario=scenario, system=system, rate=rate, hardware=PROFILE, seconds=seconds, seed=seed, url=target.urls[0]
    )
    offered, _ = running.prepare(experiment)
    live = asyncio.run(replay(offered, target, seed=seed, drain_s=DRAIN_S))
    return {
        "scenario": scenario, "system": system, "rate_rps": rate, "hardware": PROFILE, "replicas": replicas,
        "mode": "live", "seed": seed, "trace_source": offered.trace_source, "load": offered.record,
        **summarize(collect(live.outcomes), offered.seconds), **live.schedule(),
    }  # fmt: skip


def _loads(loads: Sequence[str], requests: int) -> Iterator[tuple[str, float, int]]:
    """(scenario, requests per second, requests)."""
    for load in loads:
        scenario, _, rates = load.partition("=")
        rates, _, count = rates.partition("@")
        for rate in rates.split(","):
            yield scenario, float(rate), int(count or requests)


@dataclasses.dataclass(slots=True)
class _Servers:
    """How the servers of one measurement are started."""

    system: str
    model: Path
    name: str
    options: list[str]  # further ones for `vllm serve`
    out: Path
    first_gpu: int
    redis_url: str = ""
    engine_url: str = ""  # of the first one

    @contextlib.contextmanager
    def serving(self, replicas: int) -> Iterator[list[str]]:
        """The addresses that requests go to, ready for them."""
        port = FIRST_PORT + 10 * self.first_gpu
        ports = range(port + 1, port + 1 + replicas)
        self.engine_url = f"http://127.0.0.1:{ports[0]}"
        with contextlib.ExitStack() as ending:
            if self.system != "slosgate":
                self._engines(ports, [], ending)
                yield [f"http://127.0.0.1:{each}" for each in ports]
                return
            redis = valkey.start()
            ending.callback(redis.stop)
            self.redis_url = redis.url
            config = "".join(f"[classes.{c}]\n" for c in ("coder", "chatbot", "summarizer"))
            log = self.out / f"{self.name}-gateway.log"
            gateway = ending.enter_context(processes.gateway(redis.url, config, port=port, log=log))
            self._engines(ports, ["--redis", redis.url], ending)
            gateway.wait_until_up("/ready", [f"vllm-{each}" for each in ports], START_S)
            yield [gateway.url]

    def _engines(self, ports: Sequence[int], options: list[str], ending: contextlib.ExitStack) -> None:
        """One engine per port, on GPUs counted up from the first; returns when all are ready."""
        started = []
        for n, port in enumerate(ports):
            gpu = {"CUDA_VISIBLE_DEVICES": str(self.first_gpu + n)}
            log = self.out / f"{self.name}-engine-{n}.log"
            command = [*self._command(port, n), *options, *ENGINE_OPTIONS, *self.options]
            running = processes.started([sys.executable, *command], port, log=log, environment=gpu, stop_s=STOP_S)
            started.append(ending.enter_context(running))
        for engine in started:
            engine.wait_until_up(timeout_s=START_S)

    def _command(self, port: int, n: int) -> list[str]:
        if self.system == "vllm":
            return ["-m", "vllm.entrypoints.cli.main", "serve", str(self.model), "--port", str(port)]
        log = str(self.out / f"{self.name}-iterations-{n}.jsonl")
        command = ["-m", "slosgate.engines.vllm.command", "--model", str(self.model), "--profile", PROFILE]
        return [*command, "--port", str(port), "--iteration-log", log]


if __name__ == "__main__":
    app()
