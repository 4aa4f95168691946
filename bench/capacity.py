"""Capacity: the highest request rate that keeps enough requests within their SLOs.

Rates come from one fixed geometric grid, so that searches of different systems ask for the same loads and results can
be kept. Attainment near the threshold is noisy, hence the rule: a rate is measured with several seeds, pooled, unless
the first ones leave no doubt, and the answer is the highest rate that is sustained together with
the grid's next lower ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

GRID = 1.025  # ratio of neighbouring rates
STRIDE = 16  # grid steps of the first, coarse look: about 1.5 x
CONFIRM = 2  # so many grid steps below the answer must be sustained, too
FLOOR = 1e-3  # requests per second; a system that fails here has no capacity
CEILING = 1e6  # nor has one that sustains this: the load asks nothing of it


@dataclass(frozen=True, slots=True)
class Count:
    """Requests attained and offered, pooled over seeds."""

    attained: int
    offered: int

    @property
    def attainment(self) -> float:
        return self.attained / self.offered if self.offered else 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.attained + other.attained, self.offered + other.offered)


@dataclass(frozen=True, slots=True)
class Capacity:
    rate_rps: float  # 0 when no rate is sustained
    count: Count  # measured at that rate


def rate_of(step: int) -> float:
    """The grid's rate number `step`, in requests per second."""
    return float(f"{GRID**step:.5g}")


def step_of(rate_rps: float) -> int:
    """The grid's rate at or below `rate_rps`, which may have been rounded."""
    return math.floor(math.log(rate_rps) / math.log(GRID) + 5e-3)


def search(measure: Callable[[float], Count], target: float, start_rps: float, stride: int = STRIDE) -> Capacity:
    """Find the capacity: strides up or down from `start_rps` to bracket it, bisection, confirmation below.

    The first stride may be shorter where the start is a good guess.
    """
    counts: dict[int, Count] = {}

    def sustained(step: int) -> bool:
        if step not in counts:
            counts[step] = measure(rate_of(step))
        return counts[step].attainment >= target

    bracket = _bracket(sustained, step_of(start_rps), stride)
    if bracket is None:
        return Capacity(0.0, Count(0, 0))
    low, high = bracket
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sustained(middle) else (low, middle)
    best = _confirmed(sustained, low)
    return Capacity(rate_of(best), counts[best]) if rate_of(best) >= FLOOR else Capacity(0.0, Count(0, 0))


def _bracket(sustained: Callable[[int], bool], start: int, stride: int) -> tuple[int, int] | None:
    """Find a sustained step and one above it that isn't, by strides that double; None when even the floor isn't."""
    up = sustained(start)
    here, there = start, start + stride if up else start - stride
    while sustained(there) == up:
        stride = min(2 * stride, STRIDE)
        here, there = there, there + stride if up else there - stride
        if not FLOOR <= rate_of(there) <= CEILING:
            return None
    return (here, there) if up else (there, here)


def _confirmed(sustained: Callable[[int], bool], step: int) -> int:
    """The highest step at or below `step` that is sustained together with the next ones below it."""
    while rate_of(step) >= FLOOR:
        failing = [s for s in range(step, step - CONFIRM - 1, -1) if not sustained(s)]
        if not failing:
            return step
        step = failing[0] - 1
    return step
