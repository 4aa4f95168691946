"""Admission: the dynamic program over deadline-ordered requests (paper section 3.3), on the model of `planner.budget`.

A state after candidates 1..k is what was accepted so far, reduced to what the rest can see:

    W = sum (p_j - u_j d_j),   U = sum u_j,   m = sum m_j,   V = sum of values        need at deadline d: W + U d

Accepting k leads to (W + p - u d, U + u, m + m_k, V + v) if W + U d_k + p <= P_k, m + m_k <= M_k and U + u is
sustainable. A state that is worse in need (at the next and the last deadline, so at all between, since it is linear
in d), in load and in memory, and no better in value, is dropped: what remains is a Pareto front. A state that can't
beat the best completion known (greedy), even if the rest were limited by prefill time alone and could be taken in
fractions, is dropped too. Both keep the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.budget import (
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
    problems,
)
from planner.compiling import compiled
from planner.jobs import Jobs
from planner.kernels import Bools, Floats, Ints
from planner.profile import HardwareProfile

WIDEST_FRONT = 192  # most states kept per candidate; beyond, the answer is feasible but may not be the best
STATES = 2048  # kept in all, over the candidates: what bounds the time of a call with many of them


@dataclass(frozen=True, slots=True)
class Admission:
    """Who gets a guarantee."""

    accepted: NDArray[np.bool_]  # per row of the jobs; True for admitted candidates only
    value: float
    feasible: bool  # whether the guarantees given before hold in the model
    exact: bool  # False when the front was cut


def admit(
    jobs: Jobs, candidate: NDArray[np.bool_], profile: HardwareProfile, coef: Floats, now_s: float, free_blocks: int
) -> Admission:
    """The most valuable set of `candidate` rows that can be guaranteed with all that is guaranteed already."""
    best = Admission(np.zeros(len(jobs), np.bool_), 0.0, False, True)
    for problem in problems(jobs, candidate, profile, coef, now_s, free_blocks):
        chosen, value, exact = solve(problem)
        if value >= 0.0 and (not best.feasible or value > best.value):
            accepted = np.zeros(len(jobs), np.bool_)
            accepted[problem.row[chosen & ~problem.forced]] = True
            best = Admission(accepted, value, True, exact and best.exact)
    return best


def front_for(candidates: int) -> int:
    """How wide a Pareto front a problem of this size may have."""
    return max(16, min(WIDEST_FRONT, STATES // max(1, candidates)))


def solve(problem: Problem) -> tuple[NDArray[np.bool_], float, bool]:
    """(chosen, value of the chosen candidates, exact); the value is -1 when the forced ones are infeasible."""
    chosen, value, exact = run_dp(problem.table, problem.load_left, front_for(len(problem.row)))
    return chosen, float(value), bool(exact)


class State(NamedTuple):
    """What the rest can see of an accepted set."""

    w: float
    u: float
    m: float
    v: float
    step: float  # the last acceptance, to trace the set back


@compiled
def fits(table: Floats, load_left: float, state: State, k: int) -> bool:
    """Whether a state may accept candidate k."""
    if table[k, BARRED] or state.u + table[k, LOAD] > load_left + MARGIN:
        return False
    need_s = state.w + state.u * table[k, DEADLINE] + table[k, PREFILL]
    return need_s <= table[k, BUDGET] + MARGIN and state.m + table[k, MEMORY] <= table[k, ROOM] + MARGIN  # type: ignore[no-any-return]


@compiled
def accept(table: Floats, state: State, k: int, step: float) -> State:
    """The state after accepting candidate k."""
    return State(
        state.w + table[k, PREFILL] - table[k, LOAD] * table[k, DEADLINE],
        state.u + table[k, LOAD],
        state.m + table[k, MEMORY],
        state.v + (0.0 if table[k, FORCED] else table[k, VALUE]),
        step,
    )


@compiled
def take_in_order(table: Floats, load_left: float, skip: Bools) -> tuple[Bools, float]:
    """Take whatever fits, by deadline, but for `skip`: the set and its value, -1 if a forced candidate fails."""
    chosen = np.zeros(len(skip), np.bool_)
    state = State(0.0, 0.0, 0.0, 0.0, 0.0)
    for k in range(len(skip)):
        if not skip[k] and fits(table, load_left, state, k):
            state = accept(table, state, k, 0.0)
            chosen[k] = True
        elif table[k, FORCED]:
            return chosen, -1.0
    return chosen, state.v


@compiled
def incumbent(table: Floats, load_left: float, order: Ints) -> tuple[Bools, float]:
    """A set to beat: the best of taking all that fits while the costliest are left out one after the other."""
    skip = np.zeros(len(order), np.bool_)
    best, value = take_in_order(table, load_left, skip)
    for i in range(len(order) - 1, -1, -1):
        if table[order[i], FORCED]:
            continue
        skip[order[i]] = True
        chosen, found = take_in_order(table, load_left, skip)
        if found > value:
            best, value = chosen, found
    return best, value


@compiled
def value_bound(table: Floats, order: Ints, k: int, spare_s: float, unit: float) -> float:
    """The most value that candidates k.. can add within `spare_s` of prefill, fractions allowed; `order` is by density.

    When all values are the same (`unit`, else 0), only whole multiples can be reached.
    """
    total = 0.0
    for i in range(len(order)):
        j = order[i]
        if j < k or table[j, FORCED] or table[j, BARRED]:
            continue
        if table[j, PREFILL] > spare_s:
            total += table[j, VALUE] * max(0.0, spare_s) / table[j, PREFILL]
            break
        spare_s -= table[j, PREFILL]
        total += table[j, VALUE]
    return unit * np.floor(total / unit + 1e-6) if unit > 0.0 else total


@compiled
def common_value(table: Floats) -> float:
    """The value of every candidate when they are all the same, else 0."""
    unit = 0.0
    for k in range(len(table)):
        if table[k, FORCED]:
            continue
        if unit == 0.0:
            unit = table[k, VALUE]
        elif table[k, VALUE] != unit:
            return 0.0
    return unit


@compiled
def run_dp(table: Floats, load_left: float, front: int) -> tuple[Bools, float, bool]:
    """The recurrence of the module's docstring: only states that may still beat the incumbent go on."""
    n = len(table)
    order = np.argsort(table[:, PREFILL] / np.maximum(table[:, VALUE], 1e-9))
    best, known = incumbent(table, load_left, order)
    unit = common_value(table)
    log = np.empty((n * 2 * front + 1, 2), np.int64)  # (step before, candidate accepted)
    log[0] = -1
    steps, count, exact = 1, 1, True
    front_, next_ = np.zeros((front, 7)), np.empty((front, 7))  # a state, its needs at the near and the far deadline
    for k in range(n):
        near_d, far_d = table[min(k + 1, n - 1), DEADLINE], table[n - 1, DEADLINE]
        most_s = table[k:, BUDGET].max()
        grown = 0
        for i in range(2 * count):
            state = State(front_[i // 2, 0], front_[i // 2, 1], front_[i // 2, 2], front_[i // 2, 3], front_[i // 2, 4])
            taking = i % 2 == 0
            if taking and fits(table, load_left, state, k):
                log[steps] = int(state.step), k
                state = accept(table, state, k, float(steps))
                steps += 1
            elif taking or table[k, FORCED]:
                continue
            near_s, far_s = state.w + state.u * near_d, state.w + state.u * far_d
            bound = state.v + value_bound(table, order, k + 1, most_s - near_s, unit)
            if bound <= known + MARGIN:
                continue
            grown, dominated = drop_dominated(next_, grown, state, near_s, far_s)
            if dominated:
                continue
            if grown == front:
                exact = False
                continue
            next_[grown] = (state.w, state.u, state.m, state.v, state.step, near_s, far_s)
            grown += 1
        front_, next_ = next_, front_
        count = grown
    for i in range(count):
        if front_[i, 3] > known:
            known = front_[i, 3]
            best = traced(log, int(front_[i, 4]), n)
    return best, known, exact


@compiled
def traced(log: NDArray[np.int64], step: int, n: int) -> Bools:
    """The set behind a state."""
    chosen = np.zeros(n, np.bool_)
    while step > 0:
        chosen[log[step, 1]] = True
        step = log[step, 0]
    return chosen


@compiled
def drop_dominated(states: Floats, count: int, state: State, near_s: float, far_s: float) -> tuple[int, bool]:
    """Remove the kept states that this one beats: (how many are left, whether one of them is at least as good).

    Kept states don't beat each other, so when one is at least as good, none before it was removed.
    """
    kept = 0
    for i in range(count):
        a = states[i]
        if a[3] >= state.v and a[1] <= state.u and a[2] <= state.m and a[5] <= near_s and a[6] <= far_s:
            return count, True
        if a[3] <= state.v and a[1] >= state.u and a[2] >= state.m and a[5] >= near_s and a[6] >= far_s:
            continue
        if kept != i:
            states[kept] = a
        kept += 1
    return kept, False
