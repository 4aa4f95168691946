"""What pace an SLO becomes, before and after thinking ends."""

from __future__ import annotations

import pytest

from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import token_due_s
from slosgate.planner.pace import NOT_YET, Asked, Pace, pace_of, thought

SLO = Asked(ttft_s=1.0, tpot_s=0.1)


@pytest.mark.parametrize(
    ("asked", "thinking", "expected"),
    [
        (SLO, 100, Pace(1.0, 0.1)),
        (Asked(1.0, 0.1, think_tpot_s=0.02), 0, Pace(1.0, 0.02, NOT_YET, 0.1)),
        (Asked(1.0, 0.1, think_tpot_s=0.02, thinks=False), 100, Pace(1.0, 0.1)),
        # The answer is due after 4 s: 100 tokens of thinking in one of them, from a first token within three.
        (Asked(4.0, 0.1, think_tpot_s=0.01, ttft_of_answer=True), 100, Pace(3.0, 0.01, NOT_YET, 0.1)),
        (Asked(4.0, 0.1, ttft_of_answer=True), 100, Pace(2.0, 0.02, NOT_YET, 0.1)),
        (Asked(4.0, 0.1, ttft_of_answer=True), 0, Pace(4.0, 0.1)),
        (Asked(e2e_s=6.0), 0, Pace(3.0, 3.0 / 60)),
        (Asked(1.0, 0.01, e2e_s=6.0), 0, Pace(1.0, 0.01)),
    ],
)
def test_the_pace_that_is_promised(asked: Asked, thinking: int, expected: Pace) -> None:
    found = pace_of(asked, thinking, output_tokens=61)
    assert (found.ttft_s, found.tpot_s, found.switch_at) == pytest.approx(
        (expected.ttft_s, expected.tpot_s, expected.switch_at)
    )
    assert found.next_tpot_s == expected.next_tpot_s


def test_tokens_are_due_at_the_answers_pace_once_thinking_has_ended() -> None:
    table = JobTable()
    table.add("a", deadline_s=1.0, tpot_s=0.02, prompt_left=0, output=50, guaranteed=True, switch_at=NOT_YET,
              next_tpot_s=0.1)  # fmt: skip
    job = table["a"]
    assert token_due_s(job, 30) == pytest.approx(1.0 + 30 * 0.02)
    thought(job, 11)  # the tenth after the first was the last of thinking
    assert token_due_s(job, 30) == pytest.approx(1.0 + 10 * 0.02 + 20 * 0.1)
    thought(job, 0)
    assert token_due_s(job, 30) == pytest.approx(1.0 + 10 * 0.02 + 20 * 0.1)  # it ends once


def test_what_does_not_think_has_the_answers_pace_from_the_first_token() -> None:
    table = JobTable()
    table.add("a", deadline_s=1.0, tpot_s=0.02, prompt_left=9, output=50, guaranteed=True, switch_at=NOT_YET,
              next_tpot_s=0.1)  # fmt: skip
    thought(table["a"], 0)
    assert token_due_s(table["a"], 5) == pytest.approx(1.5)
