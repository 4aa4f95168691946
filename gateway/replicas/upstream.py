"""HTTP to replicas, by aiohttp: keep-alive connections, bodies handed on as they come.

Reading pauses while the relay's own client is slow (aiohttp's flow control), so memory stays bounded. An HTTP client of
our own on httptools took 1.4 times less CPU per streamed token in `slosbench gateway-bench` (median of five pairs; 35
against 50 us, the whole gateway's), which is not worth owning one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
from yarl import URL

BUFFER_BYTES = 64 * 1024  # per answer; reading pauses beyond twice as much
LARGE_BODY_BYTES = 1024 * 1024  # written piece by piece, so that other streams go on meanwhile
KEEP_ALIVE_S = 4.0  # less than any server keeps an idle connection; vLLM's does for 5 s

_FAILURES = (aiohttp.ClientError, OSError)


class UpstreamError(Exception):
    """The server could not be reached, broke off, or does not speak HTTP."""


class Response:
    """An answer whose headers are there; names of headers are in lower case."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.raw_headers}

    async def next(self) -> bytes:
        """The bytes of the body that have come since the last call; empty at its end. Raises UpstreamError."""
        try:
            return await self._answer.content.readany()
        except _FAILURES as exc:
            raise UpstreamError(_said(exc)) from exc

    async def read(self) -> bytes:
        """The rest of the body. Raises UpstreamError."""
        parts = []
        while part := await self.next():
            parts.append(part)
        return b"".join(parts)


class Upstream:
    """Connections to all replicas. To be made where an event loop runs."""

    def __init__(self, *, connect_timeout_s: float = 2.0) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are none of the next one's
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Response]:
        """Send a request and yield the answer once its headers are there. Raises UpstreamError.

        `url` is the server's base address. A connection whose answer was not read to its end is closed, which is how a
        replica learns of a hang-up.
        """
        data = BytesIO(body) if len(body) > LARGE_BODY_BYTES else body or None
        try:
            target = URL(url + path, encoded=True)
            answer = await self._session.request(method, target, data=data, headers=headers, allow_redirects=False)
        except _FAILURES as exc:
            raise UpstreamError(_said(exc)) from exc
        except ValueError as exc:
            raise UpstreamError(f"its address can't be used: {exc}") from exc
        try:
            yield Response(answer)
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


def _said(exc: Exception) -> str:
    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return f"no connection: {exc}"
    if isinstance(exc, aiohttp.ClientResponseError):
        return f"its answer is not HTTP: {exc.message}"
    return "the connection broke"
