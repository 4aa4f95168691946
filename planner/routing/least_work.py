"""Least work among the feasible: where a request can be in time, by how long all prompts there take with its own.

Time counts beside the decodes, so a slow replica, or one with many of them, has more work for the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.standing import standings


def least_work(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    seen = standings(arrival, replicas, now_s)
    return sorted(range(len(seen)), key=lambda n: (not seen[n].feasible, seen[n].work_s))
