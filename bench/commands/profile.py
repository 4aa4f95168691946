"""slosbench profile fit ITERATIONS.jsonl [--out PROFILE.json] [--json RESULT.json] [--figure FIGURE.png]"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench import results
from bench.errors import InputError
from bench.predictor import Fitted, draw, fit_file
from engines import profiles
from planner.perf_model import PerfModel

app = typer.Typer(no_args_is_help=True, help="Fit a performance model to measured iterations.")


@app.callback()
def profile() -> None:
    """Fit a performance model to measured iterations."""


@app.command("fit")
def fit(
    iterations: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Measured iterations, a JSON object a line.")
    ],
    out: Annotated[Path | None, typer.Option(help="Hardware profile to write.")] = None,
    base: Annotated[str, typer.Option(help="Profile that gives --out its model, memory and limits.")] = "h200-opt-13b",
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
    figure: Annotated[Path | None, typer.Option(help="PNG of predicted against measured to write.")] = None,
    terms: Annotated[int, typer.Option(min=1, max=6, help="Terms of the model: T is their maximum.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the held-out split and of the starts.")] = 0,
) -> None:
    """Fit T = max of linear terms; print the terms, and R2 and MAPE by phase on held-out iterations."""
    try:
        fitted = fit_file(iterations, terms, seed)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot fit {str(iterations)!r}: {error}") from None
    console = Console()
    console.print(terms_table(fitted.model))
    console.print(errors_table(fitted))
    if json:
        result = results.begin(
            "profile fit", {"file": iterations.name, "terms": terms, "base": base}, seed=seed, hardware=base
        )
        result.rows = fitted.rows()
        results.write(result, json)
    if figure:
        draw(fitted, figure)
    if out:
        write_profile(fitted, base, iterations.name, out)


def terms_table(model: PerfModel) -> Table:
    """The fitted coefficients, in microseconds a unit."""
    table = Table(title="T = max over terms")
    for name in ("us/new token", "us/context token", "us/sequence", "us/draft step", "constant ms"):
        table.add_column(name, justify="right")
    for a, c, s, v, b in model.coefficients():
        table.add_row(f"{a * 1e6:.3f}", f"{c * 1e6:.4f}", f"{s * 1e6:.2f}", f"{v * 1e6:.1f}", f"{b * 1e3:.3f}")
    return table


def errors_table(fitted: Fitted) -> Table:
    """R2 and MAPE by phase on iterations that the fit did not see."""
    table = Table(title=f"held-out iterations ({fitted.faults} of {len(fitted.data.seconds)} mistimed in all)")
    for name in ("phase", "iterations", "MAPE", "median error", "R2"):
        table.add_column(name, justify="right")
    for e in fitted.errors:
        table.add_row(e.phase, str(e.iterations), f"{e.mape:.1%}", f"{e.median:.1%}", f"{e.r2:.3f}")
    return table


def write_profile(fitted: Fitted, base: str, source: str, out: Path) -> None:
    """The base profile with the fitted model, under the file's name."""
    try:
        known = profiles.load(base)
    except profiles.UnknownProfile as error:
        raise InputError(str(error)) from None
    # Iterations without drafts say nothing of draft steps: those keep the base's cost.
    step_s = max(term.per_draft_step_s for term in known.perf.terms)
    kept = tuple(
        msgspec.structs.replace(term, per_draft_step_s=term.per_draft_step_s or step_s) for term in fitted.model.terms
    )
    said = f"slosbench profile fit of {source}: {len(fitted.data.seconds)} iterations; all else from {base}"
    profile = msgspec.structs.replace(known, name=out.stem, perf=PerfModel(kept), source=said)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
