"""Rehearsal: what becomes of the requests on a replica if nobody else arrives, iteration by iteration.

The budget model of admission divides time and memory at will. Iterations can't be: who has just arrived waits for the
one in flight, for the one chosen before it could be seen, and for what the slack rule puts first. So whoever fits into
the budget is rehearsed before it is promised anything: the slack rule is carried out on a copy of the jobs, in expected
tokens, with arrivals that are seen when the engine sees them (`planner.commitment`), until their first tokens are out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.commitment import ANNOUNCED_S, awaited
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, blocks_for, iteration_s
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.rollout import advance
from slosgate.planner.slack import choose, coefficients

MOST_ITERATIONS = 32
DRY = 4  # so many iterations without prefill at the end: who still waits then, waits for memory


class Rehearsal(NamedTuple):
    """What a rehearsal showed; arrays by rows of the table."""

    first_token_s: Floats  # absolute; inf when not reached, -inf for rows that decode already
    missed: Bools  # a first token or a later one was late
    end_s: float  # absolute end of the last iteration
    stuck: bool  # nobody's prompt was computed at the end, whoever waited


def rehearse(
    jobs: Jobs,
    profile: HardwareProfile,
    patience_s: Floats,
    started_s: float,
    end_s: float,
    free_blocks: int,
    watched: Bools,
    until_s: float = -np.inf,
) -> Rehearsal:
    """Carry the slack rule out from `end_s`, when the iteration that began at `started_s` is over.

    Goes on while a row of `watched` waits for its first token and could still be in time, at least until `until_s`, for
    `MOST_ITERATIONS` at most. `patience_s` is that of the latest arrivals, ascending. `jobs` stay as they are.
    """
    return Rehearsal(
        *play(
            jobs.copy(), coefficients(profile.perf), profile.block_tokens, profile.max_batched_tokens,
            profile.max_sequences, profile.max_drafts, profile.request_overhead_s, profile.decide_s, profile.lead_s,
            patience_s, started_s, end_s, free_blocks, watched, until_s,
        )
    )  # fmt: skip


@compiled
def play(
    jobs: Jobs, coef: Floats, block_tokens: int, max_tokens: int, max_sequences: int, max_drafts: int,
    overhead_s: float, decide_s: float, lead_s: float, patience_s: Floats, started_s: float, end_s: float,
    free_blocks: int, watched: Bools, until_s: float,
) -> tuple[Floats, Bools, float, bool]:  # fmt: skip
    """The loop of `rehearse`, on a table of its own."""
    first_s, missed, carry = np.empty(len(jobs)), np.zeros(len(jobs), np.bool_), np.zeros(len(jobs))
    for row in range(len(jobs)):
        first_s[row] = np.inf if jobs[row].prompt_left > 0 else -np.inf
    hidden = hide(jobs, started_s - overhead_s)
    rounds, dry = 0, 0
    while rounds < MOST_ITERATIONS and (end_s < until_s or waits(jobs, watched, first_s, end_s)):
        free_blocks += relieve(jobs, block_tokens, free_blocks)
        known_s = max(started_s, end_s - lead_s)
        reveal(jobs, hidden, known_s - overhead_s)
        decode, drafts, prefill, tokens, took_s = choose(
            jobs, coef, block_tokens, max_tokens, max_sequences, max_drafts, end_s, free_blocks, patience_s
        )
        begins_s = end_s
        if len(decode) == 0 and len(prefill) == 0:
            arrived_s = first_hidden_s(jobs, hidden)
            if arrived_s == np.inf:
                dry = DRY
                break
            started_s = end_s = max(end_s, arrived_s + overhead_s)
            # Rounding may put the difference before the arrival again.
            reveal(jobs, hidden, max(arrived_s, end_s - overhead_s))
            continue
        awaited_s = last_awaited_s(jobs, hidden, coef, overhead_s, decide_s, known_s, end_s, took_s)
        if awaited_s > -np.inf:
            begins_s = end_s + decide_s
            reveal(jobs, hidden, end_s - overhead_s)
            decode, drafts, prefill, tokens, took_s = choose(
                jobs, coef, block_tokens, max_tokens, max_sequences, max_drafts, begins_s, free_blocks, patience_s
            )
            awaited_s = last_awaited_s(jobs, hidden, coef, overhead_s, decide_s, end_s, begins_s, took_s)
            if awaited_s > -np.inf:
                begins_s = awaited_s + overhead_s + decide_s
                reveal(jobs, hidden, awaited_s)
                decode, drafts, prefill, tokens, took_s = choose(
                    jobs, coef, block_tokens, max_tokens, max_sequences, max_drafts, begins_s, free_blocks, patience_s
                )
        started_s, end_s = begins_s, begins_s + took_s
        free_blocks += advance(
            jobs, decode, drafts, prefill, tokens, end_s, block_tokens, first_s, missed, carry, False
        )  # fmt: skip
        rounds, dry = rounds + 1, 0 if len(prefill) else dry + 1
    for row in range(len(jobs)):
        missed[row] |= first_s[row] == np.inf and jobs[row].deadline_s < end_s
    return first_s, missed, end_s, dry >= DRY


@compiled
def waits(jobs: Jobs, watched: Bools, first_s: Floats, end_s: float) -> bool:
    """Whether a row of `watched` may still get its first token in time."""
    waiting = 0
    for row in range(len(jobs)):
        waiting += watched[row] and first_s[row] == np.inf and end_s <= jobs[row].deadline_s
    return waiting > 0


@compiled
def hide(jobs: Jobs, since_s: float) -> Bools:
    """Hold back who has arrived after `since_s`: (rows)."""
    hidden = np.zeros(len(jobs), np.bool_)
    for row in range(len(jobs)):
        if jobs[row].arrival_s > since_s and not jobs[row].held:
            jobs[row].held = hidden[row] = True
    return hidden


@compiled
def reveal(jobs: Jobs, hidden: Bools, since_s: float) -> None:
    """Let those run who had arrived by then."""
    for row in range(len(jobs)):
        if hidden[row] and jobs[row].arrival_s <= since_s:
            jobs[row].held = hidden[row] = False


@compiled
def last_awaited_s(
    jobs: Jobs, hidden: Bools, coef: Floats, overhead_s: float, decide_s: float, known_s: float, start_s: float,
    next_s: float,
) -> float:  # fmt: skip
    """The last arrival of those held back, and announced by `known_s`, for whom an iteration of `next_s` waits instead
    of starting at `start_s`; -inf: nobody. As `PlanFollower` does it.
    """
    last_s = -np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        if not hidden[row] or job.arrival_s + ANNOUNCED_S > known_s:
            continue
        latest_s = job.deadline_s - iteration_s(coef, job.prompt_left, job.prompt_left, 1, 0)
        if awaited(job.arrival_s + overhead_s, latest_s, start_s, next_s, decide_s):
            last_s = max(last_s, job.arrival_s)
    return last_s


@compiled
def first_hidden_s(jobs: Jobs, hidden: Bools) -> float:
    """The first arrival among those held back; inf without any."""
    first_s = np.inf
    for row in range(len(jobs)):
        if hidden[row]:
            first_s = min(first_s, jobs[row].arrival_s)
    return first_s


@compiled
def relieve(jobs: Jobs, block_tokens: int, free_blocks: int) -> int:
    """Take KV away until every decode finds a block for its next token, as the engine does; blocks set free."""
    short, freed = -free_blocks, 0
    for row in range(len(jobs)):
        short += grows(jobs, row, block_tokens)
    while short > 0:
        victim = -1
        for row in range(len(jobs)):
            if jobs[row].context > 0 and (victim < 0 or yields_before(jobs, row, victim)):
                victim = row
        if victim < 0:
            break
        job = jobs[victim]
        blocks = blocks_for(job.context, block_tokens)
        short -= blocks + grows(jobs, victim, block_tokens)
        freed += blocks
        # A decode's last token has no KV yet; it is computed again with the rest.
        job.prompt_left += job.context + (job.prompt_left == 0)
        job.context = 0
    return freed


@compiled
def grows(jobs: Jobs, row: int, block_tokens: int) -> int:
    """Blocks that a decode's next token asks for."""
    job = jobs[row]
    return int(job.prompt_left == 0 and not job.held and job.context % block_tokens == 0)


@compiled
def yields_before(jobs: Jobs, row: int, other: int) -> bool:
    """Whose memory goes first: held ones', then best effort's; among equals, his whose first token was due last."""
    a, b = jobs[row], jobs[other]
    if a.held != b.held:
        return bool(a.held)
    if a.guaranteed != b.guaranteed:
        return bool(b.guaranteed)
    return bool(a.deadline_s > b.deadline_s)
