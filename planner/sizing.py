"""How many replicas the requests of late want: their last minute is rehearsed on 1, 2, ... until it could be promised.

    demand.came(...), demand.ended(...)        what one model was asked for of late
    replicas_wanted(demand.recent(now_s), profile)
    steadied.at(now_s, wanted)                 up at once, down only when as few have been enough for a while

A rehearsed replica follows the budget model: iterations last as long as the tightest pace allows, decodes come first,
and prefill takes what is left in the order of arrival. It is no plan, and promises nothing: it is asked every few
seconds and must cost little.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slosgate.planner.controller import Arrival
from slosgate.planner.desk import DeskSettings, due_in_s
from slosgate.planner.profile import HardwareProfile

WINDOW_S = 60.0  # of requests that are rehearsed
SHARE = 0.99  # of them that replicas are wanted for: one burst in a minute is not worth a replica
MOST_REHEARSED = 400  # requests; of more than that the latest, in as much less time
HOPS = 3  # replicas that a rehearsed request asks
WARM_S = 30.0  # that replicas have served such requests for before any is counted
LEARNING_RATE = 0.05


class Came(NamedTuple):
    """A request of late, as far as it decides how many replicas are wanted."""

    arrival_s: float
    ttft_s: float  # within which its first token is planned for
    tpot_s: float  # inf without an SLO
    prompt_tokens: int  # that had to be computed
    output_tokens: int


@dataclass(slots=True)
class _Asked:
    """A request of the last minute; `met` is None while it is not decided whether it was promised its SLO."""

    came: Came
    slo_class: str
    has_slo: bool
    met: bool | None
    ended: bool = False


def as_it_came(arrival: Arrival, cached_tokens: int, now_s: float, settings: DeskSettings) -> Came:
    """An arrival that is decided on now, with so much of its prompt cached."""
    return Came(
        now_s, due_in_s(arrival, settings), min(arrival.tpot_s, arrival.next_tpot_s),
        max(1, arrival.prompt_tokens - cached_tokens), arrival.output_tokens * arrival.sequences,
    )  # fmt: skip


class Demand:
    """What a model's requests of the last minute asked for, and which of them got it."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}  # by request, in their order
        self._output: dict[str, float] = {}  # tokens by class, of answers that have ended

    def came(self, request_id: str, came: Came, slo_class: str, *, has_slo: bool, met: bool | None) -> None:
        """A request has been decided on; one that was refused its SLO has not `met` it."""
        self._asked[request_id] = _Asked(came, slo_class, has_slo, met, ended=met is False)

    def ended(self, request_id: str, output_tokens: int, *, met: bool) -> None:
        """Its answer has ended; `met`: it was promised its SLO in the end, or had it without a promise."""
        asked = self._asked.get(request_id)
        if asked is None:
            return
        asked.met, asked.ended = met, True
        if output_tokens:
            asked.came = asked.came._replace(output_tokens=output_tokens)
            mean = self._output.get(asked.slo_class, float(output_tokens))
            self._output[asked.slo_class] = mean + LEARNING_RATE * (output_tokens - mean)

    def recent(self, now_s: float) -> list[Came]:
        """The requests of the last minute; answers under way are as long as those of their class are on average."""
        self._forget(now_s)
        return [asked.came if asked.ended else self._likely(asked) for asked in self._asked.values()]

    def unmet(self, now_s: float, profile: HardwareProfile) -> dict[str, int]:
        """Of each class that asked for an SLO in the last minute: requests that were not promised it, though an idle
        replica could have."""
        self._forget(now_s)
        found: Counter[str] = Counter()
        for asked in self._asked.values():
            if asked.has_slo:
                found[asked.slo_class] += asked.met is False and in_reach(asked.came, profile)
        return found

    def _likely(self, asked: _Asked) -> Came:
        mean = self._output.get(asked.slo_class)
        return asked.came if mean is None else asked.came._replace(output_tokens=max(1, round(mean)))

    def _forget(self, now_s: float) -> None:
        for request_id, asked in list(self._asked.items()):
            if now_s - asked.came.arrival_s <= WINDOW_S:
                break
            del self._asked[request_id]


class Steadied:
    """How many replicas to have between limits: more as soon as they are wanted, fewer when as few would have been
    enough for `down_after_s`."""

    def __init__(self, least: int, most: int, down_after_s: float) -> None:
        self.least, self.most, self.down_after_s = least, most, down_after_s
        self._wanted: deque[tuple[float, int]] = deque()

    def at(self, now_s: float, wanted: int) -> int:
        """With so many wanted now."""
        while self._wanted and now_s - self._wanted[0][0] > self.down_after_s:
            self._wanted.popleft()
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()  # what was less before can't be the most any more
        self._wanted.append((now_s, wanted))
        return min(self.most, max(self.least, self._wanted[0][1]))


def in_reach(came: Came, profile: HardwareProfile) -> bool:
    """Whether an idle replica could hold the request and meet its SLO."""
    return _Rehearsed(profile).takes(came)


def replicas_wanted(
    recent: Sequence[Came], profile: HardwareProfile, *, near: int = 1, share: float = SHARE, times: int = 1
) -> int:
    """The fewest replicas that could promise at least `share` of the recent requests; 0 when there are none.

    What no replica could meet is left out. `near` is a guess, the last answer for one. Where there are other gateways
    that are asked as much, `times` is the number of them all.
    """
    fit = [came for came in recent[-MOST_REHEARSED:] if in_reach(came, profile)]
    if not fit:
        return 0
    span_s = max(WINDOW_S if len(recent) <= MOST_REHEARSED else fit[-1].arrival_s - fit[0].arrival_s, 1.0)
    offered = sorted(_offered(fit, span_s, times))
    wanted = max(1, near)
    met = _met(offered, profile, span_s, wanted)
    if met >= share:
        while wanted > 1 and _met(offered, profile, span_s, wanted - 1) >= share:
            wanted -= 1
        return wanted
    while met < share and wanted < len(offered):
        wanted = max(wanted + 1, math.floor(wanted * met / share) + 1)
        met = _met(offered, profile, span_s, wanted)
    return wanted


