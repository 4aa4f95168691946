"""A clock that neither jumps nor runs backwards."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Wall time, read once, then advanced by the monotonic clock: a step of the wall clock changes nothing here."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        """Seconds since the epoch, as the wall clock had it at the start."""
        return self._offset_s + self._monotonic()
