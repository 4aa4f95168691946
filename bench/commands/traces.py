"""slosbench traces list | fetch NAME [--from DIR] | stats NAME | stats --scenario S"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from slosgate.bench import results, scenarios
from slosgate.bench.errors import InputError
from slosgate.bench.scenarios import bad_traces_are_bad_input
from slosgate.traces import draw, fetch, fit, manifest, sources
from slosgate.traces.formats.base import Dataset
from slosgate.traces.records import Provenance
from slosgate.traces.sources import Places
from slosgate.traces.stats import Arrivals, TraceStats, cdf_line, describe, sparkline
from slosgate.traces.windows import Slice

LARGE_MEGABYTES = 100.0
FIRST_HOUR_S = 3600.0  # of large traces no more is described unless --end asks for it
CHECK_SEEDS = range(20)
CURVE = 50  # columns: with its numbers it is not broken in a terminal of 80

app = typer.Typer(no_args_is_help=True, help="Public traces: what there is, getting them, what they look like.")


@app.command("list")
def list_traces() -> None:
    """List the public traces that are known, and where each would come from now."""
    with bad_traces_are_bad_input():
        places = Places.from_env()
    table = Table("trace", "what", "now", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for known in manifest.DATASETS.values():
        table.add_row(known.name, f"{known.title} ({known.format.licence})", _whereabouts(known, places))
    Console().print(table)


@app.command("fetch")
def fetch_trace(
    name: Annotated[str, typer.Argument(help="A trace of `slosbench traces list`.")],
    folder: Annotated[Path | None, typer.Option("--from", help="Take it from this folder, without a network.")] = None,
    url: Annotated[str, typer.Option(help="Download from this address (a mirror) instead of the publisher's.")] = "",
) -> None:
    """Put a trace into the cache: whole and with the right checksum, or not at all."""
    with bad_traces_are_bad_input():
        known, places = manifest.dataset(name), Places.from_env()
        if folder is not None:
            path = fetch.adopt(known, folder, places.cache)
        else:
            with _progress_bar(name) as progress:
                path = fetch.download(known, places.cache, progress=progress, url=url)
    typer.echo(f"{path}")
    typer.echo(f"licence: {known.format.licence}; please cite {known.format.citation}")


@app.command("stats")
def stats(
    name: Annotated[str | None, typer.Argument(help="A known trace, or a CSV or JSON lines file of your own.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Describe the classes of a scenario instead.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures and curves as JSON.")] = None,
    out: Annotated[Path | None, typer.Option(help="Draw arrivals and length CDFs into this picture.")] = None,
    start: Annotated[float, typer.Option(help="Only requests from this second on.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Only requests before this second.")] = None,
    seed: Annotated[int, typer.Option(help="For what is drawn at random.")] = 0,
    generated: Annotated[bool, typer.Option("--generated", help="Describe what the fitted generator makes.")] = False,
) -> None:
    """Print lengths and burstiness, and draw arrivals and length CDFs."""
    if (name is None) == (scenario is None):
        raise InputError("give either a trace or --scenario, not both and not neither")
    with bad_traces_are_bad_input():
        if scenario is not None:
            parts = _scenario_parts(scenario, seed, generated=generated)
        else:
            parts = [_trace_part(str(name), start, end, seed, generated=generated)]
        checked = _fit_check(str(name)) if generated and name is not None else []
        if out is not None:
            draw.figure(scenario or str(name), {part.name: part.stats for part in parts}, out)
    console = Console(soft_wrap=True)  # a curve must not be broken
    for part in parts:
        _print(part, console)
    _print_check(checked, console)
    if json is not None:
        config = {"name": name, "scenario": scenario, "start": start, "end": end, "generated": generated}
        result = results.begin("traces stats", config, seed=seed, hardware="")
        result.rows = [part.row() for part in parts] + checked
        results.keep(result, console, json)


@dataclass(frozen=True)
class _Part:
    """A trace, or one class of a scenario."""

    name: str
    stats: TraceStats
    provenance: tuple[Provenance, ...]
    dropped: int = 0

    @property
    def source(self) -> str:
        return " + ".join(dict.fromkeys(p.source for p in self.provenance))

    def row(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"part": self.name, "trace_source": self.source, "dropped": self.dropped}
        origins = [msgspec.to_builtins(p) for p in self.provenance]
        shown |= msgspec.to_builtins(self.stats)
        return shown | {"provenance": origins}


def _trace_part(name: str, start_s: float, end_s: float | None, seed: int, *, generated: bool) -> _Part:
    large = name in manifest.DATASETS and manifest.DATASETS[name].megabytes > LARGE_MEGABYTES
    if end_s is None:
        end_s = start_s + FIRST_HOUR_S if large else math.inf
    if not 0 <= start_s < end_s:
        raise InputError(f"--start must be at least 0 and below --end, not {start_s:g} and {end_s:g}")
    trace = sources.load(name, Places.from_env(), seed=seed, part=Slice(start_s, end_s), generated=generated)
    last_s = trace.requests[-1].arrival_s
    span_s = None if last_s == 0 else last_s if math.isinf(end_s) else end_s - start_s
    return _Part(name, describe(trace.requests, span_s), (trace.provenance,))


def _scenario_parts(name: str, seed: int, *, generated: bool) -> list[_Part]:
    scenario = scenarios.load(name)
    parts = []
    for class_name, kind in scenario.classes.items():
        pool = scenarios.pool(class_name, kind, seed, kind.window, Places.from_env(), generated=generated)
        described = describe(pool.requests, pool.span_s, lengths_of=pool.lengths)
        parts.append(_Part(class_name, described, pool.provenance, pool.dropped))
    return parts


def _fit_check(name: str) -> list[dict[str, Any]]:
    """The real trace's figures beside the mean of what the generator makes; empty for lengths without arrivals."""
    generator = manifest.dataset(name).generator
    fitted = fit.load(generator)
    if fitted.real is None:
        return []
    drawn = fit.check(fitted, CHECK_SEEDS)
    rows = []
    for figure in ("rate_rps", "iat_cv", "peak_1s", "peak_10s", "idc_10s", "empty_seconds"):
        real, made = getattr(fitted.real, figure), float(np.mean([getattr(one, figure) for one in drawn]))
        rows.append({"figure": figure, "real": real, "generated": made, "ratio": made / real, "seeds": len(drawn)})
    return rows


