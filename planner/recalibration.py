"""Online recalibration: the performance model follows a replica that drifts, and plans for its noise.

The fitted model T is kept as a shape; a gain g and an offset o follow the replica by recursive least squares with
forgetting factor lambda, in relative terms (measured / T is explained by g + o / T), so that every iteration counts the
same:

    phi = (1, reference / T)          e = y - theta . phi,   y = measured / T
    K = P phi / (lambda + phi' P phi)     theta += K e     P = (P - K phi' P) / lambda

Iterations that prefill and those that only decode are two replicas as far as this goes: on an H200 decodes at 440,000
tokens of context took a fifth of what a bad fit said, and a gain for both made prefills look five times too short.

The planning value is a high quantile q of y / (theta . phi), tracked by stochastic approximation: step up by q eta when
it was exceeded, down by (1 - q) eta when not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from slosgate.planner.perf_model import PerfModel, Term

FORGET = 0.98  # about 50 iterations of memory
QUANTILE = 0.9
STEP = 0.01  # of the quantile's estimate, relative
CLIP = 0.5  # a single iteration further off than this moves the estimate as if it were this far off
REFERENCE_S = 0.01  # scale of the offset
ROUNDING = 1e-9  # relative: what is less is no noise


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What has been learned so far; `update` returns the next. Starts by trusting the model."""

    gain: float = 1.0
    offset: float = 0.0  # of REFERENCE_S
    covariance: tuple[float, float, float] = (0.1, 0.0, 0.1)  # P: (gg, go, oo)
    margin: float = 1.0  # the quantile of measured over expected
    seen: int = 0

    def expected_s(self, predicted_s: float) -> float:
        """The expected duration of an iteration for which the fitted model says `predicted_s`."""
        return self.gain * predicted_s + self.offset * REFERENCE_S

    def update(self, predicted_s: float, measured_s: float) -> Recalibration:
        """Learn from one iteration; nothing is learned from durations that are not positive."""
        if predicted_s <= 0 or measured_s <= 0:
            return self
        ratio = REFERENCE_S / predicted_s
        expected = self.gain + self.offset * ratio
        error = min(max(measured_s / predicted_s - expected, -CLIP * expected), CLIP * expected)
        gg, go, oo = self.covariance
        down_g, down_o = gg + go * ratio, go + oo * ratio
        scale = FORGET + down_g + down_o * ratio
        kg, ko = down_g / scale, down_o / scale
        # Without enough variety of iterations P would grow without bound.
        grown = (gg - kg * down_g) / FORGET, (go - kg * down_o) / FORGET, (oo - ko * down_o) / FORGET
        covariance = grown if grown[0] + grown[2] < 1.0 else self.covariance
        over = measured_s > self.expected_s(predicted_s) * self.margin * (1 + ROUNDING)
        margin = self.margin * (1 + STEP * (QUANTILE if over else QUANTILE - 1))
        return replace(
            self,
            gain=max(0.05, self.gain + kg * error),
            offset=self.offset + ko * error,
            covariance=covariance,
            margin=min(max(margin, 1.0), 3.0),
            seen=self.seen + 1,
        )

    def model(self, fitted: PerfModel) -> PerfModel:
        """The model to plan with: gain and offset applied to every term, times the margin."""
        factor = self.gain * self.margin
        offset_s = self.offset * REFERENCE_S * self.margin
        return PerfModel(tuple(recalibrated(term, factor, offset_s) for term in fitted.terms))


@dataclass(frozen=True, slots=True)
class ByKind:
    """What has been learned of iterations that prefill, and of those that only decode; `update` returns the next."""

    prefilling: Recalibration = Recalibration()
    decoding: Recalibration = Recalibration()

    @property
    def seen(self) -> int:
        return self.prefilling.seen + self.decoding.seen

    def update(self, predicted_s: float, measured_s: float, *, prefills: bool) -> ByKind:
        """Learn from one iteration."""
        if prefills:
            return replace(self, prefilling=self.prefilling.update(predicted_s, measured_s))
        return replace(self, decoding=self.decoding.update(predicted_s, measured_s))

    def model(self, fitted: PerfModel) -> PerfModel:
        """The model to plan with."""
        decodes = PerfModel(fitted.decoding or fitted.terms)
        return PerfModel(self.prefilling.model(fitted).terms, self.decoding.model(decodes).terms)


def recalibrated(term: Term, factor: float, offset_s: float) -> Term:
    return msgspec.structs.replace(
        term,
        per_new_token_s=term.per_new_token_s * factor,
        per_context_token_s=term.per_context_token_s * factor,
        per_sequence_s=term.per_sequence_s * factor,
        per_draft_step_s=term.per_draft_step_s * factor,
        constant_s=max(0.0, term.constant_s * factor + offset_s),
        per_pair_s=term.per_pair_s * factor,
    )
