"""Rivals: slosgate beside SLO-aware systems, like with like, on one GPU and on four.

For each scenario the capacity of the best rival is searched with every setting that there is to tune, first without
speculation, then with it, and slosgate's in the same way. On four GPUs the best one-GPU setting stands behind round
robin, least work among the feasible, and PolyServe's tiers. Every rate is measured with three loads that differ: on the
scenario's slice of the trace and on the two that follow it.

Capacity doesn't show what a promise is worth. So both are also served 1.5 times the higher of the two capacities: how
many attain, how many knew within 100 ms of their arrival that they would and did (rivals promise nothing), and what is
attained where requests are worth 1, 5 or 25 and the system is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from slosgate.bench import counts, results, scenarios, sweeps, tuning
from slosgate.bench.attainment import wilson
from slosgate.bench.capacity import STRIDE
from slosgate.bench.load import dropped_said
from slosgate.bench.questions import Question
from slosgate.bench.reproduce.searches import SCENARIOS, geometric_mean
from slosgate.bench.results import Result, Row
from slosgate.bench.show import generated_said, plain_table
from slosgate.bench.sweeps import Best
from slosgate.bench.workers import Workers

TARGET = 0.9
FLEET = 4  # GPUs
SYSTEMS = {False: "slosgate-ar", True: "slosgate"}  # ours without speculation, and with it
OVERLOAD = 1.5
WEIGHTS = (1.0, 5.0, 25.0)
START_RPS = 1.0  # where the first search of a scenario begins
DEFER_BELOW = 0.5  # of a routed rival, where the best on one GPU defers no decodes

Say = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario with speculation or without it."""

    scenario: str
    speculates: bool

    def question(self, system: str, gpus: int) -> Question:
        return Question(self.scenario, system, scenarios.load(self.scenario).hardware, replicas=gpus, other_slices=True)

    def rival(self, name: str) -> str:
        return name + tuning.SPECULATING if self.speculates else name


def run(console: Console, seed: int) -> Result:
    return compare(console, seed, SCENARIOS)


def compare(console: Console, seed: int, names: Sequence[str]) -> Result:
    """The comparison on these scenarios."""
    cases = [Case(name, speculates) for name, speculates in product(names, SYSTEMS)]
    config = {"attainment": TARGET, "overload": OVERLOAD, "weights": WEIGHTS, "rivals": tuning.RIVALS}
    hardware = ", ".join(dict.fromkeys(scenarios.load(name).hardware for name in names))
    result = results.begin("reproduce rivals", config, seed=seed, hardware=hardware)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns, console=console, transient=True) as progress,
        Workers() as workers,
        ThreadPoolExecutor(workers.searches) as threads,
    ):
        task = progress.add_task("comparing", total=2 * len(cases))

        def say(row: Row) -> None:
            progress.advance(task)
            console.print(_said(row), style="dim")

        result.rows = list(chain.from_iterable(threads.map(lambda case: _on_one_and_four(case, workers, say), cases)))
    console.print(table(result.rows))
    result.config |= {"geometric_mean_gains": _means(result.rows)}
    for where, mean in result.config["geometric_mean_gains"].items():
        console.print(f"{where}: {mean:.3f} x the best rival of each scenario, geometric mean")
    return result


def _on_one_and_four(case: Case, workers: Workers, say: Say) -> list[Row]:
    asked = [case.question(case.rival(name), 1) for name in tuning.RIVALS]
    one = sweeps.best_of(asked, TARGET, workers, START_RPS, STRIDE)
    rows = [_compared(case, one, workers)]
    say(rows[-1])
    near_rps = one.per_gpu_rps or START_RPS
    four = sweeps.best_of(_routed(case, one.question), TARGET, workers, near_rps, sweeps.NEAR)
    rows.append(_compared(case, four, workers))
    say(rows[-1])
    return rows


def _routed(case: Case, tuned: Question) -> list[Question]:
    """The best setting on one GPU behind each router."""
    fleet = replace(tuned, replicas=FLEET)
    deferring = replace(tuned.tuning, defer_below=tuned.tuning.defer_below or DEFER_BELOW)
    edf = replace(fleet, tuning=deferring)
    return [fleet, *(replace(edf, system=case.rival(name)) for name in tuning.ROUTED_RIVALS)]


