"""What the SLO-aware rivals share: decode slack, chunks that fit into it, and who starts as memory allows.

A rival ranks the prefills and says which of them it still wants in time (`Ranked`). An iteration then runs its decodes
and as many prompt tokens, in that order, as end before the first decode is due and by the deadlines of the prompts that
it completes. Rivals get what slosgate gets: the performance model, learned output lengths, and the late choice of each
iteration.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slosgate.engines.follower import PlanFollower, Rule
from slosgate.engines.sim.fast_forward import InFlight, TokenLog, Totals
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.state import EngineState
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import TOLERANCE, next_late_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import (
    PAIR,
    Bools,
    Floats,
    Ints,
    Load,
    blocks_for,
    load_s,
    pairs_of,
    tier_s,
    token_budget,
    token_due_s,
    with_chunk,
    with_decode,
)
from slosgate.planner.machine import Machine, machine_of
from slosgate.planner.pacing import slope_of, steepest_term
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.starting import PLANNED_SHARE, Residents, joined, peak_with, residents

RELEGATED_SHARE = 0.3  # of the KV memory: above it no relegated prefill starts
IDLE_TAU_S = 0.1  # how long a chunk may take when no decode is due


class RulePolicy(SlosgatePolicy):
    """A replica that runs what a rule chooses; there are no plans."""

    supports_plans = False

    def __init__(self, state: EngineState, rule: Rule) -> None:
        super().__init__(state)
        self.follower = PlanFollower(state.profile, rule=rule)

    def fast_forward(self, flight: InFlight, until_s: float, log: TokenLog) -> tuple[Totals, InFlight] | None:
        return None


class Ranked(NamedTuple):
    """Prefills in the order they are served; the first `wanted` should be in time."""

    order: Ints
    wanted: int


class Limits(NamedTuple):
    """What limits an iteration: the engine, with a rival's own budget as its most new tokens, and its memory."""

    machine: Machine
    drafts: int  # of every decode
    free_blocks: int


def limits(profile: HardwareProfile, free_blocks: int, budget: int | None, drafts: int) -> Limits:
    """Those of a replica's next iteration."""
    machine = machine_of(profile)
    most = min(budget or machine.max_tokens, machine.max_tokens)
    return Limits(machine._replace(max_tokens=most), drafts, free_blocks)


@compiled
def last_s(job: Any) -> float:
    """When a first token counts as in time at the latest."""
    return job.deadline_s + TOLERANCE * (job.deadline_s - job.arrival_s)  # type: ignore[no-any-return]


@compiled
def due_s(job: Any, now_s: float) -> float:
    """When a decode's next token is due; inf once its SLO is lost, or without one."""
    if job.due_base_s > last_s(job) or now_s > next_late_s(job) + job.tpot_s:
        return np.inf
    return token_due_s(job, job.generated)


@compiled
def decodes(jobs: Jobs, now_s: float) -> tuple[Ints, Floats]:
    """(rows that decode, when their next tokens are due), by due time."""
    rows, due, n = np.empty(len(jobs), np.int64), np.empty(len(jobs)), 0
    for row in range(len(jobs)):
        if jobs[row].prompt_left == 0:
            rows[n], due[n] = row, due_s(jobs[row], now_s)
            n += 1
    order = np.argsort(due[:n], kind="mergesort")
    return rows[:n][order], due[:n][order]


@compiled
def prefills(jobs: Jobs) -> Ints:
    """Rows that prefill, by deadline."""
    rows = np.flatnonzero(jobs["prompt_left"] > 0)
    return rows[np.argsort(jobs["deadline_s"][rows], kind="mergesort")]


@compiled
def period_s(jobs: Jobs, rows: Ints, due: Floats) -> float:
    """The tightest TPOT SLO among the decodes whose SLO is live."""
    tightest = np.inf
    for i in range(len(rows)):
        if due[i] < np.inf:
            tightest = min(tightest, tier_s(jobs[rows[i]]))
    return tightest


