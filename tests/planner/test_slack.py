import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.planner.batch import Batch
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.kernels import Load, load_s, token_budget
from slosgate.planner.machine import machine_of
from slosgate.planner.slack import fill, next_batch
from tests.planner.cases import H200, random_jobs, rolled

LONG = profiles.load("h200-llama-3.1-8b")


def names(jobs: JobTable, rows: np.ndarray) -> list[str]:
    return [jobs.ids[row] for row in rows.tolist()]


def new_tokens(batch: Batch) -> int:
    return int(batch.decode.size + batch.drafts.sum() + batch.tokens.sum())


def decode(jobs: JobTable, job_id: str, *, due_in_s: float, guaranteed: bool = True) -> None:
    jobs.add(job_id, deadline_s=due_in_s, due_base_s=due_in_s - 0.1, tpot_s=0.1, prompt_left=0, context=300,
             generated=1, output=50, guaranteed=guaranteed)  # fmt: skip


def prefill(jobs: JobTable, job_id: str, *, tokens: int, due_in_s: float, guaranteed: bool = False) -> None:
    jobs.add(job_id, deadline_s=due_in_s, tpot_s=0.1, prompt_left=tokens, output=50, guaranteed=guaranteed)


def test_prefills_go_alone_while_the_decodes_can_wait() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    prefill(jobs, "late", tokens=150, due_in_s=0.9)
    prefill(jobs, "soon", tokens=150, due_in_s=0.3)
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    assert not batch.decode.size
    assert names(jobs, batch.prefill) == ["soon", "late"]


def test_a_decode_that_is_due_carries_what_prefill_still_fits() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.03)
    prefill(jobs, "prompt", tokens=2000, due_in_s=0.9)
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    assert names(jobs, batch.decode) == ["decode"]
    assert 0 < batch.tokens[0] < 2000
    assert batch.duration_s <= 0.03


def test_an_iteration_ends_before_the_first_deadline_in_it() -> None:
    def first(short_due_in_s: float) -> Batch:
        jobs = JobTable()
        prefill(jobs, "short", tokens=200, due_in_s=short_due_in_s)
        prefill(jobs, "long", tokens=1500, due_in_s=0.5)
        batch = next_batch(jobs.rows, H200, 0.0, 1000)
        assert names(jobs, batch.prefill)[0] == "short"
        return batch

    assert first(0.4).duration_s > 0.016  # as long as any iteration should be
    assert 0.013 < first(0.015).duration_s <= 0.015


def test_beside_decodes_too_it_ends_before_the_first_deadline_in_it() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.03)
    prefill(jobs, "short", tokens=100, due_in_s=0.014)
    prefill(jobs, "long", tokens=1500, due_in_s=0.5)
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    assert names(jobs, batch.prefill)[0] == "short"
    assert batch.duration_s <= 0.014


def test_nobody_starts_behind_a_guarantee_that_has_no_room() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    prefill(jobs, "promised first", tokens=1600, due_in_s=0.8, guaranteed=True)
    prefill(jobs, "promised next", tokens=16, due_in_s=0.9, guaranteed=True)
    prefill(jobs, "small", tokens=16, due_in_s=0.9)
    assert not next_batch(jobs.rows, H200, 0.0, 90).prefill.size
    jobs["promised first"]["guaranteed"] = False  # it can be overtaken, then
    assert "promised next" in names(jobs, next_batch(jobs.rows, H200, 0.0, 90).prefill)


def test_best_effort_leaves_room_for_guarantees_that_wait() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    prefill(jobs, "first", tokens=800, due_in_s=0.7)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 110).prefill) == ["first"]
    prefill(jobs, "promised", tokens=1000, due_in_s=2.0, guaranteed=True)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 110).prefill) == ["promised"]


def test_no_more_sequences_begin_than_the_engine_takes() -> None:
    two = msgspec.structs.replace(H200, max_sequences=2)
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    for n in range(3):
        prefill(jobs, f"p{n}", tokens=20, due_in_s=0.5 + 0.1 * n)
    assert names(jobs, next_batch(jobs.rows, two, 0.0, 1000).prefill) == ["p0"]
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill) == ["p0", "p1", "p2"]


