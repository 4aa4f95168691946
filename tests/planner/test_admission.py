import numpy as np
import pytest

from slosgate.planner.admission import admit, solve
from slosgate.planner.budget import (
    BUDGET,
    DEADLINE,
    FORCED,
    MEMORY,
    PREFILL,
    ROOM,
    VALUE,
    Problem,
    problems,
)
from slosgate.planner.jobs import JobTable
from tests.planner.cases import H200, random_jobs
from tests.planner.references import admit_by_brute_force, admit_greedily, feasible, forced, worth


def random_problems(seed: int, cases: int, acceptance: float) -> list[Problem]:
    rng = np.random.default_rng(seed)
    found: list[Problem] = []
    while len(found) < cases:
        jobs = random_jobs(
            rng, int(rng.integers(0, 40)), int(rng.integers(1, 10)), tiers=int(rng.integers(1, 4)),
            acceptance=acceptance, weights=bool(rng.integers(2)),
        ).rows  # fmt: skip
        found += problems(jobs, ~jobs["guaranteed"], H200, 0.0, int(rng.integers(20, 2000)))
    return found


@pytest.mark.parametrize(("seed", "acceptance"), [(0, 0.0), (1, 0.7)], ids=["plain", "speculation"])
def test_the_program_finds_the_best_value_in_600_random_cases(seed: int, acceptance: float) -> None:
    for problem in random_problems(seed, 600, acceptance):
        chosen, value, exact = solve(problem.table, problem.load_left)
        best = admit_by_brute_force(problem)
        assert exact
        assert value == pytest.approx(-1.0 if best is None else best)
        if best is not None:
            assert feasible(problem, chosen)
            assert worth(problem, chosen) == pytest.approx(best)


def test_the_program_finds_the_best_value_in_random_cases() -> None:
    """Fewer and smaller ones than above: they take little time even where the kernels are not compiled."""
    rng = np.random.default_rng(7)
    for case in range(90):
        rows = random_jobs(rng, 4, 7, tiers=1 + case % 2, forced=0.0, weights=case % 3 == 0).rows
        for problem in problems(rows, ~rows["guaranteed"], H200, 0.0, int(rng.integers(60, 200))):
            best = admit_by_brute_force(problem)
            assert solve(problem.table, problem.load_left)[1] == pytest.approx(-1.0 if best is None else best)


def test_what_takes_less_time_but_more_memory_does_not_stand_for_what_takes_less_memory() -> None:
    """Only one of the first two can be in time. With the slower one two others have room, with the faster one they
    haven't, though each resource by itself would let it go on with two others."""
    table = np.zeros((5, 9))
    table[:, DEADLINE], table[:, BUDGET] = (1.0, 1.0, 2.0, 2.0, 2.0), (0.5, 0.5, 1.0, 1.0, 1.0)
    table[:, PREFILL], table[:, MEMORY] = (0.3, 0.4, 0.3, 0.6, 0.3), (400, 100, 600, 200, 400)
    table[:, VALUE], table[:, ROOM] = 1.0, 1100
    chosen, value, exact = solve(table, 1.0)
    assert (chosen.tolist(), value, exact) == ([False, True, True, False, True], 3.0, True)


def test_greedy_is_feasible_and_never_better() -> None:
    for problem in random_problems(2, 200, 0.0):
        greedy = admit_greedily(problem)
        if greedy is not None:
            assert feasible(problem, greedy)
            assert worth(problem, greedy) <= solve(problem.table, problem.load_left)[1] + 1e-9


def test_one_more_request_never_raises_what_the_others_may_take() -> None:
    rng = np.random.default_rng(3)
    lower = 0
    for _ in range(60):
        jobs = random_jobs(rng, int(rng.integers(0, 40)), 8, weights=True)
        rows, last = jobs.rows, jobs.row_of("new-7")
        rows["guaranteed"][last] = False
        candidate = ~rows["guaranteed"]
        fewer = candidate.copy()
        fewer[last] = False
        alone = admit(rows, fewer, H200, 0.0, 200)
        rows["guaranteed"][last] = True
        beside = admit(rows, fewer, H200, 0.0, 200)
        assert beside.value <= alone.value
        lower += beside.value < alone.value
    assert lower > 30


def test_what_is_guaranteed_stays_in_and_only_candidates_are_admitted() -> None:
    rng = np.random.default_rng(4)
    worth_more_without = 0
    for _ in range(150):
        rows = random_jobs(rng, 20, 9, forced=0.4, weights=True).rows
        candidate = ~rows["guaranteed"]
        candidate[np.flatnonzero(candidate)[::2]] = False
        admission = admit(rows, candidate, H200, 0.0, 200)
        assert not (admission.accepted & ~candidate).any()
        for problem in problems(rows, candidate, H200, 0.0, 200):
            chosen, value, _ = solve(problem.table, problem.load_left)
            assert value < 0 or chosen[forced(problem)].all()
            free = problem._replace(table=problem.table * (np.arange(problem.table.shape[1]) != FORCED))
            worth_more_without += value >= 0 and not solve(free.table, free.load_left)[0][forced(problem)].all()
    assert worth_more_without > 20


def pair(output: int, running_left: int) -> JobTable:
    """A decode that holds half of a memory of 100 blocks, and a prompt that needs 60 of them, due in 3 s."""
    jobs = JobTable()
    jobs.add("old", deadline_s=0, tpot_s=0.05, prompt_left=0, context=800, generated=10, output=10 + running_left,
             guaranteed=True, due_base_s=-0.5)  # fmt: skip
    jobs.add("new", deadline_s=3.0, tpot_s=0.1, prompt_left=800, output=output, guaranteed=False)
    return jobs


@pytest.mark.parametrize(("running_left", "fits"), [(10, True), (500, False)], ids=["ends before", "still there"])
def test_memory_of_what_ends_before_the_prefill_must_start_counts_as_free(running_left: int, fits: bool) -> None:
    rows = pair(160, running_left).rows
    admission = admit(rows, ~rows["guaranteed"], H200, 0.0, free_blocks=50)
    assert bool(admission.accepted[1]) is fits


def test_a_cached_prefix_makes_room_for_a_deadline() -> None:
    def accepted(cached: int) -> bool:
        jobs = JobTable()
        jobs.add("new", deadline_s=0.03, tpot_s=0.1, prompt_left=1500 - cached, context=cached, output=10,
                 guaranteed=False)  # fmt: skip
        return bool(admit(jobs.rows, ~jobs.rows["guaranteed"], H200, 0.0, 4000).accepted[0])

    assert not accepted(0)
    assert accepted(1400)


def test_the_tighter_tier_of_a_multi_stage_request_is_what_counts() -> None:
    def accepted(next_tpot_s: float) -> bool:
        jobs = JobTable()
        jobs.add("new", deadline_s=1.0, tpot_s=0.1, prompt_left=100, output=200, guaranteed=False, switch_at=100,
                 next_tpot_s=next_tpot_s)  # fmt: skip
        return bool(admit(jobs.rows, ~jobs.rows["guaranteed"], H200, 0.0, 4000).accepted[0])

    assert accepted(0.05)
    assert not accepted(0.005)  # an iteration alone takes 8 ms
