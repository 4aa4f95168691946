"""What capacity searches show on a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from slosgate.bench.load import GENERATED, dropped_said, is_generated
from slosgate.bench.results import Row
from slosgate.bench.sweeps import Searched


def plain_table(heads: Sequence[str], *, texts: int = 0, title: str | None = None, caption: str | None = None) -> Table:
    """A table that fits a console: `texts` columns of words, which are folded where they must be, then numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False, title=title, caption=caption)
    for n, head in enumerate(heads):
        if n < texts:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    return table


@contextmanager
def searching(console: Console, total: int) -> Iterator[Callable[[Searched], None]]:
    """A progress bar over searches; yields what to call when one is done."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("searching", total=total)

        def on_done(found: Searched) -> None:
            rate = found.capacity.rate_rps / found.question.replicas
            progress.update(task, advance=1, description=f"{found.question.scenario} {found.question.system}")
            console.print(
                f"{found.question.hardware} {found.question.scenario} {found.question.system}: "
                f"{rate:.3g} req/s per GPU",
                style="dim",
            )

        yield on_done


def generated_said(rows: Sequence[Row]) -> str | None:
    """A word of warning where a generator stood in for a trace in any row."""
    return GENERATED if any(is_generated(row.get("trace_source", "")) for row in rows) else None


def by_place(rows: Sequence[Row], table: Callable[[Sequence[Row]], Table]) -> Group:
    """A table for each hardware and attainment target, so that what all its rows share takes no column."""
    places: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        places.setdefault((row["hardware"], row["attainment_target"]), []).append(row)
    tables = []
    for (hardware, target), some in places.items():
        tables.append(table(some))
        tables[-1].title, tables[-1].title_justify = f"{hardware}, {target:.0%} attained", "left"
    if tables:
        tables[-1].caption = "\n".join(filter(None, (dropped_said(rows), generated_said(rows)))) or None
    return Group(*tables)


def capacity_table(rows: Sequence[Row]) -> Group:
    """Capacities, for people; they fit 80 columns."""
    return by_place(rows, _capacities)


def _capacities(rows: Sequence[Row]) -> Table:
    shown = plain_table(("scenario", "system", "GPUs", "req/s\n/GPU", "attained", "95 % CI", "bound", "share"), texts=2)
    for r in rows:
        share = r["share_of_bound"]
        shown.add_row(
            r["scenario"],
            r["system"],
            str(r["gpus"]),
            f"{r['capacity_rps_per_gpu']:.3g}",
            f"{r['attainment']:.1%}",
            f"{r['ci_low'] * 100:.1f}-{r['ci_high'] * 100:.1f}",
            f"{r['bound_rps_per_gpu']:.3g}",
            "–" if share is None else f"{share:.0%}",
        )
    return shown
