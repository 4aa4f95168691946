"""The budget model of admission, which `planner.admission` solves.

Candidates k = 1..N by prefill deadline d_k. Iterations last tau, the shortest time in which the tightest tier must gain
its tokens: tau = min over tiers of A(s) TPOT (s: draft tokens, 0 without speculation). An iteration costs b + v s for
being one; a decoded token of a job with c context costs, shared over the A(s) tokens that its iteration gains,

    w(c) = max over terms i of ((a_i + s_i) (1 + s) + c_i c) / A(s)         load u = w / TPOT

Before its deadline every accepted prompt must be computed, beside the decodes. Prefill budget at d_k, in seconds:

    P_k = (d_k - now) (1 - b / min(tau, tau_w)) - b - sum over running j of  n_j(d_k) w_j

where tau_w is the shortest that the slack rule lets prefills run without a break (`planner.pacing`), b + v s what such
an iteration loses to being one (`unused_s`), and n_j(t) tokens of the running job j are due by t, which ends when its
output does. An accepted candidate takes its prompt x once and decodes from its deadline on, so a set S is feasible when
for every k in S

    sum_{j in S, j <= k} (p_j + u_j (d_k - d_j)) <= P_k                 p_j = a x_j + c (context_j + x_j) + p pairs_j
    sum_{j in S, j <= k} m_j <= M_k                                     memory over time
    U_running + sum_{j in S} u_j <= 1 - T(0, 0, 0, s) / tau             the decodes alone can be sustained

M_k is the memory that guaranteed running jobs leave, at the worst time from the latest start of prefill k on: what
finishes earlier has given its blocks back. m_j is the whole of a candidate's prompt and output.

A guaranteed prefill that can't be in time any more, or has no room, bars nothing: it is no part of the problem, its
p + u d is taken from every P, its m from every M and its u from the load, as work that comes first.

Best effort whose first token came in time counts as guaranteed, since it is promised next; so does the memory of best
effort within a prefill that can still be in time, which is why its own m_j is 0. What else best effort holds, it must
give back when a guarantee needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.compiling import compiled
from slosgate.planner.dues import first_token_open, in_time
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import (
    PAIR,
    Bools,
    Floats,
    Ints,
    blocks_for,
    iteration_s,
    pairs_of,
    still_to_emit,
    tier_s,
    token_budget,
    token_due_s,
)
from slosgate.planner.machine import Machine, machine_of
from slosgate.planner.pacing import SHORTEST, rated_s, slope_of, steepest_term
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.speculation import expected_tokens, tier_lengths

MARGIN = 1e-9  # seconds or tokens: rounding, so that every solver draws the line at the same place
MOST_TIERS = 16
FAR_S = 30.0  # a TPOT SLO without a TTFT SLO is admitted as if its first token were due then


# Columns of a problem's table: d, p, u and m of a candidate, what it is worth, whether it must be in (it is guaranteed
# already) or can't be (its tier is tighter than tau allows for), and P and M at its deadline.
DEADLINE, PREFILL, LOAD, MEMORY, VALUE, FORCED, BARRED, BUDGET, ROOM = range(9)


class Problem(NamedTuple):
    """Which of the candidates to admit under one choice of tau; candidates by deadline."""

    row: NDArray[np.int64]  # rows of the job array the problem was made from
    table: NDArray[np.float64]  # shape (N, 9): the columns above
    load_left: float  # 1 - T(0, 0, 0, s) / tau - U_running


class Scene(NamedTuple):
    """What a decision is about: the candidates among the jobs, at a time."""

    jobs: Jobs
    candidate: Bools  # rows to decide on; guaranteed prefills are in by force, other best effort is left out
    now_s: float
    free_blocks: int


class Pattern(NamedTuple):
    """How iterations run for the tightest tier that is allowed for: see the module's docstring."""

    tau_s: float
    tiers: Floats
    lengths: Ints  # draft tokens of each tier


def problems(
    jobs: Jobs, candidate: NDArray[np.bool_], profile: HardwareProfile, now_s: float, free_blocks: int
) -> list[Problem]:
    """One problem for each tau worth trying: a set is feasible when it is in one of them.

    `candidate` marks the rows to decide on; guaranteed prefills are in by force, other best effort is left out.
    """
    scene, machine = Scene(jobs, candidate, now_s, free_blocks), machine_of(profile)
    broken = np.zeros(len(jobs), np.bool_)
    found = []
    for n, tightest in enumerate(tightest_tiers(jobs, candidate)):
        found.append(Problem(*formulate(scene, machine, tightest, broken, n == 0)))
    return found


