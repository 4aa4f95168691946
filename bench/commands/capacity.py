"""slosbench capacity: the highest rate at which a system keeps enough requests within their SLOs.

slosbench capacity --scenario coder --system vllm --hardware a100-opt-13b
slosbench capacity --scenario coder,chatbot --system vllm,sarathi,slosgate --attainment 0.99 --json capacity.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slosgate.bench import results, scenarios, sweeps, tuning
from slosgate.bench.errors import InputError, choose, positive
from slosgate.bench.show import capacity_table, searching
from slosgate.engines import profiles


def capacity(
    scenario: Annotated[str, typer.Option(help="Scenarios, separated by commas.")],
    system: Annotated[str, typer.Option(help="Systems, separated by commas.")],
    replicas: Annotated[int, typer.Option(help="Replicas.")] = 1,
    hardware: Annotated[str, typer.Option(help="Hardware profile; by default each scenario's own.")] = "",
    attainment: Annotated[float, typer.Option(help="Share of requests that must keep their SLOs.")] = 0.9,
    seeds: Annotated[
        int, typer.Option(help="Loads that each rate is measured with, where they differ.")
    ] = sweeps.SEEDS,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Search the highest request rate per GPU at which a system keeps enough requests within their SLOs."""
    if not 0 < attainment < 1:
        raise InputError(f"--attainment must be between 0 and 1, not {attainment:g}")
    if hardware:
        choose("hardware", hardware, profiles.names())
    questions = [
        sweeps.Question(
            scenario=loaded.name,
            system=tuning.check(one_system),
            hardware=hardware or loaded.hardware,
            replicas=int(positive("--replicas", replicas)),
            seeds=int(positive("--seeds", seeds)),
        )
        for loaded in map(scenarios.load, scenario.split(","))
        for one_system in system.split(",")
    ]
    console = Console()
    config = {
        "scenario": scenario, "system": system, "replicas": replicas, "hardware": hardware, "attainment": attainment,
        "seeds": seeds,
    }  # fmt: skip
    result = results.begin("capacity", config, seed=0, hardware=", ".join(dict.fromkeys(q.hardware for q in questions)))
    with sweeps.Workers() as workers, searching(console, len(questions)) as on_done:
        answers = sweeps.capacities(questions, attainment, workers, on_done)
    result.rows = [answer.row(attainment) for answer in answers]
    console.print(capacity_table(result.rows))
    if json:
        results.write(result, json)
        console.print(f"wrote {json}")