def _compared(case: Case, rival: Best, workers: Workers) -> Row:
    """Our capacity beside the best rival's, and both above it."""
    gpus = rival.question.replicas
    asked = case.question(SYSTEMS[case.speculates], gpus)
    ours = sweeps.best_of([asked], TARGET, workers, rival.per_gpu_rps or START_RPS, sweeps.NEAR)
    over_rps = round(OVERLOAD * max(rival.per_gpu_rps, ours.per_gpu_rps) * gpus, 4)
    return {
        "scenario": case.scenario,
        "hardware": asked.hardware,
        "gpus": gpus,
        "speculates": case.speculates,
        "attainment_target": TARGET,
        **_of("rival", rival),
        **asdict(rival.question.tuning),
        **_of("slosgate", ours),
        "gain": round(ours.per_gpu_rps / rival.per_gpu_rps, 4) if rival.per_gpu_rps else None,
        "overload": {
            "times_capacity": OVERLOAD,
            "rate_rps": over_rps,
            "rival": _above(rival.question, over_rps, workers),
            "slosgate": _above(ours.question, over_rps, workers),
        },
        **counts.source_of(asked),
    }


def _of(whose: str, best: Best) -> Row:
    count = best.capacity.count
    low, high = wilson(count.attained, count.offered)
    return {
        whose: best.question.system,
        f"{whose}_rps_per_gpu": round(best.per_gpu_rps, 4),
        f"{whose}_attainment": round(count.attainment, 5),
        f"{whose}_ci_low": round(low, 5),
        f"{whose}_ci_high": round(high, 5),
    }


def _above(question: Question, rate_rps: float, workers: Workers) -> Row:
    """What becomes of requests above capacity, over all loads."""
    seeds = range(question.seeds)
    told = [workers.submit(counts.fates, question, rate_rps, seed) for seed in seeds]
    worth = [workers.submit(counts.value, question, rate_rps, seed, WEIGHTS) for seed in seeds]
    fates, value = _sum(told), _sum(worth)
    return {
        "attained_share": round(fates["attained"] / fates["offered"], 4),
        "promised_share": round(fates["promised"] / fates["offered"], 4),
        "promised_goodput_share": round(fates["promised_and_kept"] / fates["offered"], 4),
        "kept_share": round(fates["guarantees_kept"] / fates["guaranteed"], 4) if fates["guaranteed"] else None,
        "value_share": round(value["attained_value"] / value["offered_value"], 4),
    }


def _sum(runs: Sequence[Future[Any]]) -> dict[str, float]:
    rows = [run.result() for run in runs]
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def _means(rows: Sequence[Row]) -> dict[str, float]:
    """The geometric mean of the gains, by GPUs and speculation."""
    kinds = dict.fromkeys((row["gpus"], row["speculates"]) for row in rows)
    return {
        f"{gpus} GPU{'s' if gpus > 1 else ''}, {'speculating' if speculates else 'without speculation'}": round(
            geometric_mean(
                [row["gain"] or 0.0 for row in rows if (row["gpus"], row["speculates"]) == (gpus, speculates)]
            ),
            4,
        )
        for gpus, speculates in kinds
    }


def _said(row: Row) -> str:
    return (
        f"{row['scenario']} on {row['gpus']}: {row['rival']} {row['rival_rps_per_gpu']:.3g} req/s per GPU, "
        f"{row['slosgate']} {row['slosgate_rps_per_gpu']:.3g}"
    )


def table(rows: Sequence[Row]) -> Table:
    """The comparisons, for people."""
    heads = "scenario", "GPUs", "best rival", "req/s\n/GPU", "slos-\ngate", "gain", "attained", "prom-\nised", "value"
    caption = (
        f"at {OVERLOAD} x capacity: attained by the rival and by slosgate, promised within 100 ms and kept, value "
        "attained by both"
    )
    said = ". ".join(filter(None, (caption, dropped_said(rows), generated_said(rows))))
    shown = plain_table(heads, texts=len(heads), caption=said)
    for row in rows:
        theirs, ours = row["overload"]["rival"], row["overload"]["slosgate"]
        shown.add_row(
            row["scenario"],
            str(row["gpus"]),
            row["rival"],
            f"{row['rival_rps_per_gpu']:.3g}",
            f"{row['slosgate_rps_per_gpu']:.3g}",
            "–" if row["gain"] is None else f"{row['gain']:.2f}",
            f"{theirs['attained_share']:.0%}/{ours['attained_share']:.0%}",
            f"{ours['promised_goodput_share']:.0%}",
            f"{theirs['value_share']:.0%}/{ours['value_share']:.0%}",
        )
    return shown
