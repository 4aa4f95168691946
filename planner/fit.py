"""Fitting the performance model to measured iterations.

    minimize over non-negative terms      sum of rho(T(x, c, n, v, q) / measured - 1),       T = max over terms

rho is the soft absolute value (quadratic within 3 %, linear beyond), so that relative errors count and stray timings
don't. A maximum of K planes has local minima: it starts from several partitions of the data by prefill size, each
fitted by non-negative least squares, and the best of all descents is kept. Needs scipy (`slosgate[bench]`).

Where pairs were measured, what an iteration attends to comes on top of whatever else it takes: c and p are the same in
all terms. Otherwise a term that large prefills alone touch, whose tokens are their own context, may be given any c, and
speaks nonsense of a batch of long decodes. And what was measured may hardly depend on one of them (contexts that were
all short): then it is what a derived model says, from which a fit can be held (`towards`).

Under asynchronous scheduling an engine notes some completions late, which lengthens one iteration and shortens
another: a *timing fault*. `timing_faults` finds them by comparing an iteration with the median of those most like it,
without a model where contexts are short; they are left out of the fit, and errors are reported with and without them.
Among 1,612 iterations of the H200 it finds 87, 44 of them long and 43 short; half have the opposite one right beside
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.kernels import DECODING, PAIR
from slosgate.planner.perf_model import PerfModel, Term

Floats = NDArray[np.float64]

COLUMNS = 6  # new tokens, context tokens, sequences, draft steps, one, pairs
SCALE = np.array([1e-5, 1e-7, 1e-5, 1e-3, 1e-3, 1e-9])  # typical sizes of the coefficients, so that steps are even
SOFT = 0.03  # relative error beyond which the loss grows only linearly
NEIGHBOURS = 16
FAULT = 0.25  # an iteration this far off the median of its neighbours was mistimed
ATTENTION = [1, 5]  # columns of what an iteration attends to: context tokens, pairs
TRUST = 1.0  # in a derived coefficient: twice as much is as bad as so many iterations that are predicted 100 % off
BLOCK = 20  # consecutive iterations that are held out together: neighbours in time resemble each other


class MalformedMeasurement(ValueError):
    """A line of the measurements is unusable; the message names line and field."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """Iterations: `features` of shape (n, 6) as the model's coefficients read them, `seconds` of shape (n,)."""

    features: Floats
    seconds: Floats

    @property
    def prefill(self) -> NDArray[np.bool_]:
        """Iterations that computed more than a token per sequence (and draft)."""
        new, sequences, drafts = self.features[:, 0], self.features[:, 2], self.features[:, 3]
        return np.asarray(new > sequences * (1 + drafts))

    @property
    def attends(self) -> bool:
        """Whether it was noted what prompts attend to."""
        return bool(self.features[:, PAIR].any())

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
    """Lines of {"new_tokens", "sequences", "context_tokens", "ms", and optionally "draft_steps" and "pairs"}."""
    lines = enumerate(path.read_text().splitlines(), start=1)
    rows = [parse(number, line) for number, line in lines if line.strip() and not assumed(line)]
    if len(rows) < 4 * BLOCK:
        raise MalformedMeasurement(f"{path.name}: {len(rows)} iterations are too few to fit, {4 * BLOCK} are needed")
    table = np.array(rows)
    return Measurements(table[:, :COLUMNS], table[:, COLUMNS])


def assumed(line: str) -> bool:
    """Whether an engine did not see how long that iteration took, and noted what it expected."""
    try:
        record = json.loads(line)
        return bool(record.get("assumed", record["ms"] == record.get("expected_ms")))
    except (json.JSONDecodeError, AttributeError, KeyError):
        return False  # not this one's to judge


def parse(number: int, line: str) -> tuple[float, ...]:
    """One line as a row of features and seconds. Raises MalformedMeasurement."""
    try:
        record = json.loads(line)
        row = [float(record[name]) for name in ("new_tokens", "context_tokens", "sequences")]
        row += [float(record.get("draft_steps", 0)), 1.0, float(record.get("pairs", 0)), float(record["ms"]) / 1e3]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedMeasurement(
            f"line {number}: expected a JSON object with numbers new_tokens, sequences, context_tokens and ms ({error})"
        ) from None
    if row[0] < 1 or row[2] < 1 or row[-1] <= 0:
        raise MalformedMeasurement(f"line {number}: new_tokens and sequences must be at least 1 and ms above 0")
    return tuple(row)


def timing_faults(data: Measurements, like: PerfModel | None = None) -> NDArray[np.bool_]:
    """Iterations whose duration is more than 25 % off the median of the 16 most like them (in log size).

    Behind long contexts even those differ by more than that: there durations are compared relative to those of a model
    that is `like` the engine.
    """
    from scipy.spatial import cKDTree  # optional: slosgate[bench]

    shape = np.log2(data.features[:, [0, 1, 2]] + np.array([16.0, 256.0, 4.0]))
    _, nearest = cKDTree(shape).query(shape, k=min(NEIGHBOURS, len(shape)))
    seconds = data.seconds if like is None else data.seconds / predict(like, data)
    return np.asarray(np.abs(seconds / np.median(seconds[nearest], axis=1) - 1) > FAULT)


