"""What a gateway makes of telemetry and ledger entries, one report at a time."""

from __future__ import annotations

import math

import msgspec
import pytest

from slosgate.engines import profiles
from slosgate.engines.messages import RequestProgress, Telemetry
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.state.records import LedgerEntry

PROFILE = profiles.load("h200-opt-13b")


def entry(request_id: str, **changed: object) -> LedgerEntry:
    made = LedgerEntry(
        request_id=request_id, gateway="a", slo_class="default", arrival_s=100.0, has_slo=True, deadline_s=101.0,
        tpot_s=0.05, weight=1.0, prompt_tokens=40, output_tokens=9, acceptance=0.5, guaranteed=False,
        dispatched_s=100.0, decided_s=100.0, report_s=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def progress(
    request_id: str, left: int = 0, context: int = 41, generated: int = 2, due_s: float = 0.0
) -> RequestProgress:
    return RequestProgress(request_id, left, context, generated, due_s, False)


def report(
    *shown: RequestProgress, sent_at_s: float = 100.0, epoch: int = 0, busy_for_s: float = 0.0, free: int = 7000
) -> Telemetry:
    return Telemetry(
        replica="r", sent_at_s=sent_at_s, epoch=epoch, busy_for_s=busy_for_s, kv_blocks_total=8000,
        kv_blocks_free=free, progress=shown,
    )  # fmt: skip


def test_a_request_is_a_job_from_its_admission_on_and_telemetry_says_where_it_stands() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x"))
    assert int(mirror.jobs["x"]["prompt_left"]) == 40
    mirror.take(report(progress("x", left=10, context=30, generated=0)), 100.1)
    job = mirror.jobs["x"]
    assert [int(job[name]) for name in ("prompt_left", "context", "generated")] == [10, 30, 0]
    assert mirror.free_blocks == 7000
    mirror.take(report(), 100.2)
    assert list(mirror.jobs) == []
    assert list(mirror.entries) == ["x"]  # until its answer has ended at its gateway


def test_who_is_not_shown_yet_is_on_the_way_for_a_second() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x"))
    mirror.take(report(), 100.9)
    assert "x" in mirror.jobs
    mirror.take(report(), 101.1)
    assert "x" not in mirror.jobs
    mirror.take(report(progress("x", left=20, context=20, generated=0)), 101.2)  # it comes after all
    job = mirror.jobs["x"]
    assert (int(job["prompt_left"]), int(job["output"]), float(job["deadline_s"])) == (20, 9, 101.0)


def test_who_came_past_the_gateways_is_best_effort_without_an_slo() -> None:
    mirror = Mirror(PROFILE)
    mirror.take(report(progress("stranger", generated=5)), 100.0)
    job = mirror.jobs["stranger"]
    assert (bool(job["guaranteed"]), float(job["deadline_s"]), float(job["tpot_s"])) == (False, math.inf, math.inf)
    assert int(job["output"]) > 5


def test_a_report_that_left_before_an_answer_ended_does_not_bring_it_back() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x"))
    mirror.take(report(progress("x")), 100.5)
    mirror.drop("x", 100.6)
    mirror.take(report(progress("x")), 101.0)
    assert list(mirror.jobs) == []
    mirror.take(report(progress("x")), 103.0)  # it goes on all the same
    assert list(mirror.jobs) == ["x"]


def test_an_id_that_is_used_again_is_a_new_request() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x"))
    mirror.drop("x", 100.0)
    mirror.add(entry("x"))
    mirror.take(report(progress("x", left=20, context=20, generated=0)), 100.1)
    assert int(mirror.jobs["x"]["prompt_left"]) == 20


def test_a_promotion_changes_the_job_and_not_how_far_it_is() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x"))
    mirror.take(report(progress("x", left=10, context=30, generated=0)), 100.1)
    mirror.add(entry("x", guaranteed=True, output_tokens=20, deadline_s=102.0))
    job = mirror.jobs["x"]
    assert (bool(job["guaranteed"]), int(job["output"]), float(job["deadline_s"])) == (True, 20, 102.0)
    assert int(job["prompt_left"]) == 10


def test_the_iteration_in_flight_runs_down_between_reports() -> None:
    mirror = Mirror(PROFILE)
    assert (mirror.busy_for_s(50.0), mirror.running_for_s(50.0)) == (0.0, 0.0)
    mirror.take(report(busy_for_s=0.04), 100.0)
    assert mirror.busy_for_s(100.01) == pytest.approx(0.03)
    assert mirror.running_for_s(100.01) == pytest.approx(0.01)
    assert mirror.overdue_s(100.01) == 0.0
    assert mirror.busy_for_s(100.05) == 0.0  # what it has begun since then, it has not told yet
    assert mirror.running_for_s(100.05) == pytest.approx(0.05)
    assert mirror.overdue_s(100.05) == pytest.approx(0.01)


def test_due_times_are_read_on_our_clock_and_never_before_the_deadline() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("x", deadline_s=101.0))
    # The replica's clock is 10 s behind; the first message took 0.3 s, the second 0.1 s.
    mirror.take(report(progress("x", due_s=91.5), sent_at_s=90.0), 100.3)
    mirror.take(report(progress("x", due_s=91.5), sent_at_s=90.4), 100.5)
    assert float(mirror.jobs["x"]["due_base_s"]) == pytest.approx(101.6)
    mirror.take(report(progress("x", due_s=91.5), sent_at_s=90.5), 101.5)  # a slow message tells nothing
    assert float(mirror.jobs["x"]["due_base_s"]) == pytest.approx(101.6)
    mirror.take(report(progress("x", due_s=80.0), sent_at_s=91.6), 101.7)
    assert float(mirror.jobs["x"]["due_base_s"]) == 101.0


