from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.planner.kernels import Load
from slosgate.planner.machine import coefficients
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.speculation import best_drafts, expected_tokens, prefill_rate, tier_lengths
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


def settles_at_s(profile: HardwareProfile, drafts: int, gained: float, context: float, rate: float) -> float:
    """Serve `rate` tokens per second with so many drafts until the step's length no longer changes."""
    sequences = 1.0
    for _ in range(100_000):
        new = sequences * (1 + drafts)
        step_s = max(
            t.per_new_token_s * new + t.per_context_token_s * sequences * (context + drafts)
            + t.per_sequence_s * sequences + t.per_draft_step_s * drafts + t.constant_s
            for t in profile.perf.terms
        )  # fmt: skip
        before, sequences = sequences, rate * step_s / gained
        if sequences > 1e6 or abs(sequences - before) < 1e-9 * sequences:
            break
    return step_s if sequences <= 1e6 else np.inf


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["h200-opt-13b", "h200-llama-3.1-8b", "a100-qwen2.5-7b"]),
    sequences=st.integers(1, 200),
    context=st.integers(50, 5000),
    acceptance=st.floats(0.1, 0.95),
)
def test_drafts_keep_the_fastest_rate_up_with_the_shortest_steps(
    name: str, sequences: int, context: int, acceptance: float
) -> None:
    profile = profiles.load(name)
    coef = coefficients(profile.perf)
    gained = [expected_tokens(acceptance, drafts) for drafts in range(7)]
    step_s = [profile.perf.iteration_s(sequences * (1 + s), sequences * (context + s), sequences, s) for s in range(7)]
    fastest = min(range(7), key=lambda s: step_s[s] / gained[s])
    rate = sequences * gained[fastest] / step_s[fastest]
    settled = [settles_at_s(profile, s, gained[s], context, rate) for s in range(fastest)] + [step_s[fastest]]
    slower = [settled[s] / gained[s] / (step_s[fastest] / gained[fastest]) for s in range(fastest + 1)]
    chosen = best_drafts(coef, Load(sequences, sequences * context, sequences, 0, 0.0), acceptance, 6, 0)
    assert slower[chosen] <= 1.251
    assert settled[chosen] <= 1.0001 * min(settled[s] for s in range(fastest + 1) if slower[s] < 1.249)
