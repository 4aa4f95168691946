"""The budget of admission, worked out a second time from its inequalities alone, and by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from slosgate.planner.admission import admit
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.machine import coefficients
from tests.planner.cases import H200, random_jobs

COEF = coefficients(H200.perf)
TERMS = H200.perf.terms
STEEPEST = max(TERMS, key=lambda t: t.per_new_token_s + t.per_context_token_s)


def admitted(jobs: Jobs, free_blocks: int, now_s: float = 0.0) -> list[int]:
    """Which of the best-effort rows get a guarantee."""
    return np.flatnonzero(admit(jobs, ~jobs["guaranteed"], H200, now_s, free_blocks).accepted).tolist()


def decode_s(context: float) -> float:
    """What one decoded token costs in an iteration that runs anyway."""
    return max(t.per_new_token_s + t.per_sequence_s + t.per_context_token_s * context for t in TERMS)


def lost_s(tau_s: float) -> float:
    """What an iteration of that length prefills less than one without constants would, in seconds."""
    slopes = [t.per_new_token_s + t.per_context_token_s for t in TERMS]
    tokens = min((tau_s - t.per_sequence_s - t.constant_s) / s for t, s in zip(TERMS, slopes, strict=True) if s)
    return tau_s - math.floor(max(0.0, tokens)) * max(slopes)


def unbroken_s() -> float:
    """The shortest iteration that prefills at nine tenths of the best rate."""
    steepest = max(t.per_new_token_s + t.per_context_token_s for t in TERMS)
    return max(
        (t.per_sequence_s + t.constant_s) / (1 - 0.9 * (t.per_new_token_s + t.per_context_token_s) / steepest)
        for t in TERMS
    )


def tokens_due(job: np.void, until_s: float) -> float:
    """How many tokens of a running answer are due by then, counted without steps."""
    next_s = job["due_base_s"] + job["generated"] * job["tpot_s"]
    left = max(1, job["output"] - job["generated"])
    return 0.0 if until_s < next_s else float(min(left, (until_s - max(0.0, next_s)) / job["tpot_s"] + 1))


def held_tokens(running: list[np.void], from_s: float) -> float:
    """The most KV that running answers hold at any time from then on."""
    ends = []
    for job in running:
        left = max(1, job["output"] - job["generated"])
        ends.append(max(left * job["tpot_s"], job["due_base_s"] + job["output"] * job["tpot_s"]))
    most = 0.0
    for end_s in (e for e in ends if e >= from_s):
        held = 0.0
        for job, other_s in zip(running, ends, strict=True):
            if other_s >= end_s:
                left = max(1, job["output"] - job["generated"])
                held += job["context"] + H200.block_tokens + left * end_s / other_s
        most = max(most, held)
    return most


def fits(running: list[np.void], chosen: list[np.void], free_blocks: int) -> bool:
    """Whether all of `chosen` can be promised beside the running answers, at time 0."""
    tau_s = min(job["tpot_s"] for job in [*running, *chosen])
    each_s = min(tau_s, unbroken_s())
    lost = lost_s(each_s)
    load = sum(decode_s(job["context"]) / job["tpot_s"] for job in running)
    constant_s = max(t.constant_s for t in TERMS)
    capacity = free_blocks * H200.block_tokens
    capacity += sum(H200.blocks_for(int(job["context"])) for job in running) * H200.block_tokens
    need_s, decoding, memory, before_s = 0.0, 0.0, 0, 0.0
    for job in sorted(chosen, key=lambda job: job["deadline_s"]):
        due_s, prompt = job["deadline_s"], job["prompt_left"]
        own_s = (STEEPEST.per_new_token_s + STEEPEST.per_context_token_s) * prompt
        need_s += decoding * (due_s - before_s) + own_s
        decoding += decode_s(prompt + 0.5 * job["output"]) / job["tpot_s"]
        before_s = due_s
        budget_s = due_s * (1 - lost / each_s) - lost
        budget_s -= sum(tokens_due(other, due_s) * decode_s(other["context"]) for other in running)
        memory += H200.blocks_for(int(prompt + job["output"])) * H200.block_tokens
        room = capacity - held_tokens(running, max(0.0, due_s - own_s - lost))
        if need_s > budget_s + 1e-9 or memory > room + 1e-9:
            return False
    return bool(load + decoding <= 1 - constant_s / tau_s + 1e-9)


def test_as_much_is_promised_as_the_inequalities_allow() -> None:
    rng = np.random.default_rng(11)
    some = 0
    for _ in range(40):
        jobs = random_jobs(rng, int(rng.integers(1, 60)), 4, tiers=int(rng.integers(1, 3)), forced=0.0, weights=True)
        rows = jobs.rows
        free = int(rng.integers(40, 400))
        running = [row for row in rows if row["guaranteed"]]
        new = [row for row in rows if not row["guaranteed"]]
        sets = [list(s) for size in range(1, 5) for s in combinations(new, size)]
        best = max((sum(j["weight"] for j in s) for s in sets if fits(running, s, free)), default=0.0)
        assert sum(rows["weight"][admitted(rows, free)]) == pytest.approx(best)
        some += 0 < best < sum(j["weight"] for j in new)
    assert some > 12  # in which some are promised and some are not


def crowd(rng: np.random.Generator, count: int) -> JobTable:
    """Running answers of many lengths, whose next tokens are due within the next period."""
    jobs = JobTable()
    for n in range(count):
        generated = int(rng.integers(1, 20))
        jobs.add(
            f"running-{n}", deadline_s=-1.0, due_base_s=float(rng.uniform(0, 0.05)) - 0.05 * generated, tpot_s=0.05,
            prompt_left=0, context=int(rng.integers(20, 900)), generated=generated,
            output=generated + int(rng.integers(1, 30)), guaranteed=True,
        )  # fmt: skip
    return jobs


def compared(jobs: JobTable, free_blocks: int) -> bool:
    """Whether the last row is admitted, as the inequalities have it, too."""
    rows = jobs.rows
    wanted = fits([row for row in rows if row["guaranteed"]], [rows[-1]], free_blocks)
    assert bool(admitted(rows, free_blocks)) is wanted
    return wanted


def test_the_line_between_in_time_and_too_late_is_where_the_inequalities_have_it() -> None:
    rng = np.random.default_rng(12)
    for _ in range(5):
        jobs = crowd(rng, int(rng.integers(60, 160)))
        jobs.add("new", deadline_s=0.0, tpot_s=0.1, prompt_left=int(rng.integers(300, 1500)), output=50,
                 guaranteed=False)  # fmt: skip
        low_s, high_s = 0.0, 3.0
        while high_s - low_s > 1e-4:
            jobs["new"]["deadline_s"] = middle_s = (low_s + high_s) / 2
            low_s, high_s = (low_s, middle_s) if compared(jobs, 10**5) else (middle_s, high_s)
        answers = set()
        for deadline_s in high_s * np.linspace(0.98, 1.02, 9):
            jobs["new"]["deadline_s"] = deadline_s
            answers.add(compared(jobs, 10**5))
        assert answers == {False, True}


def test_the_line_between_room_and_none_is_where_the_inequalities_have_it() -> None:
    rng = np.random.default_rng(13)
    drawn = 0
    while drawn < 8:
        jobs = crowd(rng, int(rng.integers(5, 40)))
        jobs.add("new", deadline_s=float(rng.uniform(0.3, 1.5)), tpot_s=0.1, prompt_left=int(rng.integers(300, 1500)),
                 output=int(rng.integers(400, 3000)), guaranteed=False)  # fmt: skip
        low, high = 0, 400
        if compared(jobs, low) or not compared(jobs, high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if compared(jobs, middle) else (middle, high)
        drawn += 1


def waiting(prompt: int = 100, output: int = 50, *, due_s: float = 1.0, tpot_s: float = 0.1, **more: float) -> JobTable:
    jobs = JobTable()
    jobs.add("new", deadline_s=due_s, tpot_s=tpot_s, prompt_left=prompt, output=output, guaranteed=False, **more)  # type: ignore[arg-type]
    return jobs


def test_an_answer_needs_memory_as_its_prompt_does() -> None:
    assert admitted(waiting(prompt=800, output=160).rows, 60) == [0]
    assert admitted(waiting(prompt=800, output=161).rows, 60) == []
    assert admitted(waiting(prompt=960, output=1).rows, 60) == []


def test_a_deadline_counts_from_now() -> None:
    prompt_s = H200.perf.iteration_s(1000, 1000, 1)
    assert admitted(waiting(prompt=1000, due_s=100 + 2 * prompt_s).rows, 4000, now_s=100.0) == [0]
    assert admitted(waiting(prompt=1000, due_s=100 + 2 * prompt_s).rows, 4000, now_s=100 + 1.5 * prompt_s) == []


def test_decodes_of_who_is_admitted_load_the_replica() -> None:
    jobs = JobTable()
    for n in range(60):
        jobs.add(f"r{n}", deadline_s=60.0, tpot_s=0.0085, prompt_left=100, output=200, guaranteed=False)
    assert 0 < len(admitted(jobs.rows, 10**6)) < 50  # there is time for the prompts of all, not for their answers


@pytest.mark.parametrize(("running", "promised"), [(2, [2]), (60, [])], ids=["a few", "as many as there can be"])
def test_running_answers_load_the_replica_as_long_as_they_go_on(running: int, promised: list[int]) -> None:
    jobs = JobTable()
    for n in range(running):
        jobs.add(f"d{n}", deadline_s=-1.0, due_base_s=-0.01, tpot_s=0.0085, prompt_left=0, context=300, generated=1,
                 output=30, guaranteed=True)  # fmt: skip
    jobs.add("new", deadline_s=20.0, tpot_s=0.1, prompt_left=100, output=50, guaranteed=False)
    assert admitted(jobs.rows, 4000) == promised


def test_best_effort_in_time_is_as_good_as_promised_and_best_effort_that_is_late_is_not() -> None:
    def beside(due_base_s: float) -> list[int]:
        jobs = waiting(prompt=600, output=100, due_s=0.5)
        for n in range(300):
            jobs.add(f"d{n}", deadline_s=-1.0, due_base_s=due_base_s, tpot_s=0.02, prompt_left=0, context=300,
                     generated=5, output=500, guaranteed=False)  # fmt: skip
        rows = jobs.rows
        candidate = np.zeros(len(rows), np.bool_)
        candidate[0] = True
        return np.flatnonzero(admit(rows, candidate, H200, 0.0, 4000).accepted).tolist()

    assert beside(-1.0) == []
    assert beside(-0.5) == [0]


def test_who_is_held_takes_no_part() -> None:
    jobs = waiting(prompt=600, output=100, due_s=0.5)
    for n in range(300):
        jobs.add(f"d{n}", deadline_s=-1.0, tpot_s=0.02, prompt_left=0, context=300, generated=5, output=500,
                 guaranteed=True, held=True)  # fmt: skip
    assert admitted(jobs.rows, 4000) == [0]


def test_a_pace_without_a_first_deadline_is_admitted_as_if_it_were_due_in_half_a_minute() -> None:
    assert admitted(waiting(due_s=math.inf).rows, 4000) == [0]
    assert admitted(waiting(due_s=math.inf, tpot_s=0.005).rows, 4000) == []
    jobs = JobTable()
    jobs.add("fast", deadline_s=-1.0, due_base_s=-0.01, tpot_s=0.0085, prompt_left=0, context=300, generated=1,
             output=20_000, guaranteed=True)  # fmt: skip
    for n in range(30):
        jobs.add(f"w{n}", deadline_s=math.inf, tpot_s=10.0, prompt_left=20_000, output=10, guaranteed=False)
    assert 0 < len(admitted(jobs.rows, 10**6)) < 30  # an iteration of 8.5 ms has time for hardly any prompt
