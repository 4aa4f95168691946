import pytest

from slosgate.planner.jobs import JobTable


def table(*ids: str) -> JobTable:
    jobs = JobTable(capacity=1)
    for n, job_id in enumerate(ids, start=1):
        jobs.add(job_id, deadline_s=float(n), tpot_s=0.05, prompt_left=n, output=10, guaranteed=True)
    return jobs


def test_rows_stay_dense_when_a_job_in_the_middle_leaves() -> None:
    jobs = table("a", "b", "c")
    jobs.remove("a")
    assert sorted(jobs) == ["b", "c"]
    assert jobs["b"]["prompt_left"] == 2
    assert jobs["c"]["prompt_left"] == 3
    assert jobs.rows["prompt_left"].sum() == 5


def test_writing_to_a_record_changes_the_table_and_not_its_copy() -> None:
    jobs = table("a")
    twin = jobs.copy()
    jobs["a"]["prompt_left"] = 0
    assert jobs.rows["prompt_left"][0] == 0
    assert twin["a"]["prompt_left"] == 1


def test_an_id_is_used_once() -> None:
    jobs = table("a")
    with pytest.raises(ValueError, match="already"):
        jobs.add("a", deadline_s=0, tpot_s=1, prompt_left=1, output=1, guaranteed=False)
