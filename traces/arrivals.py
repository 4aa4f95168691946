"""Arrival processes: Poisson, a smooth service whose rate drifts, and a bursty one that is silent between bursts.

All run on operational time: a unit-rate renewal process with Gamma gaps (shape k: CV = 1/sqrt(k)) is mapped through
the integral of the rate, so that the rate may vary while gaps keep their shape.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces.burstiness import Times
from slosgate.traces.lengths import QUANTILES


class Poisson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="poisson"):
    """Arrivals without memory at a constant rate."""

    rate_rps: float

    def draw(self, span_s: float, rng: np.random.Generator) -> Times:
        """Arrival times in [0, span_s)."""
        return np.sort(rng.random(rng.poisson(self.rate_rps * span_s)) * span_s)


class Drifting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="drifting"):
    """The log of the rate follows an AR(1) over steps of `step_s`."""

    rate_rps: float  # mean
    step_s: float
    log_sd: float
    ar1: float
    gamma_k: float

    def draw(self, span_s: float, rng: np.random.Generator) -> Times:
        """Arrival times in [0, span_s)."""
        steps = math.ceil(span_s / self.step_s)
        rates = self.rate_rps * np.exp(_ar1(steps, self.log_sd, self.ar1, rng) - self.log_sd**2 / 2)
        work = np.concatenate([[0.0], np.cumsum(rates * self.step_s)])
        times: Times = np.interp(_renewal(work[-1], self.gamma_k, rng), work, np.arange(steps + 1) * self.step_s)
        return times[times < span_s]


class Bursts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bursts"):
    """Bursts with silences between them.

    Size (requests), rate (requests/s) and silence (s) are drawn from quantile grids at QUANTILES; size and rate are
    tied by a rank correlation. Within a burst the log of the rate follows an AR(1) over seconds around the burst's own
    rate: without it, generated bursts are flat and their 10 s peak comes out a fifth too low.
    """

    size: tuple[float, ...]
    rate_rps: tuple[float, ...]
    silence_s: tuple[float, ...]
    size_rate_spearman: float
    log_sd: float
    ar1: float
    gamma_k: float

    def draw(self, span_s: float, rng: np.random.Generator) -> Times:
        """Arrival times in [0, span_s); the first burst starts at 0."""
        bursts: list[Times] = []
        start_s = 0.0
        while start_s < span_s:
            for size, rate_rps, silence_s in zip(*self._attributes(96, rng), strict=True):
                bursts.append(start_s + self._burst(max(1, round(size)), rate_rps, rng))
                start_s = float(bursts[-1][-1]) + silence_s
        times: Times = np.concatenate(bursts)
        return times[times < span_s]

    def _attributes(self, count: int, rng: np.random.Generator) -> tuple[Times, Times, Times]:
        pearson = 2 * math.sin(math.pi / 6 * self.size_rate_spearman)
        size = rng.standard_normal(count)
        rate = pearson * size + math.sqrt(1 - pearson**2) * rng.standard_normal(count)
        scores = np.stack([size, rate, rng.standard_normal(count)])
        levels = 100 * (scores.argsort(axis=1).argsort(axis=1) + rng.random(scores.shape)) / count
        sizes, rates, silences = (
            np.interp(level, QUANTILES, grid)
            for level, grid in zip(levels, (self.size, self.rate_rps, self.silence_s), strict=True)
        )
        return sizes, rates, silences

    def _burst(self, size: int, rate_rps: float, rng: np.random.Generator) -> Times:
        """Arrival times from the burst's first request on."""
        work = np.concatenate([[0.0], np.cumsum(rng.gamma(self.gamma_k, 1 / self.gamma_k, size - 1))])
        seconds, done = [0.0], [0.0]
        level = self.log_sd * rng.standard_normal()
        while done[-1] < work[-1]:
            seconds.append(seconds[-1] + 1)
            done.append(done[-1] + rate_rps * math.exp(level))
            level = self.ar1 * level + self.log_sd * math.sqrt(1 - self.ar1**2) * rng.standard_normal()
        times: Times = np.interp(work, done, seconds)
        return times


Process = Poisson | Drifting | Bursts


def _ar1(steps: int, sd: float, ar1: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A stationary AR(1) with standard deviation `sd`."""
    levels = rng.standard_normal(steps) * sd
    for i in range(1, steps):
        levels[i] = ar1 * levels[i - 1] + math.sqrt(1 - ar1**2) * levels[i]
    return levels


def _renewal(until: float, gamma_k: float, rng: np.random.Generator) -> Times:
    """Events in [0, until) of a renewal process with mean gap 1."""
    count = int(until + 6 * math.sqrt(until / gamma_k) + 16)  # six standard deviations more than is needed
    events: Times = np.cumsum(rng.gamma(gamma_k, 1 / gamma_k, count))
    return events[events < until]