def _print(part: _Part, console: Console) -> None:
    described = part.stats
    console.print(f"\n[bold]{part.name}[/bold]: {described.requests:,} requests, source {part.source}")
    for origin in part.provenance:
        console.print(f"  {origin.name}: {origin.detail}", highlight=False)
        if origin.left_out:
            console.print(f"  {origin.left_out}", highlight=False)
    if part.dropped:
        console.print(f"  {part.dropped:,} requests outgrow the window and are left out")
    if described.stages_per_request > 1:
        console.print(f"  {described.stages_per_request:.2f} stages per request")
    table = Table("tokens", "calls", "mean", "std", "p50", "p90", "p99", "max", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for lengths in described.lengths:
        s = lengths.summary
        figures = (f"{s.mean:.1f}", *(f"{value:.0f}" for value in (s.std, s.p50, s.p90, s.p99, s.max)))
        table.add_row(lengths.name, f"{lengths.count:,}", *figures)
    console.print(table)
    console.print("  CDFs over tokens, logarithmic:")
    for lengths in described.lengths:
        line, low, high = cdf_line(lengths, width=CURVE)
        console.print(f"{lengths.name:>10} {low:7.0f} |{line}| {high:.0f}", highlight=False)
    if described.arrivals is not None:
        _print_arrivals(described.arrivals, console)


def _print_arrivals(arrivals: Arrivals, console: Console) -> None:
    b = arrivals.burstiness
    console.print(
        f"{b.requests:,} arrivals in {b.span_s:.0f} s: {b.rate_rps:.2f}/s, CV {b.iat_cv:.2f}, "
        f"peak {b.peak_1s:.1f} x mean over 1 s and {b.peak_10s:.1f} x over 10 s, IDC(10 s) {b.idc_10s:.1f}, "
        f"{b.empty_seconds:.0%} of seconds empty",
        highlight=False,
    )
    line, top = sparkline(arrivals.counts), max(arrivals.counts) / arrivals.step_s
    console.print(f"{'arrivals':>10} |{line}|", highlight=False)
    console.print(f"{'':>10}  0 to {b.span_s:.0f} s, top {top:.1f}/s", highlight=False)


def _print_check(rows: list[dict[str, Any]], console: Console) -> None:
    if not rows:
        return
    table = Table("arrivals", "real", "generated", "ratio", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["figure"], f"{row['real']:.2f}", f"{row['generated']:.2f}", f"{row['ratio']:.2f}")
    console.print(f"\nThe fit's check, mean over {rows[0]['seeds']} seeds:")
    console.print(table)


def _whereabouts(known: Dataset, places: Places) -> str:
    if (here := places.locate(known)) is not None:
        return here[1]
    if known.automatic and not places.offline:
        return "fetched when needed"
    fallback = ", else generated" if known.generator else ""
    return (f"to be fetched ({known.megabytes:g} MB)" if known.url else "--from only") + fallback


@contextmanager
def _progress_bar(name: str) -> Iterator[fetch.Progress]:
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
