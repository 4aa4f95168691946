"""Admission: the dynamic program over deadline-ordered requests (paper section 3.3), on the model of `planner.budget`.

A state after candidates 1..k is what was accepted so far, reduced to what the rest can see:

    W = sum (p_j - u_j d_j),   U = sum u_j,   m = sum m_j,   V = sum of values        need at deadline d: W + U d

Accepting k leads to (W + p - u d, U + u, m + m_k, V + v) if W + U d_k + p <= P_k, m + m_k <= M_k and U + u is
sustainable. A state that is worse in need (at the next and the last deadline, so at all between, since it is linear
in d), in load and in memory, and no better in value, is dropped: what remains is a Pareto front.

A state is also dropped when it can't beat the best set known (at first Moore and Hodgson's). How much of one resource
with costs c and bounds B may be taken already, if value v is still to come from the candidates from k on, is

    R(k, v) = max(R(k + 1, v), min(B_k, R(k + 1, v - v_k)) - c_k)           R(N + 1, 0) = inf, R(N + 1, v) = -inf

for memory, load and prefill time, each as if it were the only one. Prefill time grows with U, which is not known here:
R is computed for some levels U_l <= U of it, with the bounds P_k - U_l d_k. Both rules keep the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
    Scene,
    formulate,
    tightest_tiers,
)
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, Ints
from slosgate.planner.machine import Machine, machine_of
from slosgate.planner.profile import HardwareProfile

WIDEST_FRONT = 192  # most states kept per candidate; beyond, the answer is feasible but may not be the best
STATES = 2048  # kept in all, over the candidates: what bounds the time of a call with many of them
LEVELS = 4  # of U for which prefill time is bounded
MOST_UNITS = 128  # of value; where values have no common measure, the bounds round them up


@dataclass(frozen=True, slots=True)
class Admission:
    """What gets a guarantee."""

    accepted: NDArray[np.bool_]  # per row of the jobs; True for admitted candidates only
    value: float
    exact: bool  # False when the front was cut


def admit(
    jobs: Jobs, candidate: NDArray[np.bool_], profile: HardwareProfile, now_s: float, free_blocks: int
) -> Admission:
    """The most valuable set of `candidate` rows that can be guaranteed with all that is guaranteed already."""
    return Admission(*best_set(Scene(jobs, candidate, now_s, free_blocks), machine_of(profile)))


@compiled
def best_set(scene: Scene, machine: Machine) -> tuple[Bools, float, bool]:
    """The fields of `Admission`, in order: the best over all tau worth trying."""
    broken, accepted = np.zeros(len(scene.jobs), np.bool_), np.zeros(len(scene.jobs), np.bool_)
    best, sure, first = 0.0, True, True
    for tightest in tightest_tiers(scene.jobs, scene.candidate):
        row, table, load_left = formulate(scene, machine, tightest, broken, first)
        first = False
        chosen, value, exact = solve(table, load_left)
        if value > best:
            best, sure = value, exact and sure
            accepted[:] = False
            for k in range(len(row)):
                accepted[row[k]] = chosen[k] and not table[k, FORCED]
    return accepted, best, sure


@compiled
def solve(table: Floats, load_left: float) -> tuple[Bools, float, bool]:
    """(chosen, value of the chosen candidates, exact); the value is -1 when the forced ones are infeasible."""
    return run_dp(table, load_left, max(16, min(WIDEST_FRONT, STATES // max(1, len(table)))))


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
def incumbent(table: Floats, load_left: float) -> tuple[Bools, float]:
    """A set to beat, by Moore and Hodgson's rule: (set, value); -1 when not even what is in by force fits.

    By deadline, take each; while a bound is broken, drop what costs most of it per value.
    """
    chosen = np.zeros(len(table), np.bool_)
    value = 0.0
    for k in range(len(table)):
        if table[k, BARRED]:
            continue
        chosen[k] = True
        value += 0.0 if table[k, FORCED] else table[k, VALUE]
        cost = broken(table, load_left, chosen, k)
        while cost >= 0:
            worst = costliest(table, chosen, k, cost)
            if worst < 0:
                return chosen, -1.0
            chosen[worst] = False
            value -= table[worst, VALUE]
            cost = broken(table, load_left, chosen, k) if chosen[k] else -1
    return chosen, value


@compiled
def cost_at(table: Floats, cost: int, j: int, k: int) -> float:
    """What j takes of a bound (a column: PREFILL, LOAD or MEMORY) at k."""
    if cost == PREFILL:
        return table[j, PREFILL] + table[j, LOAD] * (table[k, DEADLINE] - table[j, DEADLINE])  # type: ignore[no-any-return]
    return table[j, cost]  # type: ignore[no-any-return]


@compiled
def broken(table: Floats, load_left: float, chosen: Bools, k: int) -> int:
    """The bound at k that `chosen` breaks, as the column of its cost, or -1."""
    need_s, load, memory = 0.0, 0.0, 0.0
    for j in range(k + 1):
        if chosen[j]:
            need_s += cost_at(table, PREFILL, j, k)
            load += table[j, LOAD]
            memory += table[j, MEMORY]
    if need_s > table[k, BUDGET] + MARGIN:
        return PREFILL
    if memory > table[k, ROOM] + MARGIN:
        return MEMORY
    return LOAD if load > load_left + MARGIN else -1


@compiled
def costliest(table: Floats, chosen: Bools, k: int, cost: int) -> int:
    """Which of the chosen up to k that are not in by force takes most of a bound per value, or -1."""
    worst, most = -1, -1.0
    for j in range(k + 1):
        if chosen[j] and not table[j, FORCED]:
            price = cost_at(table, cost, j, k) / max(table[j, VALUE], 1e-9)
            if price > most:
                worst, most = j, price
    return worst


class Bounds(NamedTuple):
    """R for each resource, shape (N + 1, most + 1), and what value and U are measured in."""

    time: Floats  # for each level of U
    memory: Floats
    load: Floats
    unit: float  # of value
    most: int  # units that can be gained in all
    level: float  # of U


@compiled
def bounds_of(table: Floats, load_left: float) -> Bounds:
    """The bounds of a problem."""
    n = len(table)
    unit = common_unit(table)
    units = np.zeros(n, np.int64)
    most, load = 0, 0.0
    for k in range(n):
        load += table[k, LOAD]
        if not table[k, FORCED] and not table[k, BARRED]:
            units[k] = int(np.ceil(table[k, VALUE] / unit - 1e-6))
            most += units[k]
    level = max(0.0, min(load_left, load)) / LEVELS
    time = np.empty((LEVELS, n + 1, most + 1))
    reach(table, PREFILL, 0.0, load_left, units, most, time[0])
    while most > 0 and time[0, 0, most] < -MARGIN:
        most -= 1
    for i in range(1, LEVELS):
        reach(table, PREFILL, i * level, load_left, units, most, time[i])
    others = np.empty((2, n + 1, most + 1))
    reach(table, MEMORY, 0.0, load_left, units, most, others[0])
    reach(table, LOAD, 0.0, load_left, units, most, others[1])
    return Bounds(time, others[0], others[1], unit, most, level)


@compiled
def common_unit(table: Floats) -> float:
    """What all values are multiples of, if that is the least of them; else, or if there were too many, a fine unit."""
    least, total = np.inf, 0.0
    for k in range(len(table)):
        if not table[k, FORCED] and table[k, VALUE] > 0.0:
            least = min(least, table[k, VALUE])
            total += table[k, VALUE]
    fine = total / MOST_UNITS
    for k in range(len(table)):
        if abs(table[k, VALUE] / least - np.round(table[k, VALUE] / least)) > 1e-9:
            return fine
    return max(least, fine) if total > 0.0 else 1.0


@compiled
def reach(table: Floats, cost: int, tilt: float, load_left: float, units: Ints, most: int, left: Floats) -> None:
    """Write R(k, v) for one resource, a column of costs, to `left`: v up to `most` units; `tilt` is the level of U."""
    left[-1] = -np.inf
    left[-1, 0] = np.inf
    for k in range(len(table) - 1, -1, -1):
        bound = load_left
        if cost == PREFILL:
            bound = table[k, BUDGET] - tilt * table[k, DEADLINE]
        elif cost == MEMORY:
            bound = table[k, ROOM]
        for v in range(most + 1):
            skip = left[k + 1, v]
            take = min(bound, left[k + 1, max(0, v - units[k])]) - table[k, cost]
            if table[k, FORCED]:
                left[k, v] = take
            else:
                left[k, v] = skip if table[k, BARRED] else max(take, skip)


@compiled
def hopeless(bounds: Bounds, state: State, k: int, near_d: float, known: float) -> bool:
    """Whether a state before candidate k, which is due at `near_d`, can't come to more value than is known."""
    wanted = max(0, int(np.floor((known - state.v) / bounds.unit + 1e-6)) + 1)
    if wanted > bounds.most:
        return True
    level = min(LEVELS - 1, int(state.u / bounds.level)) if bounds.level > 0.0 else 0
    taken_s = state.w + (state.u - level * bounds.level) * near_d
    beyond = taken_s > bounds.time[level, k, wanted] + MARGIN
    beyond |= state.m > bounds.memory[k, wanted] + MARGIN
    return bool(beyond or state.u > bounds.load[k, wanted] + MARGIN)


