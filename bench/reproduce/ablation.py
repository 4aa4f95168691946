"""Ablations: what each part of slosgate is worth, as capacity without it over capacity with everything.

Routing is switched off on four replicas, everything else on one.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from bench.reproduce.searches import capacity, questions, searched
from bench.results import Result

TARGET = 0.9
SCENARIOS = ("chatbot", "coder", "mixed")
FULL = "slos-serve"
ON_ONE = (
    FULL,
    "slos-serve-ar",
    "slos-serve-greedy",
    "slos-serve-no-promotion",
    "slos-serve-no-burst",
)
ON_FOUR = (FULL, "slos-serve-no-routing")
ROUTED = ("coder",)


def run(console: Console, seed: int) -> Result:
    asked = [*questions(SCENARIOS, ON_ONE), *questions(ROUTED, ON_FOUR, (4,))]
    result = searched(
        "ablation", asked, TARGET, console, seed, like=lambda question: dataclasses.replace(question, system=FULL)
    )
    for row in result.rows:
        full = capacity(result.rows, scenario=row["scenario"], system=FULL, replicas=row["replicas"])
        row["share_of_full"] = round(row["capacity_rps_per_gpu"] / full, 3) if full else None
        if row["system"] != FULL and full:
            console.print(
                f"{row['scenario']} {row['system']}: {row['share_of_full']:.0%} of the full system's capacity"
            )
    return result
