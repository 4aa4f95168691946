"""Iterations that were scheduled and whose output is still to come, and how long each of them took."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from slosgate.engines.messages import IterationReport
from slosgate.planner.launching import DECODES, KINDS, MARGIN_S, prefill_kind
from slosgate.planner.profile import HardwareProfile, Launches

LAUNCHES = 64  # so many of the latest ones of a kind tell how long they take,
FEW_LAUNCHES = 8  # once there are so many,
LAUNCHED_SHARE = 0.75  # and so large a share of them is over in time
LONGEST_MARGIN_S = 0.05
GROWTH = 1.1
UNSEEN_ONE_IN = 9
# An output that is taken so soon after a launch may have been there before that: vLLM did not look, and taking it has
# been seen to need more than half a millisecond. It must not pass for an end that was seen, or what is chosen late
# makes itself late. Where neither the choice was late nor the launch long, less is enough to tell.
SEEN_S = 0.002
SEEN_AT_ONCE_S = 0.0005
HELD_S = 0.002  # an iteration chosen no earlier than this before its time could have been chosen earlier


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
    pairs: float = 0.0  # as `planner.perf_model` counts; only without prefill there are none
    first_tokens: list[Any] = field(default_factory=list)  # requests whose first token this iteration makes
    launch_s: float = 0.0  # how long it took to choose and launch, as far as vLLM lets us know
    lead_s: float = 0.0  # how long before its start it was to be chosen
    held: bool = False  # it waited for that time, so it could have been chosen earlier
    assumed: bool = False  # nobody saw when it began or ended: how long it took was guessed
    tells: bool = False  # how long it took is how long the device computed: known once it has landed

    @property
    def launched_at_s(self) -> float:
        """When the device had all of it; inf while that isn't known."""
        return self.scheduled_at_s + self.launch_s if self.launch_s else math.inf

    def kind(self, captured_tokens: int) -> int:
        """As `planner.launching` counts."""
        if self.new_tokens <= self.sequences * (1 + self.draft_steps):
            return DECODES
        return int(prefill_kind(self.new_tokens, captured_tokens))


class Lead:
    """How long before the expected end of an iteration the next one is chosen (`planner.arrivals`), by its kind.

    So long that most iterations of that kind have been launched by then: before that, the device may wait, and vLLM
    doesn't notice the end. And a margin, as expectations err: longer while more ends than one in `1 + UNSEEN_ONE_IN`
    come unseen that an earlier choice would have shown. Until a few of a kind have been seen, as long as the profile
    says.
    """

    def __init__(self, profile: HardwareProfile) -> None:
        self._margin_s = MARGIN_S
        launches = profile.launches
        self._captured_tokens = launches.captured_tokens if launches else 0
        self._launch_s = list(launches.by_kind) if launches else [profile.lead_s - MARGIN_S] * KINDS
        self._latest_s: list[deque[float]] = [deque(maxlen=LAUNCHES) for _ in range(KINDS)]

    def s(self, kind: int) -> float:
        return self._launch_s[kind] + self._margin_s

    @property
    def launches(self) -> Launches:
        """What was learned so far."""
        decodes_s, captured_s, beyond_s = self._launch_s
        return Launches(
            decodes_s=decodes_s, captured_s=captured_s, beyond_s=beyond_s, captured_tokens=self._captured_tokens
        )

    def launched(self, flight: Flight) -> None:
        """An iteration has been chosen and launched."""
        kind = flight.kind(self._captured_tokens)
        latest_s = self._latest_s[kind]
        latest_s.append(flight.launch_s)
        if len(latest_s) >= FEW_LAUNCHES:
            self._launch_s[kind] = sorted(latest_s)[int(LAUNCHED_SHARE * len(latest_s))]

    def ended(self, *, unseen: bool) -> None:
        """An iteration ended; `unseen`: while the next was being launched, though that could have begun earlier."""
        factor = GROWTH if unseen else GROWTH ** (-1 / UNSEEN_ONE_IN)
        self._margin_s = min(max(MARGIN_S, self._margin_s * factor), LONGEST_MARGIN_S)


