"""HTTP to replicas: keep-alive connections, one request under way on each, bodies handed on as they come.

A general client parses, wraps and copies each chunk several times; here a stream's bytes go from the parser into the
relay's hands. Reading pauses while the relay's own client is slow, so memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import httptools

BUFFER_BYTES = 256 * 1024  # per answer; reading pauses beyond it
IDLE_CONNECTIONS = 1024  # kept per address

Address: TypeAlias = tuple[str, int, bool]  # host, port, TLS


class UpstreamError(Exception):
    """The server could not be reached, broke off, or does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Target:
    address: Address
    host: bytes  # for the Host header
    path: str  # before the API's own paths

    @classmethod
    def of(cls, url: str) -> Target:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        address = (parts.hostname or "", parts.port or (443 if tls else 80), tls)
        return cls(address, parts.netloc.encode(), parts.path.rstrip("/"))


class Response(asyncio.Protocol):
    """One connection, and the answer that comes on it. Also its own protocol, so that nothing lies in between."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.closed = False
        self.used = False  # has carried an answer before
        self._waiter: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Get ready for the next answer."""
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._kept = False
        self.complete = False
        self.error: str = ""

    async def head(self) -> None:
        """Wait for status and headers. Raises UpstreamError."""
        while not self.status:
            await self._more()

    async def next(self) -> bytes:
        """The bytes of the body that have come since the last call; empty at its end. Raises UpstreamError."""
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def read(self) -> bytes:
        """The rest of the body. Raises UpstreamError."""
        parts = []
        while part := await self.next():
            parts.append(part)
        return b"".join(parts)

    async def _more(self) -> None:
        if self.error:
            raise UpstreamError(self.error)
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio and the parser call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.status and not self._sized() and exc is None:
            self.complete = True  # the end of the connection is the end of the body
        elif not self.complete:
            self.error = self.error or "the connection broke"
        self._wake()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.error = f"its answer is not HTTP: {exc}"
            self.transport.abort()
            self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        if self._size > BUFFER_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        self.complete = True
        self._kept = bool(self._parser.should_keep_alive())  # the parser knows only now
        self._wake()

    def _sized(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    @property
    def reusable(self) -> bool:
        return self.complete and self._kept and not self.closed and not self._paused


class Upstream:
    """Connections to replicas, kept for the next request."""

    def __init__(self, *, connect_timeout_s: float = 2.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Address, list[Response]] = {}

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.close()
        self._idle.clear()

    @asynccontextmanager
    async def request(
        self, method: str, target: Target, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Response]:
        """Send a request and yield the answer once its headers are there. Raises UpstreamError.

        A connection whose answer was not read to its end is closed, which is how a replica learns of a hang-up.
        """
        data = _head(method, target, path, body, headers or {})
        response = await self._send(target.address, data, body)
        try:
            yield response
        finally:
            idle = self._idle.setdefault(target.address, [])
            if response.reusable and len(idle) < IDLE_CONNECTIONS:
                idle.append(response)
            else:
                response.transport.abort()

    async def _send(self, address: Address, data: bytes, body: bytes) -> Response:
        """Send on a kept connection, or on a new one when the kept one turns out to have been closed meanwhile."""
        while True:
            response = await self._connection(address)
            response.begin()
            try:
                response.transport.write(data + body if len(body) < BUFFER_BYTES else data)
                if len(body) >= BUFFER_BYTES:
                    response.transport.write(body)
                await response.head()
            except UpstreamError:
                if response.used and response.closed and not response.status:
                    continue
                raise
            except BaseException:
                response.transport.abort()
                raise
            response.used = True
            return response

    async def _connection(self, address: Address) -> Response:
        idle = self._idle.get(address, [])
        while idle:
            response = idle.pop()
            if not response.closed:
                return response
        host, port, tls = address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, made = await asyncio.get_running_loop().create_connection(Response, host, port, ssl=tls or None)
        except (OSError, TimeoutError) as exc:
            raise UpstreamError(f"no connection to {host}:{port}: {exc or 'time-out'}") from exc
        return made

    async def fetch(self, target: Target, path: str, *, timeout_s: float) -> tuple[int, bytes]:
        """GET: status and body. Raises UpstreamError, also when it takes too long."""
        try:
            async with asyncio.timeout(timeout_s), self.request("GET", target, path) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise UpstreamError(f"no answer within {timeout_s:g} s") from None


def _head(method: str, target: Target, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    length = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
    head = f"{method} {target.path}{path} HTTP/1.1\r\n{length}{lines}"
    return head.encode("latin-1") + b"host: " + target.host + b"\r\n\r\n"
