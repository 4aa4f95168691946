"""Scaling over a day: replica hours and attainment of fixed fleets, of scaling by a threshold, and of slosgate's own.

An hour of the Azure conversation trace is stretched over a compressed day whose rate goes up and down once. All fleets
serve it by slosgate; they differ in when replicas start and go. slosgate scales by the number that its gateway tells
(`planner.sizing`) as it ships; the threshold, requests in flight on each replica, is the best of several in hindsight,
and goes down as slowly. Only the day is compressed: replicas take as long to start as they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from slosgate.bench import results, scenarios
from slosgate.bench.attainment import PAPER, attained, collect, wilson
from slosgate.bench.load import Load, offer
from slosgate.bench.results import Result, Row
from slosgate.bench.show import plain_table
from slosgate.bench.virtual import serve
from slosgate.engines import profiles
from slosgate.engines.fleet.scaling import EVERY_S
from slosgate.engines.fleet.spec import LimitsSpec
from slosgate.engines.sim.systems import Settings
from slosgate.engines.sim.systems.scaled import ByThreshold, Pace, ScaledSystem, Scaler, by_shortage
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.sizing import Steadied

HARDWARE = "a100-opt-13b"
WHOLE_S = (0.0, 3480.0)  # of the trace
MEAN_RPS = 10.0
SWING = 0.7  # the rate goes from 1 - SWING to 1 + SWING times its mean
LEAST, MOST = 1, 8
DOWN_AFTER_S = LimitsSpec(most=MOST).down_after_s  # as it ships
START_S = 60.0
THRESHOLDS = (16.0, 20.0, 24.0, 32.0, 40.0, 52.0)  # requests in flight on each replica
FIXED = (4, 5, 6)
PROCESSES = 2
TARGETS = (0.958, 0.9)  # llm-d reports the first


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to scale."""

    name: str
    scaler: Scaler
    least: int = LEAST
    most: int = MOST


def run(console: Console, seed: int) -> Result:
    profile = profiles.load(HARDWARE)
    load = day(profile, seed)
    config = {
        "rate": MEAN_RPS, "swing": SWING, "seconds": round(load.seconds, 1), "least": LEAST, "most": MOST,
        "every_s": EVERY_S, "start_s": START_S, "down_after_s": DOWN_AFTER_S, "load": load.record,
    }  # fmt: skip
    result = results.begin("reproduce autoscaling", config, seed=seed, hardware=HARDWARE)
    console.print(f"{len(load.requests)} requests over {load.seconds:.0f} s from {load.trace_source}")
    with ProcessPoolExecutor(PROCESSES) as processes:
        for row in processes.map(_measured, plans(), repeat(load), repeat(profile), repeat(seed)):
            result.rows.append(row)
            console.print(_said(row), style="dim")
    console.print(table(result.rows))
    return result


def plans() -> Iterator[Plan]:
    yield Plan("slosgate", by_shortage)
    for in_flight in THRESHOLDS:
        yield Plan("threshold", ByThreshold(in_flight))
    for replicas in FIXED:
        yield Plan("fixed", by_shortage, least=replicas, most=replicas)


def day(profile: HardwareProfile, seed: int) -> Load:
    """The trace's requests at a rate that goes up and down once."""
    chatbot = scenarios.load("chatbot")
    whole = {name: msgspec.structs.replace(kind, slice_s=WHOLE_S) for name, kind in chatbot.classes.items()}
    load = offer(msgspec.structs.replace(chatbot, classes=whole), profile, MEAN_RPS, seed=seed)
    grid = np.linspace(0.0, 1.0, 10_001)
    come = grid - SWING / (2 * np.pi) * np.sin(2 * np.pi * grid)  # the share that has come by then
    arrivals = np.interp([r.arrival_s / load.seconds for r in load.requests], come, grid) * load.seconds
    requests = [replace(r, arrival_s=float(at_s)) for r, at_s in zip(load.requests, arrivals, strict=True)]
    return load.as_offered(requests, load.seconds)


def _measured(plan: Plan, load: Load, profile: HardwareProfile, seed: int) -> Row:
    settings = Settings(profile=profile, replicas=MOST + 2, seed=seed)  # two more than may be wanted: some drain
    steadied = Steadied(plan.least, plan.most, DOWN_AFTER_S)
    system = ScaledSystem(settings, plan.scaler, steadied, Pace(EVERY_S, START_S, load.seconds))
    hits = attained(collect(serve(load, system).outcomes), PAPER)
    low, high = wilson(int(hits.sum()), len(hits))
    replica_s = system.finish()
    return {
        "scaling": plan.name,
        "in_flight": plan.scaler.in_flight if isinstance(plan.scaler, ByThreshold) else None,
        "replica_hours_a_day": round(replica_s / load.seconds * 24, 1),
        "mean_replicas": round(replica_s / load.seconds, 3),
        "most_replicas": system.most,
        "attainment": round(float(hits.mean()), 5),
        "ci_low": round(low, 5),
        "ci_high": round(high, 5),
        "trace_source": load.trace_source,
    }


def _said(row: Row) -> str:
    aim = "" if row["in_flight"] is None else f" at {row['in_flight']:g} in flight"
    return f"{row['scaling']}{aim}: {row['mean_replicas']:.2f} replicas, {row['attainment']:.1%} attained"


def table(rows: Sequence[Row]) -> Table:
    """slosgate's own scaling, and of the others what needs the fewest replica hours for a share attained."""
    heads = "scaling", "in flight", "mean\nreplicas", "replica hours\na day", "attained"
    shown = plain_table(heads, texts=1)
    for row in chosen(rows):
        shown.add_row(
            row["scaling"],
            "" if row["in_flight"] is None else f"{row['in_flight']:g}",
            f"{row['mean_replicas']:.2f}",
            f"{row['replica_hours_a_day']:.0f}",
            f"{row['attainment']:.1%}",
        )
    return shown


def chosen(rows: Sequence[Row]) -> Iterator[Row]:
    """Of others than slosgate: the cheapest that attains as much as it, and the cheapest that attains each target."""
    ours = [row for row in rows if row["scaling"] == "slosgate"]
    yield from ours
    for name in ("threshold", "fixed"):
        found = []
        for target in (ours[0]["attainment"], *TARGETS):
            fit = [row for row in rows if row["scaling"] == name and row["attainment"] >= target]
            found += [min(fit, key=lambda row: row["mean_replicas"])] if fit else []
        yield from (row for n, row in enumerate(found) if row not in found[:n])
