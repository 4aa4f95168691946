"""One job, worked by hand: deadline 1.0, TPOT 0.1, arrived at 0."""

import math
from typing import Any

import pytest

from slosgate.planner.dues import (
    as_planned,
    due_base_s,
    first_due_s,
    first_token_open,
    gain,
    in_time,
    just_missed,
    latest_s,
    next_due_s,
    next_late_s,
)
from slosgate.planner.jobs import JobTable


def job(**fields: Any) -> Any:
    table = JobTable()
    wanted = {"deadline_s": 1.0, "tpot_s": 0.1, "prompt_left": 100, "output": 50, "guaranteed": False, "arrival_s": 0.0}
    table.add("job", **wanted | fields)
    return table.rows[0]


@pytest.mark.parametrize(
    ("deadline_s", "first_token_s", "base_s"),
    [(1.0, 0.4, 1.0), (1.0, 1.2, 1.2), (math.inf, 0.4, 0.4)],
    ids=["early", "late", "without a deadline"],
)
def test_later_tokens_count_from_the_deadline_or_a_late_first_token(
    deadline_s: float, first_token_s: float, base_s: float
) -> None:
    assert due_base_s(deadline_s, first_token_s) == base_s


def test_only_the_first_token_sets_the_base() -> None:
    one = job()
    gain(one, 60, 60, 0, 0.9)
    assert (one["prompt_left"], one["context"], one["generated"], one["due_base_s"]) == (40, 60, 0, 1.0)
    gain(one, 40, 40, 1, 1.3)
    assert (one["prompt_left"], one["context"], one["generated"], one["due_base_s"]) == (0, 100, 1, 1.3)
    gain(one, 3, 0, 3, 1.5)
    assert (one["context"], one["generated"], one["due_base_s"]) == (103, 4, 1.3)


def test_a_first_token_is_to_be_had_while_its_slo_can_still_be_kept() -> None:
    # Planned for 1.0 of an SLO of 1.015: best effort counts up to its tolerance, less 5 ms for the way back.
    assert first_token_open(job(), 1.06)
    assert not first_token_open(job(), 1.061)
    assert not first_token_open(job(guaranteed=True), 1.01)
    assert not first_token_open(job(deadline_s=math.inf), 0.9)


def test_a_short_deadline_leaves_best_effort_the_headroom_that_it_was_planned_with() -> None:
    # An SLO of 60 ms is planned for 45, and counts up to 63, less 5 for the way back;
    # one of 24 is planned for 18, and counts up to 25.2, less 2.
    assert latest_s(job(deadline_s=0.045)) == pytest.approx(0.058)
    assert latest_s(job(deadline_s=0.018)) == pytest.approx(0.0232)
    assert latest_s(job(guaranteed=True)) == pytest.approx(1.01)  # a promise counts without the tolerance


def test_past_its_deadline_best_effort_is_worth_serving_up_to_the_tolerance() -> None:
    assert first_due_s(job(), 1.0) == 1.0
    assert first_due_s(job(), 1.01) == pytest.approx(1.06075)
    assert first_due_s(job(guaranteed=True), 1.005) == 1.01  # part of the headroom that it was planned with
    assert first_due_s(job(arrival_s=-math.inf), 1.01) == 1.0


@pytest.mark.parametrize(
    ("now_s", "fields", "missed"),
    [(0.9, {}, False), (1.5, {}, True), (2.1, {}, False), (1.5, {"has_slo": False}, False)],
    ids=["in time", "late by half of it", "late by more", "nothing asked for"],
)
def test_what_is_late_by_less_than_the_time_it_had_has_just_missed_its_slo(
    now_s: float, fields: dict[str, Any], missed: bool
) -> None:
    assert just_missed(job(**fields), now_s) == missed


def test_best_effort_that_came_late_has_nothing_to_win() -> None:
    decoding: dict[str, Any] = {"prompt_left": 0, "context": 100, "generated": 2}
    assert next_due_s(job(due_base_s=1.0, **decoding), 1.1) == 1.2
    assert in_time(job(due_base_s=1.0, **decoding))
    assert in_time(job(due_base_s=1.04, **decoding))
    assert not as_planned(job(due_base_s=1.04, **decoding))  # so it is served in time, and not promised
    assert not in_time(job(due_base_s=1.07, **decoding))
    assert next_due_s(job(due_base_s=1.07, **decoding), 1.1) == math.inf
    assert next_due_s(job(due_base_s=1.25, guaranteed=True, **decoding), 1.1) == 1.45


def test_a_decode_is_given_up_once_it_is_a_token_and_the_tolerance_behind() -> None:
    decode = job(prompt_left=0, context=100, generated=10, due_base_s=1.0, guaranteed=True)
    assert next_late_s(decode) == pytest.approx(2.05)  # due at 2.0, and 5 % of ten tokens' time
    assert next_due_s(decode, 2.149) == 2.0
    assert next_due_s(decode, 2.151) == math.inf
