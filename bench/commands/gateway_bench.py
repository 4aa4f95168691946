"""slosbench gateway-bench: what a proxy adds to each request, the same mock backend asked directly and through it.

slosbench gateway-bench
slosbench gateway-bench --against vllm-router,litellm --json result.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slosgate.bench import results
from slosgate.bench.errors import positive
from slosgate.bench.gateway_bench import measure
from slosgate.bench.results import Row
from slosgate.bench.show import plain_table

COLUMNS = {
    "requests_per_s": "req\n/s",
    "mean_ms": "mean\nms",
    "ratio_to_one": "x one",
    "p50_ms": "p50\nms",
    "p95_ms": "p95\nms",
    "added_p50_ms": "added\np50",
    "added_p95_ms": "added\np95",
    "added_p99_ms": "added\np99",
    "tokens_per_s": "tokens\n/s",
    "tokens_lost": "lost",
    "cpu_us_per_request": "CPU us\n/request",
    "cpu_us_per_token": "CPU us\n/token",
    "failed": "fail-\ned",
}
LONG = 100_000  # from here on a number is shown in thousands or millions
MODES = {
    "plain": "Plain requests, to the whole answer",
    "stream": "Streams, to their first byte",
    "announced": "Announcements: from a request's first byte at the engine until the plug-in has heard of it",
    "ratio": "slosgate's values over the other's",
    "decision, 1 replicas": "Decisions among one replica, from the parsed request to its place",
}


def gateway_bench(
    against: Annotated[
        list[str] | None, typer.Option(help="Other proxies to measure: vllm-router, litellm; with commas between.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each part without streams lasts.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Requests per second for the added latency.")] = 50.0,
    concurrency: Annotated[
        int, typer.Option(help="Clients that each wait for their answer, for requests per second.")
    ] = 32,
    streams: Annotated[int, typer.Option(help="Streams at once.")] = 256,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Measure what slosgate, and other proxies beside it, add to a request and cost per streamed token."""
    results.check(json)
    workload = measure.Workload(
        against=tuple(name for names in against or () for name in names.split(",")),
        rate_rps=positive("--rate", rate),
        seconds=positive("--seconds", seconds),
        concurrency=int(positive("--concurrency", concurrency)),
        streams=int(positive("--streams", streams)),
    )
    result = results.begin("gateway-bench", dataclasses.asdict(workload), seed=0, hardware="this machine")
    result.rows += measure.run(workload)
    console = Console()
    for mode in dict.fromkeys(str(row["mode"]) for row in result.rows if "why" not in row):
        some = [row for row in result.rows if row["mode"] == mode]
        console.print(table(some, MODES.get(mode, mode.capitalize())), "")
    for row in result.rows:
        if "why" in row:
            console.print(f"{row['target']} was not measured: {row['why']}", markup=False, highlight=False)
    results.keep(result, console, json)


def table(rows: Sequence[Row], title: str) -> Table:
    """Rows of one mode, and the columns that they fill; it fits 80 columns."""
    filled = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    shown = plain_table(("target", *(COLUMNS[name] for name in filled)), texts=1, title=title)
    shown.title_justify = "left"
    shown.columns[0].no_wrap = True  # without its name a row says nothing
    for row in rows:
        shown.add_row(str(row["target"]), *(_cell(name, row.get(name)) for name in filled))
    return shown


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    assert isinstance(value, int | float)
    if name == "tokens_lost":
        return f"{value:.1%}" if value > -1 else "none"
    if abs(value) >= LONG:
        size, unit = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
        return f"{value / size:,.0f}{unit}"
    return f"{value:,.2f}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"
