"""The rehearsal of promises, on tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slosgate.planner.commitment import PATIENT
from slosgate.planner.jobs import JobTable
from slosgate.planner.rehearsal import Rehearsal, rehearse
from slosgate.planner.rollout import roll_forward
from tests.planner.cases import H200


def rehearsed(jobs: JobTable, *, free: int = 8000, until_s: float = -math.inf) -> Rehearsal:
    """From time 0 on, when an iteration of 10 ms has just ended."""
    watched = np.ones(len(jobs), np.bool_)
    return rehearse(jobs.rows, H200, PATIENT, -0.01, 0.0, free, watched, until_s)


def decode(jobs: JobTable, name: str, *, deadline_s: float, context: int) -> None:
    jobs.add(name, deadline_s=deadline_s, due_base_s=0.0, tpot_s=0.05, prompt_left=0, context=context, generated=1,
             output=3, guaranteed=True)  # fmt: skip


def test_memory_goes_from_who_was_due_last() -> None:
    jobs = JobTable()
    for name, deadline_s in (("first", -3.0), ("last", -1.0), ("second", -2.0)):
        decode(jobs, name, deadline_s=deadline_s, context=16 * 100)
    shown = rehearsed(jobs, free=2, until_s=0.3)
    assert dict(zip(jobs.ids, shown.missed.tolist(), strict=True)) == {"first": False, "last": True, "second": False}
    assert not rehearsed(jobs, free=3, until_s=0.05).missed.any()


def test_an_arrival_waits_until_it_can_be_seen() -> None:
    def first_s(arrival_s: float) -> float:
        jobs = JobTable()
        jobs.add("new", deadline_s=1.0, tpot_s=0.1, prompt_left=100, output=10, guaranteed=False, arrival_s=arrival_s)
        return float(rehearsed(jobs).first_token_s[0])

    own_s = H200.perf.iteration_s(100, 100, 1)
    assert first_s(-1.0) == pytest.approx(own_s)
    assert first_s(0.0) == pytest.approx(own_s + H200.request_overhead_s)


def test_whoever_is_not_reached_by_its_deadline_has_missed_it() -> None:
    jobs = JobTable()
    for n in range(6):
        jobs.add(f"w{n}", deadline_s=0.2 + 0.001 * n, tpot_s=0.1, prompt_left=1500, output=10, guaranteed=False)
    shown = rehearsed(jobs, until_s=0.4)
    reached = shown.first_token_s <= 0.2 + 0.001 * np.arange(6)
    assert 0 < reached.sum() < 6
    assert shown.missed.tolist() == (~reached).tolist()


def test_an_early_first_token_buys_slack() -> None:
    jobs = JobTable()
    jobs.add("early", deadline_s=0.5, tpot_s=0.009, prompt_left=16, output=50, guaranteed=True)
    for n in range(6):
        jobs.add(f"hasty{n}", deadline_s=0.25, tpot_s=0.1, prompt_left=700, output=2, guaranteed=True)
    rollout = roll_forward(jobs.rows, H200, 0.0, 8000, horizon_s=0.5)
    assert rollout.first_token_s[0] < 0.45
    assert not rollout.missed[0]
