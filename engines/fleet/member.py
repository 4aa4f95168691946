"""One member of a fleet: a process that is kept up, started again with growing pauses when it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

from slosgate.engines.fleet.places import GRACE_S, Launch, NoRoom, Place, Running

POLL_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
STEADY_S = 60.0  # a member that was ready for so long has no failures to its name
LOOPS = 3  # so many ends in a row are a crash loop

_log = logging.getLogger("slosgate.fleet")


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # to be started again
    QUEUED = "no GPU free"
    DRAINING = "draining"
    GONE = "gone"


class Member:
    """`is_ready` looks whether the member that runs can do its work; `run` keeps it up until `stop`."""

    def __init__(
        self, group: str, recipe: object, launch: Launch, place: Place, is_ready: Callable[[Member], Awaitable[bool]]
    ) -> None:
        self.group = group
        self.recipe = recipe
        self.launch = launch
        self.state = State.STARTING
        self.failures = 0  # in a row
        self.why = ""  # it ended last
        self.retry_s = 0.0  # monotonic clock: when it is started again
        self.running: Running | None = None
        self._place = place
        self._is_ready = is_ready
        self._stopping = asyncio.Event()

    @property
    def name(self) -> str:
        return self.launch.name

    @property
    def looping(self) -> bool:
        """Whether it keeps ending, and is not up now."""
        return self.failures >= LOOPS and self.state is not State.READY

    @property
    def leaving(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Keep it up until it was asked to stop, and has."""
        while not self._stopping.is_set():
            try:
                self.running = await self._place.start(self.launch)
                await self._follow(self.running)
            except NoRoom as error:
                self.state, self.why = State.QUEUED, str(error)
                await self._pause(FIRST_PAUSE_S)
                continue
            except Exception as error:  # whatever it was: a member that nobody keeps up is worse
                self._failed(f"can't be kept up: {type(error).__name__}: {error}")
            self.running = None
            if not self._stopping.is_set():
                await self._pause(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1)))
        self.state = State.GONE

    def stop(self) -> None:
        """Ask it to finish what it has and to end; `run` returns when it has."""
        self._stopping.set()

    async def _follow(self, running: Running) -> None:
        """Until it ends."""
        self.state = State.STARTING
        ended, stopping = asyncio.ensure_future(running.ended()), asyncio.ensure_future(self._stopping.wait())
        readied_s = 0.0
        try:
            while not ended.done() and not stopping.done():
                if self.state is State.STARTING and await self._is_ready(self):
                    self.state, readied_s = State.READY, time.monotonic()
                await asyncio.wait((ended, stopping), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await self._drain(running, ended)
        except BaseException:
            running.kill()
            raise
        finally:
            stopping.cancel()
        if not self._stopping.is_set():
            if readied_s and time.monotonic() - readied_s > STEADY_S:
                self.failures = 0
            self._failed(await ended)

    async def _drain(self, running: Running, ended: asyncio.Future[str]) -> None:
        self.state = State.DRAINING
        running.stop()
        await asyncio.wait((ended,), timeout=self.launch.drain_s + GRACE_S)
        if not ended.done():
            _log.warning("%s did not end by itself and is killed", self.name)
            running.kill()
            await ended

    def _failed(self, why: str) -> None:
        self.failures += 1
        self.why = why
        self.state = State.WAITING
        _log.warning("%s %s", self.name, why)

    async def _pause(self, seconds: float) -> None:
        self.retry_s = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
