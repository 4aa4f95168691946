"""Predictor: predicted against measured iteration times on held-out iterations (paper: R2 0.82-0.93)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from slosgate.bench import results
from slosgate.bench.commands.profile import errors_table
from slosgate.bench.errors import InputError, require
from slosgate.bench.predictor import draw, fit_file
from slosgate.bench.results import Result

HARDWARE = "h200-opt-13b"
MEASURED = Path(__file__).parents[1] / "measurements" / "h200_opt13b_vllm0251_iterations.jsonl"
FIGURE = Path("out/predictor.png")
TERMS = 3


def run(console: Console, seed: int) -> Result:
    """Fit the iterations measured on an H200; writes `out/predictor.png`."""
    if not MEASURED.exists():
        raise InputError(
            "the measured iterations are in the repository, not in the installed package: run this in a checkout, or "
            "fit a file of your own with `slosbench profile fit FILE.jsonl`"
        )
    require("scipy", "fitting a profile")
    require("matplotlib", "drawing a figure")
    fitted = fit_file(MEASURED, TERMS, seed)
    console.print(errors_table(fitted))
    draw(fitted, FIGURE)
    config = {"file": MEASURED.name, "terms": TERMS, "paper_r2": [0.82, 0.93], "figure": str(FIGURE)}
    result = results.begin("reproduce predictor", config, seed=seed, hardware=HARDWARE)
    result.rows = fitted.rows()
    return result