def test_when_not_all_can_be_in_time_weight_counts() -> None:
    jobs = JobTable()
    prefill(jobs, "long", tokens=1800, due_in_s=0.10)
    prefill(jobs, "short", tokens=900, due_in_s=0.101)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "short"
    jobs["long"]["weight"] = 3.0
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "long"


def test_a_guarantee_is_given_a_tenth_more_time_than_its_prompt_takes() -> None:
    takes_s = H200.perf.iteration_s(500, 500, 1)
    rest_s = H200.perf.iteration_s(1000, 1000, 2)
    jobs = JobTable()
    prefill(jobs, "first", tokens=500, due_in_s=1.2 * takes_s)
    prefill(jobs, "promised", tokens=500, due_in_s=1.15 * rest_s, guaranteed=True)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "first"
    jobs["promised"]["deadline_s"] = 1.06 * rest_s
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "promised"


def test_best_effort_that_is_lost_hurries_nobody() -> None:
    def decodes(**changed: float) -> list[str]:
        jobs = JobTable()
        decode(jobs, "decode", due_in_s=0.01, guaranteed=False)
        for name, value in changed.items():
            jobs["decode"][name] = value
        prefill(jobs, "prompt", tokens=400, due_in_s=0.3)
        return names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).decode)

    assert decodes() == ["decode"]
    assert decodes(deadline_s=-0.2) == []  # its first token was late by more than a period
    assert decodes(deadline_s=-0.2, guaranteed=True) == ["decode"]
    assert decodes(due_base_s=-0.3, deadline_s=-0.3) == []  # behind by two tokens
    assert decodes(due_base_s=-0.18, deadline_s=-0.18) == ["decode"]


def test_a_decode_without_a_free_block_waits_and_takes_none_from_others() -> None:
    jobs = JobTable()
    for n, context in enumerate((320, 321, 336)):
        decode(jobs, f"d{n}", due_in_s=0.02 + 0.001 * n)
        jobs[f"d{n}"]["context"] = context
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1).decode) == ["d0", "d1"]
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 0).decode) == ["d1"]
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 2).decode) == ["d0", "d1", "d2"]


def test_prompts_leave_a_block_for_every_decode_that_needs_one_next() -> None:
    jobs = JobTable()
    for n in range(4):
        decode(jobs, f"d{n}", due_in_s=0.5)
        jobs[f"d{n}"]["context"] = 320
        jobs[f"d{n}"]["output"] = 3
    prefill(jobs, "begun", tokens=400, due_in_s=0.2)
    jobs["begun"]["context"] = 16
    batch = next_batch(jobs.rows, H200, 0.0, 10)
    assert (batch.decode.size, batch.tokens.tolist()) == (0, [6 * 16])


def test_when_not_all_can_be_in_time_the_longest_waits() -> None:
    jobs = JobTable()
    prefill(jobs, "long", tokens=1800, due_in_s=0.10)
    prefill(jobs, "a", tokens=900, due_in_s=0.11)
    prefill(jobs, "b", tokens=900, due_in_s=0.12)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "a"
    _, seen = rolled(jobs, free_blocks=1000, horizon_s=1.0)
    assert dict(zip(jobs.ids, seen.missed.tolist(), strict=True)) == {"long": True, "a": False, "b": False}


def test_a_long_prompt_is_broken_up_for_whoever_arrives_next() -> None:
    jobs = JobTable()
    prefill(jobs, "long", tokens=2000, due_in_s=5.0)
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    assert batch.duration_s < 0.6 * H200.zero_load_ttft_s(2000)
    assert batch.tokens[0] / batch.duration_s > 0.85 * token_budget(H200.perf.coefficients(), 1.0, 0.0, 0.0, 1.0, 0.0)


def test_a_guarantee_is_served_even_when_it_is_the_longest() -> None:
    jobs = JobTable()
    prefill(jobs, "promised", tokens=1800, due_in_s=0.10, guaranteed=True)
    prefill(jobs, "a", tokens=900, due_in_s=0.11)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill)[0] == "promised"


