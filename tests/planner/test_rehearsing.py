"""The rehearsal of promises, on tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slosgate.planner.arrivals import NO_ARRIVALS
from slosgate.planner.jobs import JobTable
from slosgate.planner.machine import delays_of, machine_of
from slosgate.planner.profile import CAPTURED
from slosgate.planner.rehearsal import InFlight, Rehearsal, play
from tests.planner.cases import H200, rolled


def rehearsed(jobs: JobTable, *, free: int = 8000, until_s: float = -math.inf) -> Rehearsal:
    """From time 0 on, when an iteration of 10 ms has just ended."""
    watched = np.ones(len(jobs), np.bool_)
    flight = InFlight(start_s=-0.01, end_s=0.0)
    return play(jobs.rows, machine_of(H200), delays_of(H200), NO_ARRIVALS, flight, free, watched, 0.0, until_s)


@pytest.mark.parametrize(("due_last", "starts"), [("large", True), ("small", False)])
def test_memory_goes_from_who_was_due_last(due_last: str, starts: bool) -> None:
    """Two decodes need a block each, and one is free. Whose memory goes decides whether a new prompt has room."""
    jobs = JobTable()
    for name, blocks in (("large", 100), ("small", 40)):
        deadline_s = -1.0 if name == due_last else -2.0
        jobs.add(name, deadline_s=deadline_s, due_base_s=0.0, tpot_s=0.05, prompt_left=0, context=16 * blocks,
                 generated=1, output=3, guaranteed=False)  # fmt: skip
    jobs.add("new", deadline_s=0.5, tpot_s=0.1, prompt_left=16 * 60, output=10, guaranteed=True)
    shown = rehearsed(jobs, free=1)
    assert bool(shown.first_token_s[2] < 0.5) is starts
    assert shown.stuck is not starts


def test_an_arrival_waits_until_it_can_be_seen() -> None:
    def first_s(arrival_s: float) -> float:
        jobs = JobTable()
        jobs.add("new", deadline_s=1.0, tpot_s=0.1, prompt_left=100, output=10, guaranteed=False, arrival_s=arrival_s)
        return float(rehearsed(jobs).first_token_s[0])

    own_s = H200.perf.iteration_s(100, 100, 1)
    assert first_s(-1.0) == pytest.approx(own_s)
    assert first_s(0.0) == pytest.approx(own_s + H200.request_overhead_s)


@pytest.mark.parametrize("guaranteed", [True, False])
def test_nobody_counts_on_an_arrival_that_is_there_just_in_time_and_everybody_reckons_with_it(guaranteed: bool) -> None:
    """A promise must hold if it comes too late to be chosen, and if another prompt comes early enough to be."""
    chosen_s = -float(delays_of(H200).lead_s[CAPTURED])

    def first_s(after_s: float) -> float:
        jobs = JobTable()
        jobs.add("decode", deadline_s=-1.0, due_base_s=0.0, tpot_s=0.05, prompt_left=0, context=1000, generated=1,
                 output=50, guaranteed=True)  # fmt: skip
        arrival_s = chosen_s - H200.request_overhead_s + after_s
        jobs.add("new", deadline_s=1.0, tpot_s=0.1, prompt_left=100, output=10, guaranteed=guaranteed,
                 arrival_s=arrival_s)  # fmt: skip
        return float(rehearsed(jobs).first_token_s[1])

    sooner_s, later_s = first_s(-0.0005), first_s(0.0005)
    assert sooner_s == later_s, "on which side of the choice it came can't be told"
    assert (sooner_s == first_s(0.005)) is guaranteed
    assert (sooner_s == first_s(-0.005)) is not guaranteed


def test_whoever_is_not_reached_by_its_deadline_has_missed_it() -> None:
    jobs = JobTable()
    for n in range(6):
        jobs.add(f"w{n}", deadline_s=0.2 + 0.001 * n, tpot_s=0.1, prompt_left=1500, output=10, guaranteed=False)
    shown = rehearsed(jobs, until_s=0.25)
    reached = shown.first_token_s <= 0.2 + 0.001 * np.arange(6)
    assert 0 < reached.sum() < 6
    assert shown.missed.tolist() == (~reached).tolist()


def test_an_early_first_token_buys_slack() -> None:
    jobs = JobTable()
    jobs.add("early", deadline_s=0.5, tpot_s=0.009, prompt_left=16, output=50, guaranteed=True)
    for n in range(6):
        jobs.add(f"hasty{n}", deadline_s=0.25, tpot_s=0.1, prompt_left=700, output=2, guaranteed=True)
    batches, seen = rolled(jobs, free_blocks=8000, horizon_s=0.5)
    assert seen.first_token_s[0] < 0.45
    assert not any(batch.decode.size for batch in batches[:5])  # its next token is due after half a second
    assert not seen.missed.any()
