"""What the reproductions built on capacity searches share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console

from bench import results, scenarios, sweeps
from bench.results import Result, Row
from bench.show import capacity_table, searching

SCENARIOS = ("chatbot", "coder", "summarizer", "mixed", "tool-calling", "reasoning")


def questions(
    scenario_names: Sequence[str], systems: Sequence[str], replicas: Sequence[int] = (1,), hardware: str = ""
) -> list[sweeps.Question]:
    """Every combination; without `hardware` each scenario runs on its own."""
    return [
        sweeps.Question(scenario=name, system=system, hardware=hardware or scenarios.load(name).hardware, replicas=n)
        for name in scenario_names
        for system in systems
        for n in replicas
    ]


def searched(name: str, asked: Sequence[sweeps.Question], target: float, console: Console, seed: int) -> Result:
    """The capacities as rows of a result, shown on the console."""
    hardware = ", ".join(dict.fromkeys(q.hardware for q in asked))
    result = results.begin(f"reproduce {name}", {"attainment": target}, seed=seed, hardware=hardware)
    with sweeps.Workers() as workers, searching(console, len(asked)) as on_done:
        answers = sweeps.capacities(asked, target, workers, on_done)
    result.rows = [answer.row(target) for answer in answers]
    console.print(capacity_table(result.rows))
    return result


def capacity(rows: Sequence[Row], **wanted: object) -> float:
    """The capacity in the one row that has these values."""
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return float(found[0]["capacity_rps_per_gpu"])


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values; 0 when one of them is 0 or there is none."""
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
