"""Requests that come while another one is being answered: each gets its own answer, in the order in which they came.

uvicorn's protocol stops reading when a further request is there, and tells only the newest one of a hang-up: the one
that is being answered would go on for nobody. Here what comes ahead of its turn is held unread, so that a hang-up is
always noticed (as long as no more than AHEAD_BYTES wait); it is told to every request; and a request that can't be
read is refused after those before it have their answers.

A client may also shut down only its sending side and wait for the answer. That looks like a hang-up, but comes directly
behind the request; whoever gives up does so later, or else its kernel says so when something is written: an answer, or
before a long one an interim response, which HTTP/1.1 always allows. Over TLS asyncio knows no half of a connection.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

AHEAD_BYTES = 64 * 1024
HALF_CLOSE_S = 0.25  # between the last byte and the end of sending, if the answer is still wanted
PROBE_S = (1.0, 0.5)  # how long after that, and after the first, an interim response asks whether it is there
PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER_S = 2.0  # how long it may go on sending after its last answer
ABORT_S = 10.0  # what a closing connection has to take its last bytes


class PipelinedProtocol(HttpToolsProtocol):
    """One connection; `read` takes what comes to the parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: RequestResponseCycle | None = None
        self.in_head = self._in_body = False  # where in a message the parser is; between two of them, nowhere
        self._ahead = bytearray()
        self._last: bytes | None = None  # ends the connection when all before it is answered
        self._timer: asyncio.TimerHandle | None = None  # of a client that has sent all, or is not listened to any more
        self._lingers = False
        self._half_closed = False
        self._came_s = -math.inf

    def read(self, data: bytes) -> None:
        raise NotImplementedError

    def cut_off(self) -> None:
        """Refuse a request of which no more will come."""
        raise NotImplementedError

    @property
    def answering(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def ending(self) -> bool:
        """Whether nothing more is read, and it hangs up once all before that is answered."""
        return self._last is not None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self.ending:
            return
        self._came_s = self.loop.time()
        if self.in_head or self._in_body or not self.answering:
            self.read(data)
            return
        self._ahead += data
        if len(self._ahead) > AHEAD_BYTES:
            self.flow.pause_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open for an answer."""
        if self.scheme != "http" or self.loop.time() - self._came_s >= HALF_CLOSE_S:
            return False
        self._half_closed = True
        if self.in_head or self._in_body:
            self.cut_off()
        stays = self.answering and not self._lingers and not self.transport.is_closing()
        if stays:
            self._probe_in(*PROBE_S)
        return stays

    def _probe_in(self, wait_s: float, *further_s: float) -> None:
        self._timer = self.loop.call_later(wait_s, self._probe, *further_s)

    def _probe(self, *further_s: float) -> None:
        running = self._running
        unsure = running is not None and not running.response_started and running.scope["http_version"] != "1.0"
        if not unsure or self.transport.is_closing():
            return
        self.transport.write(PROBE)
        if further_s:
            self._probe_in(*further_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:
            _disconnect(self._running)
        if self._timer is not None:
            self._timer.cancel()
        self.pipeline.clear()
        self._ahead.clear()
        super().connection_lost(exc)

    def end_with(self, answer: bytes) -> None:
        """Hang up with this answer to what can't be read, once all requests before it have theirs."""
        if self.ending:
            return
        self._last = answer
        newest = self.cycle
        if self._in_body:  # of the newest request, which is what can't be read on
            if newest.response_started:
                self._last = b""
            elif newest is self._running:
                _disconnect(newest)
                self._end()
                return
            else:
                self.pipeline.popleft()
                self.cycle = self._running  # type: ignore[assignment]
        if not self.answering:
            self._end()

    def _end(self) -> None:
        """Hang up. A client that is still sending would lose the answer if nobody took what it sends."""
        self.transport.write(self._last or b"")
        if self._half_closed or not self.transport.can_write_eof():
            self.close()
        else:
            self.transport.write_eof()
            self._lingers = True
            self._timer = self.loop.call_later(LINGER_S, self.close)

    def close(self) -> None:
        """Close, and don't wait for ever until the client has taken what is left."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(ABORT_S, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    # The parser's callbacks, and the answers' ends

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head = True

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.in_head, self._in_body = False, True
        if self.pipeline:
            self.flow.resume_reading()  # to hear of a hang-up

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or self.answering:
            return
        if self._last is not None:
            self._end()
        elif self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            self.read(data)
        if self._half_closed and not self.answering:
            self.close()


def _disconnect(cycle: RequestResponseCycle) -> None:
    if not cycle.response_complete:
        cycle.disconnected = True
    cycle.message_event.set()
