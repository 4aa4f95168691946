"""Fitting the performance model to measured iterations.

    minimize over non-negative terms      sum of rho(T(x, c, n, v) / measured - 1),       T = max over terms

rho is the soft absolute value (quadratic within 3 %, linear beyond), so that relative errors count and stray timings
don't. A maximum of K planes has local minima: it starts from several partitions of the data by prefill size, each
fitted by non-negative least squares, and the best of all descents is kept. Needs scipy (`slosgate[bench]`).

Under asynchronous scheduling an engine notes some completions late, which lengthens one iteration and shortens
another: a *timing fault*. `timing_faults` finds them without a model, by comparing an iteration with the median of
those most like it; they are left out of the fit, and errors are reported with and without them. Among 1,612 iterations
of the H200 it finds 87, 44 of them long and 43 short; half have the opposite one right beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.perf_model import PerfModel, Term

Floats = NDArray[np.float64]

COLUMNS = 5  # new tokens, context tokens, sequences, draft steps, one
SCALE = np.array([1e-5, 1e-7, 1e-5, 1e-3, 1e-3])  # typical sizes of the coefficients, so that steps are even
SOFT = 0.03  # relative error beyond which the loss grows only linearly
NEIGHBOURS = 16
FAULT = 0.25  # an iteration this far off the median of its neighbours was mistimed
BLOCK = 20  # consecutive iterations that are held out together: neighbours in time resemble each other


class MalformedMeasurement(ValueError):
    """A line of the measurements is unusable; the message names line and field."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """Iterations: `features` of shape (n, 5) as the model's coefficients read them, `seconds` of shape (n,)."""

    features: Floats
    seconds: Floats

    @property
    def prefill(self) -> NDArray[np.bool_]:
        """Iterations that computed more than a token per sequence (and draft)."""
        new, sequences, drafts = self.features[:, 0], self.features[:, 2], self.features[:, 3]
        return np.asarray(new > sequences * (1 + drafts))

    def subset(self, mask: NDArray[np.bool_]) -> Measurements:
        return Measurements(self.features[mask], self.seconds[mask])


@dataclass(frozen=True, slots=True)
class Errors:
    """How far predictions are off on one phase."""

    phase: str
    iterations: int
    mape: float  # mean absolute relative error
    median: float
    r2: float


def read_measurements(path: Path) -> Measurements:
    """Lines of {"new_tokens", "sequences", "context_tokens", "ms", "draft_steps" (optional)}."""
    rows = [parse(number, line) for number, line in enumerate(path.read_text().splitlines(), start=1) if line.strip()]
    if len(rows) < 4 * BLOCK:
        raise MalformedMeasurement(f"{path.name}: {len(rows)} iterations are too few to fit, {4 * BLOCK} are needed")
    table = np.array(rows)
    return Measurements(table[:, :COLUMNS], table[:, COLUMNS])


def parse(number: int, line: str) -> tuple[float, ...]:
    """One line as a row of features and seconds. Raises MalformedMeasurement."""
    try:
        record = json.loads(line)
        row = [float(record[name]) for name in ("new_tokens", "context_tokens", "sequences")]
        row += [float(record.get("draft_steps", 0)), 1.0, float(record["ms"]) / 1e3]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedMeasurement(
            f"line {number}: expected a JSON object with numbers new_tokens, sequences, context_tokens and ms ({error})"
        ) from None
    if row[0] < 1 or row[2] < 1 or row[-1] <= 0:
        raise MalformedMeasurement(f"line {number}: new_tokens and sequences must be at least 1 and ms above 0")
    return tuple(row)


def timing_faults(data: Measurements) -> NDArray[np.bool_]:
    """Iterations whose duration is more than 25 % off the median of the 16 most like them (in log size)."""
    from scipy.spatial import cKDTree  # optional: slosgate[bench]

    shape = np.log2(data.features[:, [0, 1, 2]] + np.array([16.0, 256.0, 4.0]))
    _, nearest = cKDTree(shape).query(shape, k=min(NEIGHBOURS, len(shape)))
    return np.asarray(np.abs(data.seconds / np.median(data.seconds[nearest], axis=1) - 1) > FAULT)


