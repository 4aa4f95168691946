"""Speculation: how many draft tokens a decode should verify.

A(s) = (1 - alpha^(s+1)) / (1 - alpha)      expected tokens from s drafts, each accepted with chance alpha
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.compiling import compiled
from planner.jobs import Jobs
from planner.kernels import Floats, Ints, Load, load_s


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
    """A decode step in which every sequence verifies `drafts` tokens."""
    more = step.sequences * drafts
    return Load(step.new + more, step.context + more, step.sequences, drafts)


@compiled
def best_drafts(coef: Floats, step: Load, acceptance: float, most: int, carried: int) -> int:
    """The length with the least time per token gained; 0 when drafts don't pay.

    A step that carries x prefill tokens costs the decodes only what it takes longer than the prefill alone:
    minimize (T(x + n (1 + s), ...) - T(x)) / A(s). In a busy prefill every draft token is paid for in full.
    """
    if acceptance <= 0.0 or step.sequences == 0:
        return 0
    alone_s = load_s(coef, Load(carried, carried, 1, 0)) if carried else 0.0
    loaded = Load(step.new + carried, step.context + carried, step.sequences, 0)
    best, best_s = 0, load_s(coef, loaded) - alone_s
    for drafts in range(1, most + 1):
        more = step.sequences * drafts
        drafted = Load(loaded.new + more, loaded.context + more, loaded.sequences, drafts)
        per_token_s = (load_s(coef, drafted) - alone_s) / expected_tokens(acceptance, drafts)
        if per_token_s < best_s:
            best, best_s = drafts, per_token_s
    return best


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
    """R(s): prompt tokens per second beside the decodes; negative when not even those fit."""
    sequences, tokens, drafts = 0.0, 0.0, 0
    for tier in range(len(counts)):
        sequences += counts[tier]
        tokens += counts[tier] * (1 + lengths[tier])
        if counts[tier] > 0:
            drafts = max(drafts, lengths[tier])
    budget = np.inf
    for i in range(len(coef)):
        a, c, s, v, b = coef[i]
        rest_s = tau_s - (a * tokens + c * (context + tokens) + s * sequences + v * drafts + b)
        if a + c > 0.0:
            budget = min(budget, rest_s / (a + c))
    return budget / tau_s
