"""Clients that platform teams use, as they are: only the address of the API is ours."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionFunctionToolParam

from tests.gateway.conftest import Start
from tests.gateway.scripted import Call
from tests.processes import Process

CLIENT_S = 200.0  # importing one takes long on a busy machine
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(CLIENT_S + 60)

ARGUMENTS = ['{"city": ', '"Bern"}']
WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USAGE = {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99}
VECTOR = [0.5, 0.25]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Bern?"}]


async def assistant(call: Call) -> None:
    """A replica that calls a tool if it is given one, and says something if it isn't."""
    if "embeddings" in call.path:
        await _json(call, _embeddings(call))
    elif "responses" in call.path:
        await _responses(call)
    elif call.body.get("stream"):
        await call.head()
        for delta in _deltas(call):
            await call.event(_chunk([{"index": 0, "delta": delta, "finish_reason": None}]))
        reason = "tool_calls" if call.body.get("tools") else "stop"
        await call.event(_chunk([{"index": 0, "delta": {}, "finish_reason": reason}]))
        await call.event({**_chunk([]), "usage": USAGE})
        await call.event("[DONE]")
        await call.end()
    else:
        function = {"name": "weather", "arguments": "".join(ARGUMENTS)}
        called = [{"id": "call-1", "type": "function", "function": function}]
        said = {"content": None, "tool_calls": called} if call.body.get("tools") else {"content": "It is sunny."}
        choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": "stop"}
        await _json(call, {**_chunk([choice]), "object": "chat.completion", "usage": USAGE})


def _chunk(choices: list[Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}


def _deltas(call: Call) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    if not call.body.get("tools"):
        yield from ({"content": word} for word in ("It is ", "sunny."))
        return
    function: dict[str, Any] = {"name": "weather", "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]}
    for part in ARGUMENTS:
        yield {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}


def _embeddings(call: Call) -> dict[str, Any]:
    packed = base64.b64encode(struct.pack("<2f", *VECTOR)).decode()
    vector = packed if call.body.get("encoding_format") == "base64" else VECTOR
    texts = call.body["input"] if isinstance(call.body["input"], list) else [call.body["input"]]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(texts))]
    return {"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


async def _responses(call: Call) -> None:
    text = {"type": "output_text", "text": "It is sunny.", "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    response = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": [message]}
    if not call.body.get("stream"):
        return await _json(call, response)
    await call.head()
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    for number, word in enumerate(("It is ", "sunny.")):
        kind = "response.output_text.delta"
        event = {"type": kind, "delta": word, "sequence_number": number, "logprobs": [], **place}
        await call.chunk(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
    event = {"type": "response.completed", "response": response, "sequence_number": 2}
    await call.chunk(f"event: response.completed\ndata: {json.dumps(event)}\n\n".encode())
    return await call.end()


async def _json(call: Call, body: dict[str, Any]) -> None:
    await call.head(kind="application/json")
    await call.chunk(json.dumps(body).encode())
    await call.end()


@asynccontextmanager
async def openai(gateway: Process) -> AsyncIterator[AsyncOpenAI]:
    # It comes again while the replica, whose heart beats on the same loop, is held up: its parts are imported late.
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=9) as client:
        yield client


async def test_openai_calls_tools(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant) as server, openai(gateway) as client:
        whole = await client.chat.completions.create(model=model, messages=ASK, tools=[WEATHER], tool_choice="auto")
        [called] = whole.choices[0].message.tool_calls or []
        assert called.type == "function"
        assert json.loads(called.function.arguments) == {"city": "Bern"}
        assert server.calls[0].body["tools"] == [WEATHER]
        assert server.calls[0].body["tool_choice"] == "auto"


async def test_openai_streams_tool_calls(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant), openai(gateway) as client:
        stream = await client.chat.completions.create(
            model=model, messages=ASK, tools=[WEATHER], stream=True, extra_headers={"x-slo-ttft-ms": "5000"}
        )
        arguments, reasons = "", []
        async for chunk in stream:
            for choice in chunk.choices:
                reasons.append(choice.finish_reason)
                for called in choice.delta.tool_calls or ():
                    arguments += (called.function and called.function.arguments) or ""
        assert json.loads(arguments) == {"city": "Bern"}
        assert reasons[-1] == "tool_calls"


async def test_openai_streams_responses(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant), openai(gateway) as client:
        said, kinds = "", []
        async for event in await client.responses.create(model=model, input="Weather?", stream=True):
            kinds.append(event.type)
            said += event.delta if event.type == "response.output_text.delta" else ""
        assert (said, kinds[-1]) == ("It is sunny.", "response.completed")
        assert (await client.responses.create(model=model, input="Weather?")).output_text == "It is sunny."


async def test_openai_takes_embeddings_in_its_own_packing(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant) as server, openai(gateway) as client:
        made = await client.embeddings.create(model=model, input=["a", "b"])
        assert [list(item.embedding) for item in made.data] == [VECTOR, VECTOR]
        assert server.calls[0].body["encoding_format"] == "base64"


def ran(program: str, gateway: Process, model: str) -> dict[str, Any]:
    """What a client program says. It has an interpreter of its own: such libraries leave connections open."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.gateway.clients.{program}", f"{gateway.url}/v1", model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def test_litellm_completes_streams_and_embeds(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant) as server:
        assert await asyncio.to_thread(ran, "litellm_sdk", gateway, model) == {
            "arguments": {"city": "Bern"},
            "streamed": "It is sunny.",
            "embedding": VECTOR,
            "refusal": "BadRequestError",
        }
        assert len(server.calls) == 3


async def test_langchain_calls_tools_streams_and_embeds(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", assistant) as server:
        assert await asyncio.to_thread(ran, "langchain_sdk", gateway, model) == {
            "calls": [["weather", {"city": "Bern"}]],
            "streamed_calls": [["weather", {"city": "Bern"}]],
            "streamed": "It is sunny.",
            "embeddings": [VECTOR, VECTOR],
        }
        assert len(server.calls) == 4
