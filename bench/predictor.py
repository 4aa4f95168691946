"""How well the performance model predicts iterations it has not seen: fit, errors by phase, figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.bench.results import Row
from slosgate.planner.fit import Errors, Measurements, errors, fit, held_out, predict, read_measurements, timing_faults
from slosgate.planner.perf_model import PerfModel


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model, what it was fitted to, and its errors on held-out iterations."""

    data: Measurements
    model: PerfModel
    test: NDArray[np.bool_]  # held out
    mistimed: NDArray[np.bool_]
    errors: tuple[Errors, ...]

    @property
    def faults(self) -> int:
        return int(self.mistimed.sum())

    def rows(self) -> list[Row]:
        """One row a phase, and one a term."""
        rows: list[Row] = [
            {"phase": e.phase, "mape": e.mape, "median_error": e.median, "r2": e.r2, "iterations": e.iterations}
            for e in self.errors
        ]
        terms: list[dict[str, Any]] = [msgspec.structs.asdict(term) for term in self.model.terms]
        return rows + [{"phase": "model", "mape": None, "r2": None, "term": i, **t} for i, t in enumerate(terms)]


def fit_file(path: Path, terms: int, seed: int, towards: PerfModel | None = None) -> Fitted:
    """Fit 70 % of a file's iterations and judge the model on the other 30 %. Raises ValueError for a bad file.

    What the file leaves open is as in `towards` (`planner.fit.fit`). Mistimed iterations (`planner.fit.timing_faults`)
    are left out of the fit and of every phase but the last.
    """
    data = read_measurements(path)
    test, like = held_out(data, seed), None
    if data.attends:
        like = towards or fit(data, terms, seed=seed, starts=2)
    mistimed = timing_faults(data, like)
    model = fit(data.subset(~test & ~mistimed), terms, seed=seed, towards=towards)
    phases = {
        "all": test & ~mistimed,
        "prefill": test & ~mistimed & data.prefill,
        "decode": test & ~mistimed & ~data.prefill,
        "all, mistimed included": test,
    }
    judged = tuple(errors(model, data.subset(mask), name) for name, mask in phases.items() if mask.sum() > 1)
    return Fitted(data, model, test, mistimed, judged)


def draw(fitted: Fitted, path: Path) -> None:
    """Predicted against measured durations of held-out iterations, as PNG."""
    from matplotlib.figure import Figure  # optional: slosgate[bench]

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    shown = fitted.test & ~fitted.mistimed
    for name, mask in (("prefill", shown & fitted.data.prefill), ("decode", shown & ~fitted.data.prefill)):
        part = fitted.data.subset(mask)
        axes.loglog(part.seconds * 1e3, predict(fitted.model, part) * 1e3, ".", label=name, alpha=0.6)
    ends = np.array([fitted.data.seconds.min(), fitted.data.seconds.max()]) * 1e3
    axes.loglog(ends, ends, "k-", linewidth=0.8)
    axes.fill_between(ends, ends * 0.95, ends * 1.05, color="k", alpha=0.1, label="within 5 %")
    whole = fitted.errors[0]
    axes.set(xlabel="measured, ms", ylabel="predicted, ms", title=f"MAPE {whole.mape:.1%}, R² {whole.r2:.3f}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
