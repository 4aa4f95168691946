"""The fewest requests first, whatever they are. Later calls of a session follow their prefix."""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.base import keeping_sessions


def least_load(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    order = sorted(range(len(replicas)), key=lambda n: (len(replicas[n].jobs), replicas[n].sent_s))
    return keeping_sessions(order, arrival, replicas)
