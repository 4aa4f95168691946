"""KV memory with blocks of 16 tokens, worked by hand."""

from typing import Any

import numpy as np

from slosgate.planner.jobs import JobTable
from slosgate.planner.memory import first_to_yield, growth, keeping, memory_share, recompute, yielding


def table(**jobs: dict[str, Any]) -> JobTable:
    found = JobTable()
    for name, fields in jobs.items():
        wanted = {"deadline_s": 1.0, "tpot_s": 0.1, "prompt_left": 0, "output": 50, "guaranteed": True, "context": 32}
        found.add(name, **wanted | fields)
    return found


def nothing(jobs: JobTable) -> Any:
    return np.zeros(len(jobs), np.bool_)


def test_decodes_at_the_end_of_a_block_need_another() -> None:
    jobs = table(full={}, begun={"context": 33}, held={"held": True, "guaranteed": False}, prefills={"prompt_left": 5})
    assert growth(jobs.rows, 16) == 1


def test_held_jobs_yield_first_then_best_effort_then_the_latest_deadline() -> None:
    kept = [(False, True, 1.0), (False, True, 2.0), (False, False, 0.5), (True, False, 0.1)]
    assert sorted(kept, key=lambda job: keeping(*job), reverse=True) == kept


def test_what_holds_nothing_or_is_spared_does_not_yield() -> None:
    jobs = table(sure={}, empty={"guaranteed": False, "context": 0}, effort={"guaranteed": False})
    assert first_to_yield(jobs.rows, nothing(jobs)) == 2
    assert first_to_yield(jobs.rows, np.array([False, False, True])) == 0
    assert first_to_yield(jobs.rows, np.ones(3, np.bool_)) == -1


def test_as_many_yield_as_the_others_lack_blocks() -> None:
    # Three decodes need a block each and one is free. The first to yield gives back two, and needs none then.
    jobs = table(sure={}, late={"deadline_s": 3.0}, effort={"guaranteed": False}, begun={"context": 5})
    gone = nothing(jobs)
    assert yielding(jobs.rows, gone, 16, 1).tolist() == [2]
    assert gone.tolist() == [False, False, True, False]
    assert yielding(jobs.rows, nothing(jobs), 16, 3).tolist() == []


def test_several_yield_where_one_is_not_enough() -> None:
    jobs = table(a={"context": 16}, b={"context": 16, "deadline_s": 2.0}, c={"context": 16, "deadline_s": 3.0})
    assert yielding(jobs.rows, nothing(jobs), 16, -1).tolist() == [2, 1]


def test_lost_memory_is_computed_again_with_the_token_that_has_none_yet() -> None:
    jobs = table(decodes={"generated": 3}, prefills={"prompt_left": 5, "context": 20})
    for row in range(2):
        recompute(jobs.rows, row)
    assert jobs.rows["prompt_left"].tolist() == [33, 25]
    assert jobs.rows["context"].tolist() == [0, 0]
    assert jobs.rows["generated"].tolist() == [3, 0]


def test_the_share_counts_whole_blocks() -> None:
    assert memory_share(table(a={"context": 17}).rows, 16, 6) == 0.25
