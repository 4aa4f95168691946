"""HTTP to replicas: keep-alive connections, bodies handed on as they come.

Reading pauses while the relay's own client is slow, so memory stays bounded.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple

from aiohappyeyeballs import start_connection
from yarl import URL

from slosgate import __version__
from slosgate.gateway.replicas.connection import Answer, Broken, Connection, NotHttp
from slosgate.gateway.unzipping import ENCODINGS, Unzip

MAX_ANSWER_BYTES = 256 * 1024 * 1024
KEEP_ALIVE_S = 4.0  # less than any server keeps an idle connection; vLLM's does for 5 s
NEXT_ADDRESS_S = 0.25  # of a host with several, when the one before has said nothing
REPEATABLE = ("GET", "HEAD")  # may be sent again when a kept connection turns out to be closed
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_ILLEGAL = re.compile(r"[\r\n\0]")


class UpstreamError(Exception):
    """The server could not be reached, broke off, took too long, or does not speak HTTP.

    `reached`: a connection was there, so that the server may have seen the request. `ours`: this process can open no
    more files, which is no server's fault.
    """

    def __init__(self, message: str, *, reached: bool = False, ours: bool = False) -> None:
        super().__init__(message)
        self.reached = reached
        self.ours = ours


class Response:
    """An answer whose headers are there; names of headers are in lower case.

    Servers were asked not to compress. What one compresses all the same, with gzip or deflate, is read here, so that
    nobody behind needs to care; other encodings are left as they are.
    """

    def __init__(self, answer: Answer, limit_bytes: int) -> None:
        self._answer = answer
        self._left = limit_bytes
        self.status = answer.status
        self.headers = answer.headers
        encoding = self.headers.get(b"content-encoding", b"").strip().lower()
        if encoding == b"identity" or encoding in ENCODINGS:
            del self.headers[b"content-encoding"]
        self._unzip = Unzip(encoding) if encoding in ENCODINGS else None

    async def next(self) -> bytes:
        """The bytes of the body that have come since the last call; empty at its end. Raises UpstreamError."""
        while True:
            try:
                part = await self._answer.next()
            except (Broken, NotHttp) as exc:
                raise _broken(exc) from exc
            if self._unzip is not None:
                ended = not part
                part = self._decompressed(part, self._unzip)
                if not part and not ended:
                    continue
            self._left -= len(part)
            if self._left < 0:
                raise UpstreamError("its answer does not end", reached=True)
            return part

    def _decompressed(self, part: bytes, unzip: Unzip) -> bytes:
        if not part and not unzip.complete:
            raise UpstreamError("its compressed answer ends too early", reached=True)
        try:
            return unzip.feed(part, max(1, self._left) + 1)
        except zlib.error as exc:
            raise UpstreamError(f"its answer is not compressed as it says: {exc}", reached=True) from None

    async def read(self, came: Callable[[], None] = lambda: None) -> bytes:
        """The rest of the body; `came` is called for each part of it. Raises UpstreamError."""
        parts = []
        while part := await self.next():
            came()
            parts.append(part)
        return b"".join(parts)


class Origin(NamedTuple):
    """Where a server listens, and what every request to it says."""

    host: str
    port: int
    tls: bool
    prefix: str  # of every path
    headers: str
    authorization: str  # that its address has; empty for none


class Upstream:
    """Connections to all replicas."""

    def __init__(self, *, connect_timeout_s: float = 2.0, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._idle: dict[Origin, list[Connection]] = {}  # the latest used last
        self._trusted: ssl.SSLContext | None = None

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None,
        begins_within_s: float | None = None,
    ) -> AsyncIterator[Response]:  # fmt: skip
        """Send a request and yield the answer once its headers are there. Raises UpstreamError.

        `url` is the server's base address; the answer's headers must be there `begins_within_s` after the call. A
        connection whose answer was not read to its end is closed, which is how a replica learns of a hang-up.
        """
        try:
            origin = origin_of(url)
            head = _head(method, origin, path, len(body), headers or {})
        except ValueError as exc:
            raise UpstreamError(f"its address can't be used: {exc}") from exc
        try:
            async with asyncio.timeout(begins_within_s):
                connection, answer = await self._ask(method, origin, head, body)
        except TimeoutError:
            raise UpstreamError(f"no answer began within {begins_within_s or 0:g} s", reached=True) from None
        try:
            if not 200 <= answer.status < 600:
                raise UpstreamError(
                    f"its answer has the status {answer.status}, which HTTP does not know", reached=True
                )
            _make_relative(answer.headers, origin)
            yield Response(answer, self._max_answer_bytes)
        finally:
            self._release(origin, connection)

    async def fetch(
        self, url: str, path: str, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """GET: status and body. Raises UpstreamError, also when it takes too long."""
        try:
            async with asyncio.timeout(timeout_s), self.request("GET", url, path, headers=headers) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise UpstreamError(f"no answer within {timeout_s:g} s") from None

    # Connections

    async def _ask(self, method: str, origin: Origin, head: bytes, body: bytes) -> tuple[Connection, Answer]:
        """Send a request over a connection that is kept, or a new one, and wait for the answer's headers."""
        kept = self._kept(origin)
        if kept is not None:
            try:
                return kept, await _answer(kept, method, head, body)
            except Broken as exc:
                if method not in REPEATABLE:
                    raise _broken(exc) from exc
            except NotHttp as exc:
                raise _broken(exc) from exc
        connection = await self._connected(origin)
        try:
            return connection, await _answer(connection, method, head, body)
        except (Broken, NotHttp) as exc:
            raise _broken(exc) from exc

    def _kept(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin, [])
        while idle:
            if (connection := idle.pop()).take():
                return connection
        return None

    def _release(self, origin: Origin, connection: Connection) -> None:
        if connection.keep(KEEP_ALIVE_S):
            idle = self._idle.setdefault(origin, [])
            idle.append(connection)
            if idle[0].closed:  # those that were used least recently close first
                idle[:] = [one for one in idle if not one.closed]

    async def _connected(self, origin: Origin) -> Connection:
        """A new connection. Raises UpstreamError."""
        loop, where = asyncio.get_running_loop(), f"{origin.host}:{origin.port}"
        try:
            found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    opened = await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop)
            except TimeoutError:
                raise UpstreamError(f"no connection: {where}: none within {self._connect_timeout_s:g} s") from None
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trust, name = (self._trust(), origin.host) if origin.tls else (None, None)
            _, connection = await loop.create_connection(Connection, sock=opened, ssl=trust, server_hostname=name)
        except (OSError, UnicodeError) as exc:
            ours = isinstance(exc, OSError) and exc.errno in _NO_FILES
            raise UpstreamError(f"no connection: {where}: {exc}", ours=ours) from exc
        return connection

    def _trust(self) -> ssl.SSLContext:
        """Whom to believe over TLS: the system's authorities."""
        if self._trusted is None:
            self._trusted = ssl.create_default_context()
            self._trusted.set_alpn_protocols(["http/1.1"])
        return self._trusted


