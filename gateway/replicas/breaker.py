"""The circuit breaker of one replica: after failures in a row it is left alone for a while, then tried by one request.

    closed ──FAILURES in a row──> open ──back-off is over──> half-open ──one request goes there──> closed, or open again

The back-off doubles with each opening that follows another, up to a limit, and is drawn from its upper half, so that
several gateways don't come back to a struggling replica at the same moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

FAILURES = 3  # in a row
BACK_OFF_S = 0.5  # the first
LONGEST_BACK_OFF_S = 30.0
PROBE_S = 10.0  # a probe that has said nothing for so long makes room for the next


class State(IntEnum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """`random` gives numbers in [0, 1); times are seconds of one clock."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._opened_in_a_row = 0
        self._until_s = -math.inf  # while open: when the next request may try the replica
        self._probing = False

    def state(self, now_s: float) -> State:
        if not self._opened_in_a_row:
            return State.CLOSED
        return State.OPEN if now_s < self._until_s else State.HALF_OPEN

    def dispatched(self, now_s: float) -> None:
        """A request goes to the replica; when it is the probe, no other follows until it has ended."""
        if self.state(now_s) is State.HALF_OPEN:
            self._until_s = now_s + PROBE_S
            self._probing = True

    def opens_in_s(self, now_s: float) -> float:
        """How much longer the replica is left alone."""
        return max(0.0, self._until_s - now_s)

    def succeeded(self) -> bool:
        """The replica answered as it should; True when that closes the breaker."""
        was_open = self._opened_in_a_row > 0
        self._failures = self._opened_in_a_row = 0
        self._probing = False
        return was_open

    def failed(self, now_s: float) -> bool:
        """The replica failed a request; True when that opens the breaker.

        Requests that were under way when it opened say nothing new: only the probe's failure opens it again.
        """
        self._failures += 1
        if not self._probing and (self._opened_in_a_row or self._failures < FAILURES):
            return False
        longest_s = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2**self._opened_in_a_row)
        self._until_s = now_s + longest_s * (1 + self._random()) / 2
        self._opened_in_a_row += 1
        self._probing = False
        return True