@compiled
def takes_part(jobs: Jobs, candidate: Bools, row: int) -> bool:
    """Whether a row is in the budget: candidates, guarantees, and what is as good as promised."""
    return bool(candidate[row] or (jobs[row].guaranteed and not jobs[row].held) or begun_in_time(jobs[row]))


@compiled
def begun_in_time(job: Any) -> bool:
    """Whether best effort decodes after a first token in time: it has its memory, and what is left is promised next."""
    decodes = job.prompt_left == 0 and not job.held
    return bool(decodes and job.has_slo and job.deadline_s < np.inf and in_time(job))


@compiled
def midway(job: Any, now_s: float) -> bool:
    """Whether best effort is within a prefill that can still be in time: its memory is taken, promised or not."""
    hopeful = not job.guaranteed and not job.held and first_token_open(job, now_s)
    return bool(hopeful and job.context > 0 and job.prompt_left > 0)


@compiled
def strictest_s(job: Any) -> float:
    """The tightest TPOT a job will ever be under."""
    if job.switch_at > 0:
        return float(min(job.tpot_s, job.next_tpot_s))
    return float(job.tpot_s)


@compiled
def tightest_tiers(jobs: Jobs, candidate: Bools) -> Floats:
    """The choices of tightest tier: what is bound to decode sets the loosest; candidates may be tighter."""
    bound = np.inf
    for row in range(len(jobs)):
        if takes_part(jobs, candidate, row) and not candidate[row]:
            bound = min(bound, strictest_s(jobs[row]))
    found = np.empty(MOST_TIERS)
    found[0] = bound
    n = 1
    for row in range(len(jobs)):
        tier = strictest_s(jobs[row])
        if candidate[row] and tier < bound and n < MOST_TIERS and not (found[:n] == tier).any():
            found[n] = tier
            n += 1
    return found[:n]


@compiled
def pattern_for(jobs: Jobs, candidate: Bools, machine: Machine, tightest: float) -> Pattern:
    """The pattern for the jobs that are not tighter than `tightest`."""
    tiers, counts = np.empty(MOST_TIERS), np.zeros(MOST_TIERS)
    context, alpha = np.zeros(MOST_TIERS), np.zeros(MOST_TIERS)
    n = 0
    for row in range(len(jobs)):
        job = jobs[row]
        tier = strictest_s(job)
        if not takes_part(jobs, candidate, row) or tier < tightest or tier == np.inf:
            continue
        at = 0
        while at < n and tiers[at] != tier:
            at += 1
        if at == MOST_TIERS:
            at = MOST_TIERS - 1
        elif at == n:
            tiers[at] = tier
            n += 1
        running = 0.0 if candidate[row] else 1.0
        counts[at] += running
        context[at] += running * (job.context + job.prompt_left)
        # A tier speculates as well as its weakest member.
        alpha[at] = job.acceptance if alpha[at] == 0.0 else min(alpha[at], job.acceptance)
    lengths, tau_s, _ = tier_lengths(
        machine.coef, tiers[:n], counts[:n], context[:n].sum(), alpha[:n], machine.max_drafts
    )
    return Pattern(tau_s, tiers[:n], lengths)


@compiled
def token_cost_s(coef: Floats, context: float, drafts: int, acceptance: float) -> float:
    """w(c): what a decoded token costs in a batch that runs anyway."""
    cost = 0.0
    for i in range(len(coef)):
        cost = max(cost, (coef[i, 0] + coef[i, 2]) * (1 + drafts) + coef[i, 1] * context)
    return cost / expected_tokens(acceptance, drafts)


@compiled
def drafts_of(job: Any, pattern: Pattern) -> int:
    """The draft length of a job's tier."""
    tier, tiers = strictest_s(job), pattern.tiers
    for at in range(len(tiers)):
        if tiers[at] == tier:
            return int(pattern.lengths[at])
    return 0


@compiled
def charge(table: Floats, job: Any, cost_s: float, now_s: float) -> None:
    """Take n_j(d_k) w_j from every P_k: what the tokens of a running job that are due by then cost."""
    due_s = token_due_s(job, job.generated) - now_s
    first_s, per_s, most = max(due_s, 0.0), 1.0 / tier_s(job), float(still_to_emit(job))
    for k in range(len(table)):
        if table[k, DEADLINE] >= due_s:
            table[k, BUDGET] -= min(most, (table[k, DEADLINE] - first_s) * per_s + 1.0) * cost_s


