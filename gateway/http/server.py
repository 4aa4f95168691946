"""The server process: how it stops, and how many files it may open."""

from __future__ import annotations

import asyncio
import math
import resource
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import cast

import uvicorn

from slosgate.engines.addresses import local_url
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http.door import Door
from slosgate.gateway.reports import events

ENOUGH_FILES = 65_536  # a stream takes two: its client's connection and its replica's
FEW_FILES = 8_192
LEAVE_S = 2.0  # within which clients use an idle connection again, or it is closed under them
SPARE_FILES = 64  # for Redis, for looking after replicas, and for logs


class Server(uvicorn.Server):
    """uvicorn's, which on a signal first lets /ready be false for `notice_s`, and only then closes its listener.

    A second signal ends the notice. One that was given a listening socket leaves it to the others that have it as soon
    as it is told to stop, and answers what still comes over connections that it has with `connection: close`.
    Where few files may be open, it accepts no more connections than those hold. `on_started` gets the address once it
    listens, `on_hangup` the gateway when SIGHUP comes.
    """

    def __init__(
        self, config: uvicorn.Config, *, notice_s: float, on_started: Callable[[str], None] = lambda address: None,
        on_hangup: Callable[[Gateway], None] = lambda gateway: None,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._notice_s = notice_s
        self._on_started = on_started
        self._on_hangup = on_hangup
        self._shares = False
        self._closes_s: float | None = None
        self._told = False
        self._cut = 0  # answers that did not end in time
        self._doors: list[Door] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._shares = sockets is not None
        if self._shares:
            self._notice_s = max(self._notice_s, LEAVE_S)
        if open_files() >= FEW_FILES or self._shares:
            await super().startup(sockets)
        else:
            await self._start_with_few(open_files())
        if self.started:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            self._on_started(self._address())

    def _hang_up(self) -> None:
        self._on_hangup(self.config.app.state.gateway)  # type: ignore[union-attr]

    async def _start_with_few(self, files: float) -> None:
        listener = self.config.bind_socket()
        await super().startup(sockets=[])
        listener.setblocking(False)
        listener.listen(self.config.backlog)
        most = max(1, (int(files) - SPARE_FILES) // 2)
        self._doors = [Door(listener, self._protocol, self.server_state.connections, most, self.config.ssl)]
        self.servers = cast(list[asyncio.base_events.Server], self._doors)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _address(self) -> str:
        """Where it listens, as a client on this machine writes it."""
        listening = [listener.getsockname() for server in self.servers for listener in server.sockets]
        host, port = listening[0][:2] if listening else (self.config.host, self.config.port)
        return local_url(host, port, tls=self.config.is_ssl)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        began_s, limit_s = time.monotonic(), self.config.timeout_graceful_shutdown or 0
        self.config.app.state.gateway.closing = True  # type: ignore[union-attr]
        events.say(events.DrainBegun(under_way=len(self.server_state.tasks), within_s=limit_s))
        await super().shutdown(sockets)
        events.say(events.DrainDone(cut=self._cut, took_s=time.monotonic() - began_s))

    async def _wait_tasks_to_complete(self) -> None:
        try:
            await super()._wait_tasks_to_complete()
        finally:
            self._cut = len(self.server_state.tasks)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._closes_s is None and self._notice_s > 0 and self.started:
            self._captured_signals.append(sig)
            self._closes_s = time.monotonic() + self._notice_s
            self.config.app.state.gateway.draining = True  # type: ignore[union-attr]
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_s is not None and not self._told:
            self._told = True
            events.say(events.NoticeGiven(notice_s=self._notice_s))
        for door in self._doors:
            door.open()
        if self._shares and self._closes_s is not None:
            for server in self.servers:
                server.close()
        over = self._closes_s is not None and time.monotonic() >= self._closes_s
        return await super().on_tick(counter) or over


def raise_file_limit() -> str:
    """Let this process open as many files as it may; a sentence when those are few, else nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in ((ENOUGH_FILES, max(hard, ENOUGH_FILES)), (hard, hard)):
        if hard == resource.RLIM_INFINITY:
            wanted = (max(soft, ENOUGH_FILES), hard)
        if soft >= wanted[0]:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
            break
        except (ValueError, OSError):
            continue
    files = open_files()
    if files >= FEW_FILES:
        return ""
    return (
        f"only {files} files may be open, enough for {files // 2} streams: raise the limit (ulimit -n {ENOUGH_FILES})"
    )


def open_files() -> float:
    """How many files this process may open; inf without a limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if soft == resource.RLIM_INFINITY else soft