def test_what_is_to_be_done_follows_every_change() -> None:
    """It is counted once for all decisions until something changes: (prompt tokens, decodes, their context)."""
    mirror = Mirror(PROFILE)
    assert mirror.waiting[:3] == (0, 0, 0)
    mirror.add(entry("x"))
    assert mirror.waiting[:3] == (40, 0, 0)
    mirror.add(entry("y", prompt_tokens=10))
    assert mirror.waiting[:3] == (50, 0, 0)
    mirror.take(report(progress("x"), progress("y", left=5, context=5, generated=0)), 100.1)
    assert mirror.waiting[:3] == (5, 1, 41)
    mirror.take(report(progress("x", context=42, generated=3)), 100.2)
    assert mirror.waiting[:3] == (0, 1, 42)
    mirror.drop("x", 100.3)
    assert mirror.waiting[:3] == (0, 0, 0)
    mirror.load(4, {"z": entry("z")}, 100.4, {"y"})
    assert mirror.waiting[:3] == (40, 0, 0)


def test_being_told_again_of_an_entry_changes_nothing() -> None:
    mirror, known = Mirror(PROFILE), entry("x")
    mirror.add(known)
    mirror.take(report(progress("x", left=10, context=30, generated=0)), 100.1)
    mirror.committed(7, [known])
    assert mirror.waiting[:3] == (10, 0, 0)
    assert len(mirror.patience.latest_s) == 1
    mirror.committed(8, [entry("x", guaranteed=True)])
    assert bool(mirror.jobs["x"]["guaranteed"])


def test_the_newest_epoch_stays_known() -> None:
    mirror = Mirror(PROFILE)
    mirror.take(report(epoch=7), 100.0)
    mirror.take(report(epoch=3), 100.1)
    assert mirror.epoch == 7


def test_a_ledger_that_is_loaded_replaces_the_known_one() -> None:
    mirror = Mirror(PROFILE)
    for name in ("gone", "stays"):
        mirror.add(entry(name))
    mirror.load(4, {"stays": entry("stays", guaranteed=True), "new": entry("new")}, 100.0, {"gone", "stays"})
    assert sorted(mirror.entries) == sorted(mirror.jobs) == ["new", "stays"]
    assert bool(mirror.jobs["stays"]["guaranteed"])
    assert mirror.version == 4


def test_what_happens_while_a_ledger_is_loaded_is_not_undone_by_it() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("ends"))
    asked_s, before = 100.0, frozenset(mirror.entries)
    mirror.drop("ends", 100.1)
    mirror.add(entry("comes"))
    mirror.load(4, {"ends": entry("ends")}, asked_s, before)
    assert list(mirror.entries) == mirror.jobs.ids == ["comes"]


def test_the_median_prompt_and_the_patience_are_learned_once_from_each_request() -> None:
    mirror = Mirror(PROFILE)
    for n in range(30):
        mirror.add(entry(f"r{n}", prompt_tokens=100 if n % 3 else 900))
        mirror.add(entry(f"r{n}", prompt_tokens=100 if n % 3 else 900, guaranteed=True))
    assert mirror.firm_tokens == pytest.approx(100, rel=0.1)
    assert mirror.patience.latest_s.size == 30
    mirror.add(entry("plain", has_slo=False))
    assert mirror.patience.latest_s.size == 30


def test_half_of_the_prompts_are_short_for_their_weight_whatever_the_weights_are() -> None:
    mirror = Mirror(PROFILE)
    for n in range(60):
        weight = (1.0, 5.0, 25.0)[n % 3]
        mirror.add(entry(f"r{n}", prompt_tokens=1000, weight=weight))
        mirror.add(entry(f"in-line-{n}", prompt_tokens=1000, has_slo=False, weight=1e-3))
    assert mirror.firm_tokens * 1.0 < 1000 <= mirror.firm_tokens * 5.0
