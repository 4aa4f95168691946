"""The address that several gateways serve together."""

from __future__ import annotations

import socket

from slosgate.engines.addresses import family_of

BACKLOG = 4096


class Listener:
    """The listening socket that all gateways accept from. It stays open while they come and go."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._address = ("", 0)

    @property
    def descriptor(self) -> int:
        assert self._socket is not None  # opened before there are gateways
        return self._socket.fileno()

    @property
    def port(self) -> int:
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def open(self, host: str, port: int) -> None:
        """Listen there; gateways that accept elsewhere go on until they end. Raises OSError."""
        if self._address == (host, port):
            return
        opened = socket.create_server((host, port), family=family_of(host), backlog=BACKLOG)
        self.close()
        self._socket, self._address = opened, (host, port)

    def close(self) -> None:
        """Gateways that have it still accept."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._address = None, ("", 0)
