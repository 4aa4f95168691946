"""What counts as a token, as usage and as a failure in an answer; and what becomes of it in records and metrics."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slosgate.gateway.promises.answers import Events, in_events, in_whole
from tests.gateway.conftest import ADMIN, Start
from tests.gateway.scripted import Call, Script
from tests.gateway.test_metrics import page
from tests.processes import Process

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"w"},"finish_reason":null}]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":40}}\n\n'
ERROR = b'data: {"error":{"message":"engine said no","type":"InternalServerError","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        (TOKEN * 3, 3),
        (TOKEN * 3 + DONE, 3),
        ((TOKEN * 3 + DONE).replace(b"\n", b"\r\n"), 3),
        ((TOKEN * 3 + DONE).replace(b"data: ", b"data:"), 3),
        (ROLE + TOKEN * 2, 2),
        (ROLE.replace(b'""', b'"hello"') + TOKEN, 2),
        (b": ping\n\nevent: x\n" + TOKEN, 1),
        (TOKEN + USAGE + DONE, 1),
        (b"data:\n\n" + TOKEN + b"data: \n\ndata:\r\n\r\n", 1),
        (TOKEN + b"event: error\ndata: boom\n\n", 1),
        (TOKEN + ERROR + DONE, 1),
        (TOKEN.replace(b'{"ch', b'{"error":{},"logprob":NaN,"ch') + ROLE.replace(b"null", b'null,"x":-Infinity'), 1),
        (TOKEN + b'data: {"detail":"Internal Server Error"}\n\n' + DONE, 1),
        (b'data: {"choices":[{"text":"say \\"error\\" and \\"role\\": x"}]}\n\n', 1),
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}\n\n', 1),
    ],
)
def test_events_that_carry_a_token(events: bytes, tokens: int) -> None:
    assert in_events(events).tokens == tokens


@given(
    st.lists(
        st.builds(
            bytes.replace,
            st.sampled_from([
                TOKEN, ROLE, USAGE, ERROR, DONE, TOKEN * 2, TOKEN + DONE, TOKEN.replace(b"null", b'"error"'),
                TOKEN.replace(b"content", b"reasoning_content"), TOKEN.replace(b"delta", b"usage"),
                b'data: {"choices":[{"index":0,"text":"w","logprobs":null}]}\n\n', b"data: w\n\n", b": w\n\n",
            ]),
            st.just(b"w"),
            st.sampled_from([
                b"", b"one", b"event: error", b"data: [DONE]", b'\\"error\\"', b"\\", b'","error":"x', b"\n\n", b"\r",
                b'"}}],"usage":{"prompt_tokens":1}', b"\xff", b'","reasoning":"x',
            ]),
        ),
        max_size=8,
    )
)  # fmt: skip
@example([TOKEN.replace(b"w", text) for text in (b"one", b"two", b"\\", b'","error":"x')])
@example([TOKEN.replace(b"null", b'"error"').replace(b'"w"', text) for text in (b'"\xff"', b'"w"')])
@example([TOKEN, TOKEN * 3, TOKEN * 2 + DONE, TOKEN * 2 + ERROR, TOKEN.replace(b"w", b"event: error") * 2])
def test_what_differs_in_its_text_alone_says_the_same(stream: list[bytes]) -> None:
    """A reader of streams goes by the last token's event; it must see what one sees who reads each for itself."""
    events = Events()
    assert [events.seen(event) for event in stream] == [in_events(event) for event in stream]


