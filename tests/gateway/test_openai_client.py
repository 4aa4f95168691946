"""The openai package as the client: only its base_url is ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, RateLimitError

from tests.gateway.conftest import Start
from tests.gateway.scripted import Call, dies_after_two, good
from tests.processes import Process


@pytest.fixture
async def openai(gateway: Process) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_completions(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", good()):
        answer = await openai.completions.create(model=model, prompt=[1, 2, 3], max_tokens=3)
        assert answer.choices[0].text == "t0 t1 t2 "
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


async def test_chat_streams_with_usage(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", good()):
        stream = await openai.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
            service_tier="auto",
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "t0 t1 t2 "
        assert chunks[0].service_tier == "default"
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == 3


async def test_an_answer_says_what_was_promised(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", good()) as server:
        raw = await openai.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=3,
            service_tier="priority",
        )
        assert raw.headers["x-slo-admission"] == "guaranteed"
        assert raw.headers["x-slo-replica"] == server.name
        assert raw.parse().service_tier == "priority"


async def test_models_are_listed(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", good()):
        assert model in [m.id async for m in openai.models.list()]


async def test_errors_arrive_as_the_packages_exceptions(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", good()):
        with pytest.raises(NotFoundError) as unknown:
            await openai.completions.create(model="gpt-9", prompt="x")
        assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
        assert (unknown.value.request_id or "").startswith("req-")
        with pytest.raises(BadRequestError) as unreachable:
            await openai.completions.create(model=model, prompt=[1], extra_headers={"x-slo-ttft-ms": "1"})
        assert unreachable.value.code == "slo_unreachable"


async def test_an_error_inside_a_stream_is_raised(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async with replica("a", dies_after_two):
        stream = await openai.completions.create(model=model, prompt="x", max_tokens=9, stream=True)
        assert [(await anext(stream)).choices[0].text for _ in range(2)] == ["t0 ", "t1 "]
        with pytest.raises(APIError) as lost:
            await anext(stream)
        assert lost.value.code == "replica_lost"


async def test_a_refusal_says_when_to_come_back_and_the_package_does(
    gateway: Process, replica: Start, model: str
) -> None:
    """The replica is busy for a while: the class wants no best effort, and the package waits as long as it is told."""
    async with (
        replica("a", good()) as server,
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as impatient,
    ):
        server.busy_for(2.0)
        await server.reported()
        tight = {"x-slo-class": "interactive", "x-slo-ttft-ms": "300"}
        ask: dict[str, Any] = {"model": model, "prompt": [1] * 9, "max_tokens": 2, "extra_headers": tight}
        with pytest.raises(RateLimitError) as refused:
            await impatient.completions.create(**ask)
        wait_ms = int(refused.value.response.headers["retry-after-ms"])
        assert 1000 < wait_ms < 2500
        patient = impatient.with_options(max_retries=2)
        raw = await patient.completions.with_raw_response.create(**ask)
        assert raw.headers["x-slo-admission"] == "guaranteed"
        assert raw.retries_taken >= 1


async def test_responses_and_embeddings_are_handed_through(openai: AsyncOpenAI, replica: Start, model: str) -> None:
    async def answers(call: Call) -> None:
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        said = {"type": "output_text", "text": "hi", "annotations": []}
        message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [said]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        listed = {"object": "list", "model": model, "data": [vector], "usage": usage}
        response = {"id": "r", "object": "response", "created_at": 1, "model": model, "output": [message]}
        await call.head(kind="application/json")
        await call.chunk(json.dumps(listed if "embeddings" in call.path else response).encode())
        await call.end()

    async with replica("a", answers):
        openai = openai.with_options(max_retries=9)  # its parts are imported late, which holds up the replica's heart
        vectors = await openai.embeddings.create(model=model, input="x", encoding_format="float")
        assert vectors.data[0].embedding == [0.5, 0.25]
        assert (await openai.responses.create(model=model, input="x")).output_text == "hi"
