"""Speculation: how many draft tokens a decode should verify.

A(s) = (1 - alpha^(s+1)) / (1 - alpha)      expected tokens from s drafts, each accepted with chance alpha
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import DECODING, PAIR, Floats, Ints, Load, chunk_s, load_s, pairs_of

SLOWER = 1.25  # how much longer tokens may take than with the fastest length, for shorter steps


@compiled
def expected_tokens(acceptance: float, drafts: int) -> float:
    """A(s): tokens a decode gains from s drafts, its own included."""
    if acceptance >= 1.0:
        return drafts + 1.0
    return (1.0 - acceptance ** (drafts + 1)) / (1.0 - acceptance)


@compiled
def draft_length(job: Any, drafts: int) -> int:
    """Drafts for one job: none without acceptance, and no more than the output has left."""
    if job.acceptance <= 0.0:
        return 0
    return min(drafts, max(0, job.output - job.generated - 1))  # type: ignore[no-any-return]


@compiled
def mean_acceptance(jobs: Jobs, decode: Ints) -> float:
    """Over the rows that decode."""
    total = 0.0
    for i in range(len(decode)):
        total += jobs[decode[i]].acceptance
    return total / len(decode) if len(decode) else 0.0


@compiled
def with_drafts(step: Load, drafts: int) -> Load:
    """A step in which every sequence verifies `drafts` tokens."""
    more = step.sequences * drafts
    return Load(step.new + more, step.context + more, step.sequences, drafts, step.pairs)


@compiled
def carrying(step: Load, carried: int) -> Load:
    """A step in which so many prompt tokens go along, as if a prompt began with them."""
    return Load(
        step.new + carried, step.context + carried, step.sequences, 0, step.pairs + pairs_of(0.0, carried)
    )  # fmt: skip


@compiled
def best_drafts(coef: Floats, step: Load, acceptance: float, most: int, carried: int) -> int:
    """The length whose steps settle shortest at the rate of the fastest; 0 when drafts don't pay.

    The fastest length gains most tokens per second of those that decode now: rate = n A(s) / T(s). But a longer step
    is one that arrivals wait for, and the same rate can often be had with fewer drafts, shorter steps and a few more
    decodes side by side. So of the lengths up to the fastest: minimize `settled_s` at that rate, where no token takes
    `SLOWER` times as long: T(s) / A(s) in the settled state, which is the number of those that decode over the rate.
    """
    if acceptance <= 0.0 or step.sequences == 0:
        return 0
    fastest = fastest_drafts(coef, step, acceptance, most, carried)
    loaded = carrying(step, carried)
    step_s = load_s(coef, with_drafts(loaded, fastest))
    rate = step.sequences * expected_tokens(acceptance, fastest) / step_s
    best, best_s = fastest, step_s
    for drafts in range(fastest):
        steps_per_s = rate / expected_tokens(acceptance, drafts)
        after_s = settled_s(coef, step, drafts, steps_per_s, carried)
        if after_s < best_s and after_s * steps_per_s <= SLOWER * step.sequences:
            best, best_s = drafts, after_s
    return best


@compiled
def fastest_drafts(coef: Floats, step: Load, acceptance: float, most: int, carried: int) -> int:
    """The length with the least time per token gained.

    A step that carries x prefill tokens costs the decodes only what it takes longer than the prefill alone:
    minimize (T(x + n (1 + s), ...) - T(x)) / A(s). In a busy prefill every draft token is paid for in full.
    """
    alone_s = chunk_s(coef, 0, carried) if carried else 0.0
    loaded = carrying(step, carried)
    best, best_s = 0, load_s(coef, loaded) - alone_s
    for drafts in range(1, most + 1):
        per_token_s = (load_s(coef, with_drafts(loaded, drafts)) - alone_s) / expected_tokens(acceptance, drafts)
        if per_token_s < best_s:
            best, best_s = drafts, per_token_s
    return best


@compiled
def settled_s(coef: Floats, step: Load, drafts: int, steps_per_s: float, carried: int) -> float:
    """The step's length T once as many sequences decode as take `steps_per_s` steps in a second together.

    Then n = steps_per_s T sequences, each like those of `step`, so that T solves T = b + (carried) + n w in every term,
    w being what one sequence with its drafts takes: T = max over terms of (b + (carried)) / (1 - steps_per_s w).
    Infinite when a second is too short for the steps of one.
    """
    context = step.context / step.sequences
    longest, at = 0.0, 0 if carried else DECODING
    for i in range(len(coef)):
        a, c, s, v, b = coef[i, at], coef[i, at + 1], coef[i, at + 2], coef[i, at + 3], coef[i, at + 4]
        share = steps_per_s * (a * (1 + drafts) + c * (context + drafts) + s)
        if share >= 1.0:
            return np.inf
        carried_s = (a + c) * carried + coef[i, PAIR] * pairs_of(0.0, carried)
        longest = max(longest, (b + v * drafts + carried_s) / (1.0 - share))
    return longest


@compiled
def tier_lengths(
    coef: Floats, tiers: Floats, counts: Floats, context: float, acceptance: Floats, most: int
) -> tuple[Ints, float, float]:
    """Draft lengths per tier with the largest prefill rate: (s_l, tau, prompt tokens per second).

        tau(s) = min over tiers of A_l(s_l) TPOT_l          R(s) = (B(tau) - sum n_l (1 + s_l)) / tau

    One tier is the bottleneck and sets tau; the others take the least length that keeps them off it. So it is enough to
    try every length of every tier as the bottleneck: of all vectors with the same tau, that one asks for least.
    """
    best = np.zeros(len(tiers), np.int64)
    best_tau, best_rate = np.inf, -np.inf
    for bottleneck in range(len(tiers)):
        for length in range(most + 1):
            tau_s = expected_tokens(acceptance[bottleneck], length) * tiers[bottleneck]
            lengths, reached = least_lengths(tiers, acceptance, tau_s, most)
            if not reached:
                continue
            rate = prefill_rate(coef, counts, context, lengths, tau_s)
            if rate > best_rate + 1e-9:
                best, best_tau, best_rate = lengths, tau_s, rate
            if acceptance[bottleneck] <= 0.0:
                break
    return best, best_tau, best_rate


@compiled
def least_lengths(tiers: Floats, acceptance: Floats, tau_s: float, most: int) -> tuple[Ints, bool]:
    """The least length of each tier with A(s) TPOT >= tau, and whether there is one for all."""
    lengths = np.zeros(len(tiers), np.int64)
    for tier in range(len(tiers)):
        while expected_tokens(acceptance[tier], lengths[tier]) * tiers[tier] < tau_s * (1.0 - 1e-12):
            lengths[tier] += 1
            if lengths[tier] > most:
                return lengths, False
    return lengths, True


@compiled
def prefill_rate(coef: Floats, counts: Floats, context: float, lengths: Ints, tau_s: float) -> float:
    """R(s): prompt tokens per second beside the decodes, of short prompts; negative when not even those fit."""
    sequences, tokens, drafts = 0.0, 0.0, 0
    for tier in range(len(counts)):
        sequences += counts[tier]
        tokens += counts[tier] * (1 + lengths[tier])
        if counts[tier] > 0:
            drafts = max(drafts, lengths[tier])
    budget = np.inf
    for i in range(len(coef)):
        a, c, s, v, b = coef[i, 0], coef[i, 1], coef[i, 2], coef[i, 3], coef[i, 4]
        rest_s = tau_s - (a * tokens + c * (context + tokens) + s * sequences + v * drafts + b)
        if a + c > 0.0:
            budget = min(budget, rest_s / (a + c))
    return budget / tau_s
