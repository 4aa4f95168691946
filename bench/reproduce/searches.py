"""What the reproductions built on capacity searches share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Console

from slosgate.bench import counts, results, scenarios, sweeps
from slosgate.bench.questions import Question
from slosgate.bench.results import Result, Row
from slosgate.bench.show import capacity_table, searching
from slosgate.bench.workers import Workers

SCENARIOS = ("chatbot", "coder", "summarizer", "mixed", "tool-calling", "reasoning")


def questions(
    scenario_names: Sequence[str],
    systems: Sequence[str],
    replicas: Sequence[int] = (1,),
    settle: Callable[[Question], Question] = lambda question: question,
) -> list[Question]:
    """Every combination, each scenario on its own hardware; `settle` may fix what would be tuned."""
    return [
        settle(Question(scenario=name, system=system, hardware=scenarios.load(name).hardware, replicas=n))
        for name in scenario_names
        for system in systems
        for n in replicas
    ]


def searched(
    name: str,
    asked: Sequence[Question],
    target: float,
    console: Console,
    seed: int,
    system_name: Callable[[Question], str] = lambda question: question.system,
    like: Callable[[Question], Question] = lambda question: question,
) -> Result:
    """The capacities as rows of a result, shown on the console; `system_name` tells apart one system's settings.

    `like` says whose capacity per GPU another question's may be near: that one is searched before, and its answer is
    where the other search begins.
    """
    hardware = ", ".join(dict.fromkeys(q.hardware for q in asked))
    result = results.begin(f"reproduce {name}", {"attainment": target}, seed=seed, hardware=hardware)
    first = [q for q in asked if like(q) == q]
    with Workers() as workers, searching(console, len(asked)) as on_done:
        found = dict(zip(first, sweeps.capacities(first, target, workers, on_done), strict=True))
        rest = {q: found[like(q)].per_gpu_rps for q in asked if q not in found}
        found |= zip(rest, sweeps.capacities([*rest], target, workers, on_done, rest), strict=True)
    result.rows = [found[q].row(target) | {"system": system_name(q)} for q in asked]
    console.print(capacity_table(result.rows))
    return result


def fates(asked: Sequence[tuple[Question, float]]) -> list[Row]:
    """What becomes of guarantees and of best effort, for questions with rates in requests per second."""
    with Workers() as workers:
        futures = [workers.submit(counts.fates, question, round(rate_rps, 4), 0) for question, rate_rps in asked]
        return [future.result() for future in futures]


def capacity(rows: Sequence[Row], **wanted: object) -> float:
    """The capacity in the one row that has these values."""
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return float(found[0]["capacity_rps_per_gpu"])


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values; 0 when one of them is 0 or there is none."""
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
