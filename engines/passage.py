"""How long requests take from a replica's port to its scheduler, as it was seen lately.

An engine's HTTP server is one process that reads, tokenizes and streams for everyone: with many streams it saturates
before the device does, and then requests run later than they could. A gateway announces a request when it sends it, and
the announcement takes another way: the difference until the scheduler has the request is what the front end took.
"""

from __future__ import annotations

from collections import deque

LATEST = 64  # so many requests tell how long it takes,
FEW = 4  # once there are so many: until there are ten, the slowest of them tells,
SHARE = 0.9  # and so large a share of them is there in time
WORTH_S = 0.001  # a difference that is worth planning with
FORGOTTEN_S = 60.0  # what was seen longer ago says nothing of now


class Passage:
    """Learns from every announced request; `s` is what to plan with."""

    def __init__(self, assumed_s: float) -> None:
        self.s = assumed_s
        self._assumed_s = assumed_s
        self._latest: deque[tuple[float, float]] = deque(maxlen=LATEST)  # (when, how long it took)

    def took(self, seconds: float, now_s: float) -> bool:
        """A request came so long after its announcement; whether that makes a difference.

        Never less than was assumed: announcements may be late, too.
        """
        self._latest.append((now_s, max(0.0, seconds)))
        while self._latest[0][0] < now_s - FORGOTTEN_S:
            self._latest.popleft()
        if len(self._latest) < FEW:
            return False
        learned_s = sorted(took_s for _, took_s in self._latest)[int(SHARE * len(self._latest))]
        learned_s = max(self._assumed_s, learned_s)
        if abs(learned_s - self.s) < WORTH_S:
            return False
        self.s = learned_s
        return True
