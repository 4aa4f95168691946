"""Headroom: how many more requests like the recent ones could be guaranteed right now. An autoscaler's signal.

Utilization says how busy replicas are; this says what they could still promise, in the planner's own terms: so many
copies of the typical request are put to the admission program at once, and what it takes is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slosgate.gateway.decisions.admission import state_of
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.planner.controller import Arrival, admitted, possible, with_arrival

COPIES = 32  # counted up to, per replica
LEARNING_RATE = 0.02
HOLDS_S = 2.0  # how long an answer is given again: looking at it must cost no planning
LONGEST_S = 3600.0  # stands for an SLO that is absent


@dataclass(slots=True)
class _Typical:
    """Exponentially weighted means of what requests under an SLO ask for; of times, geometric ones, so that one that
    asks for hardly anything doesn't stand for many that ask for much."""

    ttft_s: float
    tpot_s: float
    prompt_tokens: float
    output_tokens: float
    acceptance: float

    def learn(self, other: _Typical) -> None:
        for name in self.__slots__:
            mean, value = getattr(self, name), getattr(other, name)
            if name in ("ttft_s", "tpot_s"):
                setattr(self, name, mean ** (1 - LEARNING_RATE) * value**LEARNING_RATE)
            else:
                setattr(self, name, mean + LEARNING_RATE * (value - mean))

    def arrival(self) -> Arrival:
        return Arrival(
            "typical", self.ttft_s, self.tpot_s, round(self.prompt_tokens), round(self.output_tokens),
            acceptance=self.acceptance,
        )  # fmt: skip


class Headroom:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._typical: dict[str, _Typical] = {}
        self._found: dict[str, int] = {}
        self._found_s = -math.inf

    def note(self, exchange: Exchange) -> None:
        """Learn from a request what the next ones will be like."""
        if not (math.isfinite(exchange.ttft_s) and exchange.attempts):
            return
        ttft_s, tpot_s = min(exchange.ttft_s, LONGEST_S), min(exchange.contract.tpot_s, LONGEST_S)
        uncached = max(1, exchange.prompt_tokens - exchange.cached.sure)
        seen = _Typical(ttft_s, tpot_s, uncached, exchange.output_tokens, exchange.acceptance)
        self._typical.setdefault(exchange.completion.model, seen).learn(seen)

    def requests(self, now_s: float) -> dict[str, int]:
        """Per model, over all replicas that take requests; models that nobody has asked for under an SLO are left out.

        Counted anew when the last count is older than HOLDS_S.
        """
        if abs(now_s - self._found_s) >= HOLDS_S:
            self._found, self._found_s = self._counted(now_s), now_s
        return self._found

    def _counted(self, now_s: float) -> dict[str, int]:
        found: dict[str, int] = {}
        for replica in self._fleet.taking():
            typical = self._typical.get(replica.model)
            if typical is None or replica.mirror is None:
                continue
            state, arrival, room = state_of(replica, replica.mirror, now_s), typical.arrival(), 0
            if possible(arrival, state.profile):
                rows = with_arrival(arrival, state, now_s)
                rows = np.concatenate([rows, np.repeat(rows[-1:], COPIES - 1)])
                candidate = np.arange(len(rows)) >= len(rows) - COPIES
                room = int(admitted(rows, candidate, state, now_s).accepted.sum())
            found[replica.model] = found.get(replica.model, 0) + room
        return found
