"""How far this gateway's clock is ahead of Redis's, so that times in the ledger mean the same on every gateway.

A gateway writes times of its own clock, and says in its heartbeat how far that is ahead of Redis's. Who reads them adds
the difference. Nobody's clock has to be right, and none is ever set.
"""

from __future__ import annotations

from collections import deque

SAMPLES = 16  # of the latest heartbeats: of these, the one with the shortest round trip errs least
FURTHEST_S = 1e9  # ahead or behind: no clock is off by more


class Ahead:
    """Our clock less Redis's, seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # (round trip, difference)

    def observe(self, sent_s: float, told_s: float, heard_s: float) -> None:
        """Redis said that it was `told_s`, to a question that left at `sent_s` and was answered at `heard_s`."""
        self._samples.append((heard_s - sent_s, (sent_s + heard_s) / 2 - told_s))

    def forget(self) -> None:
        """The next answers may come from another server, whose clock is another."""
        self._samples.clear()

    @property
    def seconds(self) -> float:
        return min(self._samples, default=(0.0, 0.0))[1]
