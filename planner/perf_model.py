"""The performance model: how long an iteration takes.

    T(x, c, n, v, q) = max over terms i of (a_i x + c_i c + s_i n + v_i v + b_i + p_i q)   (roofline; paper section 3.2)

x new tokens, c context tokens (the KV entries that the iteration attends to, its own new tokens included),
n sequences, v draft steps (sequential runs of a draft model), q pairs: of a new prompt token and a token that it
attends to (`pairs_of`). The paper has no q: with prompts of a few thousand tokens it hardly counts, at
100,000 a chunk takes four times as long because of it. All coefficients are non-negative, so T never falls when work
is added; only where iterations that just decode were seen to take longer than a replica's others (`decoding`), a first
prompt token may seem to make one shorter.
"""

from __future__ import annotations

from typing import Annotated, Any

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
    per_pair_s: Coefficient = 0.0


Terms = Annotated[tuple[Term, ...], Meta(min_length=1, max_length=16)]


class PerfModel(msgspec.Struct, frozen=True, cache_hash=True, omit_defaults=True):
    """`decoding` stands instead of the terms, one for each, for iterations without prefill, where those have been seen
    to be another matter (`planner.recalibration`)."""

    terms: Terms
    decoding: Terms | None = None

    def iteration_s(
        self, new_tokens: int, context_tokens: int, sequences: int, draft_steps: int = 0, pairs: float = 0.0
    ) -> float:
        """T(x, c, n, v, q) in seconds. Without pairs nothing is prefilled: a chunk of one token has some."""
        longest_s = 0.0
        # A loop, for this is asked several times for every replica that a request could go to.
        for t in self.terms if pairs else self._decoding:
            term_s = (
                t.per_new_token_s * new_tokens
                + t.per_context_token_s * context_tokens
                + t.per_sequence_s * sequences
                + t.per_draft_step_s * draft_steps
                + t.constant_s
                + t.per_pair_s * pairs
            )
            if term_s > longest_s:
                longest_s = term_s
        return longest_s

    def chunk_s(self, new_tokens: int, before: int = 0) -> float:
        """How long so many tokens of one prompt take in an iteration of their own, behind those computed before."""
        return self.iteration_s(new_tokens, before + new_tokens, 1, 0, pairs_of(before, new_tokens))

    def coefficients(self) -> NDArray[np.float64]:
        """Shape (terms, 11), for compiled kernels: new token, context token, sequence, draft step, constant, pair; and
        the first five of them again for iterations that only decode."""
        return np.array([_row(t) + _row(d)[:-1] for t, d in zip(self.terms, self._decoding, strict=True)])

    @property
    def _decoding(self) -> tuple[Term, ...]:
        return self.decoding if self.decoding and len(self.decoding) == len(self.terms) else self.terms


def pairs_of(before: Any, tokens: Any) -> Any:
    """Pairs of a chunk of a prompt: each of its tokens attends to those before the chunk, and on average to half of it.

    However a prompt is divided into chunks, they have the same pairs together.
    """
    return tokens * (before + 0.5 * tokens)


def _row(t: Term) -> tuple[float, ...]:
    return (
        t.per_new_token_s, t.per_context_token_s, t.per_sequence_s, t.per_draft_step_s, t.constant_s, t.per_pair_s
    )  # fmt: skip
