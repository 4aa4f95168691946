from collections.abc import Callable

import pytest

from slosgate.bench.capacity import Count, rate_of, search, step_of
from slosgate.bench.questions import Question
from slosgate.bench.sweeps import best_of
from slosgate.bench.workers import Workers


def falling(capacity_rps: float, asked: list[float]) -> Callable[[float], Count]:
    def measure(rate_rps: float) -> Count:
        asked.append(rate_rps)
        return Count(950 if rate_rps <= capacity_rps else 500, 1000)

    return measure


@pytest.mark.parametrize("start", [0.05, 1.0, 4.0, 300.0])
def test_it_finds_the_grid_rate_below_the_cliff_from_anywhere(start: float) -> None:
    asked: list[float] = []
    found = search(falling(3.7, asked), 0.9, start)
    assert found.rate_rps <= 3.7 < found.rate_rps * 1.026
    assert found.count.attainment == 0.95
    assert len(asked) == len(set(asked)) < 22


def test_a_lucky_rate_above_a_failing_one_does_not_count() -> None:
    lucky = rate_of(step_of(5.0))

    def measure(rate_rps: float) -> Count:
        return Count(950 if rate_rps <= 3.7 or rate_rps == lucky else 500, 1000)

    assert search(measure, 0.9, lucky).rate_rps <= 3.7


@pytest.mark.parametrize(("lucky", "counts"), [(2, False), (3, True)], ids=["two in a row", "three in a row"])
def test_a_rate_counts_when_the_two_below_it_hold_as_well(lucky: int, counts: bool) -> None:
    steps = range(100, 100 - lucky, -1)

    def measure(rate_rps: float) -> Count:
        return Count(950 if rate_rps <= rate_of(90) or rate_rps in map(rate_of, steps) else 500, 1000)

    assert search(measure, 0.9, rate_of(100)).rate_rps == rate_of(100 if counts else 90)


def test_an_attainment_that_is_just_the_target_is_enough() -> None:
    def measure(rate_rps: float) -> Count:
        return Count(900 if rate_rps <= 3.7 else 899, 1000)

    assert 3.6 < search(measure, 0.9, 1.0).rate_rps <= 3.7


def test_a_system_that_never_holds_has_no_capacity() -> None:
    assert search(falling(0.0, []), 0.9, 1.0).rate_rps == 0.0


class Hopeless(Workers):
    """Whatever is asked, nobody attains."""

    def __init__(self) -> None:
        super().__init__(1)
        self.questions: list[Question] = []

    def count(self, question: Question, rate_rps: float, target: float) -> Count:
        self.questions.append(question)
        return Count(0, 100)


def test_a_baseline_that_never_holds_is_asked_for_with_real_splits_only() -> None:
    workers = Hopeless()
    found = best_of([Question("coder", "distserve", "a100-opt-13b")], 0.99, workers, 1.0)
    assert found.capacity.rate_rps == 0.0
    assert {(asked.replicas, asked.tuning.prefill_replicas) for asked in workers.questions} == {(2, 1), (3, 1), (3, 2)}
