"""slosbench capacity: the highest rate at which a system keeps enough requests within their SLOs.

slosbench capacity --scenario coder --system vllm --hardware a100-opt-13b
slosbench capacity --scenario coder,chatbot --system vllm,sarathi,slosgate --attainment 0.99 --json capacity.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slosgate.bench import questions, results, scenarios, sweeps, tuning, workers
from slosgate.bench.errors import InputError, positive
from slosgate.bench.hardware import hardware_profile
from slosgate.bench.show import capacity_table, searching


def capacity(
    scenario: Annotated[str, typer.Option(help="Scenarios or .toml files, separated by commas.")],
    system: Annotated[str, typer.Option(help="Systems, separated by commas; module:Name for a policy of your own.")],
    replicas: Annotated[int, typer.Option(help="Replicas.")] = 1,
    hardware: Annotated[str, typer.Option(help="Hardware profile or .json file; by default each scenario's own.")] = "",
    attainment: Annotated[float, typer.Option(help="Share of requests that must keep their SLOs.")] = 0.9,
    seeds: Annotated[
        int, typer.Option(help="Loads that each rate is measured with, where they differ.")
    ] = questions.SEEDS,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Table of the result to write.")] = None,
) -> None:
    """Search the highest request rate per GPU at which a system keeps enough requests within their SLOs."""
    if not 0 < attainment < 1:
        raise InputError(f"--attainment must be between 0 and 1, not {attainment:g}")
    results.check(json, csv)
    if hardware:
        hardware_profile(hardware)
    asked = [
        questions.Question(
            scenario=name,
            system=tuning.check(one_system),
            hardware=hardware or scenarios.load(name).hardware,
            replicas=int(positive("--replicas", replicas)),
            seeds=int(positive("--seeds", seeds)),
        )
        for name in scenario.split(",")
        for one_system in system.split(",")
    ]
    console = Console()
    config = {
        "scenario": scenario, "system": system, "replicas": replicas, "hardware": hardware, "attainment": attainment,
        "seeds": seeds,
    }  # fmt: skip
    result = results.begin("capacity", config, seed=0, hardware=", ".join(dict.fromkeys(q.hardware for q in asked)))
    with workers.Workers() as pool, searching(console, len(asked)) as on_done:
        found = sweeps.capacities(asked, attainment, pool, on_done)
    result.rows = [one.row(attainment) for one in found]
    console.print(capacity_table(result.rows))
    results.keep(result, console, json, csv)
