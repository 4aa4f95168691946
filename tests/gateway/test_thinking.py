"""Thinking and answer at their own paces: through the openai client, a real gateway and a simulated reasoning model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from openai import AsyncOpenAI

from slosgate.engines.messages import RequestProgress
from slosgate.gateway import config as configuration
from slosgate.gateway.config import Config
from slosgate.gateway.promises.answers import in_events
from slosgate.gateway.promises.completion import parse
from slosgate.gateway.promises.contract import resolve
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.state.records import LedgerEntry
from slosgate.planner.pace import NOT_YET
from tests.gateway.test_ledger import entry
from tests.processes import Process, running_engine, running_gateway

CONFIG = """
[classes.reasoning]
ttft_ms = 2000
tpot_ms = 100
think_tpot_ms = 30
when_full = "reject"
[classes.answer-soon]
ttft_ms = 3000
ttft_of = "answer"
tpot_ms = 100
"""


@pytest.fixture(scope="module")
def thinking(redis_url: str) -> Iterator[Process]:
    with (
        running_gateway(redis_url, CONFIG, wait=False) as process,
        running_engine(redis_url, "thinker", "--model", "thinker", "--thinking", "0.5", wait=False) as engine,
    ):
        engine.wait_until_up()
        process.wait_until_up("/ready", needs=["thinker"])
        yield process


async def test_thinking_and_answer_arrive_at_their_own_paces(thinking: Process) -> None:
    async with AsyncOpenAI(base_url=f"{thinking.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="thinker", messages=[{"role": "user", "content": "Why?"}], max_tokens=40, stream=True,
            extra_body={"ignore_eos": True}, extra_headers={"x-slo-class": "reasoning"},
        )  # fmt: skip
        thoughts, said = [], []
        async for chunk in stream:
            delta = chunk.choices[0].delta
            if getattr(delta, "reasoning_content", None):
                thoughts.append(time.monotonic())
            elif delta.content:
                said.append(time.monotonic())
    assert (len(thoughts), len(said)) == (20, 20)
    assert np.diff(thoughts).mean() < 0.03 * 1.5
    assert stream.response.headers["x-slo-admission"] == "guaranteed"


def exchange(slo_class: str, **template: bool) -> Exchange:
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "chat_template_kwargs": template}
    config = configuration.parse(CONFIG)
    contract = resolve({b"x-slo-class": slo_class.encode()}, None, config)
    return Exchange("r", parse(json.dumps(body).encode(), "chat"), contract, 100.0, 9, 50, contract.ttft_s,
                    thinking_planned=20)  # fmt: skip


def test_each_part_is_judged_by_its_own_pace() -> None:
    def judged(think_s: float, answer_s: float) -> bool:
        found = exchange("reasoning")
        at_s = 101.9
        for n in range(60):
            at_s += think_s if n < 30 else answer_s
            found.count(1, at_s, thoughts=int(n < 30))
        found.end(at_s)
        return found.late

    assert not judged(0.029, 0.099)
    assert judged(0.040, 0.099)
    assert judged(0.029, 0.120)


def test_a_ttft_of_the_answer_is_that_of_the_first_token_which_is_no_thinking() -> None:
    for first_s, late in ((102.9, False), (103.3, True)):
        found = exchange("answer-soon")
        found.count(1, 100.5, thoughts=1)
        found.count(1, first_s)
        found.end(first_s)
        assert found.late is late
    assert exchange("answer-soon").arrival(100.0).ttft_s < 3.0  # thinking needs its time before


def test_no_pace_changes_where_the_template_is_told_not_to_think() -> None:
    assert exchange("reasoning").pace.next_tpot_s == pytest.approx(0.1)
    told = exchange("reasoning", enable_thinking=False).pace
    assert told.tpot_s == pytest.approx(0.1)
    assert told.switch_at == 0


@pytest.mark.parametrize(
    ("slo", "asked_ms", "e2e_s"),
    [("", 500, 0.5), ("tpot_ms = 100", 500, math.inf), ("e2e_ms = 2000", 500, 2.0), ("e2e_ms = 2000", 9000, 9.0)],
)
def test_a_key_gets_no_tighter_pace_than_its_class_by_asking_for_a_whole_call(
    slo: str, asked_ms: int, e2e_s: float
) -> None:
    text = f"[classes.c]\n{slo}\n[keys.k]\nsha256 = '{'0' * 64}'\ndefault_class = 'c'\nmay_set_slo = true\n"
    config = configuration.parse(text)
    headers = {b"x-slo-e2e-ms": str(asked_ms).encode()}
    contract = resolve(headers, None, config, config.keys["k"])
    assert contract.e2e_s == e2e_s
    whole = resolve({b"x-slo-session-e2e-ms": b"500"}, None, config, config.keys["k"])
    assert whole.session_e2e_s == (0.5 if not slo else math.inf)
    assert whole.within(0.1).e2e_s == {"": 0.1, "tpot_ms = 100": math.inf, "e2e_ms = 2000": 2.0}[slo]


def test_a_whole_call_is_judged_by_its_end() -> None:
    body = parse(b'{"model":"m","prompt":[1]}', "completions")
    contract = resolve({b"x-slo-e2e-ms": b"2000"}, None, Config())
    for end_s, late in ((101.9, False), (102.2, True)):
        found = Exchange("r", body, contract, 100.0, 1, 10, math.inf)
        found.count(1, 100.1)
        found.count(9, end_s)
        found.end(end_s)
        assert found.late is late
    assert found.arrival(100.0).ttft_s == pytest.approx(1.0)


def test_what_engines_and_gateways_say_of_thinking_that_goes_on_can_be_read() -> None:
    """Else a replica's reports would be dropped, and other gateways would not know of its promise."""
    progress = RequestProgress("r", 0, 90, 20, 100.0, True, NOT_YET)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(progress), type=RequestProgress) == progress
    promised = msgspec.structs.replace(entry("r"), switch_at=exchange("reasoning").pace.switch_at, next_tpot_s=0.1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(promised), type=LedgerEntry) == promised


def test_events_of_thinking_are_told_from_those_of_the_answer() -> None:
    thought = b'data: {"choices":[{"index":0,"delta":{"reasoning":"hm"},"finish_reason":null}]}\n\n'
    empty = b'data: {"choices":[{"index":0,"delta":{"content":"so","reasoning":""},"finish_reason":null}]}\n\n'
    assert (in_events(thought * 3 + empty).tokens, in_events(thought * 3 + empty).thoughts) == (4, 3)
