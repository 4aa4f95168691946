"""Iterations that were scheduled and whose output is still to come, and how long each of them took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from slosgate.engines.messages import IterationReport
from slosgate.planner.profile import HardwareProfile

LAUNCHES = 64  # so many of the latest ones tell how long they take,
FEW_LAUNCHES = 8  # once there are so many,
LAUNCHED_SHARE = 0.75  # and so large a share of them is over in time
MARGIN_S = 0.001
LONGEST_MARGIN_S = 1.0
GROWTH = 1.1
EARLY_ONE_IN = 9


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
    launch_s: float = 0.0  # how long it took to choose and launch, as far as vLLM lets us know
    lead_s: float = 0.0  # how long before its start it was to be chosen

    @property
    def prefills(self) -> bool:
        return self.new_tokens > self.sequences * (1 + self.draft_steps)


class Lead:
    """How long before the expected end of an iteration the next one is chosen (`planner.arrivals`).

    So long that most iterations which prefill have been launched by then: before that, the device may wait, and vLLM
    doesn't notice the end. And a margin, as expectations err: longer while iterations end early more often than one in
    `1 + EARLY_ONE_IN`. Until a few have been seen, as long as the profile says.
    """

    def __init__(self, profile: HardwareProfile) -> None:
        self._margin_s = MARGIN_S
        self._launch_s = profile.lead_s - MARGIN_S
        self._latest_s: deque[float] = deque(maxlen=LAUNCHES)

    @property
    def s(self) -> float:
        return self._launch_s + self._margin_s

    def launched(self, took_s: float) -> None:
        """Choosing and launching an iteration that prefills took so long."""
        self._latest_s.append(took_s)
        if len(self._latest_s) >= FEW_LAUNCHES:
            self._launch_s = sorted(self._latest_s)[int(LAUNCHED_SHARE * len(self._latest_s))]

    def ended(self, early_s: float) -> None:
        """An iteration ended so much earlier than expected."""
        # An end isn't noticed before the next iteration is launched: by how much it was early may not show.
        factor = GROWTH if early_s > MARGIN_S / 2 else GROWTH ** (-1 / EARLY_ONE_IN)
        self._margin_s = min(max(MARGIN_S, self._margin_s * factor), LONGEST_MARGIN_S)


class Flights:
    """First in, first out: iterations end in the order in which they were scheduled."""

    def __init__(self, profile: HardwareProfile) -> None:
        self._lead = Lead(profile)
        self._flights: deque[Flight] = deque()
        self._last_end_s = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def expected_end_s(self, now_s: float) -> float:
        """When the last of them is expected to end; now if none is under way or it is overdue."""
        return max(now_s, self._flights[-1].expected_end_s) if self._flights else now_s

    def undecided_s(self, now_s: float) -> float:
        """How long what follows the last of them need not be chosen yet; 0 if none is under way."""
        return max(0.0, self.expected_end_s(now_s) - self._lead.s - now_s)

    def launch(self, flight: Flight) -> None:
        flight.lead_s = self._lead.s
        self._flights.append(flight)

    def launched(self, now_s: float) -> None:
        """The device has been given all of the last of them."""
        if self._flights and not self._flights[-1].launch_s:
            flight = self._flights[-1]
            flight.launch_s = now_s - flight.scheduled_at_s
            if flight.prefills:
                self._lead.launched(flight.launch_s)

    def land(self, output: Any, now_s: float) -> tuple[Flight, IterationReport] | None:
        """The flight that ends with this output and what it did; None for an output that computed nothing."""
        if not self._flights or self._flights[0].output is not output:
            return None
        flight = self._flights.popleft()
        # An iteration that was scheduled ahead starts when the one before it ends.
        started_s = max(flight.scheduled_at_s, self._last_end_s)
        self._last_end_s = now_s
        self._lead.ended(flight.expected_end_s - now_s)
        self._shift(now_s - flight.expected_end_s)
        report = IterationReport(
            duration_s=now_s - started_s,
            new_tokens=flight.new_tokens,
            context_tokens=flight.context_tokens,
            sequences=flight.sequences,
            draft_steps=flight.draft_steps,
        )
        return flight, report

    def _shift(self, late_s: float) -> None:
        """The iterations behind one that ended late end that much later."""
        for flight in self._flights:
            flight.expected_end_s += late_s
