"""What the program says: a line of text or JSON for each thing, repeats held back, without ever waiting for a reader.

A pipe that nobody reads, or a full disk, would stop the event loop in the middle of a line, and every stream with it.
`gateway/reports/events.py` holds what is said.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from slosgate.gateway.reports.events import Event

About = tuple[str, ...]  # what tells one thing that is said from others
Format = Literal["text", "json"]
Level = Literal["info", "warning", "error"]

LOGGERS = ("slosgate", "uvicorn", "asyncio", "aiohttp", "py.warnings")  # whose lines are ours to print
AT_ONCE = 2  # times that one thing is said before repeats are held back
WINDOW_S = 60.0  # for so long, and twice as long each time that repeats go on
LONGEST_WINDOW_S = 960.0
REMEMBERED = 1024  # things that were said lately
MOST_WAITING = 10_000  # lines; more are lost, and how many is said
LAST_WORDS_S = 1.0  # how long the end waits for what is still to be written


class Unhurried(io.TextIOBase):
    """A text stream onto a file descriptor that a thread writes to: `write` never blocks and never fails."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._lost = 0
        threading.Thread(target=self._work, name="log", daemon=True).start()
        atexit.register(self._idle.wait, LAST_WORDS_S)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._waiting.qsize() >= MOST_WAITING:
            self._lost += 1
        else:
            self._idle.clear()
            self._waiting.put(text.encode(errors="replace"))
        return len(text)

    def _work(self) -> None:
        while True:
            if self._waiting.empty():
                self._idle.set()
            self._write(self._waiting.get())
            if self._lost and self._waiting.empty():
                lost, self._lost = self._lost, 0
                self._write(b"slosgate: %d lines of the log are lost: it was not read as fast as written\n" % lost)

    def _write(self, data: bytes) -> None:
        with suppress(OSError):  # a full disk, a reader that has gone: there is nobody to tell
            while data:
                data = data[os.write(self._descriptor, data) :]


def set_up(form: Format, level: Level) -> None:
    """Print what the program and its libraries log, on the standard error output as it is now."""
    written = logging.StreamHandler(sys.stderr)
    written.setFormatter(JsonLines() if form == "json" else TextLines())
    handler = Sparing(written)
    handler.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "slosgate" else logging.WARNING)


class TextLines(logging.Formatter):
    """2026-11-30T13:19:29.120Z WARNING replica a is lost: ..."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{getattr(record, 'more', '')}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object a line: time, level, event, message, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": _time(record), "level": record.levelname.lower(), "event": kind_of(record)}
        line["message"] = f"{record.getMessage()}{getattr(record, 'more', '')}"
        if isinstance(record.msg, Event):
            line |= msgspec.structs.asdict(record.msg)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def kind_of(record: logging.LogRecord) -> str:
    """`replica_lost` for ReplicaLost; "log" for a line that is no event."""
    if not isinstance(record.msg, Event):
        return "log"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(record.msg).__name__).lower()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class _Said:
    """How often something was said in its window, and the last time, which is held back."""

    since_s: float
    window_s: float
    times: int = 0
    held: logging.LogRecord | None = None
    held_times: int = 0


class Sparing(logging.Handler):
    """Hands lines on; of what repeats itself it tells the first two, then at the end of each window the last one, with
    how many there were."""

    def __init__(
        self, target: logging.Handler, *, window_s: float = WINDOW_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._target = target
        self._window_s = window_s
        self._monotonic = monotonic
        self._said: OrderedDict[About, _Said] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Under the handler's lock, which is reentrant."""
        now_s, about = self._monotonic(), _about(record)
        said = self._said.get(about)
        if said is None or (said.held is None and now_s - said.since_s >= said.window_s):
            said = self._said[about] = _Said(now_s, self._window_s)
            self._said.move_to_end(about)
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        said.times += 1
        if said.times <= AT_ONCE:
            self._target.handle(record)
            return
        if said.held is None:
            self._later(about, said, said.since_s + said.window_s - now_s)
        said.held, said.held_times = record, said.held_times + 1

    def _later(self, about: About, said: _Said, after_s: float) -> None:
        timer = threading.Timer(after_s, self._release, (about, said))
        timer.daemon = True
        timer.start()

    def _release(self, about: About, said: _Said) -> None:
        """A window is over: say the last of what was held back, and hold back what follows for longer."""
        self.acquire()
        record, times = said.held, said.held_times
        said.held, said.held_times = None, 0
        said.since_s, said.window_s = self._monotonic(), min(2 * said.window_s, LONGEST_WINDOW_S)
        self.release()
        if record is not None:
            told = copy(record)
            told.more = f" (the last of {times} more)" if times > 1 else ""
            self._target.handle(told)


def _about(record: logging.LogRecord) -> About:
    """What a line is about: lines about one thing repeat each other."""
    if isinstance(record.msg, Event):
        return kind_of(record), record.msg.subject
    first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
    failure = record.exc_info[1] if record.exc_info else None
    return str(record.msg), str(first), *(_place_of(failure) if failure is not None else ())


def _place_of(failure: BaseException) -> tuple[str, str]:
    """Its type, and the line that it comes from: one heading ("Exception in ASGI application") has many failures."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    trace = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return type(failure).__name__, place
