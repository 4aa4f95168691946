"""Bringing recorded arrivals to another rate. Each way keeps something and gives something up.

stretch    time is divided by the factor: paper parity; the CV stays, bursts get longer or shorter
thin       each request is kept by chance: bursts keep their shape; only lowers the rate
superpose  shifted copies are laid over each other: more tenants of one kind; smooths; only raises the rate
resample   each 5 s get the factor times as many requests, drawn from their own: the peaks grow with the mean

Taking every k-th row is not among them: it thins bursts evenly and so makes them tamer than real load at that rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slosgate.traces.burstiness import Times
from slosgate.traces.errors import TraceError

RESAMPLE_STEP_S = 5.0


@dataclass(frozen=True)
class Scaled:
    """Arrival `times` in [0, span_s), sorted; `rows` says which recorded request arrives at each."""

    times: Times
    rows: NDArray[np.int64]
    span_s: float


def stretch(times: Times, span_s: float, factor: float, rng: np.random.Generator) -> Scaled:
    return Scaled(times / factor, np.arange(len(times)), span_s / factor)


def thin(times: Times, span_s: float, factor: float, rng: np.random.Generator) -> Scaled:
    if factor > 1:
        raise TraceError(f"thin only lowers the rate, not by {factor:.3g} x: choose stretch, superpose or resample")
    rows = np.flatnonzero(rng.random(len(times)) < factor)
    return Scaled(times[rows], rows, span_s)


def superpose(times: Times, span_s: float, factor: float, rng: np.random.Generator) -> Scaled:
    """Whole copies, the first unshifted, and one thinned copy for the rest; a shift wraps around the span's end."""
    if factor < 1:
        raise TraceError(f"superpose only raises the rate, not by {factor:.3g} x: choose stretch, thin or resample")
    shifted, rows = [times], [np.arange(len(times))]
    while (rest := factor - len(rows)) > 1e-9:
        kept = np.flatnonzero(rng.random(len(times)) < rest)  # all of them while a whole copy is still missing
        shifted.append((times[kept] + rng.random() * span_s) % span_s)
        rows.append(kept)
    return _sorted(np.concatenate(shifted), np.concatenate(rows), span_s)


def resample(times: Times, span_s: float, factor: float, rng: np.random.Generator) -> Scaled:
    """In each step the count is rounded up or down by chance, and times follow the step's own empirical CDF."""
    step = (times // RESAMPLE_STEP_S).astype(np.int64)
    firsts = np.flatnonzero(np.diff(step, prepend=-1))
    new_times, new_rows = [], []
    for first, last in zip(firsts, [*firsts[1:], len(times)], strict=True):
        count = int(factor * (last - first) + rng.random())
        places = first + rng.random(count) * (last - first)
        rows = places.astype(np.int64)
        start_s = step[first] * RESAMPLE_STEP_S
        edges = np.concatenate([times[first:last], [min(start_s + RESAMPLE_STEP_S, span_s)]])
        new_times.append(np.interp(places, np.arange(first, last + 1), edges))
        new_rows.append(rows)
    if not new_times:
        return Scaled(times, np.arange(0), span_s)
    return _sorted(np.concatenate(new_times), np.concatenate(new_rows), span_s)


def _sorted(times: Times, rows: NDArray[np.int64], span_s: float) -> Scaled:
    order = np.argsort(times, kind="stable")
    return Scaled(times[order], rows[order], span_s)


Method = Callable[[Times, float, float, np.random.Generator], Scaled]
METHODS: dict[str, Method] = {"stretch": stretch, "thin": thin, "superpose": superpose, "resample": resample}


def repeat(scaled: Scaled, span_s: float) -> Scaled:
    """The first `span_s` seconds, starting over as often as needed."""
    rounds = int(np.ceil(span_s / scaled.span_s)) if scaled.span_s > 0 else 1
    times = np.concatenate([scaled.times + i * scaled.span_s for i in range(rounds)])
    rows = np.tile(scaled.rows, rounds)
    kept = times < span_s
    return Scaled(times[kept], rows[kept], span_s)
