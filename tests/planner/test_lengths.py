import numpy as np
import pytest

from slosgate.planner.lengths import Acceptance, ClassStatistics


def test_until_enough_is_known_the_cap_is_planned_for() -> None:
    stats = ClassStatistics()
    for _ in range(19):
        stats = stats.finished("chat", 50)
    assert stats.planning_tokens("chat", 400) == 400
    assert stats.finished("chat", 50).planning_tokens("chat", 400) == pytest.approx(50, rel=0.1)
    assert stats.planning_tokens("never seen", 400) == 400


def test_a_window_is_no_estimate_while_too_few_are_known() -> None:
    stats = ClassStatistics()
    assert stats.planning_tokens("thinking", 32_000, 512) == 512
    few = stats.finished("thinking", 50).finished("thinking", 4000)
    assert few.planning_tokens("thinking", 32_000, 512) == pytest.approx(4000, rel=0.1)
    assert few.planning_tokens("thinking", 300, 512) == 300


def test_the_quantile_follows_the_class_and_the_cap() -> None:
    rng = np.random.default_rng(0)
    stats = ClassStatistics()
    outputs = rng.lognormal(5, 0.8, 2000)
    for tokens in outputs:
        stats = stats.finished("chat", int(tokens) + 1)
    assert stats.planning_tokens("chat", 4000) == pytest.approx(np.quantile(outputs, 0.9), rel=0.15)
    assert stats.planning_tokens("chat", 100) == 100


def test_acceptance_is_learned_from_what_was_verified() -> None:
    rng = np.random.default_rng(1)
    chat = Acceptance()
    assert chat.rate == pytest.approx(0.6)  # what is usual, until something is known
    for _ in range(1500):
        accepted = next((k for k in range(4) if rng.random() > 0.7), 4)
        chat = chat.observe(accepted, int(accepted < 4))
    assert chat.rate == pytest.approx(0.7, abs=0.06)


def test_fewer_than_no_drafts_cannot_be_accepted() -> None:
    with pytest.raises(ValueError, match="accepted"):
        Acceptance().observe(-1, 3)
