"""References that the solver is held against: the inequalities term by term, a plain greedy rule, brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.budget import (
    BARRED,
    BUDGET,
    DEADLINE,
    FORCED,
    LOAD,
    MARGIN,
    MEMORY,
    PREFILL,
    ROOM,
    VALUE,
    Problem,
)


def forced(problem: Problem) -> NDArray[np.bool_]:
    """What is guaranteed already: it must be in."""
    return np.asarray(problem.table[:, FORCED] > 0)


def feasible(problem: Problem, chosen: NDArray[np.bool_]) -> bool:
    """The inequalities of `planner.budget`, term by term, for one set."""
    table = problem.table
    if (forced(problem) & ~chosen).any() or (table[chosen, BARRED] > 0).any():
        return False
    picked = np.flatnonzero(chosen)
    if table[picked, LOAD].sum() > problem.load_left + MARGIN:
        return picked.size == 0
    for at, k in enumerate(picked):
        due = table[picked[: at + 1]]
        need_s = (due[:, PREFILL] + due[:, LOAD] * (table[k, DEADLINE] - due[:, DEADLINE])).sum()
        if need_s > table[k, BUDGET] + MARGIN or due[:, MEMORY].sum() > table[k, ROOM] + MARGIN:
            return False
    return True


def admit_greedily(problem: Problem) -> NDArray[np.bool_] | None:
    """Moore and Hodgson's rule: by deadline, take each; when the set breaks a bound, drop what costs most per value.

    None when not even what is in by force is feasible.
    """
    chosen = np.zeros(len(problem.row), np.bool_)
    cost = (problem.table[:, PREFILL] + problem.table[:, LOAD]) / np.maximum(problem.table[:, VALUE], 1e-9)
    for k in range(len(chosen)):
        if problem.table[k, BARRED]:
            continue
        chosen[k] = True
        while not feasible_so_far(problem, chosen, k):
            droppable = np.flatnonzero(chosen & ~forced(problem))
            if not droppable.size:
                return None
            chosen[droppable[np.argmax(cost[droppable])]] = False
    return chosen


def worth(problem: Problem, chosen: NDArray[np.bool_]) -> float:
    """The value of the candidates in a set."""
    return float(problem.table[chosen & ~forced(problem), VALUE].sum())


def feasible_so_far(problem: Problem, chosen: NDArray[np.bool_], k: int) -> bool:
    """Feasibility when later forced candidates are not counted yet."""
    return feasible(problem, chosen | (forced(problem) & (np.arange(len(chosen)) > k)))


def admit_by_brute_force(problem: Problem) -> float | None:
    """The largest value of a feasible set, by trying all of them; None when there is none."""
    best = None
    for bits in product((False, True), repeat=len(problem.row)):
        chosen = np.array(bits, np.bool_)
        if feasible(problem, chosen):
            value = worth(problem, chosen)
            best = value if best is None else max(best, value)
    return best
