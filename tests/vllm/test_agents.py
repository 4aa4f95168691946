"""Loops and thinking on real vLLM behind a gateway: through the openai client, and as `slosbench` replays them.

The weights are random; a logits processor has them end their thinking where a request says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from slosgate.bench.attainment import GUARANTEED, PAPER, attained, collect
from slosgate.bench.gpu.dummy_model import WORD_CHARACTERS
from slosgate.bench.live import Target, replay
from slosgate.bench.load import Load
from slosgate.bench.summary import prompts
from slosgate.engines.sim.systems import Call, Offered
from tests.processes import Process, running_gateway, running_valkey
from tests.vllm.serving import MODEL, vllm_engine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

THOUGHTS, WORDS = 60, 20
BLOCK_TOKENS = 128  # of vLLM's KV on CPUs
ADMIN = {"authorization": "Bearer admin"}
CONFIG = f"""
[admin]
sha256 = "{sha256(b"admin").hexdigest()}"
[classes.reasoning]
ttft_ms = 60000
think_tpot_ms = 3000
tpot_ms = 6000
[classes.loops]
[classes.call-soon]
tpot_ms = 6000
[classes.answer-soon]
ttft_of = "answer"
tpot_ms = 6000
"""
OPTIONS = ("--enable-prefix-caching", "--enable-prompt-tokens-details")
PARSED = ("--reasoning-parser", "deepseek_r1", "--logits-processors", "tests.vllm.ending:EndsThinking")


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with (
        running_valkey() as state,
        running_gateway(state.url, CONFIG, wait=False) as gateway,
        vllm_engine("thinker", state.url, tmp_path_factory.mktemp("vllm"), *OPTIONS, *PARSED, words=True),
    ):
        gateway.wait_until_up("/ready", needs=["thinker"])
        yield gateway


@pytest.fixture
async def client(thinking: Process) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{thinking.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@dataclass
class Answer:
    """When its tokens came, in seconds from the request's beginning, and what the gateway noted of it."""

    thoughts_s: list[float] = field(default_factory=list)
    words_s: list[float] = field(default_factory=list)
    thinking_events: int = 0
    admission: str = ""
    record: dict[str, Any] = field(default_factory=dict)


async def ask(client: AsyncOpenAI, slo_class: str, thoughts: int = THOUGHTS, **headers: str) -> Answer:
    begun_s, answer = time.monotonic(), Answer()
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Why?"}], max_tokens=thoughts + WORDS, stream=True,
        extra_body={"ignore_eos": True, "vllm_xargs": {"thinking_tokens": thoughts}},
        extra_headers={"x-slo-class": slo_class, **{name.replace("_", "-"): said for name, said in headers.items()}},
    )  # fmt: skip
    async for chunk in stream:
        delta, now_s = chunk.choices[0].delta, time.monotonic() - begun_s
        thought = getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None) or ""
        answer.thinking_events += bool(thought)
        # A server that fell behind sends several tokens at once.
        answer.thoughts_s += [now_s] * (len(thought) // WORD_CHARACTERS)
        answer.words_s += [now_s] * (len(delta.content or "") // WORD_CHARACTERS)
    told = stream.response.headers
    answer.admission = told["x-slo-admission"]
    await asyncio.sleep(0.2)  # the record is kept once the answer has ended
    async with httpx.AsyncClient(trust_env=False, headers=ADMIN) as admin:
        url = f"{str(client.base_url).removesuffix('/v1/')}/admin/requests/{told['x-slo-request-id']}"
        answer.record = (await admin.get(url)).json()
    return answer


async def test_thinking_and_answer_are_told_apart_and_come_at_their_paces(client: AsyncOpenAI) -> None:
    answer = await ask(client, "reasoning")
    assert answer.admission == "guaranteed"
    assert (len(answer.thoughts_s), len(answer.words_s)) == (THOUGHTS - 1, WORDS)  # its end is no thought
    assert answer.record["thinking_tokens"] == answer.thinking_events
    assert answer.record["attained"] is True


async def test_a_class_with_the_ttft_of_the_answer_is_judged_by_its_first_token(client: AsyncOpenAI) -> None:
    before = await ask(client, "call-soon")
    between_s = (before.thoughts_s[0] + before.words_s[0]) / 2
    judged = [
        (await ask(client, slo_class, x_slo_ttft_ms=f"{between_s * 1000:.0f}")).record["attained"]
        for slo_class in ("call-soon", "answer-soon")
    ]
    assert judged == [True, False]
    in_time = await ask(client, "answer-soon", x_slo_ttft_ms=f"{before.words_s[0] * 5000:.0f}")
    assert in_time.record["attained"] is True


def loop(arrival_s: float) -> Offered:
    """Four calls that go on from each other, with SLOs that a CPU can keep."""
    calls, context = [], 0
    for new, output in ((300, 20), (40, 10), (60, 10), (50, 30)):
        calls.append(Call(new, output, ttft_slo_s=30.0, tpot_slo_s=5.0, cached_tokens=context, gap_s=0.2))
        context += new + output
    return Offered(arrival_s, tuple(calls), "loops")


async def test_a_loops_later_calls_are_promised_and_find_what_the_earlier_ones_left(thinking: Process) -> None:
    load = Load(tuple(loop(0.3 * n) for n in range(3)), 1.0, "by hand")
    run = await replay(load, Target((thinking.url,), MODEL), seed=0, drain_s=120.0)
    assert [(outcome.error, outcome.admission) for outcome in run.outcomes] == [("", GUARANTEED)] * 3
    assert attained(collect(run.outcomes), PAPER).all()
    known = [call.cached_tokens for request in load.requests for call in request.calls]
    assert prompts(run.outcomes)["cached_tokens"] == sum(n // BLOCK_TOKENS * BLOCK_TOKENS for n in known)
