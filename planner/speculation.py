"""Speculation: how many draft tokens a decode should verify.

A(s) = (1 - alpha^(s+1)) / (1 - alpha)      expected tokens from s drafts, each accepted with chance alpha
"""

from __future__ import annotations

from typing import Any

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
