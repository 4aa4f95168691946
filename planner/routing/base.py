"""What a router is, and what those have in common that look at a replica's load but not at what it has cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slosgate.planner.controller import Arrival, ReplicaState

AFFINE_SHARE = 0.5  # of a prompt: a replica that has so much of it cached is preferred, as session affinity does it


class Router(Protocol):
    """Ranks replicas for a request. Pure: what it goes by stands in what it is given."""

    def __call__(self, arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
        """The numbers of all replicas, the best first."""


def keeping_sessions(order: Sequence[int], arrival: Arrival, replicas: Sequence[ReplicaState]) -> list[int]:
    """The same order, but replicas that have most of the prompt cached come first."""
    least = AFFINE_SHARE * arrival.prompt_tokens
    return sorted(order, key=lambda n: -replicas[n].cached.likely if replicas[n].cached.likely > least else 0)
