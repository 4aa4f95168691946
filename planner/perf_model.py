"""The performance model: how long an iteration takes.

    T(x, c, n, v) = max over terms i of (a_i x + c_i c + s_i n + v_i v + b_i)        (roofline; paper section 3.2)

x new tokens, c context tokens (the KV entries that the iteration attends to, its own new tokens included),
n sequences, v draft steps (sequential runs of a draft model). All coefficients are non-negative, so T never falls
when work is added.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Coefficient = Annotated[float, Meta(ge=0, le=60)]


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the roofline; seconds per unit."""

    per_new_token_s: Coefficient = 0.0
    per_context_token_s: Coefficient = 0.0
    per_sequence_s: Coefficient = 0.0
    per_draft_step_s: Coefficient = 0.0
    constant_s: Coefficient = 0.0


class PerfModel(msgspec.Struct, frozen=True, cache_hash=True):
    terms: Annotated[tuple[Term, ...], Meta(min_length=1, max_length=16)]

    def iteration_s(self, new_tokens: int, context_tokens: int, sequences: int, draft_steps: int = 0) -> float:
        """T(x, c, n, v) in seconds."""
        longest_s = 0.0
        for t in self.terms:  # a loop, for this is asked several times for every replica that a request could go to
            term_s = (
                t.per_new_token_s * new_tokens
                + t.per_context_token_s * context_tokens
                + t.per_sequence_s * sequences
                + t.per_draft_step_s * draft_steps
                + t.constant_s
            )
            if term_s > longest_s:
                longest_s = term_s
        return longest_s

    def coefficients(self) -> NDArray[np.float64]:
        """Shape (terms, 5): new token, context token, sequence, draft step, constant; for compiled kernels."""
        return np.array(
            [
                (
                    t.per_new_token_s,
                    t.per_context_token_s,
                    t.per_sequence_s,
                    t.per_draft_step_s,
                    t.constant_s,
                )
                for t in self.terms
            ]
        )
