"""Token lengths: their summary, and a generator that keeps the real distributions and their correlation."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

QUANTILES = (0, 1, 5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 95, 97.5, 99, 99.9, 100)  # percent


class LengthSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; the standard deviation is that of the population."""

    mean: float
    std: float
    p50: float
    p90: float
    p99: float
    max: int


def summarize(lengths: NDArray[np.int64]) -> LengthSummary:
    """Of one or more lengths."""
    p50, p90, p99 = (float(p) for p in np.percentile(lengths, (50, 90, 99)))
    mean, std = float(lengths.mean()), float(lengths.std())
    return LengthSummary(mean=mean, std=std, p50=p50, p90=p90, p99=p99, max=int(lengths.max()))


class LengthGrid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Joint distribution of lengths: each column's quantiles at QUANTILES, tied by Spearman's rank correlations."""

    columns: dict[str, tuple[float, ...]]
    spearman: tuple[tuple[float, ...], ...]  # columns x columns

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
        """`count` rows, at least one token each: inverse CDF of ranks that a Gaussian copula correlates.

        Using ranks spreads the draws evenly over each distribution, so that a short trace has its tail too.
        """
        normal = 2 * np.sin(np.pi / 6 * np.array(self.spearman))  # Pearson's for the Gaussians behind the ranks
        scores = rng.multivariate_normal(np.zeros(len(normal)), normal, size=count, method="cholesky")
        ranks = scores.argsort(axis=0).argsort(axis=0)
        levels = 100 * (ranks + rng.random(ranks.shape)) / count
        return {
            name: np.maximum(1, np.rint(np.interp(levels[:, i], QUANTILES, grid))).astype(np.int64)
            for i, (name, grid) in enumerate(self.columns.items())
        }


def fit_grid(columns: dict[str, NDArray[np.int64]]) -> LengthGrid:
    """The grid of columns of equal length."""
    ranks = np.array([values.argsort(kind="stable").argsort() for values in columns.values()])
    correlation = np.atleast_2d(np.corrcoef(ranks)) if len(ranks) > 1 else np.ones((1, 1))
    return LengthGrid(
        columns={name: tuple(np.percentile(values, QUANTILES).round(1).tolist()) for name, values in columns.items()},
        spearman=tuple(tuple(round(float(c), 3) for c in row) for row in correlation),
    )