def test_errors_and_usage() -> None:
    seen = in_events(TOKEN + USAGE + DONE)
    assert seen.usage is not None
    assert (seen.usage.prompt_tokens, seen.usage.completion_tokens, seen.error) == (7, 40, "")
    assert in_events(ERROR).error == "engine said no"
    assert not in_events(ERROR).client_fault
    assert in_events(ERROR.replace(b"500", b"400")).client_fault
    assert in_events(b'data: {"object":"error","message":"old form","code":500}\n\n').error == "old form"
    for odd in ('"²"'.encode(), b"4000", b"true", b"[400]"):
        seen = in_events(ERROR.replace(b"500", odd))
        assert (seen.error, seen.client_fault) == ("engine said no", False)
    assert not in_events(ERROR.replace(b"500", b"5" * 5000)).error  # what can't be read says of none
    deep = b'{"a":' * 3000 + b"1" + b"}" * 3000
    assert not in_events(b"data: %b\n\n" % deep).error
    assert not in_whole(deep).tokens
    assert in_events(TOKEN.replace(b"null", b'"error"')).error
    assert in_events(b"event: error\ndata: boom\n\n").error == "boom"
    assert in_events(b'event:error\ndata: {"detail":"boom"}\n\n').error
    assert in_whole(b'{"error":{"message":"no","code":500}}').error == "no"
    assert in_whole(b'{"detail":"Not Found"}').error == "it has no choices"
    assert in_whole(b'{"choices":[],"error":""}').error
    told = in_events(USAGE.replace(b"[],", b'[],"kv_cache_usage":NaN,'))
    assert (told.tokens, told.usage and told.usage.completion_tokens) == (0, 40)
    for empty in (b"null", b"false", b'""', b"{}"):
        assert not in_events(TOKEN.replace(b'{"ch', b'{"error":%b,"ch' % empty)).error
    assert not in_events(b'data: {"error":null,"choices":[{"delta":{"content":"w"}}]}\n\n').error


def scripted(*parts: bytes) -> Script:
    async def script(call: Call) -> None:
        await call.head()
        for part in parts:
            await call.chunk(part)
        await call.end()

    return script


async def test_a_prompt_of_no_tokens_is_not_believed(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with replica("a", scripted(TOKEN, USAGE.replace(b"7", b"0"), DONE)):
        for _ in range(10):
            async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                await answer.read()
                request_id = answer.headers["x-request-id"]
        async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
            assert (await answer.json())["prompt_tokens"] > 3


@pytest.mark.parametrize(
    ("parts", "outcome", "tokens"),
    [
        ((ROLE, TOKEN, ERROR, DONE), "failed", 1),
        ((ERROR, DONE), "replica-lost", 0),
        ((ROLE, TOKEN, TOKEN, DONE), "completed", 2),
        ((TOKEN, USAGE, DONE), "completed", 40),
        ((USAGE, DONE), "completed", 40),
        ((DONE,), "failed", 0),
        ((b'data: {"status":500,"message":"no"}\n\n', DONE), "failed", 0),
        ((ROLE, DONE), "failed", 0),
        ((ROLE, TOKEN, DONE + ERROR), "completed", 1),
        ((ROLE, TOKEN, DONE, ERROR, TOKEN), "completed", 1),
        ((ROLE, TOKEN + DONE + TOKEN + ERROR + DONE), "completed", 1),
        ((ROLE, TOKEN, DONE, b"nonsense\n\n"), "completed", 1),
        ((DONE + ERROR,), "failed", 0),
        ((USAGE.replace(b"40", b"1"), TOKEN, TOKEN, USAGE, b": bye\n\n", DONE), "completed", 40),
    ],
)
async def test_an_answer_is_told_as_it_was(
    parts: tuple[bytes, ...], outcome: str, tokens: int,
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
) -> None:  # fmt: skip
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with replica("a", scripted(*parts)):
        slo = {"x-slo-ttft-ms": "1500"}
        async with client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=slo) as answer:
            await answer.read()
            request_id = answer.headers["x-request-id"]
        async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
            record = await answer.json()
        good = outcome == "completed"
        assert (record["outcome"], record["output_tokens"], record["attained"]) == (outcome, tokens, good)
        seen = await page(client, gateway.url, model)
        assert seen["slosgate_slo_offered_total"] == 1
        assert seen["slosgate_slo_attained_total"] == good


@pytest.mark.parametrize(
    ("whole", "parts", "said"),
    [
        (True, (b'{"id":"x"}',), "it has no choices"),
        (True, (b'{"choices":[],"error":""}',), "it reports an error"),
        (False, (DONE,), "it had no token"),
        (False, (TOKEN, ERROR, DONE), "engine said no"),
        (False, (TOKEN,), "its stream ended before its answer"),
        (False, (TOKEN, DONE), ""),
    ],
)
async def test_a_record_says_what_is_wrong_with_an_answer(
    whole: bool, parts: tuple[bytes, ...], said: str,
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
) -> None:  # fmt: skip
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": not whole}
    async with replica("a", scripted(*parts)):
        async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
            await answer.read()
            request_id = answer.headers["x-request-id"]
        async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
            record = await answer.json()
    assert said in record["error"]
    assert bool(record["error"]) == bool(said) == (record["outcome"] != "completed")
