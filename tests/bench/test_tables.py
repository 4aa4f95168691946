"""What commands print fits a terminal of 80 columns, with the longest names there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from slosgate.bench import running, show
from slosgate.bench.cli import app
from slosgate.bench.commands import gateway_bench, plan_bench
from slosgate.bench.reproduce import autoscaling, harm, rivals, routing
from slosgate.planner.routing import ROUTERS

RESULTS = Path(__file__).parents[2] / "bench" / "results"
LONG = {"scenario": "tool-calling", "system": "slosgate-no-promotion", "baseline": "distserve+sd"}
ABOVE = {"attained_share": 1.0, "promised_goodput_share": 1.0, "value_share": 1.0}
RIVALS = [
    {
        "scenario": "tool-calling", "gpus": 4, "rival": "edf-least-work+sd", "rival_rps_per_gpu": 0.0123, "gain": 10.25,
        "slosgate_rps_per_gpu": 0.0123, "overload": {"rival": ABOVE, "slosgate": ABOVE},
    }
]  # fmt: skip


def rows_of(result: str) -> list[dict[str, Any]]:
    rows = json.loads((RESULTS / f"{result}.json").read_bytes())["rows"]
    return [{**row, **{key: name for key, name in LONG.items() if key in row}} for row in rows]


ROUTED = [
    {
        "scenario": "tool-calling", "router": router, "hardware": "h200-opt-13b and a100-opt-13b", "replicas": 16,
        "capacity_rps_per_gpu": 0.01234, "trace_source": "x (generated)",
    }
    for router in (*ROUTERS, "rival")
]  # fmt: skip
GATEWAY = rows_of("gateway")


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (running.table, rows_of("burst")),
        (show.capacity_table, rows_of("headline")),
        (harm.table, rows_of("harm")),
        (rivals.table, RIVALS),
        (plan_bench.plan_table, rows_of("overhead")),
        (autoscaling.table, rows_of("autoscaling")),
        (routing.table, ROUTED),
    ],
    ids=["run", "capacity", "harm", "rivals", "plan-bench", "autoscaling", "routing"],
)
def test_nothing_is_cut_in_80_columns(
    table: Callable[[Sequence[dict[str, Any]]], RenderableType], rows: list[dict[str, Any]]
) -> None:
    said = printed(table(rows))
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80


def printed(what: RenderableType) -> str:
    """In a terminal of 80 columns."""
    out = StringIO()
    Console(file=out, width=80).print(what)
    return out.getvalue()


@pytest.mark.parametrize("mode", dict.fromkeys(row["mode"] for row in GATEWAY if "why" not in row))
def test_a_table_of_the_gateway_bench_shows_every_target_and_every_figure(mode: str) -> None:
    rows = [row for row in GATEWAY if row["mode"] == mode]
    said = printed(gateway_bench.table(rows, mode))
    assert "…" not in said
    for row in rows:
        assert f"{row['target']} " in said


def test_curves_of_a_trace_are_not_broken() -> None:
    done = CliRunner().invoke(app, ["traces", "stats", "azure-code-2023", "--generated"])
    curves = [line for line in done.stdout.splitlines() if "▁" in line]
    assert len(curves) == 3
    assert max(map(len, curves)) <= 80


def test_capacities_on_generated_traces_say_so() -> None:
    rows = rows_of("headline")[:3]
    out = StringIO()
    Console(file=out, width=80).print(show.capacity_table([*rows[:2], rows[2] | {"trace_source": "x (generated)"}]))
    assert "GENERATED TRACE" in out.getvalue()
    out = StringIO()
    Console(file=out, width=80).print(show.capacity_table(rows))
    assert "GENERATED" not in out.getvalue()
