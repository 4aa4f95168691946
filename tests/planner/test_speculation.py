from itertools import product

import numpy as np
import pytest

from planner.slack import coefficients
from planner.speculation import expected_tokens, prefill_rate, tier_lengths
from tests.planner.cases import H200

COEF = coefficients(H200.perf)


def test_expected_tokens_by_hand() -> None:
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)
    assert expected_tokens(0.0, 5) == 1
    assert expected_tokens(1.0, 3) == 4


@pytest.mark.parametrize("tiers", [1, 2, 3])
def test_lengths_are_the_best_of_all_vectors_up_to_ten(tiers: int) -> None:
    rng = np.random.default_rng(tiers)
    for _ in range(25 if tiers < 3 else 8):
        tpot = rng.choice([0.03, 0.05, 0.08, 0.1, 0.15], tiers, replace=False)
        counts = rng.integers(0, 60, tiers).astype(float)
        alpha = rng.choice([0.0, 0.4, 0.7, 0.9], tiers)
        context = float(counts.sum() * rng.integers(50, 900))
        _, tau_s, rate = tier_lengths(COEF, tpot, counts, context, alpha, 10)
        best = -np.inf
        for vector in product(range(11), repeat=tiers):
            lengths = np.array(vector)
            tau = min(expected_tokens(alpha[t], lengths[t]) * tpot[t] for t in range(tiers))
            best = max(best, prefill_rate(COEF, counts, context, lengths, tau))
        assert rate == pytest.approx(best, rel=1e-6)
        assert tau_s >= tpot.min() - 1e-12


def test_drafts_that_are_never_accepted_are_not_made() -> None:
    lengths, tau_s, _ = tier_lengths(COEF, np.array([0.05, 0.1]), np.array([9.0, 9.0]), 9000.0, np.zeros(2), 6)
    assert lengths.tolist() == [0, 0]
    assert tau_s == 0.05
