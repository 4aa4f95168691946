"""slosbench reproduce NAME [--json F] [--out F.html]: headline, harm, rivals, scaling, routing and more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slosgate.bench import report, results
from slosgate.bench.errors import choose
from slosgate.bench.reproduce import (
    Reproduction,
    ablation,
    autoscaling,
    burst,
    fidelity,
    harm,
    headline,
    overhead,
    predictor,
    rivals,
    routing,
    scaling,
)

# One line per reproduction, in the order of the paper's evaluation: "NAME": MODULE.run
REPRODUCTIONS: dict[str, Reproduction] = {
    "headline": headline.run,
    "harm": harm.run,
    "rivals": rivals.run,
    "scaling": scaling.run,
    "routing": routing.run,
    "ablation": ablation.run,
    "burst": burst.run,
    "overhead": overhead.run,
    "predictor": predictor.run,
    "fidelity": fidelity.run,
    "autoscaling": autoscaling.run,
}


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="headline, harm, rivals, scaling, routing, ablation, burst, overhead, predictor, fidelity or "
            "autoscaling."
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
) -> None:
    """Reproduce a table or figure of the paper's evaluation."""
    run = REPRODUCTIONS[choose("reproduction", name, REPRODUCTIONS)]
    results.check(json, out)
    console = Console()
    result = run(console, seed)
    results.keep(result, console, json)
    if out:
        report.write([(json.name if json else name, result)], f"slosbench reproduce {name}", out)
