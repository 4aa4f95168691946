"""Systems by name."""

from __future__ import annotations

import pytest

from slosgate.engines.sim import systems


@pytest.mark.parametrize(
    ("said", "shown"), [("slos-serve-ar", "slosgate-ar"), ("slos-serve", "slosgate"), ("vllm",) * 2]
)
def test_our_own_system_is_known_by_the_papers_name_too(said: str, shown: str) -> None:
    assert systems.canonical(said) == shown
    assert systems.load(said) is systems.load(shown)


def test_a_variant_counts_by_the_code_it_shares() -> None:
    assert systems.module("slosgate-ar") == systems.module("slosgate") == "slosgate.engines.sim.systems.slosgate"
