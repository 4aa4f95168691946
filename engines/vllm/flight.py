"""Iterations that were scheduled and whose output is still to come, and how long each of them took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from engines.messages import IterationReport


@dataclass(slots=True)
class Flight:
    """One iteration under way. Times are wall-clock seconds."""

    output: Any  # vLLM's SchedulerOutput, by which the engine names it again
    scheduled_at_s: float
    expected_s: float
    expected_end_s: float
    new_tokens: int
    context_tokens: int
    sequences: int
    draft_steps: int
    put_off: bool  # decided only after the one before it had ended: its time has the pause for that in it
    first_tokens: list[Any] = field(default_factory=list)  # requests whose first token this iteration makes


class Flights:
    """First in, first out: iterations end in the order in which they were scheduled."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()
        self._last_end_s = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def expected_end_s(self, now_s: float) -> float:
        """When the last of them is expected to end; now if none is under way or it is overdue."""
        return max(now_s, self._flights[-1].expected_end_s) if self._flights else now_s

    def launch(self, flight: Flight) -> None:
        self._flights.append(flight)

    def land(self, output: Any, now_s: float) -> tuple[Flight, IterationReport] | None:
        """The flight that ends with this output and what it did; None for an output that computed nothing."""
        if not self._flights or self._flights[0].output is not output:
            return None
        flight = self._flights.popleft()
        # An iteration that was scheduled ahead starts when the one before it ends.
        started_s = max(flight.scheduled_at_s, self._last_end_s)
        self._last_end_s = now_s
        self._put_off(flight.expected_end_s, now_s)
        report = IterationReport(
            duration_s=now_s - started_s,
            new_tokens=flight.new_tokens,
            context_tokens=flight.context_tokens,
            sequences=flight.sequences,
            draft_steps=flight.draft_steps,
        )
        return flight, report

    def _put_off(self, expected_end_s: float, end_s: float) -> None:
        """The iterations behind one that ended early or late end that much earlier or later."""
        for flight in self._flights:
            flight.expected_end_s += end_s - expected_end_s
