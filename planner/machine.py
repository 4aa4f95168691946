"""A replica as the compiled planner sees it: how fast it is, how much fits into an iteration, and how late it hears."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from slosgate.planner.kernels import Floats
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile


class Machine(NamedTuple):
    """Speed and limits of an engine."""

    coef: Floats  # of the performance model, see `planner.kernels`
    block_tokens: int
    max_tokens: int  # in one iteration
    max_sequences: int
    max_drafts: int


class Delays(NamedTuple):
    """How late an engine hears of a request, and how early it has to choose. Seconds."""

    overhead_s: float  # from an arrival until it can be chosen
    decide_s: float  # to choose while nothing runs
    lead_s: float  # before the expected end of the iteration in flight


@lru_cache(maxsize=64)
def coefficients(perf: PerfModel) -> Floats:
    """The model's terms as the kernels read them; built once per model."""
    return perf.coefficients()


def machine_of(profile: HardwareProfile) -> Machine:
    """What the kernels must know of a profile's engine."""
    return Machine(
        coefficients(profile.perf),
        profile.block_tokens,
        profile.max_batched_tokens,
        profile.max_sequences,
        profile.max_drafts,
    )


def delays_of(profile: HardwareProfile) -> Delays:
    """A profile's delays."""
    return Delays(profile.request_overhead_s, profile.decide_s, profile.lead_s)
