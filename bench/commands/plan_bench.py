"""slosbench plan-bench --running 256 --new 32 --tiers 3 --json result.json"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slosgate import planner
from slosgate.bench import results
from slosgate.bench.hardware import hardware_profile
from slosgate.bench.planner_bench import TIERS_S, Case, decisions, growth, measure
from slosgate.bench.results import Row
from slosgate.bench.show import plain_table

DECODING = 32  # on every replica of a fleet that one decision chooses among


def plan_bench(
    running: Annotated[int, typer.Option(min=0, max=4096, help="Guaranteed requests that decode.")] = 256,
    new: Annotated[int, typer.Option(min=1, max=1024, help="Requests to admit.")] = 32,
    tiers: Annotated[int, typer.Option(min=1, max=len(TIERS_S), help="Different TPOT SLOs.")] = 3,
    hardware: Annotated[str, typer.Option(help="Hardware profile.")] = "h200-opt-13b",
    calls: Annotated[int, typer.Option(min=10, help="Timed calls per row, each on other requests.")] = 300,
    scaling: Annotated[bool, typer.Option(help="Also measure 32 to 1024 running and 1 to 128 new.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the made-up requests.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Time the complete planning call (admission of all new requests and the next batch), and one decision by the
    number of replicas, after warm-up."""
    results.check(json)
    profile = hardware_profile(hardware)
    planner.warm_up()
    cases = [Case(running, new, tiers, speculation) for speculation in (False, True)]
    if scaling:
        cases += [case for case in growth(tiers) if case not in cases]
    config = {"running": running, "new": new, "tiers": tiers, "calls": calls, "scaling": scaling}
    result = results.begin("plan-bench", config, seed=seed, hardware=hardware)
    result.rows = [measure(case, profile, calls, seed) for case in cases]
    console = Console()
    console.print(plan_table(result.rows))
    result.rows += (found := decisions(DECODING, tiers, profile, calls, seed))
    console.print(decision_table(found))
    results.keep(result, console, json)


def plan_table(rows: list[Row]) -> Table:
    """The measured times, for people."""
    heads = "running", "new", "tiers", "drafts", "p50 ms", "p99 ms", "CPU p99", "rehearsal", "accepted", "exact"
    table = plain_table(heads, title="complete planning call; rehearsal: of all accepted, p99 ms of CPU")
    for row in rows:
        table.add_row(
            str(row["running"]), str(row["new"]), str(row["tiers"]), "yes" if row["speculation"] else "no",
            f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", f"{row['p99_cpu_ms']:.3f}",
            f"{row['p99_rehearsal_cpu_ms']:.3f}", f"{row['accepted']:.1f}",
            f"{row['exact']:.0%}",
        )  # fmt: skip
    return table


def decision_table(rows: list[Row]) -> Table:
    """What one decision costs with more and more replicas, for people."""
    heads = "replicas", "decoding on each", "p50 ms", "p99 ms", "CPU p50", "times one"
    table = plain_table(heads, title="one decision on one arrival")
    for row in rows:
        table.add_row(
            str(row["replicas"]), str(row["running"]), f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}",
            f"{row['p50_cpu_ms']:.3f}", f"{row['times_one']:.2f}",
        )  # fmt: skip
    return table
