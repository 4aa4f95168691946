"""How arrivals are spread over time, in the figures that serving depends on."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]  # arrival times in seconds, sorted


class Burstiness(msgspec.Struct, frozen=True, kw_only=True):
    """Arrivals over a span. Peaks are multiples of the mean rate; a Poisson process has CV 1 and IDC 1."""

    requests: int
    span_s: float
    rate_rps: float
    iat_cv: float  # standard deviation / mean of the times between arrivals
    peak_1s: float  # the busiest second
    peak_10s: float  # the busiest 10 s
    idc_10s: float  # index of dispersion: variance / mean of the arrivals per 10 s
    empty_seconds: float  # share of seconds without an arrival


def burstiness(times: Times, span_s: float) -> Burstiness:
    """Of sorted arrival times in [0, span_s)."""
    rate = len(times) / span_s if span_s > 0 else 0.0
    gaps = np.diff(times)
    mean_gap = float(gaps.mean()) if len(gaps) else 0.0
    per_second, per_ten = _counts(times, span_s, 1.0), _counts(times, span_s, 10.0)
    mean_ten = float(per_ten.mean())
    return Burstiness(
        requests=len(times),
        span_s=span_s,
        rate_rps=rate,
        iat_cv=float(gaps.std()) / mean_gap if mean_gap > 0 else 0.0,
        peak_1s=float(per_second.max()) / rate if rate else 0.0,
        peak_10s=float(per_ten.max()) / 10 / rate if rate else 0.0,
        idc_10s=float(per_ten.var()) / mean_ten if mean_ten else 0.0,
        empty_seconds=float((per_second == 0).mean()),
    )


def _counts(times: Times, span_s: float, step_s: float) -> NDArray[np.int64]:
    steps = max(1, math.ceil(span_s / step_s))
    return np.bincount(np.minimum((times // step_s).astype(np.int64), steps - 1), minlength=steps)
