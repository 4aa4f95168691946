"""Power of two choices: of two replicas that the request's id draws, the one with fewer requests (Mitzenmacher, 2001).

Later calls of a session follow their prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.routing.base import keeping_sessions


def power_of_two(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    drawn = drawn_by(arrival.request_id, len(replicas))
    two = sorted(drawn[:2], key=lambda n: len(replicas[n].jobs))
    return keeping_sessions([*two, *drawn[2:]], arrival, replicas)


def drawn_by(request_id: str, count: int) -> list[int]:
    """All numbers below `count`, the same order for the same id: the first two are any two with equal chances."""
    lot = crc32(request_id.encode())
    first = lot % count
    rest = [n for n in range(count) if n != first]
    turn = lot // count % max(1, len(rest))
    return [first, *rest[turn:], *rest[:turn]]
