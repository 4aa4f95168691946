"""Token lengths: their summary, and a generator that keeps the real distributions and their correlation."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

QUANTILES = (0, 1, 5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 95, 97.5, 99, 99.9, 99.99, 100)  # percent


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
    """Joint distribution of lengths: each column's quantiles at QUANTILES, and how the columns go together.

    `copula` holds one string a column: the ranks (0 .. n-1) of n real rows, so that any dependence is kept, not only
    a correlation. arXiv needs it: a total of at most 4096 tokens makes short articles those with long abstracts.
    """

    columns: dict[str, tuple[float, ...]]
    copula: tuple[str, ...]

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
        """`count` rows, at least one token each: a real row's ranks, moved within the rank, through the inverse CDFs.

        Rows are taken in turn, so that a short trace has its tail too.
        """
        ranks = np.array([column.split() for column in self.copula], dtype=np.int64)
        points = ranks.shape[1]
        turns = np.concatenate([rng.permutation(points) for _ in range(-(-count // points))])[:count]
        levels = 100 * (ranks[:, turns] + rng.random((len(ranks), count))) / points
        return {
            name: np.maximum(1, np.rint(np.interp(level, QUANTILES, grid))).astype(np.int64)
            for level, (name, grid) in zip(levels, self.columns.items(), strict=True)
        }


def fit_grid(columns: dict[str, NDArray[np.int64]], *, points: int = 500) -> LengthGrid:
    """The grid of columns of equal length; the copula's rows are spread evenly over the first column."""
    table = np.array(list(columns.values()))
    order = table[0].argsort(kind="stable")
    points = min(points, len(order))
    kept = table[:, order[((np.arange(points) + 0.5) * len(order) / points).astype(np.int64)]]
    ranks = kept.argsort(axis=1, kind="stable").argsort(axis=1)
    return LengthGrid(
        columns={name: tuple(np.percentile(values, QUANTILES).round(1).tolist()) for name, values in columns.items()},
        copula=tuple(" ".join(map(str, row.tolist())) for row in ranks),
    )
