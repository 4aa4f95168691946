"""Admission by a plain greedy rule and by brute force: readable references beside the DP."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.budget import Problem, feasible


def admit_greedily(problem: Problem) -> NDArray[np.bool_] | None:
    """Moore and Hodgson's rule: by deadline, take each; when the set breaks a bound, drop what costs most per value.

    None when not even what is in by force is feasible.
    """
    chosen = np.zeros(len(problem.row), np.bool_)
    cost = (problem.prefill_s + problem.load) / np.maximum(problem.value, 1e-9)
    for k in range(len(chosen)):
        if problem.barred[k]:
            continue
        chosen[k] = True
        while not feasible_so_far(problem, chosen, k):
            droppable = np.flatnonzero(chosen & ~problem.forced)
            if not droppable.size:
                return None
            chosen[droppable[np.argmax(cost[droppable])]] = False
    return chosen


def feasible_so_far(problem: Problem, chosen: NDArray[np.bool_], k: int) -> bool:
    """Feasibility when later forced candidates are not counted yet."""
    return feasible(problem, chosen | (problem.forced & (np.arange(len(chosen)) > k)))


def admit_by_brute_force(problem: Problem) -> float | None:
    """The largest value of a feasible set, by trying all of them; None when there is none."""
    best = None
    for bits in product((False, True), repeat=len(problem.row)):
        chosen = np.array(bits, np.bool_)
        if feasible(problem, chosen):
            value = float(problem.value[chosen & ~problem.forced].sum())
            best = value if best is None else max(best, value)
    return best