@compiled
def unused_s(coef: Floats, big: int, tau_s: float, drafts: int) -> float:
    """b + v s: what an iteration of tau seconds prefills less than the steepest term alone would let it, in seconds.

    More than that term's own constant where another one limits an iteration as short as this.
    """
    tokens = token_budget(coef, tau_s, 0.0, 0.0, 1.0, float(drafts))
    if tokens == np.inf:
        return 0.0
    tokens = max(0.0, tokens)
    work_s = tokens * slope_of(coef, big) + coef[big, PAIR] * pairs_of(0.0, tokens)
    return tau_s - work_s  # type: ignore[no-any-return]


@compiled
def formulate(scene: Scene, machine: Machine, tightest: float, broken: Bools, find: bool) -> tuple[Ints, Floats, float]:
    """The fields of `Problem`, in order. Running jobs are summed once per deadline: linear in them.

    `broken` marks guaranteed rows that can't be kept any more; with `find`, those that this problem shows are added.
    They are charged for, and are not among its rows.
    """
    coef = machine.coef
    pattern = pattern_for(scene.jobs, scene.candidate, machine, tightest)
    longest = pattern.lengths.max() if len(pattern.lengths) else 0
    unbroken_s = min(pattern.tau_s, rated_s(coef, SHORTEST))
    constant_s = unused_s(coef, steepest_term(coef), unbroken_s, longest)
    row = by_deadline(scene.jobs, scene.candidate)
    table = demands(scene, machine, pattern, row, tightest)
    share = 1.0 - constant_s / unbroken_s
    table[:, BUDGET] = table[:, DEADLINE] * share - constant_s
    running_load = charge_running(scene, coef, pattern, table)
    step_s = iteration_s(coef, 0.0, 0.0, 0.0, float(longest))
    left = 1.0 - step_s / pattern.tau_s - running_load if pattern.tau_s < np.inf else np.inf
    memory_room(scene, machine.block_tokens, row, constant_s, table)
    left = carry_broken(table, left, row, broken, find)
    kept = np.flatnonzero(~broken[row])
    return row[kept], table[kept], left


@compiled
def demands(scene: Scene, machine: Machine, pattern: Pattern, row: Ints, tightest: float) -> Floats:
    """The table of a problem, but for its bounds."""
    jobs, candidate, now_s, _ = scene
    coef, block_tokens, big = machine.coef, machine.block_tokens, steepest_term(machine.coef)
    table = np.zeros((len(row), 9))
    for k in range(len(row)):
        job = jobs[row[k]]
        context = job.context + job.prompt_left
        decode_s = token_cost_s(coef, context + 0.5 * job.output, drafts_of(job, pattern), job.acceptance)
        table[k, DEADLINE] = min(job.deadline_s - now_s, FAR_S)
        table[k, PREFILL] = coef[big, 0] * job.prompt_left + coef[big, 1] * context
        table[k, PREFILL] += coef[big, PAIR] * pairs_of(job.context, job.prompt_left)
        table[k, LOAD] = decode_s / strictest_s(job)
        table[k, MEMORY] = blocks_for(context + job.output, block_tokens) * block_tokens
        if midway(job, now_s):
            table[k, MEMORY] = 0.0
        table[k, VALUE] = job.weight
        table[k, FORCED] = 0.0 if candidate[row[k]] else 1.0
        table[k, BARRED] = 1.0 if strictest_s(job) < tightest else 0.0
    return table


@compiled
def charge_running(scene: Scene, coef: Floats, pattern: Pattern, table: Floats) -> float:
    """Take what running jobs decode from every bound on time; their load."""
    jobs, candidate, now_s, _ = scene
    load = 0.0
    for j in range(len(jobs)):
        job = jobs[j]
        decodes = job.prompt_left == 0 and tier_s(job) < np.inf
        if not decodes or candidate[j] or not takes_part(jobs, candidate, j):
            continue
        cost_s = token_cost_s(coef, job.context, drafts_of(job, pattern), job.acceptance)
        load += cost_s / tier_s(job)
        charge(table, job, cost_s, now_s)
    return load


