"""The server process: how it stops, and how many files it may open."""

from __future__ import annotations

import asyncio
import math
import resource
import socket
import time
from types import FrameType
from typing import cast

import uvicorn

from slosgate.gateway.http.door import Door

ENOUGH_FILES = 65_536  # a stream takes two: its client's connection and its replica's
FEW_FILES = 8_192
LEAVE_S = 2.0  # within which clients use an idle connection again, or it is closed under them
SPARE_FILES = 64  # for Redis, for looking after replicas, and for logs


class Server(uvicorn.Server):
    """uvicorn's, which on a signal first lets /ready be false for `notice_s`, and only then closes its listener.

    A second signal ends the notice. One that was given a listening socket leaves it to the others that have it as soon
    as it is told to stop, and answers what still comes over connections that it has with `connection: close`.
    Where few files may be open, it accepts no more connections than those hold.
    """

    def __init__(self, config: uvicorn.Config, *, notice_s: float) -> None:
        super().__init__(config)
        self._notice_s = notice_s
        self._shares = False
        self._closes_s: float | None = None
        self._doors: list[Door] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        files = open_files()
        self._shares = sockets is not None
        if self._shares:
            self._notice_s = max(self._notice_s, LEAVE_S)
        if files >= FEW_FILES or sockets is not None:
            await super().startup(sockets)
            return
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._closes_s is None and self._notice_s > 0 and self.started:
            self._captured_signals.append(sig)
            self._closes_s = time.monotonic() + self._notice_s
            self.config.app.state.gateway.draining = True  # type: ignore[union-attr]
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
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
