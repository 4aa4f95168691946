"""What a bench offers to a system: a scenario's requests with SLOs in seconds, for one hardware profile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from slosgate.bench.attainment import RequestOutcome, StageOutcome
from slosgate.bench.errors import choose, positive
from slosgate.bench.results import Row
from slosgate.bench.scenarios import Pool, Scenario, StageSlo, bad_traces_are_bad_input, drawing, pool
from slosgate.engines.sim.systems import Call, Offered
from slosgate.planner.profile import HardwareProfile
from slosgate.traces.burstiness import burstiness
from slosgate.traces.records import Stage
from slosgate.traces.scaling import METHODS, Scaled, repeat
from slosgate.traces.sources import Places

GENERATED = (
    "GENERATED TRACE: the real one was not found, so a generator fitted to it makes the requests. "
    "`slosbench traces fetch` gets the real one."
)


def is_generated(trace_source: object) -> bool:
    """Whether a generator stood in for a trace, by what a row says of its source."""
    return "generated" in str(trace_source)


def dropped_said(rows: Sequence[Row]) -> str | None:
    """How many requests of each scenario's traces are too long for the window, where there are any."""
    found = dict.fromkeys(f"{r['scenario']} {r['dropped']:,} of {r['dropped_of']:,}" for r in rows if r.get("dropped"))
    return f"Left out of the traces, as longer than the window: {', '.join(found)} requests" if found else None


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in order of arrival, offered over `seconds`; where they came from, in a phrase and in full."""

    requests: tuple[Offered, ...]
    seconds: float
    trace_source: str
    record: Row = field(default_factory=dict)

    @property
    def generated(self) -> bool:
        """Whether any of it stands in for a real trace."""
        return is_generated(self.trace_source)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What its traces hold and it doesn't offer, in sentences."""
        return tuple(self.record.get("left_out", ()))

    @property
    def counted(self) -> Row:
        """What a row says of it: requests of its traces that outgrow the window, and of how many."""
        return {key: self.record[key] for key in ("dropped", "dropped_of") if key in self.record}

    def as_offered(self, requests: Sequence[Offered], seconds: float) -> Load:
        """The same load with the arrivals that a closed loop has made of it."""
        times = np.array([request.arrival_s for request in requests])
        achieved = {"achieved": msgspec.to_builtins(burstiness(times, seconds))} if len(times) else {}
        return replace(self, requests=tuple(requests), seconds=seconds, record=self.record | achieved)


def offer(
    scenario: Scenario,
    profile: HardwareProfile,
    rate_rps: float | None,
    *,
    seed: int,
    seconds: float | None = None,
    scaling: str = "stretch",
    places: Places | None = None,
) -> Load:
    """The requests of a scenario at `rate_rps` in total, over all replicas; classes keep their shares. None: at the
    traces' own rate.

    `seconds`: how long requests arrive; the slices start over when that is longer than they last, None takes each
    slice once. Requests that outgrow a class's window or the model's are dropped. The seed decides what is drawn
    (Poisson arrivals, thinning, generated traces); a stretched real slice is the same for all. Raises InputError.
    """
    method = METHODS[choose("scaling", scaling, METHODS)]
    if rate_rps is not None:
        positive("the rate", rate_rps)
    if seconds is not None:
        positive("seconds", seconds)
    with bad_traces_are_bad_input():
        known = places or Places.from_env()
        pools = [pool(name, kind, seed, profile.max_model_tokens, known) for name, kind in scenario.classes.items()]
        own_rps = sum(len(one.requests) / one.span_s for one in pools)
        factor = 1.0 if rate_rps is None else rate_rps / own_rps
        scaled = [method(one.times, one.span_s, factor, drawing(one.name, seed, "scaling")) for one in pools]
    span_s = seconds or min(one.span_s for one in scaled)
    offered = sorted(_offered(scenario, profile, pools, scaled, span_s), key=lambda request: request.arrival_s)
    origins = {p.name: p for one in pools for p in one.provenance}.values()
    return Load(
        tuple(offered),
        span_s,
        trace_source=", ".join(f"{p.name} ({p.source})" for p in origins),
        record={
            "scenario": scenario.name,
            "scaling": scaling,
            "seed": seed,
            "asked_rps": own_rps if rate_rps is None else rate_rps,
            "achieved": msgspec.to_builtins(burstiness(np.array([r.arrival_s for r in offered]), span_s)),
            "scale_factor": factor,  # offered rate / the traces' own
            "dropped": sum(one.dropped for one in pools),  # requests of the traces that outgrow the window
            "dropped_of": sum(one.dropped + len(one.lengths) for one in pools),
            "left_out": list(_left_out(scenario, profile, pools)),
            "trace_source": " + ".join(dict.fromkeys(p.source for one in pools for p in one.provenance)),
            "provenance": msgspec.to_builtins(list(origins)),
        },
    )


def _left_out(scenario: Scenario, profile: HardwareProfile, pools: list[Pool]) -> Iterator[str]:
    for one in pools:
        trace = one.provenance[0]
        if one.dropped:
            wanted = scenario.classes[one.name].window
            whose = f"of {profile.name} (the scenario asks for {wanted:,})" if one.window < wanted else "of its class"
            of = f"{one.dropped:,} of {one.dropped + len(one.lengths):,} requests of {trace.name}"
            yield f"{one.name}: {of} left out: longer than the window {whose}, {one.window:,} tokens"
        yield from (f"{one.name}: {origin.name}: {origin.left_out}" for origin in one.provenance if origin.left_out)


def _offered(
    scenario: Scenario, profile: HardwareProfile, pools: list[Pool], scaled: list[Scaled], span_s: float
) -> Iterator[Offered]:
    for one, again in zip(pools, (repeat(s, span_s) for s in scaled), strict=True):
        for arrival_s, row in zip(again.times.tolist(), again.rows.tolist(), strict=True):
            stages = one.requests[row].stages
            slos = scenario.classes[one.name].slos(len(stages))
            yield Offered(arrival_s, tuple(_calls(stages, slos, profile)), one.name)


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
            prompt_tokens=call.cached_tokens + call.prompt_tokens,
            known_tokens=call.cached_tokens,
        )
        for call in request.calls
    ]
    return RequestOutcome(request.slo_class, request.arrival_s, stages)


def _calls(stages: Sequence[Stage], slos: Sequence[StageSlo], profile: HardwareProfile) -> Iterator[Call]:
    """Stages as calls; one without new prompt tokens goes on in the call before it (a response after its thinking)."""
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
            block_ids=stage.block_ids,
            id_tokens=stage.id_tokens,
            gap_s=last.gap_s,
            switch_at=stage.output_tokens if goes_on else 0,
            next_tpot_slo_s=last_slo.tpot_s if goes_on else math.inf,
        )
