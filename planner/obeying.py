"""A planned iteration held against the jobs that are there when it is to run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, Ints, Load, blocks_for, tier_s, token_due_s, with_chunk, with_decode

SAME_TIER_S = 1e-6  # tiers closer than this are one


class Weight(NamedTuple):
    """What a planned iteration takes, and how long it may take."""

    load: Load
    blocks: int  # KV blocks
    slack_s: float  # until the first guarantee that can still be kept is due


@compiled
def decoding(jobs: Jobs, tiers: Floats, most: int) -> tuple[Ints, Ints]:
    """Rows that decode when only the named tiers do, and the draft tokens of each, `most` at most.

    `tiers` has a row for each: TPOT, draft tokens.
    """
    rows = np.empty(len(jobs), np.int64)
    drafts = np.empty(len(jobs), np.int64)
    n = 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.prompt_left > 0 or job.held:
            continue
        tpot_s = tier_s(job)
        for i in range(len(tiers)):
            if tiers[i, 0] == tpot_s or abs(tiers[i, 0] - tpot_s) < SAME_TIER_S:
                rows[n], drafts[n] = row, min(most, int(tiers[i, 1]))
                n += 1
                break
    return rows[:n], drafts[:n]


@compiled
def weigh(
    jobs: Jobs, decode: Ints, drafts: Ints, prefill: Ints, tokens: Ints, block_tokens: int, now_s: float
) -> Weight:
    """An iteration of these decodes and prefills."""
    load, blocks = Load(0, 0, 0, 0, 0.0), 0
    for i in range(len(decode)):
        job = jobs[decode[i]]
        load = with_decode(load, job, drafts[i])
        blocks += blocks_for(job.context + 1 + drafts[i], block_tokens) - blocks_for(job.context, block_tokens)
    for i in range(len(prefill)):
        held = jobs[prefill[i]].context
        load = with_chunk(load, held, tokens[i])
        blocks += blocks_for(held + tokens[i], block_tokens) - blocks_for(held, block_tokens)
    return Weight(load, blocks, promised_slack_s(jobs, now_s))


@compiled
def promised_slack_s(jobs: Jobs, now_s: float) -> float:
    """How long until the first token that was guaranteed, and isn't late already, is due."""
    slack_s = np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        if not job.guaranteed or job.held:
            continue
        due_s = job.deadline_s if job.prompt_left > 0 else token_due_s(job, job.generated)
        if due_s > now_s:
            slack_s = min(slack_s, due_s - now_s)
    return slack_s
