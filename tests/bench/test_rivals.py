"""Rivals beside slosgate: what is compared, on loads that differ."""

from __future__ import annotations

import pytest

from slosgate.bench import counts, scenarios, tuning
from slosgate.bench.questions import Question, settings_of
from slosgate.bench.reproduce import rivals


def question(system: str, scenario: str = "coder") -> Question:
    return Question(scenario, system, scenarios.load(scenario).hardware, other_slices=True)


def test_every_seed_is_another_load_also_where_a_slice_is_stretched() -> None:
    asked = question("edf")
    loads = [counts.load_of(asked, 2.0, seed).requests for seed in range(3)]
    assert loads[0] != loads[1] != loads[2]
    assert counts.seeds_of(asked) == 3


def test_a_later_slice_leaves_poisson_arrivals_where_they_are() -> None:
    moved = scenarios.later(scenarios.load("mixed"), 2)
    assert moved.classes["coder"].slice_s == (2386, 2686)
    assert moved.classes["summarizer"] == scenarios.load("mixed").classes["summarizer"]


def test_only_what_is_promised_soon_counts_as_promised() -> None:
    told = {name: counts.fates(question(name), 4.0, 0) for name in ("slosgate-ar", "edf")}
    ours = told["slosgate-ar"]
    assert 0 < ours["promised_and_kept"] <= ours["promised"] < ours["guaranteed"]
    assert told["edf"]["promised"] == told["edf"]["guaranteed"] == 0


@pytest.mark.parametrize("system", ["edf", "slosgate-ar"])
def test_a_system_that_is_told_weights_attains_more_value(system: str) -> None:
    told = counts.value(question(system), 6.0, 0, rivals.WEIGHTS)
    plain = counts.fates(question(system), 6.0, 0)
    assert told["attained_value"] / told["offered_value"] > plain["attained"] / plain["offered"]


def test_a_rival_is_tuned_over_budgets_and_how_long_decodes_wait() -> None:
    tried = settings_of(question("edf"))
    assert {one.tuning.budget for one in tried} == set(tuning.RIVAL_BUDGETS)
    assert {one.tuning.defer_below for one in tried} == {0.0, 0.5, 1.0}
