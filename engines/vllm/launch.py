"""Runs `vllm serve` with slosgate's scheduler as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

import msgspec

from slosgate.engines.addresses import local_url
from slosgate.engines.children import end_with_parent
from slosgate.engines.draining import Drain
from slosgate.engines.folders import OwnFolder
from slosgate.engines.vllm import leaving, self_measurement
from slosgate.engines.vllm.settings import AUTO, ReplicaSettings, load_profile
from slosgate.engines.vllm.versions import UnsupportedVllm, require_supported

SCHEDULER = "slosgate.engines.vllm.scheduler.SloScheduler"
GRAPH_TOKENS = 1024  # the planner's iterations are shorter, but for prompts that have the device for themselves
GRAPH_OPTIONS = (
    "--max-cudagraph-capture-size", "--cudagraph-capture-sizes", "--compilation-config", "--enforce-eager", "-cc", "-O",
)  # fmt: skip
GRACE_S = 30.0  # how long vLLM may take to end after a signal


def installed_version() -> str:
    """The installed vLLM's version. Raises UnsupportedVllm when there is none or it was not tested."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError as error:
        raise UnsupportedVllm("vLLM is not installed here: pip install 'slosgate[vllm]'") from error
    require_supported(version)
    return version


def command(model: str, host: str, port: int, options: Sequence[str]) -> list[str]:
    """The command line of the vLLM server."""
    return [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model,
        "--host", host, "--port", str(port), "--scheduler-cls", SCHEDULER, *graph_options(options), *options,
    ]  # fmt: skip


def graph_options(options: Sequence[str]) -> list[str]:
    """vLLM's options for CUDA graphs, unless `options` have a say in them.

    Chosen just before the device is free, an iteration has to be launched fast. On an H200's host one that prefills
    took 7 to 11 ms with a graph and 12 to 30 without, and vLLM captures none beyond 512 tokens by itself.
    """
    if any(option.replace("_", "-").startswith(GRAPH_OPTIONS) for option in options):
        return []
    return ["--max-cudagraph-capture-size", str(GRAPH_TOKENS)]


def serve(
    model: str,
    settings: ReplicaSettings,
    *,
    host: str,
    port: int,
    options: Sequence[str],
    environment: Mapping[str, str],
    drain_s: float,
    say: Callable[[str], None],
) -> int:
    """Run vLLM until it ends or a signal ends it, and return its exit code; `say` gets what it measured of itself.

    SIGTERM lets it finish what it has, for up to `drain_s`; a second one, and SIGINT, are passed on at once. What is
    left of vLLM's processes GRACE_S later is killed.
    Raises BadSettings for an unusable profile and UnsupportedVllm for an unusable vLLM, before anything is started.
    """
    installed_version()
    if settings.profile != AUTO:
        load_profile(settings.profile)
    with OwnFolder("vllm") as folder:
        settings = msgspec.structs.replace(settings, measuring=str(folder))
        child_environment = {**environment, **settings.to_environment()}
        # A session of its own: a terminal's Ctrl-C reaches vLLM once, through us, and the whole group can be ended.
        child = subprocess.Popen(
            command(model, host, port, options),
            env=child_environment,
            start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
        url = local_url(host, port)
        with _ending(child, partial(leaving.finish, folder, url, Drain(drain_s))):
            try:
                _measure(folder, url, authorization(options, environment), say)
                return _wait(child)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


def authorization(options: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The headers that vLLM asks for when it was given a key."""
    key = environment.get("VLLM_API_KEY")
    for option, value in itertools.zip_longest(options, options[1:], fillvalue=""):
        name, _, joined = option.partition("=")
        if name.replace("_", "-") == "--api-key":
            key = joined or value
    return {"Authorization": f"Bearer {key}"} if key else {}


def _measure(folder: Path, url: str, headers: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Beside the running engine: measure it once it serves, if it asks for that."""

    def run() -> None:
        asyncio.run(self_measurement.at_start(folder, url, headers, say))

    threading.Thread(target=run, name="measure", daemon=True).start()


def _wait(child: subprocess.Popen[bytes]) -> int:
    code = child.wait()
    return 128 - code if code < 0 else code


class _Finish(Protocol):
    def __call__(self, *, given_up: Callable[[], bool]) -> None: ...


@contextlib.contextmanager
def _ending(child: subprocess.Popen[bytes], finish: _Finish) -> Iterator[None]:
    """While this holds, signals end vLLM: SIGTERM when `finish` has returned, a second one and SIGINT at once."""
    told = threading.Event()  # vLLM was

    def end(signum: int) -> None:
        told.set()
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signum)
        killer = threading.Timer(GRACE_S, child.kill)
        killer.daemon = True  # vLLM has ended before, as a rule
        killer.start()

    def drain() -> None:
        finish(given_up=lambda: told.is_set() or child.poll() is not None)
        if not told.is_set():
            end(signal.SIGTERM)

    drains = threading.Thread(target=drain, name="drain", daemon=True)

    def handle(signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and drains.ident is None:
            drains.start()
        elif not told.is_set():
            end(signum)

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
