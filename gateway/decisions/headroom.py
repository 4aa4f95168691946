"""Headroom: how many more requests like the recent ones could be guaranteed right now. An autoscaler's signal.

Utilization says how busy replicas are; this says what they could still promise, in the planner's own terms: so many
copies of the typical request are put to the admission program at once, and what it takes is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from slosgate.gateway.decisions.admission import state_of
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.planner.controller import Arrival, ReplicaState, admitted, possible, with_arrival

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
        self._typical: dict[tuple[str, str], _Typical] = {}  # by model and class; "" stands for all classes
        self._found: dict[tuple[str, str], int] = {}
        self._found_s = -math.inf

    def note(self, exchange: Exchange) -> None:
        """Learn from a request what the next ones will be like."""
        if not (math.isfinite(exchange.ttft_s) and exchange.attempts):
            return
        ttft_s, tpot_s = min(exchange.ttft_s, LONGEST_S), min(exchange.contract.tpot_s, LONGEST_S)
        uncached = max(1, exchange.prompt_tokens - exchange.cached.sure)
        seen = _Typical(ttft_s, tpot_s, uncached, exchange.output_tokens, exchange.acceptance)
        for slo_class in ("", exchange.contract.slo_class):
            self._typical.setdefault((exchange.completion.model, slo_class), replace(seen)).learn(seen)

    def requests(self, now_s: float) -> dict[str, int]:
        """Per model, over all replicas that take requests; models that nobody has asked for under an SLO are left out.

        Counted anew when the last count is older than HOLDS_S.
        """
        return {model: room for (model, slo_class), room in self._latest(now_s).items() if not slo_class}

    def of_classes(self, model: str, now_s: float) -> dict[str, int]:
        """Of each class by itself, as if all that is free were for its requests."""
        found = self._latest(now_s).items()
        return {slo_class: room for (name, slo_class), room in found if name == model and slo_class}

    def _latest(self, now_s: float) -> dict[tuple[str, str], int]:
        if abs(now_s - self._found_s) >= HOLDS_S:
            self._found, self._found_s = self._counted(now_s), now_s
        return self._found

    def _counted(self, now_s: float) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for replica in self._fleet.taking():
            if replica.mirror is None:
                continue
            state = state_of(replica, replica.mirror, now_s)
            for key, typical in self._typical.items():
                if key[0] == replica.model:
                    found[key] = found.get(key, 0) + _room(typical.arrival(), state, now_s)
        return found


def _room(arrival: Arrival, state: ReplicaState, now_s: float) -> int:
    """How many like it one replica could take."""
    if not possible(arrival, state.profile):
        return 0
    rows = with_arrival(arrival, state, now_s)
    rows = np.concatenate([rows, np.repeat(rows[-1:], COPIES - 1)])
    candidate = np.arange(len(rows)) >= len(rows) - COPIES
    return int(admitted(rows, candidate, state, now_s).accepted.sum())
