"""Accepting connections only as long as there are files for them.

What comes beyond waits in the kernel's queue. Else the loop would accept it and hang up, and connections to replicas
would find no file for answers that are under way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection
from typing import cast

from slosgate.gateway.http.protocol import LimitedProtocol


class Door:
    """One listening socket, in the place of asyncio's server, which can't pause."""

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol],
        connections: Collection[asyncio.Protocol], most: int, tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._most = most
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[object]] = set()  # accepted, and no connection yet
        self._is_open = self._is_closed = False
        self.open()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._listener,)

    def open(self) -> None:
        """Accept again, if there is room, and make some if there is none: to be called now and then."""
        if self._is_open or self._is_closed:
            return
        if self._room():
            self._is_open = True
            self._loop.add_reader(self._listener, self._accept)
        else:
            for connection in tuple(self._connections):
                cast(LimitedProtocol, connection).make_room()

    def close(self) -> None:
        self._pause()
        self._is_closed = True
        self._listener.close()

    async def wait_closed(self) -> None:
        pass

    def _room(self) -> bool:
        return len(self._connections) + len(self._coming) < self._most

    def _pause(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        if not self._room():
            self._pause()
            return
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no more files after all
            self._pause()
            return
        accepted.setblocking(False)
        coming = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, accepted, ssl=self._tls))
        self._coming.add(coming)
        coming.add_done_callback(self._came)

    def _came(self, coming: asyncio.Task[object]) -> None:
        self._coming.discard(coming)
        if not coming.cancelled():
            coming.exception()  # a handshake that fails is its client's affair