def test_a_first_token_a_little_late_is_still_worth_having() -> None:
    jobs = JobTable()
    takes_s = H200.perf.iteration_s(1000, 1000, 1)
    for name, arrived_ago_s in (("within the tolerance", 1.0), ("beyond it", 0.01)):
        prefill(jobs, name, tokens=1000, due_in_s=takes_s - 0.02)
        jobs[name]["arrival_s"] = -arrived_ago_s
    prefill(jobs, "in time", tokens=1000, due_in_s=1.0)
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    assert names(jobs, batch.prefill) == ["within the tolerance"]


def test_requests_without_an_slo_take_what_is_left() -> None:
    jobs = JobTable()
    inf = float("inf")
    jobs.add("plain", deadline_s=inf, tpot_s=inf, prompt_left=100, output=10, guaranteed=False)
    prefill(jobs, "slo", tokens=100, due_in_s=0.5)
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 1000).prefill) == ["slo", "plain"]


def test_a_prompt_that_the_memory_cannot_hold_waits() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    prefill(jobs, "big", tokens=1600, due_in_s=0.9)
    assert not next_batch(jobs.rows, H200, 0.0, 50).prefill.size
    assert not next_batch(jobs.rows, H200, 0.0, 105).prefill.size  # whole blocks and drafts take more than is planned
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 120).prefill) == ["big"]


def test_who_cannot_be_in_time_starts_where_no_slo_is_at_stake() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    prefill(jobs, "late", tokens=500, due_in_s=-1.0)
    jobs["late"]["arrival_s"] = -1.5
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 300).prefill) == ["late"], "memory enough for a burst is left"
    assert not next_batch(jobs.rows, H200, 0.0, 80).prefill.size
    jobs["decode"]["guaranteed"] = False
    jobs["decode"]["due_base_s"] = 1e3  # its first token was late
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 80).prefill) == ["late"]


def test_best_effort_is_overtaken_for_minutes_and_not_for_ever() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    for name, arrived_ago_s in (("just late", 2.0), ("long late", 301.0)):
        prefill(jobs, name, tokens=500, due_in_s=1.0 - arrived_ago_s)
        jobs[name]["arrival_s"] = -arrived_ago_s
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 80).prefill) == ["long late"]


def test_what_has_just_missed_its_slo_starts_while_memory_has_room() -> None:
    jobs = JobTable()
    decode(jobs, "decode", due_in_s=0.5)
    for name, late_s in (("missed long ago", 2.5), ("just missed", 0.5)):
        prefill(jobs, name, tokens=500, due_in_s=-late_s)
        jobs[name]["arrival_s"] = -late_s - 2.0
    assert names(jobs, next_batch(jobs.rows, H200, 0.0, 80).prefill) == ["just missed"]
    assert not next_batch(jobs.rows, H200, 0.0, 30).prefill.size  # what fits into all of the memory


def test_held_jobs_never_run() -> None:
    jobs = JobTable()
    decode(jobs, "held", due_in_s=0.01, guaranteed=False)
    prefill(jobs, "held too", tokens=100, due_in_s=0.1)
    jobs.rows["held"] = True
    assert next_batch(jobs.rows, H200, 0.0, 1000).empty


def test_drafts_are_made_where_they_are_accepted() -> None:
    jobs = JobTable()
    decode(jobs, "drafts", due_in_s=0.02)
    decode(jobs, "plain", due_in_s=0.02)
    jobs["drafts"]["acceptance"] = 0.8
    batch = next_batch(jobs.rows, H200, 0.0, 1000)
    drafts = dict(zip(names(jobs, batch.decode), batch.drafts.tolist(), strict=True))
    assert drafts["drafts"] > 0
    assert drafts["plain"] == 0


def took_s(jobs: Jobs, batch: Batch) -> float:
    """The performance model's word for a batch, counted anew."""
    context = int((jobs["context"][batch.decode] + 1 + batch.drafts).sum())
    context += int((jobs["context"][batch.prefill] + batch.tokens).sum())
    sequences = batch.decode.size + batch.prefill.size
    return H200.perf.iteration_s(new_tokens(batch), context, sequences, int(batch.drafts.max(initial=0)))