@compiled
def step_of(jobs: Jobs, rows: Ints, drafts: int) -> Load:
    """An iteration of these decodes alone."""
    step = Load(0, 0, 0, 0, 0.0)
    for i in range(len(rows)):
        step = with_decode(step, jobs[rows[i]], drafts)
    return step


class Speed(NamedTuple):
    """How prompts get on beside the decodes: wall time."""

    token_s: float  # per prompt token
    pair_s: float  # per pair of one and a token that it attends to


@compiled
def speed_of(jobs: Jobs, rows: Ints, due: Floats, at: Limits, now_s: float) -> Speed:
    """Where every iteration carries all decodes, as far as their slack lets it be long."""
    step = step_of(jobs, rows, at.drafts)
    period = period_s(jobs, rows, due)
    tau_s = IDLE_TAU_S if period == np.inf else max(period, due[0] - now_s)
    room = token_budget(at.machine.coef, tau_s, step.new, step.context, step.sequences + 1, step.drafts)
    if room <= 0:
        return Speed(np.inf, 0.0)
    big, token_s = steepest_term(at.machine.coef), tau_s / room
    pair_s = at.machine.coef[big, PAIR]
    return Speed(token_s, pair_s * token_s / slope_of(at.machine.coef, big) if pair_s > 0.0 else 0.0)


@compiled
def takes_s(job: Any, speed: Speed) -> float:
    """Until what is left of a prompt is computed."""
    return job.prompt_left * speed.token_s + speed.pair_s * pairs_of(job.context, job.prompt_left)  # type: ignore[no-any-return]


@compiled
def in_time(jobs: Jobs, rows: Ints, speed: Speed, now_s: float) -> Bools:
    """Moore and Hodgson (1968): which of the prefills, by deadline, to serve so that the fewest are late.

    Counted by weight: the one that takes longest for its weight is the first to go.
    """
    chosen = np.zeros(len(rows), np.bool_)
    work_s = 0.0
    for i in range(len(rows)):
        job = jobs[rows[i]]
        own_s = takes_s(job, speed)
        if job.deadline_s == np.inf or now_s + own_s > last_s(job):
            continue
        chosen[i] = True
        work_s += own_s
        while now_s + work_s > last_s(job):
            longest = -1
            for j in range(i + 1):
                if chosen[j] and (longest < 0 or costs_more(jobs[rows[j]], jobs[rows[longest]])):
                    longest = j
            chosen[longest] = False
            work_s -= takes_s(jobs[rows[longest]], speed)
    return chosen


@compiled
def costs_more(a: Any, b: Any) -> bool:
    """Whether a's prompt takes longer than b's, each for its weight."""
    return bool(a.prompt_left * b.weight > b.prompt_left * a.weight)


@compiled
def ranked_by(rows: Ints, chosen: Bools, key: Floats) -> Ranked:
    """The chosen prefills by `key`, then the others by it."""
    first, rest = rows[chosen], rows[~chosen]
    order = np.concatenate(
        (first[np.argsort(key[chosen], kind="mergesort")], rest[np.argsort(key[~chosen], kind="mergesort")])
    )
    return Ranked(order, len(first))


@compiled
def carry_out(jobs: Jobs, runs: Ints, waits: Ints, ranked: Ranked, at: Limits, now_s: float) -> Batch:
    """The iteration: `runs` decode in it, by due time; `waits` decode in a later one, for which time is left."""
    decode, load, free = decoding(jobs, runs, at, now_s)
    coef = at.machine.coef
    tau_s = max(load_s(coef, load), slack_s(jobs, decode, waits, at, now_s))
    prefill, tokens, load = fill(jobs, ranked, at, free, load, tau_s, now_s)
    return Batch(decode, np.full(len(decode), at.drafts), prefill, tokens, load_s(coef, load))


