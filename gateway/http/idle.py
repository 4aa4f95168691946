"""A limit on how long nothing happens, which costs a request one timer and its events nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleLimit:
    """Calls `expire` once when `touch` has not been called for `limit_s`; to be made where an event loop runs."""

    def __init__(self, limit_s: float, expire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._expire = expire
        self._touched_s = self._loop.time()
        self._timer = self._loop.call_later(limit_s, self._check)

    def touch(self) -> None:
        """Something has happened."""
        self._touched_s = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        left_s = self._touched_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        else:
            self._expire()