@settings(max_examples=100, deadline=None)
@given(
    tau_s=st.floats(0.005, 1.0),
    prompts=st.lists(st.tuples(st.integers(0, 120_000), st.integers(1, 20_000)), min_size=1, max_size=5),
    decodes=st.integers(0, 30),
)
def test_prompts_behind_long_contexts_are_given_all_that_ends_in_time(
    tau_s: float, prompts: list[tuple[int, int]], decodes: int
) -> None:
    table = JobTable()
    for n, (context, left) in enumerate(prompts):
        table.add(str(n), deadline_s=np.inf, tpot_s=np.inf, prompt_left=left, context=context, output=1,
                  guaranteed=False)  # fmt: skip
    machine = machine_of(LONG)
    start = Load(decodes, decodes * 20_000, decodes, 0, 0.0)
    order = np.arange(len(prompts))
    load, taken = fill(table.rows, order, machine, 0.0, tau_s, start, 100_000, machine.max_tokens)

    def takes_s(tokens: list[int]) -> float:
        run = [(before, n) for (before, _), n in zip(prompts, tokens, strict=True) if n]
        new, context = sum(n for _, n in run), sum(before + n for before, n in run)
        pairs = sum(n * before + n * n / 2 for before, n in run)
        return LONG.perf.iteration_s(decodes + new, start.context + context, decodes + len(run), 0, pairs)

    given_ = taken.tolist()
    assert load.new == decodes + sum(given_)
    if sum(given_):
        assert load_s(machine.coef, load) == pytest.approx(takes_s(given_))
        assert takes_s(given_) <= tau_s + 1e-9
    for n, (_, left) in enumerate(prompts):
        if given_[n] < left and load.new < machine.max_tokens:
            assert takes_s([*given_[:n], given_[n] + 1, *given_[n + 1 :]]) > tau_s - 1e-9


def blocks(jobs: Jobs, batch: Batch) -> int:
    """KV blocks that a batch takes."""
    grown = [(int(jobs["context"][r]), 1 + int(d)) for r, d in zip(batch.decode, batch.drafts, strict=True)]
    grown += [(int(jobs["context"][r]), int(t)) for r, t in zip(batch.prefill, batch.tokens, strict=True)]
    return sum(H200.blocks_for(c + n) - H200.blocks_for(c) for c, n in grown)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000), running=st.integers(0, 40), new=st.integers(0, 20), free=st.integers(0, 3000),
    acceptance=st.sampled_from([0.0, 0.7]),
)  # fmt: skip
def test_every_batch_respects_time_memory_and_limits(
    seed: int, running: int, new: int, free: int, acceptance: float
) -> None:
    table = random_jobs(np.random.default_rng(seed), running, new, acceptance=acceptance)
    rows, now_s = table.rows, 0.1
    before = rows.copy()
    batch = next_batch(rows, H200, now_s, free)
    assert (rows == before).all()
    assert batch.duration_s == (0.0 if batch.empty else took_s(rows, batch))
    assert blocks(rows, batch) <= free
    assert new_tokens(batch) <= H200.max_batched_tokens
    assert (batch.tokens <= rows["prompt_left"][batch.prefill]).all()
    assert (rows["prompt_left"][batch.decode] == 0).all()
    if batch.prefill.size and batch.decode.size:
        # Prompt tokens beside decodes may fill the time up to the first due time, but not beyond.
        due = rows["due_base_s"] + rows["generated"] * rows["tpot_s"]
        late = rows["tpot_s"] * (1 + 0.05 * rows["generated"])
        live = [r for r in batch.decode.tolist() if now_s <= due[r] + late[r]]
        alone = Batch(batch.decode, batch.drafts, batch.prefill[:0], batch.tokens[:0], 0.0)
        assert not live or batch.duration_s <= max(due[live].min() - now_s, took_s(rows, alone)) + 1e-9