@compiled
def decoding(jobs: Jobs, runs: Ints, at: Limits, now_s: float) -> tuple[Ints, Load, int]:
    """(the decodes that find their KV blocks, their load, blocks that are then free).

    What has lost its SLO runs only where that makes none late that hasn't.
    """
    load, free, block_tokens = Load(0, 0, 0, 0, 0.0), at.free_blocks, at.machine.block_tokens
    decode, n = np.empty(len(runs), np.int64), 0
    live, first_due_s = 0, np.inf
    while live < len(runs) and due_s(jobs[runs[live]], now_s) < np.inf:
        first_due_s = min(first_due_s, max(due_s(jobs[runs[live]], now_s), now_s))
        live += 1
    for i in range(len(runs)):
        job = jobs[runs[i]]
        blocks = blocks_for(job.context + 1 + at.drafts, block_tokens) - blocks_for(job.context, block_tokens)
        wider = with_decode(load, job, at.drafts)
        if blocks > free or (i >= live and now_s + load_s(at.machine.coef, wider) > first_due_s):
            continue
        decode[n] = runs[i]
        n += 1
        free -= blocks
        load = wider
    return decode[:n], load, free


@compiled
def slack_s(jobs: Jobs, runs: Ints, waits: Ints, at: Limits, now_s: float) -> float:
    """How long an iteration may last: no decode in it is late, and those that wait can still follow."""
    slack, load = np.inf, Load(0, 0, 0, 0, 0.0)
    for i in range(len(runs)):
        due = due_s(jobs[runs[i]], now_s)
        if due > now_s:
            slack = min(slack, due - now_s)
    for i in range(len(waits)):
        due = due_s(jobs[waits[i]], now_s)
        load = with_decode(load, jobs[waits[i]], at.drafts)
        if now_s < due < np.inf:
            slack = min(slack, due - now_s - load_s(at.machine.coef, load))
    return IDLE_TAU_S if slack == np.inf else slack


@compiled
def fill(
    jobs: Jobs, ranked: Ranked, at: Limits, free: int, load: Load, tau_s: float, now_s: float
) -> tuple[Ints, Ints, Load]:
    """Prompt tokens in rank order, while the iteration ends within `tau_s` and by the deadlines of what it completes.

    New prompts start as memory allows.
    """
    machine, block_tokens = at.machine, at.machine.block_tokens
    here, begun, capacity = residents(jobs, block_tokens, at.free_blocks)
    rows, tokens, n = np.empty(len(ranked.order), np.int64), np.empty(len(ranked.order), np.int64), 0
    blocked = False
    for i in range(len(ranked.order)):
        job, wanted = jobs[ranked.order[i]], i < ranked.wanted
        if job.context == 0 and (
            blocked or begun >= machine.max_sequences or not fits(here, job, wanted, capacity, block_tokens)
        ):
            blocked = blocked or wanted
            continue
        room = token_budget(
            machine.coef, tau_s, load.new, load.context + job.context, load.sequences + 1, load.drafts, load.pairs,
            job.context,
        )  # fmt: skip
        in_block = blocks_for(job.context, block_tokens) * block_tokens - job.context
        take = int(min(job.prompt_left, room, machine.max_tokens - load.new, free * block_tokens + in_block))
        if take <= 0:
            continue
        if job.context == 0:
            here, begun = joined(here, job), begun + 1
        rows[n], tokens[n] = ranked.order[i], take
        n += 1
        free -= blocks_for(job.context + take, block_tokens) - blocks_for(job.context, block_tokens)
        load = with_chunk(load, job.context, take)
        left_s = last_s(job) - now_s
        if wanted and take == job.prompt_left and load_s(machine.coef, load) <= left_s:
            tau_s = min(tau_s, left_s)
    return rows[:n], tokens[:n], load


@compiled
def fits(here: Residents, job: Any, wanted: bool, capacity: int, block_tokens: int) -> bool:
    """Whether a prompt may start beside those that hold memory; an empty replica never waits."""
    if here.number == 0:
        return True
    held = here.context[: here.number].sum() + job.prompt_left
    if not wanted and held > RELEGATED_SHARE * capacity:
        return False
    return bool(peak_with(here, job, block_tokens) <= PLANNED_SHARE * capacity)
