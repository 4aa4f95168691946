"""slosbench profile fit ITERATIONS.jsonl [--out PROFILE.json] [--json RESULT.json] [--figure FIGURE.png]
slosbench profile run --url http://127.0.0.1:8001 [--redis URL] [--out PROFILE.json] [--iterations FILE.jsonl]
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from slosgate.bench import profiling, results
from slosgate.bench.errors import InputError, RunError, require
from slosgate.bench.hardware import hardware_profile
from slosgate.bench.predictor import Fitted, draw, fit_file
from slosgate.bench.show import plain_table
from slosgate.engines import profiles
from slosgate.planner.fit import FAULT, NEIGHBOURS
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile

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
    require("scipy", "fitting a profile")
    results.check(out, json, figure)
    if figure:
        require("matplotlib", "drawing a figure")
    try:
        fitted = fit_file(iterations, terms, seed)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot fit {str(iterations)!r}: {error}") from None
    console = Console()
    show(fitted, console)
    result = results.begin(
        "profile fit", {"file": iterations.name, "terms": terms, "base": base}, seed=seed, hardware=base
    )
    result.rows = fitted.rows()
    results.keep(result, console, json)
    if figure:
        draw(fitted, figure)
    if out:
        count = len(fitted.data.seconds)
        said = f"slosbench profile fit of {iterations.name}: {count} iterations; all else from {base}"
        save(fitted, msgspec.structs.replace(hardware_profile(base), source=said), out)


@app.command("run")
def run(
    url: Annotated[str, typer.Option(help="Base address of a live replica, as it registered in Redis.")],
    redis: Annotated[
        str, typer.Option(envvar="SLOSGATE_REDIS", help="Redis or Valkey that the replica reports to.")
    ] = "redis://127.0.0.1:6379/0",
    out: Annotated[Path | None, typer.Option(help="Hardware profile to write.")] = None,
    iterations: Annotated[Path | None, typer.Option(help="File that gets the iterations, for `profile fit`.")] = None,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long requests are sent.")] = 80.0,
    terms: Annotated[int, typer.Option(min=1, max=6, help="Terms of the model: T is their maximum.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of prompts, held-out split and starts.")] = 0,
) -> None:
    """Measure an otherwise idle replica's profile over HTTP, in two minutes; its iterations come by its telemetry."""
    require("scipy", "fitting a profile")
    results.check(out, json, iterations)
    measured = asyncio.run(profiling.measure(url, redis, seconds, seed))
    with tempfile.TemporaryDirectory() as folder:
        lines = iterations or Path(folder) / "iterations.jsonl"
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.write_bytes(measured.lines())
        try:
            fitted = fit_file(lines, terms, seed, measured.info.profile.perf)
        except ValueError as error:
            raise RunError(f"cannot fit what {measured.info.name} reported: {error}") from None
    console = Console()
    show(fitted, console)
    console.print(f"request overhead {measured.overhead_s * 1e3:.1f} ms")
    config = {"url": url, "replica": measured.info.name, "seconds": seconds, "terms": terms}
    result = results.begin("profile run", config, seed=seed, hardware=measured.info.profile.name)
    result.rows = [*fitted.rows(), {"phase": "overhead", "request_overhead_s": measured.overhead_s}]
    results.keep(result, console, json)
    if out:
        said = (
            f"slosbench profile run against {measured.info.name} ({measured.info.engine}): {len(fitted.data.seconds)} "
            f"iterations; request overhead: TTFT of lone prompts over HTTP less their iterations"
        )
        known = msgspec.structs.replace(measured.info.profile, request_overhead_s=measured.overhead_s, source=said)
        save(fitted, known, out)


def show(fitted: Fitted, console: Console) -> None:
    """The model and its errors, for people."""
    console.print(terms_table(fitted.model))
    console.print(errors_table(fitted))
    console.print(
        f"Left out but for the last line: {fitted.faults} iterations more than {FAULT:.0%} off the median of the "
        f"{NEIGHBOURS} most like them in size, whatever the model says of them. Engines that schedule asynchronously "
        "note some completions late, which makes one iteration look long and another one short."
    )


def terms_table(model: PerfModel) -> Table:
    """The fitted coefficients, in microseconds a unit."""
    heads = "us/new token", "us/context token", "us/sequence", "us/draft step", "constant ms", "ns/pair"
    table = plain_table(heads, title="T = max over terms")
    for t in model.terms:
        table.add_row(
            f"{t.per_new_token_s * 1e6:.3f}", f"{t.per_context_token_s * 1e6:.4f}", f"{t.per_sequence_s * 1e6:.2f}",
            f"{t.per_draft_step_s * 1e6:.1f}", f"{t.constant_s * 1e3:.3f}", f"{t.per_pair_s * 1e9:.3f}",
        )  # fmt: skip
    return table


def errors_table(fitted: Fitted) -> Table:
    """R2 and MAPE by phase on iterations that the fit did not see."""
    title = f"held-out iterations ({fitted.faults} of {len(fitted.data.seconds)} mistimed in all)"
    table = plain_table(("phase", "iterations", "MAPE", "median error", "R2"), title=title)
    for e in fitted.errors:
        table.add_row(e.phase, str(e.iterations), f"{e.mape:.1%}", f"{e.median:.1%}", f"{e.r2:.3f}")
    return table


def save(fitted: Fitted, known: HardwareProfile, out: Path) -> None:
    """Write a known profile with the fitted model in place of its own, under the file's name."""
    # Iterations without drafts say nothing of draft steps: those keep their known cost.
    step_s = max(term.per_draft_step_s for term in known.perf.terms)
    kept = tuple(
        msgspec.structs.replace(term, per_draft_step_s=term.per_draft_step_s or step_s) for term in fitted.model.terms
    )
    profiles.save(msgspec.structs.replace(known, perf=PerfModel(kept), name=out.stem), out)
