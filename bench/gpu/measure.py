"""Real vLLM on one GPU: the same loads on stock `vllm serve` and on slosgate in front of it.

    python -m bench.gpu.measure vllm     --load coder=2,2.5,3,4 --load chatbot=6,8 --requests 200 --out out/gpu
    python -m bench.gpu.measure slosgate --load coder=4,5,6,7   --load chatbot=6,8 --requests 200 --out out/gpu

`slosgate` is gateway and plug-in, `plug-in` the engine alone, planning for itself. Every rate offers about the same
requests: the scenario's first ones.
Writes OUT/SYSTEM.json (a result file), OUT/SYSTEM-iterations.jsonl (slosgate: what every iteration did and took) and
the servers' logs. Needs a machine with vLLM and a GPU; the model is OPT-13B's shape with random weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from bench import results, running
from bench.attainment import collect
from bench.errors import InputError, choose
from bench.gpu.dummy_model import write_model
from bench.live import Target, replay
from bench.summary import summarize
from gateway import valkey

PROFILE = "h200-opt-13b"
MODEL = "opt-13b"
ENGINE_PORT, GATEWAY_PORT = 8101, 8100
START_S = 420.0  # loading, compiling and capturing graphs for the first time takes minutes
DRAIN_S = 8.0  # answers that take longer than this after the last arrival count as missed
SYSTEMS = ("vllm", "plug-in", "slosgate")
GATEWAY = ("-c", "from gateway.cli import main; main()")
# As in the measurements that the hardware profile was fitted to; everything else is vLLM's default.
ENGINE_OPTIONS = (
    "--load-format", "dummy", "--dtype", "float16", "--max-model-len", "2048", "--no-enable-prefix-caching",
    "--served-model-name", MODEL,
)  # fmt: skip

app = typer.Typer(add_completion=False)


@app.command()
def measure(
    system: Annotated[str, typer.Argument(help="vllm, plug-in or slosgate.")],
    load: Annotated[list[str], typer.Option(help="SCENARIO=RATE,RATE,...; in requests per second.")],
    requests: Annotated[int, typer.Option(help="Requests offered at each rate, about.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("out/gpu"),
    option: Annotated[list[str] | None, typer.Option(help="A further option for `vllm serve`, as NAME=VALUE.")] = None,
    label: Annotated[str, typer.Option(help="The system's name in the result, if not the system's own.")] = "",
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
        "load": load,
        "requests": requests,
        "engine_options": [*ENGINE_OPTIONS, *(option or [])],
    }
    result = results.begin("gpu-measure", config, seed=seed, hardware=PROFILE)
    model = write_model(MODEL, out.parent / "model")
    with _serving(system, model, name, option or [], out) as url:
        target = Target((url,), MODEL, slo_headers=system == "slosgate", slo_args=system == "plug-in")
        _warm_up(url)
        for scenario, rate in _loads(load):
            if time.monotonic() + requests / rate + DRAIN_S > ends_s:
                console.print(f"no time left for {scenario} at {rate:g}")
                continue
            result.rows.append(_row(name, scenario, rate, requests / rate, seed, target))
            results.write(result, out / f"{name}.json")
            console.print(running.table(result.rows[-1:]))
    console.print(running.table(result.rows))


def _warm_up(url: str) -> None:
    """A few requests of all lengths, so that nothing is compiled while it counts."""
    for prompt_tokens in (16, 200, 700, 1900, 40):
        body = {"model": MODEL, "prompt": [1000] * prompt_tokens, "max_tokens": 20, "ignore_eos": True}
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/completions", msgspec.json.encode(body), headers)
        with urllib.request.urlopen(request, timeout=60):
            pass


def _row(system: str, scenario: str, rate: float, seconds: float, seed: int, target: Target) -> results.Row:
    """Offer one load and sum up what became of it."""
    settings = running.Settings(
        scenario=scenario, system=system, rate=rate, hardware=PROFILE, seconds=seconds, seed=seed, url=target.urls[0]
    )
    offered, _ = running.prepare(settings)
    live = asyncio.run(replay(offered, target, seed=seed, drain_s=DRAIN_S))
    return {
        "scenario": scenario, "system": system, "rate_rps": rate, "hardware": PROFILE, "replicas": 1, "mode": "live",
        "seed": seed, "trace_source": offered.trace_source, **summarize(collect(live.outcomes), offered.seconds),
        **live.schedule(), "load": offered.record,
    }  # fmt: skip


def _loads(loads: Sequence[str]) -> Iterator[tuple[str, float]]:
    for load in loads:
        scenario, _, rates = load.partition("=")
        for rate in rates.split(","):
            yield scenario, float(rate)


@contextlib.contextmanager
def _serving(system: str, model: Path, name: str, options: Sequence[str], out: Path) -> Iterator[str]:
    """The system's base address, ready to be sent requests."""
    extra = [part for each in options for part in each.split("=", 1)]
    with contextlib.ExitStack() as ending:
        if system == "vllm":
            command = ["-m", "vllm.entrypoints.cli.main", "serve", str(model), "--port", str(ENGINE_PORT)]
            engine = ending.enter_context(_process([*command, *ENGINE_OPTIONS, *extra], out / f"{name}-engine.log"))
            _wait(ENGINE_PORT, "/health", engine)
            yield f"http://127.0.0.1:{ENGINE_PORT}"
            return
        if system == "plug-in":
            engine = ending.enter_context(_process(_plug_in(model, name, extra, out), out / f"{name}-engine.log"))
            _wait(ENGINE_PORT, "/health", engine)
            yield f"http://127.0.0.1:{ENGINE_PORT}"
            return
        redis = valkey.start()
        ending.callback(redis.stop)
        config = out / "gateway.toml"
        config.write_text("".join(f"[classes.{c}]\n" for c in ("coder", "chatbot", "summarizer")))
        command = [*GATEWAY, "serve", "--config", str(config), "--redis", redis.url]
        gateway = ending.enter_context(_process([*command, "--port", str(GATEWAY_PORT)], out / f"{name}-gateway.log"))
        command = [*_plug_in(model, name, extra, out), "--redis", redis.url, "--name", "gpu-0"]
        engine = ending.enter_context(_process(command, out / f"{name}-engine.log"))
        _wait(ENGINE_PORT, "/health", engine)
        _wait(GATEWAY_PORT, "/ready", gateway, needs="gpu-0")
        yield f"http://127.0.0.1:{GATEWAY_PORT}"


def _plug_in(model: Path, name: str, options: Sequence[str], out: Path) -> list[str]:
    """`slosgate engine vllm`, with a log of every iteration."""
    command = ["-m", "engines.vllm.command", "--model", str(model), "--profile", PROFILE, "--port", str(ENGINE_PORT)]
    return [*command, "--iteration-log", str(out / f"{name}-iterations.jsonl"), *ENGINE_OPTIONS, *options]


@contextlib.contextmanager
def _process(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=40.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(port: int, path: str, process: subprocess.Popen[bytes], needs: str = "") -> None:
    """Until the server answers with `needs` in its answer. Raises InputError when it ended or took too long."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as got:
            if needs in got.read().decode():
                return
        time.sleep(0.25)
    raise InputError(f"nothing on port {port} answered {path}; see its log")


if __name__ == "__main__":
    app()
