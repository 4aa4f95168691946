"""Draining: a replica that was told to go finishes what it has, within a bound, while gateways send it nothing new."""

from __future__ import annotations

import time
from collections.abc import Callable

# Gateways hear of it with the next report. What they had sent before is on its way for less than this.
QUIET_S = 1.0


class Drain:
    """One replica's, told from how many requests it has: `over` when it may end."""

    def __init__(self, bound_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bound_s = bound_s
        self._monotonic = monotonic
        self._began_s: float | None = None
        self._busy_s = 0.0  # when it last had a request

    @property
    def begun(self) -> bool:
        return self._began_s is not None

    def begin(self) -> None:
        self._began_s = self._busy_s = self._monotonic()

    def over(self, requests: int) -> bool:
        """Whether it has been without requests for QUIET_S since it was told, or the bound has passed."""
        if self._began_s is None:
            return False
        now_s = self._monotonic()
        if requests:
            self._busy_s = now_s
        return now_s - self._busy_s >= QUIET_S or now_s - self._began_s >= self._bound_s
