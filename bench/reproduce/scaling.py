"""Scaling over replicas: capacity per GPU on 1, 2, 4 and 8 of them, bursty scenarios among them.

Routing by plan shares bursts between replicas, so capacity per GPU should not fall when there are more.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from slosgate.bench.reproduce.searches import capacity, questions, searched
from slosgate.bench.results import Result

TARGET = 0.9
SCENARIOS = ("coder", "tool-calling")
SYSTEMS = ("vllm", "slosgate")
REPLICAS = (1, 2, 4, 8)


def run(console: Console, seed: int) -> Result:
    result = searched(
        "scaling",
        questions(SCENARIOS, SYSTEMS, REPLICAS),
        TARGET,
        console,
        seed,
        like=lambda question: dataclasses.replace(question, replicas=1),
    )
    for row in result.rows:
        one = capacity(result.rows, scenario=row["scenario"], system=row["system"], replicas=1)
        row["scaling"] = round(row["capacity_rps_per_gpu"] * row["replicas"] / one, 3) if one else None
    for row in (r for r in result.rows if r["replicas"] > 1 and r["scaling"]):
        console.print(f"{row['scenario']} {row['system']}: {row['replicas']} replicas carry {row['scaling']:.2f} x one")
    return result
