"""What is offered in a GPU measurement: scenarios at rates, one after the other, on servers that are started once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import msgspec

from slosgate.bench import scenarios
from slosgate.bench.errors import InputError
from slosgate.bench.load import Load, offer
from slosgate.engines.sim.systems import Call, Offered
from slosgate.planner.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class Offering:
    """One scenario at some rates, requests/s for each GPU. `seconds` None: its slices once."""

    scenario: str
    rates_rps: tuple[float, ...]
    seconds: float | None = None

    @property
    def loaded(self) -> scenarios.Scenario:
        return scenarios.load(self.scenario)


def read(text: str, seconds: float | None) -> Offering:
    """SCENARIO=RATE,RATE, with @SECONDS behind it where they differ from those given. Raises InputError."""
    scenario, _, rest = text.partition("=")
    rates, _, own = rest.partition("@")
    try:
        return Offering(scenario, tuple(float(rate) for rate in rates.split(",")), float(own) if own else seconds)
    except ValueError:
        raise InputError(f"--load must be SCENARIO=RATE,RATE or SCENARIO=RATE,RATE@SECONDS, not {text!r}") from None


def equal_parts(offering: Offering, profile: HardwareProfile, rate_rps: float, *, seed: int, cap: int) -> Load:
    """The scenario's load, every class at the same rate, answers cut to `cap` tokens."""
    scenario = offering.loaded
    loads = [
        offer(
            msgspec.structs.replace(scenario, classes={name: kind}),
            profile,
            rate_rps / len(scenario.classes),
            seed=seed,
            seconds=offering.seconds,
        )
        for name, kind in scenario.classes.items()
    ]
    seconds = min(load.seconds for load in loads)
    requests = [_cut(r, cap) for load in loads for r in load.requests if r.arrival_s < seconds]
    return Load(
        tuple(sorted(requests, key=lambda request: request.arrival_s)),
        seconds,
        ", ".join(load.trace_source for load in loads),
        {"parts": [load.record for load in loads], "left_out": [said for load in loads for said in load.left_out]},
    )


def _cut(request: Offered, cap: int) -> Offered:
    return dataclasses.replace(request, calls=tuple(_cut_call(call, cap) for call in request.calls))


def _cut_call(call: Call, cap: int) -> Call:
    return dataclasses.replace(call, output_tokens=min(call.output_tokens, cap))
