"""KV memory of jobs that run: whether a decode asks for a block, which job loses it first, and what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Ints, blocks_for


@compiled
def grows(job: Any, block_tokens: int) -> int:
    """KV blocks that one more token of a job that decodes asks for: 0 or 1."""
    return int(job.prompt_left == 0 and not job.held and job.context % block_tokens == 0)


@compiled
def growth(jobs: Jobs, block_tokens: int) -> int:
    """KV blocks that one more token for every decode asks for."""
    blocks = 0
    for row in range(len(jobs)):
        blocks += grows(jobs[row], block_tokens)
    return blocks


@compiled
def keeping(held: bool, guaranteed: bool, deadline_s: float) -> tuple[bool, bool, float]:
    """Sorts jobs by how long they keep their memory, first to yield first.

    Held jobs yield first, then best effort, then guarantees; among equals, that of the latest deadline.
    """
    return (not held, guaranteed, -deadline_s)


@compiled
def yields_before(a: Any, b: Any) -> bool:
    """Whether a's memory goes before b's."""
    return bool(keeping(a.held, a.guaranteed, a.deadline_s) < keeping(b.held, b.guaranteed, b.deadline_s))


@compiled
def first_to_yield(jobs: Jobs, spared: Bools) -> int:
    """The row that yields first, of those that hold memory and aren't spared; -1 for none."""
    victim = -1
    for row in range(len(jobs)):
        holds = jobs[row].context > 0 and not spared[row]
        if holds and (victim < 0 or yields_before(jobs[row], jobs[victim])):
            victim = row
    return victim


@compiled
def yielding(jobs: Jobs, gone: Bools, block_tokens: int, free_blocks: int) -> Ints:
    """Rows that must give their memory back before every decode finds a block, first to last.

    Rows marked in `gone` give theirs anyway, and those blocks count as free already; the others are marked.
    """
    victims, n = np.empty(len(jobs), np.int64), 0
    short = growth(jobs, block_tokens) - free_blocks
    while short > 0:
        victim = first_to_yield(jobs, gone)
        if victim < 0:
            break
        job = jobs[victim]
        short -= blocks_for(job.context, block_tokens) + grows(job, block_tokens)
        gone[victim] = True
        victims[n] = victim
        n += 1
    return victims[:n]


@compiled
def recompute(jobs: Jobs, row: int) -> None:
    """A job has lost its memory: all that it had is to be computed again."""
    job = jobs[row]
    # A decode's last token has no KV yet; it is computed with the rest.
    job.prompt_left += job.context + (job.prompt_left == 0)
    job.context = 0


@compiled
def memory_share(jobs: Jobs, block_tokens: int, free_blocks: int) -> float:
    """Share of the KV memory that jobs hold."""
    held = 0
    for row in range(len(jobs)):
        held += blocks_for(jobs[row].context, block_tokens)
    return held / max(1, held + free_blocks)