def _offered(fit: Sequence[Came], span_s: float, times: int) -> Iterator[Came]:
    """The requests within [0, span_s), and those of the other gateways as like ones in between."""
    for one in range(times):
        for came in fit:
            yield came._replace(arrival_s=(came.arrival_s - fit[0].arrival_s + one * span_s / times) % span_s)


def _met(offered: Sequence[Came], profile: HardwareProfile, span_s: float, replicas: int) -> float:
    """The share of the requests that so many replicas could promise, once they have served them before."""
    fleet = [_Rehearsed(profile) for _ in range(replicas)]
    turn = met = 0
    last = math.ceil(WARM_S / span_s)
    for lap in range(last + 1):
        for came in offered:
            now_s = came.arrival_s + lap * span_s
            for hop in range(min(HOPS, replicas)):
                replica = fleet[(turn + hop) % replicas]
                replica.advance(now_s)
                if replica.takes(came):
                    replica.add(came)
                    met += lap == last
                    break
            turn += 1
    return met / len(offered)


class _Rehearsed:
    """One replica, as far as a rehearsal of many requests needs it."""

    def __init__(self, profile: HardwareProfile) -> None:
        self._profile = profile
        self._now_s = 0.0
        self._steps = 0.0  # tokens that a decode has had which was there from the beginning
        self._queue: deque[Came] = deque()
        self._first_left = 0.0  # prompt tokens of the first in the queue
        self._queued = 0.0  # prompt tokens of all
        self._decodes: list[tuple[float, Came]] = []  # a heap, with the steps at whose end each has all its tokens
        self._context = 0  # of the decodes, on average while they run
        self._held = 0  # KV tokens that all will fill
        self._paces: Counter[float] = Counter()  # TPOT SLOs of all that are here

    def takes(self, came: Came) -> bool:
        """Whether it could be promised its SLO beside all that are here."""
        profile, here = self._profile, len(self._queue) + len(self._decodes)
        tokens = came.prompt_tokens + came.output_tokens
        if here >= profile.max_sequences or tokens > profile.max_model_tokens:
            return False
        if self._held + tokens > profile.kv_blocks * profile.block_tokens:
            return False
        pace_s = min(min(self._paces, default=math.inf), came.tpot_s)
        if profile.perf.iteration_s(here + 1, self._held + tokens, here + 1) > pace_s:
            return False
        work = self._queued + came.prompt_tokens
        rate, step_s = self._prefill(work, pace_s)
        begun_s = step_s / 2 if here else 0.0  # what is left of the iteration in flight
        return begun_s + profile.request_overhead_s + work / rate <= came.ttft_s

    def add(self, came: Came) -> None:
        if not self._queue:
            self._first_left = came.prompt_tokens
        self._queue.append(came)
        self._queued += came.prompt_tokens
        self._held += came.prompt_tokens + came.output_tokens
        self._paces[came.tpot_s] += 1

    def advance(self, until_s: float) -> None:
        """Until that time; between two ends of a prompt or an answer, all go on evenly."""
        while self._now_s < until_s and (self._queue or self._decodes):
            decodes, rate = len(self._decodes), 0.0
            if self._queue:
                rate, step_s = self._prefill(self._queued, min(self._paces))
            else:
                step_s = self._profile.perf.iteration_s(decodes, self._context, decodes)
            first_s = self._first_left / rate if rate else math.inf
            end_s = (self._decodes[0][0] - self._steps) * step_s if decodes else math.inf
            passes_s = min(until_s - self._now_s, first_s, end_s)
            self._now_s += passes_s
            self._steps += passes_s / step_s
            self._first_left -= passes_s * rate
            self._queued -= passes_s * rate
            if passes_s == first_s:
                self._begin()
            elif passes_s == end_s:
                self._end()
        self._now_s = max(self._now_s, until_s)

    def _prefill(self, work: float, pace_s: float) -> tuple[float, float]:
        """(prompt tokens a second while so many wait, duration of those iterations)."""
        perf, decodes, context = self._profile.perf, len(self._decodes), self._context
        most = min(float(self._profile.max_batched_tokens - decodes), work)
        if decodes:
            for t in perf.terms:
                left_s = pace_s - t.constant_s - t.per_sequence_s * (decodes + 1) - t.per_context_token_s * context
                per_token_s = t.per_new_token_s + t.per_context_token_s
                if per_token_s:
                    most = min(most, left_s / per_token_s - decodes)
        new = max(1, math.floor(most))
        step_s = perf.iteration_s(new + decodes, context + new, decodes + 1)
        return new / step_s, step_s

    def _begin(self) -> None:
        """The first prompt of the queue is computed: its answer begins."""
        came = self._queue.popleft()
        self._first_left = self._queue[0].prompt_tokens if self._queue else 0.0
        if not self._queue:
            self._queued = 0.0
        self._context += _mean_context(came)
        heapq.heappush(self._decodes, (self._steps + came.output_tokens, came))

    def _end(self) -> None:
        _, came = heapq.heappop(self._decodes)
        self._context -= _mean_context(came)
        self._held -= came.prompt_tokens + came.output_tokens
        self._paces[came.tpot_s] -= 1
        if not self._paces[came.tpot_s]:
            del self._paces[came.tpot_s]


def _mean_context(came: Came) -> int:
    """KV tokens while it decodes."""
    return came.prompt_tokens + came.output_tokens // 2
