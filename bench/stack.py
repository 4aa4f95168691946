"""A system on this machine for a live run: simulated replicas and, for slosgate, Valkey and the gateway before them.

Everything started here is ended here, and nothing else is touched. Each process writes to a log of its own; the log's
end is shown when a process does not come up.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slosgate.bench.errors import InputError, RunError
from slosgate.bench.live import Target
from slosgate.gateway.state import valkey

START_S = 180.0  # compiling the planner on a cold cache takes most of it; `slosgate warm-up` does it ahead
STOP_S = 10.0
SLOSGATE = (sys.executable, "-m", "slosgate")  # `slosgate` of this environment
MODEL = "simulated"
POLICIES = {"vllm": "vllm", "slosgate-ar": "slosgate"}  # systems that can run live, and their replicas' scheduler
WITH_GATEWAY = ("slosgate-ar",)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start."""

    system: str
    hardware: str
    replicas: int
    classes: tuple[str, ...]  # the SLO classes that requests will name
    seed: int = 0


@contextlib.contextmanager
def start(plan: Plan) -> Iterator[Target]:
    """The system, ready to be sent requests. Raises InputError for one that only exists in virtual time."""
    if plan.system not in POLICIES:
        raise InputError(f"--mode live can run {', '.join(POLICIES)}, not {plan.system!r}")
    with contextlib.ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="slosbench-")))
        redis_url = ""
        if plan.system in WITH_GATEWAY:
            server = valkey.start()
            ending.callback(server.stop)
            redis_url = server.url
        urls = _replicas(plan, redis_url, folder, ending)
        if plan.system in WITH_GATEWAY:
            urls = [_gateway(plan, redis_url, folder, ending)]
        yield Target(tuple(urls), MODEL)


def _replicas(plan: Plan, redis_url: str, folder: Path, ending: contextlib.ExitStack) -> list[str]:
    started = []
    for n in range(plan.replicas):
        port = _free_port()
        options = ["--policy", POLICIES[plan.system], "--hardware", plan.hardware, "--model", MODEL]
        options += ["--name", f"replica-{n}", "--port", str(port), "--seed", str(plan.seed * 1000 + n)]
        options += ["--redis", redis_url] if redis_url else []
        started.append((port, _spawn(["engine", "sim", *options], folder / f"replica-{n}.log", ending)))
    return [_ready(port, "/health", process) for port, process in started]


def _gateway(plan: Plan, redis_url: str, folder: Path, ending: contextlib.ExitStack) -> str:
    """Waits until the gateway has seen every replica."""
    config = folder / "slosgate.toml"
    config.write_text("".join(f'[classes."{name}"]\n' for name in plan.classes), encoding="utf-8")
    port = _free_port()
    command = ["serve", "--config", str(config), "--redis", redis_url, "--port", str(port)]
    process = _spawn(command, folder / "slosgate.gateway.log", ending)
    return _ready(port, "/ready", process, needs=[f'"replica-{n}"' for n in range(plan.replicas)])


@dataclass(frozen=True, slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    log: Path


def _spawn(command: Sequence[str], log: Path, ending: contextlib.ExitStack) -> _Process:
    """Start `slosgate COMMAND`; it ends with the stack."""
    with log.open("wb") as out:
        popen = subprocess.Popen([*SLOSGATE, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    ending.callback(_stop, popen)
    return _Process(popen, log)


def _stop(popen: subprocess.Popen[bytes]) -> None:
    popen.terminate()
    try:
        popen.wait(STOP_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _ready(port: int, path: str, process: _Process, needs: Sequence[str] = ()) -> str:
    """Wait for an answer that names all of `needs`; the base address. Raises RunError with the log's end."""
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.popen.poll() is None:
        answer = _get(url + path)
        if answer is not None and all(name in answer for name in needs):
            return url
        time.sleep(0.05)
    ended = process.popen.poll()
    why = f"did not answer within {START_S:g} s" if ended is None else f"ended with exit code {ended}"
    raise RunError(f"{process.log.stem} {why}:\n{process.log.read_text(errors='replace')[-2000:]}")


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, OSError, TimeoutError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
