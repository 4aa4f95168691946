"""Capacity: the highest request rate that keeps enough requests within their SLOs.

Rates come from one fixed geometric grid, so that searches of different systems ask for the same loads and results can
be kept. Attainment near the threshold is noisy, hence the rule: a rate is measured with several seeds, pooled, unless
the first ones leave no doubt, and the answer is the highest rate of which the grid's next lower ones hold as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

GRID = 1.025  # ratio of neighbouring rates
STRIDE = 16  # grid steps of the first, coarse look: about 1.5 x
CONFIRM = 2  # so many grid steps below the answer must hold too
FLOOR = 1e-3  # requests per second; a system that fails here has no capacity


@dataclass(frozen=True, slots=True)
class Count:
    """Requests attained and offered, pooled over seeds."""

    attained: int
    offered: int

    @property
    def attainment(self) -> float:
        return self.attained / self.offered if self.offered else 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    rate_rps: float  # 0 when no rate holds
    count: Count  # measured at that rate


def rate_of(step: int) -> float:
    """The grid's rate number `step`, in requests per second."""
    return float(f"{GRID**step:.5g}")


def step_of(rate_rps: float) -> int:
    """The grid's rate at or below `rate_rps`."""
    return math.floor(math.log(rate_rps) / math.log(GRID) + 1e-6)


def search(measure: Callable[[float], Count], target: float, start_rps: float) -> Capacity:
    """Find the capacity: strides up or down from `start_rps` to bracket it, bisection, confirmation below."""
    counts: dict[int, Count] = {}

    def holds(step: int) -> bool:
        if step not in counts:
            counts[step] = measure(rate_of(step))
        return counts[step].attainment >= target

    low = _first_that_holds(holds, step_of(start_rps))
    if low is None:
        return Capacity(0.0, Count(0, 0))
    high = next(step for step in _strides_up(low) if not holds(step))
    low = high - STRIDE
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    best = _confirmed(holds, low)
    return Capacity(rate_of(best), counts[best]) if rate_of(best) >= FLOOR else Capacity(0.0, Count(0, 0))


def _first_that_holds(holds: Callable[[int], bool], start: int) -> int | None:
    """From `start` downwards in strides; None when even the floor fails."""
    step = start
    while not holds(step):
        step -= STRIDE
        if rate_of(step) < FLOOR:
            return None
    return step


def _strides_up(low: int) -> range:
    return range(low + STRIDE, low + 100 * STRIDE, STRIDE)


def _confirmed(holds: Callable[[int], bool], step: int) -> int:
    """The highest step at or below `step` that holds together with the next ones below it."""
    while rate_of(step) >= FLOOR:
        failing = [s for s in range(step, step - CONFIRM - 1, -1) if not holds(s)]
        if not failing:
            return step
        step = failing[0] - 1
    return step
