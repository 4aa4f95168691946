"""Output lengths and acceptance, which are not announced: learned online, per class. Pure: records in, records out.

Lengths: a quantile over logarithmic bins (each 1/8 octave wide), counts halved every so often, so that old behaviour
fades. Until a class has been seen often enough the answer is the cap (`max_tokens`), or, where that is only what the
model's window leaves, a usual length or the longest seen.

Acceptance: with s drafts and k of them accepted, every draft before the first rejection was a trial of its own:
alpha = accepted / (accepted + rejected), with k < s meaning one rejection; both sums fade exponentially.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import accumulate

BINS = 160  # up to 2^20 tokens
PER_OCTAVE = 8
HALVE_AFTER = 512  # observations
ENOUGH = 20
PLANNED = 0.9  # quantile of outputs that is planned for
USUAL_TOKENS = 512  # expected of an output of a class that nothing is known of, when the request sets no limit
FADE = 0.998  # per draft
PRIOR = 0.6  # before anything was seen: published rates of draft models lie between 0.5 and 0.8
LEAST_WEIGHT = 1e-3  # smaller ones count as this
PRIOR_TRIALS = 20  # how many trials that belief is worth


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """Observed lengths: the outputs of one class, or prompts."""

    counts: tuple[float, ...] = (0.0,) * BINS
    total: float = 0.0
    since_halving: int = 0

    def observe(self, tokens: int) -> LengthHistogram:
        """Count one more."""
        at = bin_of(tokens)
        if self.since_halving >= HALVE_AFTER:
            halved = LengthHistogram(tuple(count / 2 for count in self.counts), self.total / 2)
            return replace(halved.observe(tokens), since_halving=0)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return LengthHistogram(counts, self.total + 1, self.since_halving + 1)

    def quantile(self, q: float) -> int | None:
        """The q-quantile, rounded up to its bin; None while too few are known."""
        if self.total < ENOUGH:
            return None
        known = list(accumulate(self.counts))
        return upper_edge(bisect_left(known, q * known[-1]))

    @property
    def longest(self) -> int:
        """The longest length that still counts, rounded up to its bin; 0 before the first."""
        return max((upper_edge(at) for at, count in enumerate(self.counts) if count > 0), default=0)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often drafts of one class are accepted. It begins with what is usual: without drafts nothing is learned."""

    accepted: float = PRIOR * PRIOR_TRIALS
    rejected: float = (1.0 - PRIOR) * PRIOR_TRIALS

    def observe(self, accepted: int, rejected: int) -> Acceptance:
        """So many more drafts were accepted, and so many were the first of theirs to be rejected."""
        if accepted < 0 or rejected < 0:
            raise ValueError(f"accepted and rejected must be at least 0, not {accepted} and {rejected}")
        fade = FADE ** (accepted + rejected)
        return Acceptance(self.accepted * fade + accepted, self.rejected * fade + rejected)

    @property
    def rate(self) -> float:
        """alpha."""
        return self.accepted / (self.accepted + self.rejected)


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """What is known of every class of requests."""

    lengths: dict[str, LengthHistogram] = field(default_factory=dict)

    def finished(self, name: str, tokens: int) -> ClassStatistics:
        """A request of class `name` ended after `tokens` output tokens."""
        histogram = self.lengths.get(name, LengthHistogram()).observe(tokens)
        return replace(self, lengths={**self.lengths, name: histogram})

    def planning_tokens(self, name: str, max_tokens: int, usual_tokens: int | None = None) -> int:
        """What to plan for: a high quantile of the class, capped by max_tokens.

        While too few are known: max_tokens, or, with `usual_tokens`, those or the longest seen.
        """
        histogram = self.lengths.get(name, LengthHistogram())
        value = histogram.quantile(PLANNED)
        if value is None:
            value = max_tokens if usual_tokens is None else max(usual_tokens, histogram.longest)
        return max(1, min(max_tokens, value))


def for_its_weight(prompt_tokens: int, weight: float) -> int:
    """The tokens of a prompt per unit of its request's weight."""
    return round(prompt_tokens / max(weight, LEAST_WEIGHT))


def firm_tokens(prompts: LengthHistogram) -> float:
    """Up to how many prompt tokens per unit of weight a request is promised its SLO on arrival.

    The median of `prompts`, which are lengths for their weight: whatever the weights are, half of the requests are
    short enough. Inf while too few are known.
    """
    median = prompts.quantile(0.5)
    return math.inf if median is None else median


def bin_of(tokens: int) -> int:
    """Bin i holds lengths in (2^((i-1)/8), 2^(i/8)]."""
    return min(BINS - 1, max(0, math.ceil(PER_OCTAVE * math.log2(max(1, tokens)) - 1e-9)))


def upper_edge(at: int) -> int:
    return math.floor(2 ** (at / PER_OCTAVE) + 1e-9)
