"""What capacity searches show on a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from slosgate.bench.results import Row
from slosgate.bench.sweeps import Searched


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


def capacity_table(rows: Sequence[Row]) -> Table:
    """Capacities, for people."""
    shown = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for head in ("scenario", "system", "hardware"):
        shown.add_column(head, no_wrap=True)
    for head in ("GPUs", "req/s/GPU", "attained", "95 % CI", "bound", "share"):
        shown.add_column(head, justify="right", no_wrap=True)
    for r in rows:
        share = r["share_of_bound"]
        shown.add_row(
            r["scenario"],
            r["system"],
            r["hardware"],
            str(r["gpus"]),
            f"{r['capacity_rps_per_gpu']:.3g}",
            f"{r['attainment']:.1%}",
            f"{r['ci_low'] * 100:.1f}-{r['ci_high'] * 100:.1f}",
            f"{r['bound_rps_per_gpu']:.3g}",
            "–" if share is None else f"{share:.0%}",
        )
    return shown
