"""Ablations: what each part of slosgate is worth, as capacity without it over capacity with everything.

Routing is switched off on four replicas, everything else on one. Capacity alone does not show what a part is for that
works when not all can be served: hence also how many attain, and are guaranteed to, at 1.2 times the full capacity.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from slosgate.bench.reproduce.searches import capacity, fates, questions, searched
from slosgate.bench.results import Result, Row

TARGET = 0.9
SCENARIOS = ("chatbot", "coder", "mixed")
FULL = "slosgate"
ON_ONE = (
    FULL,
    "slosgate-ar",
    "slosgate-greedy",
    "slosgate-no-promotion",
    "slosgate-no-burst",
)
ON_FOUR = (FULL, "slosgate-no-routing")
ROUTED = ("coder",)
ABOVE = 1.2


def run(console: Console, seed: int) -> Result:
    asked = [*questions(SCENARIOS, ON_ONE), *questions(ROUTED, ON_FOUR, (4,))]
    result = searched(
        "ablation", asked, TARGET, console, seed, like=lambda question: dataclasses.replace(question, system=FULL)
    )
    full = [
        capacity(result.rows, scenario=row["scenario"], system=FULL, replicas=row["replicas"]) for row in result.rows
    ]
    overloads = fates([(q, ABOVE * full_rps * q.replicas) for q, full_rps in zip(asked, full, strict=True) if full_rps])
    told = iter(overloads)
    for row, full_rps in zip(result.rows, full, strict=True):
        row["share_of_full"] = round(row["capacity_rps_per_gpu"] / full_rps, 3) if full_rps else None
        if full_rps:
            row["above_capacity"] = {"times_full_capacity": ABOVE, **next(told)}
            console.print(_said(row))
    return result


def _said(row: Row) -> str:
    above = row["above_capacity"]
    return (
        f"{row['scenario']} {row['system']} on {row['replicas']}: {row['share_of_full']:.0%} of the full system's "
        f"capacity; at {ABOVE} x that {above['attained'] / above['offered']:.1%} attain, "
        f"{above['guaranteed'] / above['offered']:.1%} are guaranteed to"
    )
