"""Replicas take turns: the one that was sent nothing for longest is next.

Later calls of a session follow their prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.base import keeping_sessions


def round_robin(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    order = sorted(range(len(replicas)), key=lambda n: replicas[n].sent_s)
    return keeping_sessions(order, arrival, replicas)