def held_out(data: Measurements, seed: int, share: float = 0.3) -> NDArray[np.bool_]:
    """A random share of the iterations, in runs of 20."""
    blocks = np.arange(len(data.seconds)) // BLOCK
    return np.asarray((np.random.default_rng(seed).random(blocks[-1] + 1) < share)[blocks])


def fit(data: Measurements, terms: int = 3, *, seed: int = 0, starts: int = 6) -> PerfModel:
    """The model with the least robust relative error over all iterations given."""
    candidates = [descend(data, start) for start in starting_points(data, terms, seed, starts)]
    best = min(candidates, key=lambda found: found[0])[1]
    return PerfModel(tuple(as_term(row) for row in best[np.argsort(best[:, 0])]))


def starting_points(data: Measurements, terms: int, seed: int, starts: int) -> Iterable[Floats]:
    """Planes fitted to parts of the data, cut at random prefill sizes; shape (terms, 5)."""
    rng = np.random.default_rng(seed)
    prefill = data.features[:, 0] - data.features[:, 2]
    for _ in range(starts):
        cuts = np.sort(np.exp(rng.uniform(np.log(4), np.log(1500), terms - 1)))
        part = np.searchsorted(cuts, prefill)
        yield np.array([plane(data.subset(part == k) if (part == k).sum() >= 8 else data) for k in range(terms)])


def plane(data: Measurements) -> Floats:
    """Non-negative least squares on relative errors."""
    from scipy.optimize import nnls  # optional: slosgate[bench]

    weighted = data.features / data.seconds[:, None] * SCALE
    return np.asarray(nnls(weighted, np.ones(len(data.seconds)))[0] * SCALE)


def descend(data: Measurements, start: Floats) -> tuple[float, Floats]:
    """(robust cost, coefficients of shape (terms, 5)) from a starting point; what was never varied stays zero."""
    from scipy.optimize import least_squares  # optional: slosgate[bench]

    seen = data.features.any(axis=0)
    scaled = (data.features * SCALE / data.seconds[:, None])[:, seen]  # a plane's value relative to the measurement
    width, rows = scaled.shape[1], np.arange(len(scaled))

    def residuals(flat: Floats) -> Floats:
        return np.asarray((scaled @ flat.reshape(-1, width).T).max(axis=1) - 1)

    def slopes(flat: Floats) -> Floats:
        jacobian = np.zeros((len(scaled), flat.size // width, width))
        jacobian[rows, (scaled @ flat.reshape(-1, width).T).argmax(axis=1)] = scaled
        return jacobian.reshape(len(scaled), -1)

    found = least_squares(
        residuals, (start / SCALE)[:, seen].ravel() + 1e-6, jac=slopes, bounds=(0, np.inf), loss="soft_l1",
        f_scale=SOFT, max_nfev=60,
    )  # fmt: skip
    coefficients = np.zeros_like(start)
    coefficients[:, seen] = found.x.reshape(-1, width) * SCALE[seen]
    return float(found.cost), coefficients


def as_term(row: Floats) -> Term:
    """Coefficients with four digits; those below any effect are zero."""
    new, context, sequence, draft, constant = (float(f"{v:.4g}") if v > 1e-12 else 0.0 for v in row)
    return Term(
        per_new_token_s=new, per_context_token_s=context, per_sequence_s=sequence, per_draft_step_s=draft,
        constant_s=constant,
    )  # fmt: skip


def predict(model: PerfModel, data: Measurements) -> Floats:
    """T of every iteration, seconds."""
    return np.asarray((data.features @ model.coefficients().T).max(axis=1))


def errors(model: PerfModel, data: Measurements, phase: str) -> Errors:
    """MAPE, median error and R2 of the model on some iterations."""
    predicted = predict(model, data)
    relative = np.abs(predicted / data.seconds - 1)
    spread = float(((data.seconds - data.seconds.mean()) ** 2).sum())
    r2 = 1 - float(((predicted - data.seconds) ** 2).sum()) / spread if spread > 0 else 0.0
    return Errors(phase, len(relative), float(relative.mean()), float(np.median(relative)), r2)