@compiled
def carry_broken(table: Floats, load_left: float, row: Ints, broken: Bools, find: bool) -> float:
    """Charge every bound for the guarantees that can't be kept any more, as work that comes first; the load left."""
    for k in range(len(row)):
        if broken[row[k]]:
            load_left = charge_broken(table, k, load_left)
    k = first_late(table, load_left, row, broken) if find else -1
    while k >= 0:
        broken[row[k]] = True
        load_left = charge_broken(table, k, load_left)
        k = first_late(table, load_left, row, broken)
    return load_left


@compiled
def charge_broken(table: Floats, k: int, load_left: float) -> float:
    """Take the prefill, the decodes from now on and the memory of k from every bound; the load left."""
    for i in range(len(table)):
        table[i, BUDGET] -= table[k, PREFILL] + table[k, LOAD] * max(0.0, table[i, DEADLINE])
        table[i, ROOM] -= table[k, MEMORY]
    return load_left - table[k, LOAD]  # type: ignore[no-any-return]


@compiled
def first_late(table: Floats, load_left: float, row: Ints, broken: Bools) -> int:
    """The first guarantee that would be broken even if nothing were admitted, or -1."""
    need_s, load, memory, at_s = 0.0, 0.0, 0.0, 0.0
    for k in range(len(row)):
        if not table[k, FORCED] or broken[row[k]]:
            continue
        need_s += load * (table[k, DEADLINE] - at_s) + table[k, PREFILL]
        at_s = table[k, DEADLINE]
        memory += table[k, MEMORY]
        load += table[k, LOAD]
        fits = need_s <= table[k, BUDGET] + MARGIN and memory <= table[k, ROOM] + MARGIN
        if not fits or load > load_left + MARGIN:
            return k
    return -1


@compiled
def by_deadline(jobs: Jobs, candidate: Bools) -> Ints:
    """Rows to decide on, or in by force, earliest deadline first."""
    rows, deadline = np.empty(len(jobs), np.int64), np.empty(len(jobs))
    n = 0
    for row in range(len(jobs)):
        has_slo = jobs[row].deadline_s < np.inf or jobs[row].tpot_s < np.inf
        if jobs[row].prompt_left > 0 and has_slo and takes_part(jobs, candidate, row):
            rows[n] = row
            deadline[n] = jobs[row].deadline_s
            n += 1
    return rows[:n][np.argsort(deadline[:n], kind="mergesort")]


@compiled
def memory_room(scene: Scene, block_tokens: int, row: Ints, constant_s: float, table: Floats) -> None:
    """Write M_k in tokens: capacity less the most running guarantees hold from the start of prefill k on.

    A running job holds c + (t - now) / TPOT tokens until its output ends at e; the sum is largest just before one ends,
    so it is read off at the ends, latest first, from running sums.
    """
    jobs, candidate, now_s, free_blocks = scene
    capacity = float(free_blocks * block_tokens)
    ends, context, rate = np.empty(len(jobs)), np.empty(len(jobs)), np.empty(len(jobs))
    n = 0
    for j in range(len(jobs)):
        job = jobs[j]
        capacity += blocks_for(job.context, block_tokens) * block_tokens
        if midway(job, now_s):
            capacity -= blocks_for(job.context + job.prompt_left + job.output, block_tokens) * block_tokens
        if candidate[j] or job.prompt_left > 0 or not takes_part(jobs, candidate, j):
            continue
        tpot = tier_s(job)
        ends[n] = np.inf if tpot == np.inf else max(still_to_emit(job) * tpot, token_due_s(job, job.output) - now_s)
        context[n] = job.context + block_tokens + (still_to_emit(job) if tpot == np.inf else 0)
        rate[n] = 0.0 if tpot == np.inf else still_to_emit(job) / ends[n]
        n += 1
    order = np.argsort(-ends[:n])
    peak, held, growth = np.empty(n), 0.0, 0.0
    most = 0.0
    for i in range(n):
        j = order[i]
        held += context[j]
        growth += rate[j]
        most = max(most, held + (growth * ends[j] if ends[j] < np.inf else 0.0))
        peak[i] = most  # at the end of j or any later one
    for k in range(len(row)):
        start = max(0.0, table[k, DEADLINE] - table[k, PREFILL] - constant_s)
        i = 0
        while i < n and ends[order[i]] >= start:
            i += 1
        table[k, ROOM] = capacity - (peak[i - 1] if i else 0.0)
