"""One HTTP/1.1 connection to a server, read by httptools: one request at a time, bodies as they come.

A general client spends more on a token of a stream than everything else that happens to it here. What an HTTP client
must do beyond reading and writing (making connections, keeping them, giving up) is in `gateway/replicas/upstream.py`.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

BUFFER_BYTES = 128 * 1024  # of a body that nobody has taken yet; reading pauses beyond
MAX_HEADER_BYTES = 64 * 1024  # of one header: proxies in front of replicas add long ones
HEAD_BYTES = 4 * MAX_HEADER_BYTES  # of all of an answer's
MAX_HEADERS = 256
PIECE_BYTES = 64 * 1024  # of a large request body, so that other streams go on while it is written
_SWITCHING = 101


class Broken(Exception):
    """The connection ended before its answer."""


class NotHttp(Exception):
    """The answer can't be read; the message says why."""


class Answer:
    """An answer as far as it has come. Names of headers are in lower case; of one that comes twice the last counts."""

    def __init__(self, connection: Connection, *, has_body: bool) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.begun = False  # its headers are there
        self.complete = False
        self.reusable = False  # it is complete, and another request may follow on its connection
        self._connection = connection
        self._has_body = has_body
        self._parser = httptools.HttpResponseParser(self)
        # As lenient as other clients are: nothing that follows depends on where such a head ends.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # Whoever asked

    async def head(self) -> None:
        """Wait for the headers. Raises Broken, NotHttp."""
        while not self.begun:
            await self._more()

    async def next(self) -> bytes:
        """What has come of the body since the last call; empty at its end. Raises Broken, NotHttp."""
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        before, self._size = self._size, 0
        if before > BUFFER_BYTES and not self._connection.closed:
            self._connection.transport.resume_reading()
        return part

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The connection

    def feed(self, data: bytes) -> None:
        """These bytes have come."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._unread(exc)
        else:
            if not self.begun:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self._unread(NotHttp("its head does not end"))
        self._tell()

    def _unread(self, exc: Exception) -> None:
        """What came can't be read on."""
        self.reusable = False
        own = exc.__context__  # of a callback
        if not (self.complete or self.status == _SWITCHING):
            self._failure = self._failure or NotHttp(str(own if isinstance(own, NotHttp) else exc))

    def lost(self, *, cleanly: bool) -> None:
        """The connection has ended: so has an answer whose length nothing else tells."""
        self.reusable = False
        if self.begun and cleanly and self._ends_with_connection and self._failure is None:
            self.complete = True
        elif not self.complete:
            self._failure = self._failure or Broken()
        self._tell()

    @property
    def _ends_with_connection(self) -> bool:
        chunked = b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        return not chunked and b"content-length" not in self.headers

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            raise NotHttp("more follows its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.begun:
            return  # a trailer
        if len(self.headers) >= MAX_HEADERS or len(name) + len(value) > MAX_HEADER_BYTES:
            raise NotHttp("its head is too large")
        self.headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != _SWITCHING:
            self.headers.clear()  # an interim response: another one follows
            return
        self.begun = True
        if not self._has_body:
            self.complete = True

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._parts.append(body)
        before, self._size = self._size, self._size + len(body)
        if before <= BUFFER_BYTES < self._size:
            self._connection.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.begun and not self.complete:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """An open connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.closed = False
        self._answer: Answer | None = None
        self._unsent = False  # the answer began before the whole request had left
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, head: bytes, body: bytes, *, has_body: bool) -> Answer:
        """Send a request; the answer, once its headers are there. Raises Broken, NotHttp."""
        answer = self._answer = Answer(self, has_body=has_body)
        if len(body) <= PIECE_BYTES:
            self.transport.write(head + body)
        else:
            await self._write_slowly(head, memoryview(body), answer)
        await answer.head()
        return answer

    async def _write_slowly(self, head: bytes, body: memoryview, answer: Answer) -> None:
        self.transport.write(head)
        for start in range(0, len(body), PIECE_BYTES):
            await self._may_write.wait()
            if answer.begun or self.closed:
                self._unsent = True
                return
            self.transport.write(body[start : start + PIECE_BYTES])

    def keep(self, seconds: float) -> bool:
        """Its answer has been read, or nobody wants the rest: stay open for the next request for so long, or close."""
        answer, self._answer = self._answer, None
        if self.closed or self._unsent or answer is None or not answer.reusable:
            self.close()
            return False
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)
        return True

    def take(self) -> bool:
        """Use it again, if it is still open."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return not self.closed

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nobody has asked
        else:
            self._answer.feed(data)
            if self._answer.begun:
                self._may_write.set()  # it may be waited for in vain

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._may_write.set()
        if self._answer is not None:
            self._answer.lost(cleanly=exc is None)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()
