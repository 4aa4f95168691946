"""Where processes run: what a place can do, and this machine as one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from slosgate.engines.addresses import free_port, local_url
from slosgate.engines.children import end_with_parent
from slosgate.engines.fleet.gpus import Gpus

SLOSGATE = (sys.executable, "-P", "-m", "slosgate")  # of this environment, whatever lies in the working directory
GRACE_S = 40.0  # beyond its drain, that a process may take to end; vLLM's launcher waits 30 s for it
LOG_TAIL = 2000  # characters of a log that tell why a process ended
_BOX = "─│╭╮╰╯ "
LOG_BYTES = 20_000_000  # a log that is longer when its process starts again begins anew


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to be: `slosgate` with these arguments. One that `listens` is told where, and gets a free port."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    drain_s: float = 60.0
    listens: bool = True
    files: tuple[int, ...] = ()  # descriptors that it inherits


class NoRoom(Exception):
    """There are not enough GPUs for a process now; the message says how many are missing."""


class Running(Protocol):
    """One process that was started."""

    url: str  # empty for one that doesn't listen on a port of its own
    pid: int
    gpus: tuple[str, ...]

    async def ended(self) -> str:
        """Wait until it has ended; why, in a sentence. What it held is free then."""
        ...

    def stop(self) -> None:
        """Ask it to finish what it has and to end."""
        ...

    def kill(self) -> None:
        """End it, and whatever it has started."""
        ...


class Place(Protocol):
    def has_room(self, gpus: int) -> bool:
        """Whether a process with so many GPUs could start now."""
        ...

    async def start(self, launch: Launch) -> Running:
        """Raises NoRoom."""
        ...


class LocalProcess:
    """A child of this process, in a process group of its own. It ends with this process (on Linux)."""

    def __init__(
        self, process: asyncio.subprocess.Process, url: str, gpus: tuple[str, ...], pool: Gpus, log: Path | None
    ) -> None:
        self.url = url
        self.pid = process.pid
        self.gpus = gpus
        self._process = process
        self._pool = pool
        self._log = log

    async def ended(self) -> str:
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)  # what it left behind
        self._pool.give_back(self.gpus)
        return ending(code, self._log)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)


class ThisMachine:
    """Starts processes here; each writes a log of its own, or without a folder for them to where this one does."""

    def __init__(self, gpus: Sequence[str], logs: Path | None) -> None:
        self._gpus = Gpus(gpus)
        self._logs = logs

    def has_room(self, gpus: int) -> bool:
        return gpus <= self._gpus.free

    async def start(self, launch: Launch) -> LocalProcess:
        try:
            gpus = self._gpus.take(launch.gpus)
        except ValueError as error:
            raise NoRoom(str(error)) from None
        log = self._logs / f"{launch.name}.log" if self._logs else None
        host, port = "127.0.0.1", free_port("127.0.0.1") if launch.listens else 0
        try:
            process = await spawn(launch, host, port, log, gpus)
        except BaseException:
            self._gpus.give_back(gpus)
            raise
        return LocalProcess(process, local_url(host, port) if port else "", gpus, self._gpus, log)


async def spawn(
    launch: Launch, host: str, port: int, log: Path | None, gpus: Sequence[str], *, at_death: int = signal.SIGTERM
) -> asyncio.subprocess.Process:
    """Start the process of a launch, which gets the signal `at_death` when this one dies. Raises OSError."""
    where = ("--host", host, "--port", str(port)) if launch.listens else ()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **launch.environment}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    with _opened(log) if log else contextlib.nullcontext() as output:
        return await asyncio.create_subprocess_exec(
            *SLOSGATE, *launch.arguments, *where,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment, pass_fds=launch.files,
            start_new_session=True, preexec_fn=partial(end_with_parent, at_death) if sys.platform == "linux" else None,
        )  # fmt: skip


def _opened(log: Path) -> BinaryIO:
    """A log to be written on."""
    long = log.exists() and log.stat().st_size > LOG_BYTES
    return log.open("wb" if long else "ab")


def ending(code: int, log: Path | None) -> str:
    """How a process ended, with the last that it said if it went wrong."""
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code == 0 or log is None:
        return how
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
        said = last_words(file.read().decode(errors="replace"))
    return f"{how}: {said}" if said else how


def last_words(text: str) -> str:
    """The last line of a log, or all that stands in the box that a command line ends with."""
    lines = [line.strip() for line in text.splitlines() if line.strip(_BOX)]
    boxed = list(itertools.takewhile(lambda line: line.startswith("│"), reversed(lines)))
    return " ".join(line.strip(_BOX) for line in reversed(boxed or lines[-1:]))
