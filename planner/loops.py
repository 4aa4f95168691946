"""Loops of calls: what a call is worth whose session was promised every call before it.

A loop is of use when all of its calls are in time, and what was computed for the earlier ones is lost with a later one.
So the next call of a loop that began with promises goes before newcomers where not everybody can: it weighs more.
"""

from __future__ import annotations

BEGUN = 4.0  # newcomers of the same class


def weight_of_next(weight: float, *, promised: bool) -> float:
    """The weight that a call competes with; `promised`: it goes on from calls that were all promised their SLO."""
    return weight * BEGUN if promised else weight
