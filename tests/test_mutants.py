"""The list of mutants keeps step with the code: `make mutants` tries them."""

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.package}: {mutant.breaks}")
def test_every_mutant_still_applies_and_its_tests_are_there(mutant: Mutant) -> None:
    assert mutant.applied(ROOT) != (ROOT / mutant.file).read_text()
    for test in mutant.tests:
        file, _, names = test.partition("::")
        name = names.rpartition("::")[2].partition("[")[0]
        assert f"def {name}(" in (ROOT / file).read_text()


def test_there_are_at_least_sixty_over_all_packages() -> None:
    assert len(MUTANTS) >= 60
    assert {mutant.package for mutant in MUTANTS} == {"planner", "engines", "gateway", "bench", "traces"}
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
