"""A replica as the compiled planner sees it: how fast it is, how much fits into an iteration, and how late it hears."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import Floats, chunk_s
from slosgate.planner.launching import BEYOND, CAPTURED, KINDS, MARGIN_S, Sizes, sizes_of
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile, Launches


class Machine(NamedTuple):
    """Speed and limits of an engine."""

    coef: Floats  # of the performance model, see `planner.kernels`
    block_tokens: int
    max_tokens: int  # in one iteration
    max_sequences: int
    max_drafts: int
    sizes: Sizes  # that launch fast


class Delays(NamedTuple):
    """How late an engine hears of a request, and how early it has to choose. Seconds."""

    overhead_s: float  # from an arrival until it can be chosen
    decide_s: float  # to choose while nothing runs
    lead_s: Floats  # before the expected end of the iteration in flight, by the kind of the next one
    launch_s: Floats  # from the choice until the device has it, by kind; 0 where that is not modelled


@lru_cache(maxsize=64)
def coefficients(perf: PerfModel) -> Floats:
    """The model's terms as the kernels read them; built once per model."""
    return perf.coefficients()


@compiled
def launching_within(machine: Machine, delays: Delays, within_s: float, least: int) -> Machine:
    """The machine without the sizes that take too long to launch where the device is free in `within_s`.

    It would wait for longer than another iteration costs. `least` tokens are allowed in any case.
    """
    captured_tokens = machine.sizes.captured_tokens
    waits_s = delays.launch_s[BEYOND] - max(within_s, delays.launch_s[CAPTURED])
    if captured_tokens == 0 or waits_s <= chunk_s(machine.coef, 0, 1):
        return machine
    most = min(machine.max_tokens, max(captured_tokens, least))
    return Machine(
        machine.coef, machine.block_tokens, most, machine.max_sequences, machine.max_drafts, machine.sizes
    )  # fmt: skip


@lru_cache(maxsize=64)
def machine_of(profile: HardwareProfile) -> Machine:
    """What the kernels must know of a profile's engine; built once per profile."""
    return Machine(
        coefficients(profile.perf),
        profile.block_tokens,
        profile.max_batched_tokens,
        profile.max_sequences,
        profile.max_drafts,
        sizes_of(profile.launches),
    )


@lru_cache(maxsize=64)
def delays_of(profile: HardwareProfile) -> Delays:
    """A profile's delays; built once per profile."""
    return Delays(profile.request_overhead_s, profile.decide_s, *_launching(profile.launches, profile.lead_s))


@lru_cache(maxsize=64)
def _launching(launches: Launches | None, lead_s: float) -> tuple[Floats, Floats]:
    """(lead, launch) by kind."""
    if launches is None:
        return np.full(KINDS, lead_s), np.zeros(KINDS)
    launch_s = np.array(launches.by_kind)
    return launch_s + MARGIN_S, launch_s
