"""What a bench offers to a system: a scenario's requests with SLOs in seconds, for one hardware profile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from slosgate.bench import scenarios
from slosgate.bench.attainment import RequestOutcome, StageOutcome
from slosgate.bench.scenarios import Making, Scenario, StageSlo
from slosgate.planner.profile import HardwareProfile
from slosgate.traces.records import Stage


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the server. SLOs are in seconds, inf without one.

    With `switch_at` above 0 the model thinks for so many output tokens at the pace of `tpot_slo_s`, then responds at
    that of `next_tpot_slo_s`.
    """

    prompt_tokens: int  # new ones
    output_tokens: int
    ttft_slo_s: float
    tpot_slo_s: float
    cached_tokens: int = 0  # left behind by earlier calls; they stand before the new ones
    gap_s: float = 0.0  # from the end of this call to the arrival of the next
    switch_at: int = 0
    next_tpot_slo_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Offered:
    """One request; its calls run one after the other. `arrival_s` counts from the start of the run."""

    arrival_s: float
    slo_class: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in order of arrival, offered over `seconds`; where they came from, in a phrase and in full."""

    requests: tuple[Offered, ...]
    seconds: float
    trace_source: str
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def generated(self) -> bool:
        """Whether any of it stands in for a real trace."""
        return "generated" in self.trace_source


def offer(
    scenario: Scenario,
    profile: HardwareProfile,
    rate_rps: float,
    *,
    seed: int,
    seconds: float | None = None,
    scaling: str = "stretch",
    generated: bool = False,
) -> Load:
    """The load of a scenario at a rate over all replicas. Raises InputError."""
    made = scenarios.requests(
        scenario,
        rate_rps,
        seed,
        seconds,
        profile.max_model_tokens,
        making=Making(scaling=scaling, generated=generated),
    )
    return Load(
        requests=tuple(
            Offered(one.request.arrival_s, one.class_name, tuple(_calls(one.request.stages, one.slos, profile)))
            for one in made.requests
        ),
        seconds=made.record.achieved.span_s,
        trace_source=", ".join(f"{p.name} ({p.source})" for p in made.record.provenance),
        record=msgspec.to_builtins(made.record),
    )


def unserved(request: Offered) -> RequestOutcome:
    """The outcome of a request of which nothing is known yet: every stage arrives with it and misses all its tokens."""
    stages = [
        StageOutcome(
            arrival_s=request.arrival_s,
            ttft_slo_s=call.ttft_slo_s,
            tpot_slo_s=call.tpot_slo_s,
            output_tokens=call.output_tokens,
            switch_at=call.switch_at,
            next_tpot_slo_s=call.next_tpot_slo_s,
        )
        for call in request.calls
    ]
    return RequestOutcome(request.slo_class, request.arrival_s, stages)


def _calls(stages: Sequence[Stage], slos: Sequence[StageSlo], profile: HardwareProfile) -> Iterator[Call]:
    """Stages as calls; one without new prompt tokens goes on in the call before it."""
    pairs = list(zip(stages, slos, strict=True))
    for n, (stage, slo) in enumerate(pairs):
        if stage.prompt_tokens == 0 and n > 0:
            continue
        goes_on = n + 1 < len(pairs) and pairs[n + 1][0].prompt_tokens == 0
        last, last_slo = pairs[n + 1] if goes_on else (stage, slo)
        yield Call(
            prompt_tokens=stage.prompt_tokens,
            output_tokens=stage.output_tokens + (last.output_tokens if goes_on else 0),
            ttft_slo_s=slo.ttft_s(stage, profile),
            tpot_slo_s=slo.tpot_s,
            cached_tokens=stage.cached_tokens,
            gap_s=last.gap_s,
            switch_at=stage.output_tokens if goes_on else 0,
            next_tpot_slo_s=last_slo.tpot_s if goes_on else math.inf,
        )