class Flights:
    """First in, first out: iterations end in the order in which they were scheduled.

    vLLM takes an output only when it has launched the next iteration. An end that comes during a launch is seen late,
    by up to 25 ms where that has no CUDA graph: the iteration would look long, and the next one short. If it is seen
    too late for its expectation it is guessed to have been as expected, and neither of the two tells anything. If it is
    seen early even so, because the next one was chosen late, it tells that it took no longer than that: an expectation
    that is much too long is unlearned.
    """

    def __init__(self, profile: HardwareProfile, *, looks_ahead: bool) -> None:
        self._lead = Lead(profile)
        self._looks_ahead = looks_ahead  # else every iteration is launched when the one before it has ended
        self._flights: deque[Flight] = deque()
        self._last_end_s = 0.0
        self._guessed = False  # that end

    def __len__(self) -> int:
        return len(self._flights)

    def expected_end_s(self, now_s: float) -> float:
        """When the last of them is expected to end; now if none is under way or it is overdue."""
        return max(now_s, self._flights[-1].expected_end_s) if self._flights else now_s

    def undecided_s(self, now_s: float, kind: int) -> float:
        """How long what follows the last of them, of this kind, need not be chosen yet; 0 if none is under way."""
        return max(0.0, self.expected_end_s(now_s) - self._lead.s(kind) - now_s)

    def lead_s(self, kind: int) -> float:
        """How long before its start an iteration of this kind is chosen."""
        return self._lead.s(kind)

    @property
    def launches(self) -> Launches:
        """How long launching takes, as far as it has been seen."""
        return self._lead.launches

    def launch(self, flight: Flight) -> None:
        # What starts on an idle device takes its launch, too.
        flight.tells = bool(self._flights) or not self._looks_ahead
        if self._flights:
            flight.held = self._flights[-1].expected_end_s - flight.scheduled_at_s > flight.lead_s - HELD_S
        self._flights.append(flight)

    def launched(self, now_s: float) -> None:
        """The device has been given all of the last of them."""
        if self._flights and not self._flights[-1].launch_s:
            flight = self._flights[-1]
            flight.launch_s = now_s - flight.scheduled_at_s
            self._lead.launched(flight)

    def land(self, output: Any, now_s: float) -> tuple[Flight, IterationReport] | None:
        """The flight that ends with this output and what it did; None for an output that computed nothing."""
        if not self._flights or self._flights[0].output is not output:
            return None
        flight = self._flights.popleft()
        # An iteration that was scheduled ahead starts when the one before it ends.
        started_s = max(flight.scheduled_at_s, self._last_end_s)
        flight.assumed = self._guessed
        flight.tells = flight.tells and not self._guessed
        end_s, self._guessed = now_s, False
        if self._flights:
            follower = self._flights[0]
            doubtful = follower.held or flight.expected_end_s <= follower.launched_at_s
            unseen = 0.0 <= now_s - follower.launched_at_s < (SEEN_S if doubtful else SEEN_AT_ONCE_S)
            self._lead.ended(unseen=unseen and follower.held)
            if unseen and now_s >= flight.expected_end_s:
                end_s, self._guessed = max(started_s, flight.expected_end_s), True
                flight.assumed, flight.tells = True, False
        self._last_end_s = end_s
        self._shift(end_s - flight.expected_end_s)
        report = IterationReport(
            duration_s=end_s - started_s,
            new_tokens=flight.new_tokens,
            context_tokens=flight.context_tokens,
            sequences=flight.sequences,
            draft_steps=flight.draft_steps,
            pairs=flight.pairs,
        )
        return flight, report

    def _shift(self, late_s: float) -> None:
        """The iterations behind one that ended late end that much later."""
        for flight in self._flights:
            flight.expected_end_s += late_s
