"""What a trace looks like: lengths, burstiness, and the curves that a figure draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces.burstiness import Burstiness, burstiness
from slosgate.traces.lengths import QUANTILES, LengthSummary, summarize
from slosgate.traces.records import TraceRequest
from slosgate.traces.windows import arrival_times

STEPS = 60  # arrivals are counted in so many equal steps


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """How requests arrive; `counts` per `step_s`."""

    burstiness: Burstiness
    step_s: float
    counts: tuple[int, ...]


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of length over `count` stages; `quantiles` are the CDF at `quantile_percents`."""

    name: str
    count: int
    summary: LengthSummary
    quantiles: tuple[float, ...]
    quantile_percents: tuple[float, ...] = QUANTILES


class TraceStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one trace, or of one class of a scenario. `arrivals` is None for lengths without arrival times."""

    requests: int
    stages_per_request: float
    lengths: tuple[Lengths, ...]
    arrivals: Arrivals | None


def describe(
    requests: Sequence[TraceRequest], span_s: float | None, *, lengths_of: Sequence[TraceRequest] | None = None
) -> TraceStats:
    """Figures of requests that arrive within [0, span_s); None: they have no arrival times.

    `lengths_of`: where lengths are to be taken from, when the requests draw on a larger pool.
    """
    pool = requests if lengths_of is None else lengths_of
    stages = sum(len(request.stages) for request in pool)
    return TraceStats(
        requests=len(pool),
        stages_per_request=stages / len(pool),
        lengths=tuple(_lengths(name, values) for name, values in _columns(pool).items() if len(values)),
        arrivals=_arrivals(arrival_times(requests), span_s) if span_s else None,
    )


def _columns(requests: Sequence[TraceRequest]) -> dict[str, NDArray[np.int64]]:
    """Lengths by name, in tokens. A stage without new prompt tokens goes on in the call before it."""
    calls = [stage for request in requests for stage in request.stages if stage.prompt_tokens]
    more = [stage for request in requests for stage in request.stages if not stage.prompt_tokens]
    columns = {"prompt": [stage.cached_tokens + stage.prompt_tokens for stage in calls]}
    if any(stage.cached_tokens for stage in calls):
        columns["new prompt"] = [stage.prompt_tokens for stage in calls]
    columns["thinking" if more else "output"] = [stage.output_tokens for stage in calls]
    columns["answer"] = [stage.output_tokens for stage in more]
    return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}


def _lengths(name: str, values: NDArray[np.int64]) -> Lengths:
    quantiles = tuple(np.percentile(values, QUANTILES).round(1).tolist())
    return Lengths(name=name, count=len(values), summary=summarize(values), quantiles=quantiles)


def _arrivals(times: NDArray[np.float64], span_s: float) -> Arrivals:
    step_s = span_s / STEPS
    steps = np.minimum((times / step_s).astype(np.int64), STEPS - 1)
    counts = np.bincount(steps, minlength=STEPS)
    return Arrivals(burstiness=burstiness(times, span_s), step_s=step_s, counts=tuple(counts.tolist()))


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], top: float | None = None) -> str:
    """One character a value, from 0 to `top` (the largest value); 0 is blank."""
    ceiling = top or max(values, default=0.0) or 1.0
    return "".join(
        " " if value <= 0 else BARS[min(len(BARS) - 1, int(value / ceiling * len(BARS)))] for value in values
    )


def cdf_line(lengths: Lengths, *, width: int = STEPS) -> tuple[str, float, float]:
    """The CDF over a logarithmic axis as one line, and the axis's ends in tokens."""
    low, high = max(1.0, lengths.quantiles[0]), max(2.0, lengths.quantiles[-1])
    points = np.exp(np.linspace(math.log(low), math.log(high), width))
    levels = np.interp(points, lengths.quantiles, lengths.quantile_percents)
    return sparkline(levels.tolist(), top=100.0), low, high
