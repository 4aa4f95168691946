"""What commands print fits a terminal of 80 columns, with the longest names there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from slosgate.bench import running, show
from slosgate.bench.commands import plan_bench
from slosgate.bench.reproduce import harm, rivals

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


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (running.table, rows_of("burst")),
        (show.capacity_table, rows_of("headline")),
        (harm.table, rows_of("harm")),
        (rivals.table, RIVALS),
        (plan_bench.plan_table, rows_of("overhead")),
    ],
    ids=["run", "capacity", "harm", "rivals", "plan-bench"],
)
def test_nothing_is_cut_in_80_columns(
    table: Callable[[Sequence[dict[str, Any]]], RenderableType], rows: list[dict[str, Any]]
) -> None:
    out = StringIO()
    Console(file=out, width=80).print(table(rows))
    said = out.getvalue()
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80


def test_capacities_on_generated_traces_say_so() -> None:
    rows = rows_of("headline")[:3]
    out = StringIO()
    Console(file=out, width=80).print(show.capacity_table([*rows[:2], rows[2] | {"trace_source": "x (generated)"}]))
    assert "GENERATED TRACE" in out.getvalue()
    out = StringIO()
    Console(file=out, width=80).print(show.capacity_table(rows))
    assert "GENERATED" not in out.getvalue()
