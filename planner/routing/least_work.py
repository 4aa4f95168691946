"""Least work among the feasible: where a request can be in time, by how long all prompts there take with its own.

Time counts beside the decodes, so a slow replica, or one with many of them, has more work for the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.planner.controller import LOOKED_AT, Arrival, ReplicaState, promising
from slosgate.planner.routing.standing import standings


def least_work(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    order = promising(replicas)
    ranked = _ranked(order[:LOOKED_AT], arrival, replicas, now_s)
    if ranked[0][0]:  # it can be in time on none of them
        return [n for _, _, n in _ranked(order, arrival, replicas, now_s)]
    return [n for _, _, n in ranked] + order[LOOKED_AT:]


def _ranked(
    numbers: Sequence[int], arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float
) -> list[tuple[bool, float, int]]:
    """(whether it can't be in time there, the work there, the replica), the best first."""
    seen = standings(arrival, [replicas[n] for n in numbers], now_s)
    return sorted((not one.feasible, one.work_s, n) for one, n in zip(seen, numbers, strict=True))
