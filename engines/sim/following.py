"""slosgate's flight: the slack rule chooses iteration after iteration in one compiled call (see `flight`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slosgate.engines.follower import growth
from slosgate.engines.sim.acceptance import count
from slosgate.engines.sim.flight import advance, ends
from slosgate.engines.sim.state import Sequences, Slots
from slosgate.engines.sim.steps import place
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import iteration_s
from slosgate.planner.slack import choose

Floats = NDArray[np.float64]


@compiled
def follow(
    sequences: Sequences, jobs: Jobs, slot_of_row: Slots, row_of_slot: Slots, decode: Slots, drafts: Slots,
    prefill: Slots, tokens: Slots, free: int, block_tokens: int, engine_coef: Floats, coef: Floats, max_tokens: int,
    max_sequences: int, max_drafts: int, start_s: float, end_s: float, until_s: float, token_s: Floats, cursor: Slots,
    rates: Floats, class_of_slot: Slots, patience_s: Floats, expected_end_s: float, decide_s: float, lead_s: float,
    looks_ahead: bool,
) -> tuple[int, int, int, int, float, Slots, Slots, Slots, Slots, float, float, int, int, int, int, bool]:  # fmt: skip
    """Carry out the iteration in flight and those chosen after it, while they end before `until_s`.

    What follows on the iteration in flight is chosen before its expected end (`planner.commitment`), or after its end.

    Returns iterations carried out, their prompt and output tokens, blocks taken and the time they took; then the last
    iteration: its arrays, start, end, new, prompt and context tokens, draft steps, and whether it has ended. It has
    when the next choice needs Python: a block is lacking, or nothing runs.
    """
    rounds, prompts, outputs, taken, busy_s = 0, 0, 0, 0, 0.0
    new, prompt, context, steps, ended = 0, tokens.sum(), 0, 0, False
    emitted = np.empty(len(decode) + len(prefill), np.int64)
    while end_s < until_s and not ends(sequences, decode, drafts, prefill, tokens, emitted):
        outputs += advance(sequences, decode, prefill, tokens, emitted, end_s, token_s, cursor)
        progress(jobs, row_of_slot, decode, prefill, tokens, emitted, end_s)
        count(rates, class_of_slot, decode, drafts, emitted, prefill[:0])
        rounds, prompts, busy_s = rounds + 1, prompts + prompt, busy_s + end_s - start_s
        left = free - taken
        ended = growth(jobs, block_tokens) > left
        if ended:
            break
        begins_s = max(end_s, expected_end_s - lead_s + decide_s) if looks_ahead else end_s + decide_s
        d, s, p, t, _ = choose(
            jobs, coef, block_tokens, max_tokens, max_sequences, max_drafts, begins_s, left, patience_s
        )
        d, p = slot_of_row[d], slot_of_row[p]
        n, m, blocks, new, prompt, context, steps, took_s = place(
            sequences, d, s, p, t, left, block_tokens, engine_coef
        )  # fmt: skip
        ended = new == 0
        if ended:
            break
        decode, drafts, prefill, tokens = d[:n], s[:n], p[:m], t[:m]
        emitted = np.empty(n + m, np.int64)
        taken += blocks
        start_s, end_s = begins_s, begins_s + took_s
        expected_end_s = begins_s + iteration_s(coef, new, context, n + m, steps)
    return (
        rounds, prompts, outputs, taken, busy_s, decode, drafts, prefill, tokens, start_s, end_s, new, prompt, context,
        steps, ended,
    )  # fmt: skip


@compiled
def progress(
    jobs: Jobs, row_of_slot: Slots, decode: Slots, prefill: Slots, tokens: Slots, emitted: Slots, end_s: float
) -> None:
    """The same for the planner's table."""
    for i in range(len(emitted)):
        job = jobs[row_of_slot[decode[i] if i < len(decode) else prefill[i - len(decode)]]]
        if i < len(decode):
            job.context += emitted[i]
        else:
            job.context += tokens[i - len(decode)]
            job.prompt_left -= tokens[i - len(decode)]
        if emitted[i] > 0 and job.generated == 0:
            job.due_base_s = end_s if job.deadline_s == np.inf else max(job.deadline_s, end_s)
        job.generated += emitted[i]
