"""Tokens from sizes: a straight line through the answers that came before, which a few unlike ones can't bend."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 32  # of the newest answers
REFIT_EVERY = 8  # answers, once so many are remembered
ROUNDS = 6  # of reweighting
NOISE_SHARE = 0.1  # of a count: what texts of one size differ by
NOISE_TOKENS = 3.0
FAR = 1.5  # standard deviations: what lies farther counts for less
ODD = 100.0  # and beyond so many hardly at all: it counts something else
OFTEN = 1.25  # median absolute deviations added to an estimate: too short an estimate breaks promises


class Line:
    """tokens = base + per_unit x size, from what is usual (each with how far it may be off) and from counts.

    Found by least squares with weights that fall with the distance from the line (Huber's): one answer that counts
    what its size doesn't show changes little, many change everything.
    """

    def __init__(self, *, base: float, base_off: float, per_unit: float, per_unit_off: float) -> None:
        self._usual = np.array([base, per_unit])
        self._trust = np.diag([base_off**-2, per_unit_off**-2])
        self._seen: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._fitted = self._usual
        self._spread = 0.0  # of counts about the line, as a share of the estimate
        self._unused = 0  # counts that came since the line was fitted

    def learn(self, size: float, tokens: float) -> None:
        """Take a count."""
        self._seen.append((size, max(0.0, tokens)))
        self._unused += 1

    def tokens(self, size: float) -> float:
        """The likeliest count."""
        if self._unused and (len(self._seen) < REMEMBERED or self._unused >= REFIT_EVERY):
            self._fit()
        return float(self._fitted[0] + self._fitted[1] * size)

    def careful(self, size: float) -> float:
        """A count that is seldom exceeded by much."""
        return self.tokens(size) * (1 + OFTEN * self._spread)

    def _fit(self) -> None:
        self._unused = 0
        sizes, counts = np.array(self._seen).T
        noise = NOISE_TOKENS + NOISE_SHARE * counts
        rows = np.stack([np.ones_like(sizes), sizes], axis=1)
        weights = noise**-2.0
        for _ in range(ROUNDS):
            fitted = self._solved(rows, counts, weights)
            # By the line, not by the count itself: small counts of what varies much must not seem the surest.
            noise = NOISE_TOKENS + NOISE_SHARE * np.maximum(rows @ fitted, 0.0)
            far = np.abs(counts - rows @ fitted) / noise
            weights = noise**-2.0 * FAR / np.maximum(far, FAR) * ODD / np.maximum(far, ODD)
        self._fitted = fitted
        estimates = np.maximum(rows @ fitted, 1.0)
        self._spread = min(1.0, float(np.median(np.abs(counts - estimates) / estimates)))

    def _solved(
        self, rows: NDArray[np.float64], counts: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        normal = self._trust + rows.T @ (rows * weights[:, None])
        found = np.linalg.solve(normal, self._trust @ self._usual + rows.T @ (weights * counts))
        if found[1] >= 0 <= found[0]:
            return np.asarray(found, dtype=np.float64)
        # Neither a template nor a byte takes tokens away.
        per_unit = max(0.0, float(found[1])) if found[0] < 0 else 0.0
        return np.array([max(0.0, float(found[0])), per_unit])
