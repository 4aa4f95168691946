"""Server-sent events, as they are met: cut into whole events and otherwise left alone.

A line ends with LF, CR LF or CR; the space after `data:` is optional; comments and blank lines may stand anywhere, a
byte order mark at the beginning (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import re

from slosgate.gateway.promises.completion import BOM

DONE = b"data: [DONE]\n\n"
_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")  # LF CR LF also ends CR LF CR LF
_FIELD = re.compile(rb"[\r\n]*(?:[\w-]*:|\Z|(?:data|event|id|retry)[\r\n])")
_FINISHED = re.compile(rb'"finish_reason":\s*"')
_DATA = re.compile(rb"(?:\A|[\r\n])data: ?(?=[^\r\n])")
_DONE = re.compile(rb"(?:\A|[\r\n])data:[ \t]*\[DONE\][ \t]*[\r\n]+")


class EventStream:
    """Feed it what comes; it gives whole events: a client must never see half of one."""

    def __init__(self) -> None:
        self.rest = b""  # the beginning of the next event
        self.done = False  # [DONE] has come
        self.answer = b""  # of the events given last, those of the answer: what stands behind [DONE] is no part of it
        self._begun = False

    def close(self) -> bytes:
        """What is left when the stream has ended. Some servers leave the blank line behind [DONE] out: it is added."""
        rest = self.rest
        if rest.strip() and _DONE.search(rest + b"\n"):
            self.rest = b""
            return self._given(rest.rstrip(b"\r\n") + b"\n\n")
        return self._given(b"")

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole with `chunk`, as they were written; empty when none is."""
        data = self.rest + chunk if self.rest else chunk
        if not self._begun:
            if BOM.startswith(data[:3]) and len(data) < len(BOM):
                self.rest = data
                return b""
            data = data.removeprefix(BOM)
            self._begun = True
        events, self.rest = _split(data)
        return self._given(events)

    def _given(self, events: bytes) -> bytes:
        self.answer = b"" if self.done else events
        if b"[DONE]" in self.answer and (end := _DONE.search(events)):
            self.done, self.answer = True, events[: end.end()]
        return events


def _split(data: bytes) -> tuple[bytes, bytes]:
    if data.endswith(_ENDS):
        return data, b""
    end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _ENDS)
    return data[:end], data[end:]


def is_event_stream(events: bytes) -> bool:
    """Whether whole events look like some: a field, also one that nobody knows, or a comment."""
    return events.startswith(b"data:") or _FIELD.match(events) is not None


def finishes(events: bytes) -> bool:
    """Whether they say how a choice ended."""
    return _FINISHED.search(events) is not None


def data_events(events: bytes) -> int:
    """How many of them carry data, [DONE] left out."""
    if b"\r" not in events:
        count = events.count(b"\ndata:") + events.startswith(b"data:")
        count -= events.count(b"data:\n") + events.count(b"data: \n")  # they keep the connection alive
    else:
        count = len(_DATA.findall(events))
    return count - (1 if b"[DONE]" in events and _DONE.search(events) else 0)
