"""HTTP from clients: uvicorn's httptools protocol, with the limits that its llhttp parser leaves to others.

uvicorn's other parser, h11, has a limit for heads of its own and declines upgrades well, but it is pure Python, and
costs far more CPU per event of a stream. What is added here: heads end at a size, a number of headers and a time; so do
chunk framing and trailers; a client that stops reading is let go; an offer to upgrade (h2c, WebSocket) is declined as
RFC 9110 7.8 says, by answering the request; and an HTTP/1.0 client gets no chunks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from slosgate.gateway.config import ServerConfig
from slosgate.gateway.errors import error_body
from slosgate.gateway.http.headers import CREDENTIALS
from slosgate.gateway.http.pipelining import PipelinedProtocol

_log = logging.getLogger("slosgate")

MAX_HEADERS = 200
FRAMING_BYTES = 64 * 1024  # chunk sizes, extensions and trailers, beside FRAMING_SHARE of the body itself
FRAMING_SHARE = 8  # of a body in chunks of one byte
HOP_BY_HOP = (b"upgrade", b"http2-settings")
IDLE_S = 1.0  # a client that asks again has done so by then
SILENT_S = 5.0  # one that has connected to ask has asked by then, however busy its machine
_HEAD = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    505: b"HTTP Version Not Supported",
}
_CODES = {408: "request_timeout", 431: "headers_too_large"}  # the others are "bad_http"
QUOTED = 40  # bytes of a header's value
VERSIONS = ("1.1", "1.0")


@dataclass(frozen=True, slots=True)
class Limits:
    head_bytes: int
    head_s: float  # from a connection's beginning, or a request's first byte, to the end of its headers
    stalled_write_s: float  # how long a client may take nothing of an answer that waits for it


class _Refused(Exception):
    """The request is not read on; its connection gets this status and ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class LimitedProtocol(PipelinedProtocol):
    """One connection."""

    def __init__(self, *args: Any, limits: Limits, refused: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._count_refusal = refused
        self._refusal: _Refused | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._idle_since_s = math.inf
        self._declining = False  # the head offers an upgrade: it is read again without the offer
        self._head_bytes = 0  # of the headers that are complete
        self._received = 0  # bytes since the read in which the message began
        self._delivered = 0  # of them, the body's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))  # uvloop's is none by inheritance
        self._idle_since_s = self.loop.time() + SILENT_S - IDLE_S  # it has longer than one that has had an answer
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_wait()
        self.resume_writing()
        super().connection_lost(exc)

    # Reading

    def read(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._received += len(data)
        try:
            self._feed(data)
            self._check_framing()
        except httptools.HttpParserError:
            self._refuse(self._refusal or _Refused(400, "the request is not valid HTTP/1.1"))
        except _Refused as refusal:
            self._refuse(refusal)
        else:
            if not self.answering:
                self._wait_for_head()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = self._head_without_offer() + data[offer.args[0] :]

    def _head_without_offer(self) -> bytes:
        """The head once more, for a fresh parser, as if no upgrade had been offered."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() not in HOP_BY_HOP)
            if name not in HOP_BY_HOP:
                lines.append(b"%b: %b" % (name, value))
        self._declining = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])

    def _check_framing(self) -> None:
        """What was received and is no body: an unfinished header, chunk sizes and extensions, trailers."""
        beside = self._received - self._delivered
        if self.in_head and beside > self._limits.head_bytes:
            raise self._head_too_large()
        if not self.in_head and beside > self._limits.head_bytes + FRAMING_BYTES + FRAMING_SHARE * self._delivered:
            raise _Refused(400, "the chunks of the body are mostly framing")

    def _head_too_large(self) -> _Refused:
        limit = self._limits.head_bytes
        return _Refused(431, f"the headers are too large; accepted: {MAX_HEADERS} headers, {limit} bytes in all")

    def _refuse(self, refusal: _Refused) -> None:
        """Answer a request that will not be read on, and hang up."""
        if self.ending:
            return
        code = _CODES.get(refusal.status, "bad_http")
        self._count_refusal(code)
        body = error_body(refusal.message, "invalid_request_error", None, code)
        self.end_with(_HEAD % (refusal.status, _REASONS[refusal.status], len(body)) + body)

    def cut_off(self) -> None:
        self._refuse(_Refused(400, "the request ends too early"))

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._idle_since_s = math.inf
        self._head_bytes = self._received = self._delivered = 0
        self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer: what came before decides
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value.rstrip(b" \t"))  # the parser leaves the white space behind a value to others

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes or len(self.headers) >= MAX_HEADERS:
            self._refusal = self._head_too_large()
            raise self._refusal

    def on_headers_complete(self) -> None:
        if problem := _version_problem(self.parser.get_http_version()):
            self._refusal = problem
            raise problem
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refusal = _Refused(400, "CONNECT is not served here")
                raise self._refusal
            self._declining = True
            return
        if problem := _head_problem(self.headers, self.parser.get_http_version()):
            self._refusal = problem
            raise problem
        self._end_head_wait()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._delivered += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._declining:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        if cycle.scope["http_version"] == "1.0":
            app = _Unchunked(app, cycle)
        app = _BreakingOff(app, cycle)
        super()._start_asgi_task(cycle, app)

    # Waiting

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def _end_head_wait(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.answering:
            self._wait_for_head()  # only the next request is late: the answer under way goes on
        elif self.in_head:
            self._refuse(_Refused(408, f"the headers were not complete within {self._limits.head_s:g} s"))
        else:
            self.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.in_head and not self.answering:
            self._idle_since_s = self.loop.time()
        if self.transport.is_closing():
            self.close()

    def make_room(self) -> None:
        """Others wait for a connection: end this one if it has been idle for a while, or has never asked."""
        if self._idle_since_s + IDLE_S < self.loop.time() and not self.in_head:
            self.close()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.stalled_write_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()


def limits_of(config: ServerConfig) -> Limits:
    """What a configuration allows each connection."""
    return Limits(config.max_header_bytes, config.header_timeout_s, config.request_timeout_s)


def limited(limits: Limits, refused: Callable[[str], None]) -> type[asyncio.Protocol]:
    """What uvicorn makes a connection with; `refused` gets the code of each request that goes no further."""
    return cast(type[asyncio.Protocol], partial(LimitedProtocol, limits=limits, refused=refused))


def _version_problem(version: str) -> _Refused | None:
    """The parser also reads 0.9, which has no headers, and 2.0, which is written otherwise (RFC 9110 15.6.6)."""
    if version in VERSIONS:
        return None
    said = f"HTTP/{version} is not served here; accepted: {', '.join(f'HTTP/{one}' for one in VERSIONS)}"
    return _Refused(400 if version < "1" else 505, said)


def _head_problem(headers: list[tuple[bytes, bytes]], version: str) -> _Refused | None:
    """What the parser lets pass, though proxies may read it otherwise (RFC 9112 3.2 and 6.1)."""
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1:
        return _Refused(400, "the request names several hosts")
    if not hosts and version == "1.1":
        return _Refused(400, "the request has no host header: give one")
    for asked in CREDENTIALS:
        if len({value for name, value in headers if name == asked}) > 1:
            said = f"the request has several {asked.decode()} headers, and which one counts is unclear; accepted: one"
            return _Refused(400, said)
    for name, value in headers:
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return _Refused(501, f"transfer-encoding must be chunked, not {value[:QUOTED].decode('latin-1')!r}")
    return None


class _BreakingOff:
    """An answer of which no more comes (ConnectionAbortedError) ends with its connection: nothing else can tell it."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ConnectionAbortedError as error:
            _log.warning("an answer breaks off: %s", error)
            self._cycle.disconnected = True
            self._cycle.transport.close()


class _Unchunked:
    """For HTTP/1.0, which has no chunks: an answer of unknown length ends with its connection."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ends_with_connection = False

        async def unchunked(message: Message) -> None:
            nonlocal ends_with_connection
            if message["type"] == "http.response.start":
                ends_with_connection = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if ends_with_connection:
                    self._cycle.chunked_encoding = False
            elif ends_with_connection:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, unchunked)
