"""What a router is, and what those have in common that look at a replica's load but not at what it has cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from slosgate.planner.controller import LOOKED_AT, Arrival, ReplicaState, promising

AFFINE_SHARE = 0.5  # of a prompt: a replica that has so much of it cached is preferred, as session affinity does it
GRAINS = 8  # parts of a prompt that replicas are told apart by: which of two has a few tokens more decides nothing


class Router(Protocol):
    """Ranks replicas for a request. Pure: what it goes by stands in what it is given."""

    def __call__(self, arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
        """The numbers of all replicas, the best first."""


def kept_grains(arrival: Arrival, replica: ReplicaState) -> int:
    """Of `GRAINS` parts of a prompt those that a replica has cached, where that is most of it: else 0."""
    likely, prompt = replica.cached.likely, arrival.prompt_tokens
    return round(GRAINS * likely / prompt) if likely > AFFINE_SHARE * prompt else 0


def going_on(arrival: Arrival, replica: ReplicaState) -> int:
    """The same as a reason to go on there although it takes longer: none where no time says how long it may take."""
    return 0 if math.isinf(arrival.ttft_s) else kept_grains(arrival, replica)


def looked_at(arrival: Arrival, replicas: Sequence[ReplicaState]) -> tuple[list[int], list[int]]:
    """(replicas that are worth a closer look, the others by how they look from afar)."""
    order = promising(arrival, replicas)
    order.sort(key=lambda n: not kept_grains(arrival, replicas[n]))
    return order[:LOOKED_AT], order[LOOKED_AT:]


def keeping_sessions(order: Sequence[int], arrival: Arrival, replicas: Sequence[ReplicaState]) -> list[int]:
    """The same order, but replicas that have most of the prompt cached come first."""
    return sorted(order, key=lambda n: -kept_grains(arrival, replicas[n]))
