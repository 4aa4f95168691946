"""Arithmetic that every compiled part of the planner shares: time, budgets, due times and memory.

`coef` is `PerfModel.coefficients()`: one row (a, c, s, v, b, p) per term of
T(x, c, n, v, q) = max_i (a x + c c + s n + v v + b + p q), and behind that (a, c, s, v, b) for iterations without
prefill, which are those without pairs q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slosgate.planner import perf_model
from slosgate.planner.compiling import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PAIR, DECODING = 5, 6  # columns of `coef`: p, and the first of those for iterations without prefill


pairs_of = compiled(perf_model.pairs_of)


@compiled
def iteration_s(coef: Floats, new: float, context: float, sequences: float, drafts: float, pairs: float = 0.0) -> float:
    """T(x, c, n, v, q), seconds."""
    longest, at = 0.0, 0 if pairs > 0.0 else DECODING
    for i in range(len(coef)):
        a, c, s, v, b = coef[i, at], coef[i, at + 1], coef[i, at + 2], coef[i, at + 3], coef[i, at + 4]
        longest = max(longest, a * new + c * context + s * sequences + v * drafts + b + coef[i, PAIR] * pairs)
    return longest


class Load(NamedTuple):
    """What an iteration computes."""

    new: int  # new tokens: one per decode, its drafts, prompt tokens
    context: int  # KV entries attended to, the new ones included
    sequences: int
    drafts: int  # sequential draft steps: the longest draft
    pairs: float  # of prompt tokens and what they attend to; only an iteration without prefill has none


@compiled
def load_s(coef: Floats, load: Load) -> float:
    """T of a load, seconds; nothing takes no time."""
    if load.sequences == 0:
        return 0.0
    return iteration_s(coef, load.new, load.context, load.sequences, load.drafts, load.pairs)


@compiled
def with_decode(load: Load, job: Any, drafts: int) -> Load:
    """The load with one more decode, which verifies `drafts` draft tokens."""
    new, context = 1 + drafts, job.context + 1 + drafts
    return Load(
        load.new + new, load.context + context, load.sequences + 1, max(load.drafts, drafts), load.pairs
    )  # fmt: skip


@compiled
def with_chunk(load: Load, before: int, tokens: int) -> Load:
    """The load with `tokens` more tokens of a prompt, behind those whose KV is there."""
    pairs = load.pairs + pairs_of(before, tokens)
    return Load(load.new + tokens, load.context + before + tokens, load.sequences + 1, load.drafts, pairs)


@compiled
def chunk_s(coef: Floats, before: int, tokens: int) -> float:
    """How long so many tokens of one prompt take in an iteration of their own, seconds."""
    return load_s(coef, with_chunk(Load(0, 0, 0, 0, 0.0), before, tokens))


@compiled
def token_budget(
    coef: Floats, tau_s: float, new: float, context: float, sequences: float, drafts: float, pairs: float = 0.0,
    before: float = 0.0,
) -> float:  # fmt: skip
    """The most further tokens y of one prompt, behind `before` of it, with T(new + y, context + y, n, v, pairs + those
    of y) <= tau; -1 when even y = 0 takes longer.

    In every term they take g y + p y^2 / 2 seconds, g = a + c + p before, of what is left.
    """
    budget = np.inf
    for i in range(len(coef)):
        a, c, s, v, b, p = coef[i, 0], coef[i, 1], coef[i, 2], coef[i, 3], coef[i, 4], coef[i, PAIR]
        rest_s = tau_s - (a * new + c * context + s * sequences + v * drafts + b + p * pairs)
        if rest_s < -1e-12:
            return -1.0
        slope = a + c + p * before
        if p > 0.0:
            # The root as it is exact for small p, too.
            root = slope + np.sqrt(max(0.0, slope * slope + 2.0 * p * rest_s))
            budget = min(budget, np.floor(2.0 * rest_s / root + 1e-9)) if root > 0.0 else 0.0
        elif slope > 0.0:
            budget = min(budget, np.floor(rest_s / slope + 1e-9))
    return budget


@compiled
def blocks_for(tokens: int, block_tokens: int) -> int:
    """KV blocks that hold `tokens` tokens."""
    return -(-tokens // block_tokens)


@compiled
def token_due_s(job: Any, k: int) -> float:
    """When token k after the first is due: base + k TPOT, at the next tier's TPOT from token `switch_at` on."""
    if 0 < job.switch_at < k:
        return job.due_base_s + job.switch_at * job.tpot_s + (k - job.switch_at) * job.next_tpot_s  # type: ignore[no-any-return]
    return job.due_base_s + k * job.tpot_s  # type: ignore[no-any-return]


@compiled
def tier_s(job: Any) -> float:
    """The TPOT SLO that the next token falls under."""
    if 0 < job.switch_at < job.generated:
        return job.next_tpot_s  # type: ignore[no-any-return]
    return job.tpot_s  # type: ignore[no-any-return]


@compiled
def still_to_emit(job: Any) -> int:
    """Output tokens expected from here on; at least one, since a job that outlives its estimate goes on."""
    return max(1, job.output - job.generated)  # type: ignore[no-any-return]


@compiled
def insert_sorted(remaining: Ints, context: Ints, count: int, rem: int, ctx: int) -> None:
    """Insert a resident into the first `count` entries, which are sorted by remaining tokens, most first."""
    i = count
    while i > 0 and remaining[i - 1] < rem:
        remaining[i] = remaining[i - 1]
        context[i] = context[i - 1]
        i -= 1
    remaining[i] = rem
    context[i] = ctx


@compiled
def peak_tokens(remaining: Ints, context: Ints, count: int, rem: int, ctx: int, block_tokens: int) -> float:
    """The most KV tokens ever held when the residents and one more (rem, ctx) decode in step until each finishes.

    With r_1 >= r_2 >= ... the tokens still to be emitted, memory is largest just before a job finishes:
    peak = max_j (sum_{i <= j} c_i + j r_j); blocks are rounded up, on average by half a block a job.
    """
    rounding = 0.5 * (block_tokens - 1)
    peak, held, alive, placed = 0.0, 0.0, 0, False
    for j in range(count + 1):
        if not placed and (j == count or remaining[j] <= rem):
            placed = True
            held += ctx + rounding
            alive += 1
            peak = max(peak, held + alive * rem)
        if j < count:
            held += context[j] + rounding
            alive += 1
            peak = max(peak, held + alive * remaining[j])
    return peak