async def _answer(connection: Connection, method: str, head: bytes, body: bytes) -> Answer:
    """Ask over a connection, which is closed if no answer begins. Raises Broken, NotHttp."""
    try:
        return await connection.ask(head, body, has_body=method != "HEAD")
    except BaseException:
        connection.close()
        raise


@lru_cache(maxsize=1024)
def origin_of(url: str) -> Origin:
    """Raises ValueError for what is no address of a server."""
    parsed = URL(url, encoded=True)
    host, port = parsed.raw_host, parsed.port
    if parsed.scheme not in ("http", "https") or not host or not port:
        raise ValueError(f"{url!r} is no http:// or https:// address")
    headers = f"host: {parsed.host_port_subcomponent}\r\nuser-agent: slosgate/{__version__}\r\n"
    authorization = ""
    if parsed.user is not None:
        credentials = f"{parsed.user}:{parsed.password or ''}"
        authorization = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return Origin(host, port, parsed.scheme == "https", parsed.raw_path.rstrip("/"), headers, authorization)


def _head(method: str, origin: Origin, path: str, length: int, headers: Mapping[str, str]) -> bytes:
    """A request's head. Raises ValueError for what would end it early."""
    lines = [f"{method} {origin.prefix}{path} HTTP/1.1\r\n{origin.headers}"]
    if origin.authorization and "authorization" not in headers:
        lines.append(f"authorization: {origin.authorization}\r\n")
    if "accept" not in headers:
        lines.append("accept: */*\r\n")
    if length or method not in REPEATABLE:
        lines.append(f"content-length: {length}\r\n")
    if length and "content-type" not in headers:
        lines.append("content-type: application/octet-stream\r\n")
    for name, value in headers.items():
        if _ILLEGAL.search(value):
            raise ValueError(f"the header {name} has a line break")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode()


def _make_relative(headers: dict[bytes, bytes], origin: Origin) -> None:
    """A server that redirects to itself means a path: its address may be known to nobody else."""
    try:
        target = URL(headers.get(b"location", b"").decode("latin-1"), encoded=True)
        at = target.scheme == "https", target.raw_host, target.port
    except ValueError:
        return
    own = at == (origin.tls, origin.host, origin.port)
    if own and target.raw_path_qs.startswith(f"{origin.prefix}/"):
        headers[b"location"] = target.raw_path_qs.removeprefix(origin.prefix).encode("latin-1")


def _broken(exc: Exception) -> UpstreamError:
    """What went wrong once the server was there."""
    said = f"its answer is not HTTP: {exc}" if isinstance(exc, NotHttp) else "the connection broke"
    return UpstreamError(said, reached=True)
