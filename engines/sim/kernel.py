"""Virtual time: a heap of events. It knows nothing of requests or replicas."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TypeAlias

Event: TypeAlias = Callable[[float], None]  # called with the time it was scheduled for


class Kernel:
    """Runs events in the order of (time, priority, order of scheduling).

    A lower priority number goes first among events of one time. An event scheduled for a time that has passed
    raises ValueError: time never runs backwards.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self._events: list[tuple[float, int, int, Event]] = []
        self._ids = itertools.count()

    def __len__(self) -> int:
        return len(self._events)

    def at(self, time_s: float, event: Event, priority: int = 0) -> None:
        """Schedule an event for an absolute time."""
        if time_s < self.now_s:
            raise ValueError(f"cannot schedule an event for {time_s} s: it is already {self.now_s} s")
        heapq.heappush(self._events, (time_s, priority, next(self._ids), event))

    def next_s(self) -> float:
        """Time of the next event; inf when there is none."""
        return self._events[0][0] if self._events else float("inf")

    def step(self) -> bool:
        """Run the next event; False when there is none."""
        if not self._events:
            return False
        self.now_s, _, _, event = heapq.heappop(self._events)
        event(self.now_s)
        return True

    def run(self, until_s: float = float("inf")) -> None:
        """Run every event up to and including `until_s`."""
        while self._events and self._events[0][0] <= until_s:
            self.step()