@compiled
def last_forced(table: Floats) -> int:
    """The last candidate that is in by force, or -1."""
    last = -1
    for k in range(len(table)):
        if table[k, FORCED]:
            last = k
    return last


@compiled
def run_dp(table: Floats, load_left: float, front: int) -> tuple[Bools, float, bool]:
    """The recurrence of the module's docstring: only states that may still beat the best set known go on."""
    n, final = len(table), last_forced(table)
    best, known = incumbent(table, load_left)
    bounds = bounds_of(table, load_left)
    if known < 0.0 or bounds.most * bounds.unit <= known + MARGIN:
        return best, known, True
    log = np.empty((n * 2 * front + 1, 2), np.int64)  # (step before, candidate accepted)
    log[0] = -1
    steps, count, exact, best_step = 1, 1, True, -1
    front_, next_ = np.zeros((front, 7)), np.empty((front, 7))  # a state, its needs at the near and the far deadline
    for k in range(n):
        near_d, far_d = table[min(k + 1, n - 1), DEADLINE], table[n - 1, DEADLINE]
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
            if k >= final and state.v > known + MARGIN:
                known, best_step = state.v, int(state.step)
            if hopeless(bounds, state, k + 1, near_d, known):
                continue
            near_s, far_s = state.w + state.u * near_d, state.w + state.u * far_d
            grown, dominated = drop_dominated(next_, grown, state, near_s, far_s)
            if not dominated and grown < front:
                next_[grown] = (state.w, state.u, state.m, state.v, state.step, near_s, far_s)
                grown += 1
            elif not dominated:
                exact = False
        front_, next_ = next_, front_
        count = grown
    return traced(log, best_step, n) if best_step >= 0 else best, known, exact


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
