"""Routing: one scheduler behind each router, on 4 and 16 replicas, and on replicas of two speeds.

For each scenario the capacity of slosgate without speculation is searched behind every router of `planner.routing`: all
else is the same, promises and plans too. Beside it stands the best rival over several replicas, EDF behind least work
among the feasible, with its best setting on one GPU. On 4 replicas every rate is measured with three loads that differ,
the scenario's slice of the trace and the two that follow; on 16 with one of as many slices as keep them busy for a
minute or two.

Every run is kept: a command that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from slosgate.bench import counts, results, scenarios, sweeps
from slosgate.bench.attainment import wilson
from slosgate.bench.capacity import STRIDE
from slosgate.bench.questions import Question
from slosgate.bench.reproduce.searches import geometric_mean
from slosgate.bench.results import Result, Row
from slosgate.bench.show import generated_said, plain_table
from slosgate.bench.sweeps import Best
from slosgate.bench.workers import Workers
from slosgate.planner.desk import SHIPPED
from slosgate.planner.routing import ROUTERS

TARGET = 0.9
FLEETS = (4, 16)
# With the slices in one load of 16 replicas: those last for most of a minute, or more, at their capacity.
SCENARIOS = {"coder": 4, "chatbot": 2, "mixed": 1, "tool-calling": 1}
SEEDS = 2  # loads of few replicas
TWO_SPEEDS = ("coder", "chatbot")  # also on replicas of which every second one is
FAST = "h200-opt-13b"
RIVAL = "edf-least-work"
DEFER_BELOW = 0.5  # where the rival's best on one GPU defers no decodes
OURS = "slosgate-ar-"  # and a router's name


@dataclass(frozen=True, slots=True)
class Place:
    """A scenario on a fleet."""

    scenario: str
    replicas: int
    beside: str = ""

    @property
    def hardware(self) -> str:
        return scenarios.load(self.scenario).hardware

    def question(self, system: str) -> Question:
        asked = Question(self.scenario, system, self.hardware, replicas=self.replicas, beside=self.beside)
        if self.replicas == min(FLEETS):
            return replace(asked, other_slices=True, seeds=SEEDS)
        return replace(asked, slices=SCENARIOS[self.scenario], seeds=1)


def run(console: Console, seed: int) -> Result:
    return compare(console, seed, [*places()])


def places() -> Iterator[Place]:
    """Where routers are compared, what takes longest first."""
    for replicas in sorted(FLEETS, reverse=True):
        for name in SCENARIOS:
            yield Place(name, replicas)
        for name in TWO_SPEEDS:
            yield Place(name, replicas, FAST)


def compare(console: Console, seed: int, where: Sequence[Place]) -> Result:
    """The comparison in these places."""
    config = {"attainment": TARGET, "routers": [*ROUTERS], "default": SHIPPED.router, "rival": RIVAL}
    hardware = ", ".join(dict.fromkeys(place.hardware for place in where))
    result = results.begin("reproduce routing", config, seed=seed, hardware=hardware)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns, console=console, transient=True) as progress,
        Workers() as workers,
        ThreadPoolExecutor(workers.searches) as threads,
    ):
        task = progress.add_task("comparing", total=len(where) * (len(ROUTERS) + 1))

        def answer(asked: tuple[Place, str]) -> Row:
            row = _measured(*asked, workers)
            progress.advance(task)
            console.print(_said(row), style="dim")
            return row

        each = [(place, system) for place in where for system in (RIVAL, *(OURS + name for name in ROUTERS))]
        result.rows = list(threads.map(answer, each))
    console.print(table(result.rows))
    result.config |= {"geometric_means": _means(result.rows)}
    for name, mean in result.config["geometric_means"].items():
        console.print(f"{name}: {mean:.3f} x the default router, geometric mean")
    return result


def _measured(place: Place, system: str, workers: Workers) -> Row:
    """The capacity of one system in one place."""
    tuned = _tuned(place, workers)
    asked = place.question(system)
    if system == RIVAL:
        asked = replace(asked, tuning=replace(tuned.question.tuning, defer_below=_deferring(tuned)))
    near_rps = (tuned.per_gpu_rps or 1.0) * (2.0 if place.beside else 1.0)
    found = sweeps.best_of([asked], TARGET, workers, near_rps, sweeps.NEAR)
    count, question = found.capacity.count, found.question
    low, high = wilson(count.attained, count.offered)
    return {
        "scenario": place.scenario,
        "system": system,
        "router": "rival" if system == RIVAL else system.removeprefix(OURS),
        "hardware": f"{place.hardware} and {place.beside}" if place.beside else place.hardware,
        "replicas": place.replicas,
        "gpus": question.replicas,
        "attainment_target": TARGET,
        "capacity_rps_per_gpu": round(found.per_gpu_rps, 4),
        "attainment": round(count.attainment, 5),
        "ci_low": round(low, 5),
        "ci_high": round(high, 5),
        **asdict(question.tuning),
        "requests": count.offered,
        "trace_source": counts.source_of(asked),
    }


def _tuned(place: Place, workers: Workers) -> Best:
    """The rival at its best setting on one GPU."""
    alone = Question(place.scenario, "edf", place.hardware, other_slices=True)
    return sweeps.best_of([alone], TARGET, workers, 1.0, STRIDE)


def _deferring(tuned: Best) -> float:
    return tuned.question.tuning.defer_below or DEFER_BELOW


def _of_place(row: Row) -> tuple[str, str, int]:
    return row["scenario"], row["hardware"], row["replicas"]


def _relative(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Rows with their capacity over the default router's in the same place."""
    default = {_of_place(row): row["capacity_rps_per_gpu"] for row in rows if row["router"] == SHIPPED.router}
    for row in rows:
        least = default[_of_place(row)]
        yield row, row["capacity_rps_per_gpu"] / least if least else 0.0


def _means(rows: Sequence[Row]) -> dict[str, float]:
    """The geometric mean of each router's capacity over the default's."""
    shares: dict[str, list[float]] = {}
    for row, share in _relative(rows):
        shares.setdefault(row["router"], []).append(share)
    return {name: round(geometric_mean(some), 4) for name, some in shares.items()}


def _said(row: Row) -> str:
    return (
        f"{row['scenario']} on {row['replicas']} of {row['hardware']}: {row['system']} "
        f"{row['capacity_rps_per_gpu']:.3g} req/s per GPU"
    )


def table(rows: Sequence[Row]) -> Table:
    """Capacities per GPU, a line for each place and a column for each router, for people."""
    names = [*dict.fromkeys(row["router"] for row in rows)]
    heads = "scenario", "replicas", *(name.replace("-", "-\n").replace("ys", "y-\ns") for name in names)
    said = [
        f"requests per second and GPU at {TARGET:.0%} attained; the default is {SHIPPED.router}, rival is {RIVAL}, "
        f"as many + as many is with {FAST}"
    ]
    said += filter(None, [generated_said(rows)])
    shown = plain_table(heads, texts=2, caption=". ".join(said))
    for place in dict.fromkeys(map(_of_place, rows)):
        found = {row["router"]: row["capacity_rps_per_gpu"] for row in rows if _of_place(row) == place}
        half = place[2] // 2
        replicas = f"{place[2] - half}+{half}" if " and " in place[1] else str(place[2])
        shown.add_row(place[0], replicas, *(f"{found[name]:.3g}" for name in names))
    return shown
