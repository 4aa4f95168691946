"""HTTP to replicas, by aiohttp: keep-alive connections, bodies handed on as they come.

Reading pauses while the relay's own client is slow (aiohttp's flow control), so memory stays bounded. An HTTP client of
our own on httptools took 1.4 times less CPU per streamed token in `slosbench gateway-bench` (median of five pairs; 35
against 50 us, the whole gateway's), which is not worth owning one.
"""

from __future__ import annotations

import asyncio
import errno
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
from yarl import URL

from slosgate.gateway.unzipping import ENCODINGS, Unzip

BUFFER_BYTES = 64 * 1024  # per answer; reading pauses beyond twice as much
LARGE_BODY_BYTES = 1024 * 1024  # written piece by piece, so that other streams go on meanwhile
MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024  # of one header: proxies in front of replicas add long ones
KEEP_ALIVE_S = 4.0  # less than any server keeps an idle connection; vLLM's does for 5 s

_FAILURES = (aiohttp.ClientError, OSError, ValueError)
_NO_FILES = (errno.EMFILE, errno.ENFILE)


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

    def __init__(self, answer: aiohttp.ClientResponse, limit_bytes: int) -> None:
        self._answer = answer
        self._left = limit_bytes
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.raw_headers}
        encoding = self.headers.get(b"content-encoding", b"").strip().lower()
        if encoding == b"identity" or encoding in ENCODINGS:
            del self.headers[b"content-encoding"]
        self._unzip = Unzip(encoding) if encoding in ENCODINGS else None

    async def next(self) -> bytes:
        """The bytes of the body that have come since the last call; empty at its end. Raises UpstreamError."""
        while True:
            try:
                part = await self._answer.content.readany()
            except _FAILURES as exc:
                raise _error(exc, reached=True) from exc
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

    async def read(self) -> bytes:
        """The rest of the body. Raises UpstreamError."""
        parts = []
        while part := await self.next():
            parts.append(part)
        return b"".join(parts)


class Upstream:
    """Connections to all replicas. To be made where an event loop runs."""

    def __init__(self, *, connect_timeout_s: float = 2.0, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are none of the next one's
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None,
        begins_within_s: float | None = None,
    ) -> AsyncIterator[Response]:  # fmt: skip
        """Send a request and yield the answer once its headers are there. Raises UpstreamError.

        `url` is the server's base address; the answer's headers must be there `begins_within_s` after the call. A
        connection whose answer was not read to its end is closed, which is how a replica learns of a hang-up.
        """
        data = BytesIO(body) if len(body) > LARGE_BODY_BYTES else body or None
        try:
            async with asyncio.timeout(begins_within_s):
                target = URL(url + path, encoded=True)
                answer = await self._session.request(method, target, data=data, headers=headers, allow_redirects=False)
        except TimeoutError as exc:
            if isinstance(exc, aiohttp.ClientError):
                raise _error(exc) from exc
            raise UpstreamError(f"no answer began within {begins_within_s or 0:g} s", reached=True) from None
        except _FAILURES as exc:
            raise _error(exc) from exc
        try:
            if not 200 <= answer.status < 600:
                raise UpstreamError(
                    f"its answer has the status {answer.status}, which HTTP does not know", reached=True
                )
            yield Response(answer, self._max_answer_bytes)
        finally:
            answer.release()

    async def fetch(
        self, url: str, path: str, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """GET: status and body. Raises UpstreamError, also when it takes too long."""
        try:
            async with asyncio.timeout(timeout_s), self.request("GET", url, path, headers=headers) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise UpstreamError(f"no answer within {timeout_s:g} s") from None


def _error(exc: Exception, *, reached: bool | None = None) -> UpstreamError:
    """What went wrong, and whose doing it is."""
    unconnected = isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | ValueError)
    ours = isinstance(exc, OSError) and exc.errno in _NO_FILES
    return UpstreamError(_said(exc), reached=not unconnected if reached is None else reached, ours=ours)


def _said(exc: Exception) -> str:
    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return f"no connection: {exc}"
    if isinstance(exc, aiohttp.ClientResponseError):
        return f"its answer is not HTTP: {exc.message}"
    if isinstance(exc, ValueError):
        return f"its address can't be used: {exc}"
    return "the connection broke"
