"""Overhead: the planning call's time beside the paper's promise of 10 ms (its section 6.5)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from slosgate import planner
from slosgate.bench import results
from slosgate.bench.commands.plan_bench import plan_table
from slosgate.bench.errors import require
from slosgate.bench.planner_bench import growth, measure
from slosgate.bench.results import Result, Row
from slosgate.engines import profiles

HARDWARE = "h200-opt-13b"
TIERS = 3
CALLS = 200
PAPER_MS = 10.0
FIGURE = Path("out/overhead.png")


def run(console: Console, seed: int) -> Result:
    """Measure 32 to 1024 running and 1 to 128 new requests; writes `out/overhead.png`."""
    require("matplotlib", "drawing a figure")
    planner.warm_up()
    profile = profiles.load(HARDWARE)
    config = {"tiers": TIERS, "calls": CALLS, "paper_ms": PAPER_MS, "figure": str(FIGURE)}
    result = results.begin("reproduce overhead", config, seed=seed, hardware=HARDWARE)
    result.rows = [measure(case, profile, CALLS, seed) for case in growth(TIERS)]
    console.print(plan_table(result.rows))
    draw(result.rows, FIGURE)
    return result


def draw(rows: list[Row], path: Path) -> None:
    """p99 against running and against new requests, with the paper's line."""
    from matplotlib.figure import Figure  # optional: slosgate[bench]

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, axis, fixed, at in zip(
        figure.subplots(1, 2, sharey=True), ("running", "new"), ("new", "running"), (32, 256), strict=True
    ):
        for speculation in (False, True):
            line = sorted((r[axis], r["p99_ms"]) for r in rows if r[fixed] == at and r["speculation"] is speculation)
            label = "with speculation" if speculation else "without"
            axes.loglog([x for x, _ in line], [y for _, y in line], "o-", label=label)
        axes.axhline(PAPER_MS, color="k", linestyle="--", label="paper: 10 ms")
        axes.set(xlabel=f"{axis} requests ({at} {fixed})", ylabel="p99 of the complete call, ms")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
