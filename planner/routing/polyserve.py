"""PolyServe (arXiv 2507.17769): replicas belong to TPOT tiers, and the fullest one that can still serve is taken.

A request is served by its own tier, else by a replica without one, else by a tighter tier's, else by a looser one's,
which belongs to the request's from then on. Where none can serve it in time, it waits for the least work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.base import keeping_sessions
from slosgate.planner.routing.standing import Standing, standings


def polyserve(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    seen = standings(arrival, replicas, now_s)
    order = sorted(range(len(seen)), key=lambda n: _rank(seen[n], arrival.strictest_s))
    return keeping_sessions(order, arrival, replicas)


def _rank(standing: Standing, tpot_s: float) -> tuple[int, float]:
    tier_s = standing.tier_s
    if not standing.feasible:
        return 4, standing.work_s
    if tier_s == tpot_s:
        return 0, -standing.work_s
    if math.isinf(tier_s):
        return 1, 0.0
    return (2, -tier_s) if tier_s < tpot_s else (3, tier_s)