def held_out(data: Measurements, seed: int, share: float = 0.3) -> NDArray[np.bool_]:
    """A random share of the iterations, in runs of 20."""
    blocks = np.arange(len(data.seconds)) // BLOCK
    return np.asarray((np.random.default_rng(seed).random(blocks[-1] + 1) < share)[blocks])


def fit(
    data: Measurements, terms: int = 3, *, seed: int = 0, starts: int = 6, towards: PerfModel | None = None
) -> PerfModel:
    """The model with the least robust relative error over all iterations given.

    Where they leave open what attending to long contexts takes, it is near to `towards`.
    """
    candidates = [descend(data, start, towards) for start in starting_points(data, terms, seed, starts)]
    best = min(candidates, key=lambda found: found[0])[1]
    return PerfModel(tuple(as_term(row) for row in best[np.argsort(best[:, 0])]))


def starting_points(data: Measurements, terms: int, seed: int, starts: int) -> Iterable[Floats]:
    """Planes fitted to parts of the data, cut at random prefill sizes; shape (terms, 6)."""
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


def descend(data: Measurements, start: Floats, towards: PerfModel | None = None) -> tuple[float, Floats]:
    """(robust cost, coefficients of shape (terms, 6)) from a starting point; what was never varied stays zero."""
    from scipy.optimize import least_squares  # optional: slosgate[bench]

    seen = data.features.any(axis=0)
    common = np.isin(np.arange(COLUMNS), ATTENTION) & seen & data.attends
    own = seen & ~common
    scaled = data.features * SCALE / data.seconds[:, None]  # a plane's value relative to the measurement
    planes, above, width, rows = scaled[:, own], scaled[:, common], int(own.sum()), np.arange(len(scaled))
    expected, trust = expectations(towards, common)

    def parts(flat: Floats) -> tuple[Floats, Floats]:
        return flat[: width * len(start)].reshape(-1, width), flat[width * len(start) :]

    def residuals(flat: Floats) -> Floats:
        each, shared = parts(flat)
        off = (planes @ each.T).max(axis=1) + above @ shared - 1
        return np.concatenate([off, trust * (shared - expected)])

    def slopes(flat: Floats) -> Floats:
        each, shared = parts(flat)
        jacobian = np.zeros((len(scaled) + len(shared), flat.size))
        steps = jacobian[: len(scaled), : each.size].reshape(len(scaled), -1, width)
        steps[rows, (planes @ each.T).argmax(axis=1)] = planes
        jacobian[: len(scaled), : each.size] = steps.reshape(len(scaled), -1)
        jacobian[: len(scaled), each.size :] = above
        jacobian[len(scaled) :, each.size :] = np.diag(trust)
        return jacobian

    begin = np.concatenate([(start / SCALE)[:, own].ravel(), (start / SCALE)[:, common].mean(axis=0)]) + 1e-6
    found = least_squares(
        residuals, begin, jac=slopes, bounds=(0, np.inf), loss="soft_l1", f_scale=SOFT, max_nfev=60
    )  # fmt: skip
    each, shared = parts(found.x)
    coefficients = np.zeros_like(start)
    coefficients[:, own], coefficients[:, common] = each * SCALE[own], shared * SCALE[common]
    return float(found.cost), coefficients


def expectations(towards: PerfModel | None, common: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(what the common coefficients are held towards, how firmly), in units of SCALE; without a model not at all."""
    if towards is None:
        return np.zeros(common.sum()), np.zeros(common.sum())
    expected = (towards.coefficients()[:, :COLUMNS].mean(axis=0) / SCALE)[common]
    return expected, TRUST / np.where(expected > 0, expected, 1.0)


def as_term(row: Floats) -> Term:
    """Coefficients with four digits; those below any effect are zero."""
    kept = row > [1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1e-14]
    new, context, sequence, draft, constant, pair = (float(f"{v:.4g}") for v in np.where(kept, row, 0.0))
    return Term(
        per_new_token_s=new, per_context_token_s=context, per_sequence_s=sequence, per_draft_step_s=draft,
        constant_s=constant, per_pair_s=pair,
    )  # fmt: skip


def predict(model: PerfModel, data: Measurements) -> Floats:
    """T of every iteration, seconds."""
    coef, prefills = model.coefficients(), data.features[:, PAIR] > 0
    prefilling, decoding = coef[:, :COLUMNS], np.column_stack([coef[:, DECODING:], coef[:, PAIR]])
    seconds = [(data.features @ terms.T).max(axis=1) for terms in (prefilling, decoding)]
    return np.asarray(np.where(prefills, *seconds))


def errors(model: PerfModel, data: Measurements, phase: str) -> Errors:
    """MAPE, median error and R2 of the model on some iterations."""
    predicted = predict(model, data)
    relative = np.abs(predicted / data.seconds - 1)
    spread = float(((data.seconds - data.seconds.mean()) ** 2).sum())
    r2 = 1 - float(((predicted - data.seconds) ** 2).sum()) / spread if spread > 0 else 0.0
    return Errors(phase, len(relative), float(relative.mean()), float(np.median(relative)), r2)
