"""Put plausible bugs in, one at a time, and see whether the tests notice.

    python -m tests.mutants                              # all of them, a table and a summary
    python -m tests.mutants -j 4 --json out/mutants.json
    python -m tests.mutants --only planner/budget.py     # those whose package, file or sentence has this in it

Exits with 1 when fewer than 90 % are caught, a mutant no longer applies, or a test fails without any bug.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.running import Outcome, Verdict, sound, tried

WANTED = 0.9  # share that must be caught
ROOT = Path(__file__).parents[2]


def main(
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Mutants tried side by side.")] = os.cpu_count() or 1,
    only: Annotated[str, typer.Option(help="Try those whose package, file or sentence contains this.")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the outcomes there.")] = None,
) -> None:
    """Put plausible bugs in, one at a time, and see whether the tests notice."""
    console = Console()
    chosen = [m for m in MUTANTS if only in m.package or only in m.file or only in m.breaks]
    if not chosen:
        console.print(f"no mutant has {only!r} in its package, file or sentence")
        raise typer.Exit(2)
    if failure := sound(chosen, ROOT):
        console.print(f"without any bug these tests fail:\n{failure}", markup=False)
        raise typer.Exit(1)
    outcomes = []
    for outcome in tried(chosen, ROOT, jobs):
        outcomes.append(outcome)
        console.print(f"{len(outcomes):3d}/{len(chosen)} {outcome.line}", markup=False)
    outcomes.sort(key=lambda outcome: chosen.index(outcome.mutant))
    console.print(details(outcomes), summary(outcomes))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_bytes(msgspec.json.format(msgspec.json.encode({"mutants": outcomes}), indent=2))
    broken = any(outcome.verdict in (Verdict.ERROR, Verdict.STALE) for outcome in outcomes)
    raise typer.Exit(int(broken or share(outcomes) < WANTED))


def share(outcomes: list[Outcome]) -> float:
    """Of the mutants, those that were caught."""
    return sum(outcome.verdict is Verdict.CAUGHT for outcome in outcomes) / len(outcomes)


def details(outcomes: list[Outcome]) -> Table:
    table = Table("file", "what it breaks", "verdict", "seconds")
    for outcome in outcomes:
        colour = "green" if outcome.verdict is Verdict.CAUGHT else "red"
        seconds = f"{outcome.took_s:.0f}"
        table.add_row(outcome.mutant.file, outcome.mutant.breaks, f"[{colour}]{outcome.verdict.value}", seconds)
    return table


def summary(outcomes: list[Outcome]) -> Table:
    table = Table("package", "mutants", "caught", "share")
    packages = list(dict.fromkeys(outcome.mutant.package for outcome in outcomes))
    for name in [*packages, "all"]:
        of = [outcome for outcome in outcomes if name in (outcome.mutant.package, "all")]
        caught = sum(outcome.verdict is Verdict.CAUGHT for outcome in of)
        table.add_row(name, str(len(of)), str(caught), f"{share(of):.0%}")
    return table


if __name__ == "__main__":
    typer.run(main)
