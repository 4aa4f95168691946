"""Least work among the feasible: where a request can be in time, by how long all prompts there take with its own.

Time counts beside the decodes, so a slow replica, or one with many of them, has more work for the same tokens.
A call whose session, or whose prompt's beginning, is on a replica goes on there while it can be in time: anywhere else
it would have to be computed again, at the cost of all that wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.base import going_on, looked_at
from slosgate.planner.routing.standing import standings


def least_work(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    near, far = looked_at(arrival, replicas)
    ranked = _ranked(near, arrival, replicas, now_s)
    if far and ranked[0][0]:  # it can be in time on none of them
        return [n for *_, n in _ranked(near + far, arrival, replicas, now_s)]
    return [n for *_, n in ranked] + far


def _ranked(
    numbers: Sequence[int], arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float
) -> list[tuple[bool, int, float, int]]:
    """(whether it can't be in time there, what isn't cached, the work there, the replica), the best first."""
    seen = standings(arrival, [replicas[n] for n in numbers], now_s)
    return sorted(
        (not one.feasible, -going_on(arrival, replicas[n]), one.work_s, n) for one, n in zip(seen, numbers, strict=True)
    )
