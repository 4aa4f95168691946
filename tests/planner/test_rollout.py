"""What an iteration leaves behind, in expectation."""

import numpy as np
import pytest

from slosgate.planner.batch import Batch
from slosgate.planner.jobs import JobTable
from slosgate.planner.rollout import advance, nothing_seen

NO_ROWS = np.empty(0, np.int64)


def prefill(tokens: int) -> Batch:
    return Batch(NO_ROWS, NO_ROWS, np.array([0]), np.array([tokens]), 0.1)


def waiting(**fields: object) -> JobTable:
    jobs = JobTable()
    jobs.add("a", **{"deadline_s": 1.0, "tpot_s": 0.1, "prompt_left": 32, "output": 9, "guaranteed": True} | fields)  # type: ignore[arg-type]
    return jobs


@pytest.mark.parametrize(("end_s", "missed", "base_s"), [(0.5, False, 1.0), (1.5, True, 1.5)], ids=["early", "late"])
def test_the_last_of_a_prompt_brings_the_first_token(end_s: float, missed: bool, base_s: float) -> None:
    jobs = waiting()
    seen = nothing_seen(jobs.rows)
    assert advance(jobs.rows, prefill(32), end_s, 16, seen, False) == -2
    assert (seen.first_token_s[0], bool(seen.missed[0])) == (end_s, missed)
    assert (int(jobs["a"]["generated"]), float(jobs["a"]["due_base_s"])) == (1, base_s)


@pytest.mark.parametrize(("end_s", "missed"), [(1.3, False), (1.5, True)], ids=["in time", "late"])
def test_a_job_that_lost_its_memory_goes_on_from_the_token_it_was_at(end_s: float, missed: bool) -> None:
    jobs = waiting(generated=4, due_base_s=1.0)  # its next token is due at 1.4, and counts until 1.42
    seen = nothing_seen(jobs.rows)
    assert seen.first_token_s[0] == -np.inf
    advance(jobs.rows, prefill(32), end_s, 16, seen, False)
    assert bool(seen.missed[0]) is missed
    assert (int(jobs["a"]["generated"]), float(jobs["a"]["due_base_s"])) == (5, 1.0)


def test_expected_tokens_add_up_and_a_finished_job_gives_its_blocks_back() -> None:
    jobs = waiting(prompt_left=0, context=30, generated=6, due_base_s=1.0, acceptance=0.5)
    seen = nothing_seen(jobs.rows)
    step = Batch(np.array([0]), np.array([1]), NO_ROWS, NO_ROWS, 0.1)  # gains 1.5 tokens
    assert advance(jobs.rows, step, 1.1, 16, seen, True) == 0
    assert (int(jobs["a"]["generated"]), float(seen.carry[0])) == (7, 0.5)
    assert advance(jobs.rows, step, 1.2, 16, seen, True) == 2
    assert (int(jobs["a"]["generated"]), bool(jobs["a"]["held"])) == (9, True)
