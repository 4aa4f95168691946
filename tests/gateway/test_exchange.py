"""What a gateway notes of one request: when its tokens are late, and how much sooner they are planned for."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from slosgate.engines.told import slo_args
from slosgate.gateway.config import Config
from slosgate.gateway.promises.completion import parse, with_slo_args
from slosgate.gateway.promises.contract import resolve
from slosgate.gateway.promises.exchange import Exchange
from slosgate.planner.controller import Arrival
from slosgate.planner.desk import DeskSettings


def exchange(ttft_s: float = 1.0, tpot_ms: int = 100, **changed: Any) -> Exchange:
    body = parse(json.dumps({"model": "m", "prompt": [1, 2]}).encode(), "completions")
    contract = resolve({b"x-slo-ttft-ms": b"1000", b"x-slo-tpot-ms": b"%d" % tpot_ms}, None, Config())
    return Exchange("r", body, contract, 100.0, 2, 50, ttft_s, **changed)


@pytest.mark.parametrize(("at_s", "late"), [(101.0, False), (101.049, False), (101.06, True)])
def test_a_first_token_is_late_beyond_the_tolerance(at_s: float, late: bool) -> None:
    found = exchange()
    found.count(1, at_s)
    assert found.late is late


@pytest.mark.parametrize(("at_s", "late"), [(103.0, False), (102.99, False), (103.01, True)])
def test_later_tokens_are_due_from_the_deadline_on_even_if_the_first_came_early(at_s: float, late: bool) -> None:
    found = exchange()
    found.count(1, 100.2)
    found.count(19, at_s - 0.006)  # the 20th is the 19th after the first: due 1.995 s after the deadline
    found.end(at_s)
    assert found.late is late


def test_tokens_between_the_checks_may_be_late() -> None:
    found = exchange()
    found.count(1, 100.2)
    found.count(5, 109.0)
    found.count(14, 102.9)
    found.end(103.0)
    assert not found.late


@pytest.mark.parametrize(("at_s", "late"), [(151.99, False), (152.0, True)])
def test_without_a_ttft_slo_the_pace_counts_from_the_first_token(at_s: float, late: bool) -> None:
    found = exchange(math.inf)
    found.count(1, 150.0)
    found.count(19, at_s)
    found.end(at_s)
    assert found.late is late


@pytest.mark.parametrize("ttft_s", [1.0, math.inf])
def test_a_single_token_is_judged_when_it_comes_whatever_else_ends_the_stream(ttft_s: float) -> None:
    found = exchange(ttft_s)
    found.count(1, 101.04)  # within the tolerance
    found.end(109.0)
    assert not found.late


@pytest.mark.parametrize(("at_s", "late"), [(101.04, False), (101.06, True)])
def test_a_stream_without_tokens_is_late_when_its_end_is(at_s: float, late: bool) -> None:
    found = exchange()
    found.end(at_s)
    assert found.late is late


@pytest.mark.parametrize(("headroom_s", "planned_s"), [(0.0, 101.0), (0.2, 100.8), (0.9, 100.75)])
def test_the_plan_wants_it_sooner_but_by_no_more_than_a_quarter(headroom_s: float, planned_s: float) -> None:
    settings = DeskSettings(headroom_s=headroom_s)
    assert exchange(settings=settings).turn_s == pytest.approx(planned_s)


def test_only_a_completed_answer_in_time_is_attained() -> None:
    found = exchange()
    assert not found.attained
    found.outcome = "completed"
    assert found.attained
    found.late = True
    assert not found.attained


def test_a_replica_is_told_what_is_left_and_what_the_gateway_alone_may_say() -> None:
    arrival = Arrival("r", -0.5, math.inf, 1, 9, weight=2.0, acceptance=0.61239)
    args = slo_args(arrival, "c", DeskSettings(), guaranteed=True)
    assert (args.slo_ttft_ms, args.slo_tpot_ms, args.slo_guaranteed, args.slo_acceptance) == (1.0, None, 1, 0.612)
    body = {"model": "m", "prompt": [1], "vllm_xargs": {"slo_guaranteed": 7, "slo_switch_at": 99, "mine": 1}}
    sent = json.loads(with_slo_args(parse(json.dumps(body).encode(), "completions"), args))
    assert sent["vllm_xargs"] == {"mine": 1, **msgspec.to_builtins(args)}


def test_nothing_is_ever_promised_to_several_sequences() -> None:
    alone = Arrival("r", 1.0, 0.05, 100, 100)
    told = [
        slo_args(each, "c", DeskSettings(), guaranteed=False)
        for each in (alone, msgspec.structs.replace(alone, sequences=2))
    ]
    assert [args.slo_promises for args in told] == [1, 0]
    assert told[0].slo_ttft_ms == told[1].slo_ttft_ms
