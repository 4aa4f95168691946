"""What the program says, without ever waiting for its reader.

A pipe that nobody reads, or a full disk, would stop the event loop in the middle of a line, and every stream with it.
"""

from __future__ import annotations

import atexit
import io
import os
import queue
import threading
from contextlib import suppress

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
