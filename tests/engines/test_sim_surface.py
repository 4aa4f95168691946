"""Tool calls, log probabilities and embeddings of `slosgate engine sim`, as OpenAI's client reads them."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from slosgate import __version__
from tests.engines.serving import sim_engine

ASK: list[Any] = [{"role": "user", "content": "What is the weather in Bern?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 3},
        "unit": {"enum": ["C", "F"]},
        "place": {"$ref": "#/$defs/Place"},
        "notes": {"type": ["array", "null"]},
        "unwanted": {"type": "string"},
    },
    "required": ["city", "days", "unit", "place", "notes"],
    "$defs": {"Place": {"type": "object", "properties": {"zip": {"type": "number"}}, "required": ["zip"]}},
}
FITTING = {"city": "tok", "days": 3, "unit": "C", "place": {"zip": 1.0}, "notes": []}


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {})}}


TOOLS: list[Any] = [tool("weather", SCHEMA), tool("time")]
NAMED: Any = {"type": "function", "function": {"name": "time"}}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[str]:
    with sim_engine("alone", None, "--model", "tiny", "--policy", "vllm", "--speed", "10", log=log) as url:
        yield url


@pytest_asyncio.fixture
async def client(server: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_it_says_what_it_serves_and_where(server: str, log: Path) -> None:
    assert log.read_text() == f"slosgate: tiny on simulated h200-opt-13b at {server}; replica alone stands alone\n"


@pytest.mark.parametrize(
    ("choice", "name", "arguments", "reason"),
    [("required", "weather", FITTING, "tool_calls"), (NAMED, "time", {}, "stop")],
    ids=["required", "named"],
)
async def test_a_tool_is_called(client: AsyncOpenAI, choice: Any, name: str, arguments: Any, reason: str) -> None:
    made = await client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, tool_choice=choice)
    call = made.choices[0].message.tool_calls
    assert call
    assert call[0].type == "function"
    assert (call[0].function.name, json.loads(call[0].function.arguments)) == (name, arguments)
    assert (made.choices[0].finish_reason, made.choices[0].message.content) == (reason, None)
    stream = await client.chat.completions.create(
        model="tiny", messages=ASK, tools=TOOLS, tool_choice=choice, stream=True, stream_options={"include_usage": True}
    )
    parts, names, ends, tokens = [], [], [], 0
    async for chunk in stream:
        tokens = chunk.usage.completion_tokens if chunk.usage else 0
        for delta in (called for each in chunk.choices for called in each.delta.tool_calls or []):
            assert delta.function
            parts.append(delta.function.arguments or "")
            names += [(delta.id, delta.function.name)] if delta.id else []
        ends += [each.finish_reason for each in chunk.choices if each.finish_reason]
    assert json.loads("".join(parts)) == arguments
    assert [called for _, called in names] == [name]
    assert ends == [reason]
    assert tokens == len(parts) == (made.usage and made.usage.completion_tokens)


async def test_a_call_that_is_cut_short_says_so(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="tiny", messages=ASK, tools=TOOLS, tool_choice="required", max_tokens=2
    )
    call = made.choices[0].message.tool_calls
    assert call
    assert (call[0].function.arguments, made.choices[0].finish_reason) == ('{"city":', "length")  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_with_a_choice_it_says_something_and_tools_count_as_prompt(client: AsyncOpenAI, choice: Any) -> None:
    plain = await client.chat.completions.create(model="tiny", messages=ASK, max_tokens=3)
    made = await client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=3, tools=TOOLS, tool_choice=choice
    )
    assert made.choices[0].message.content
    assert made.usage
    assert plain.usage
    assert made.usage.prompt_tokens > plain.usage.prompt_tokens + 100


async def test_log_probabilities_of_a_chat(client: AsyncOpenAI) -> None:
    ask: Any = {"model": "tiny", "messages": ASK, "max_tokens": 3, "logprobs": True, "extra_body": {"ignore_eos": True}}
    made = await client.chat.completions.create(**ask, top_logprobs=2)
    found = made.choices[0].logprobs
    assert found
    assert found.content
    assert [(token.token, len(token.top_logprobs)) for token in found.content] == [(" tok", 2)] * 3
    assert bytes(found.content[0].bytes or []) == b" tok"
    assert (
        found.content[0].top_logprobs[0].logprob == found.content[0].logprob > found.content[0].top_logprobs[1].logprob
    )
    stream = await client.chat.completions.create(**ask, stream=True)
    told = [each.logprobs.content async for chunk in stream for each in chunk.choices if each.logprobs]
    assert [len(content or []) for content in told] == [1, 1, 1]


async def test_log_probabilities_of_a_completion(client: AsyncOpenAI) -> None:
    ask: Any = {"model": "tiny", "prompt": "x", "max_tokens": 3, "logprobs": 2, "extra_body": {"ignore_eos": True}}
    found = (await client.completions.create(**ask)).choices[0].logprobs
    assert found
    assert (found.tokens, found.text_offset) == ([" tok"] * 3, [0, 4, 8])
    assert [len(top) for top in found.top_logprobs or []] == [2, 2, 2]
    stream = await client.completions.create(**ask, stream=True)
    offsets = [each.logprobs.text_offset async for chunk in stream for each in chunk.choices if each.logprobs]
    assert offsets == [[0], [4], [8]]


async def test_embeddings(client: AsyncOpenAI) -> None:
    texts = ["a", "b", "a"]
    made = await client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    first, second, third = [each.embedding for each in made.data]
    assert first == third != second
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-4)
    assert (made.usage.prompt_tokens, [each.index for each in made.data]) == (3, [0, 1, 2])
    short = await client.embeddings.create(model="tiny", input=[1, 2, 3], dimensions=8)  # the client asks for base64
    assert len(short.data[0].embedding) == 8
    assert short.usage.prompt_tokens == 3


async def test_embeddings_in_base64_are_the_same_numbers(server: str) -> None:
    async with aiohttp.ClientSession() as session:
        found = []
        for form in ("float", "base64"):
            body = {"input": [[1, 2], [3]], "dimensions": 4, "encoding_format": form}
            async with session.post(f"{server}/v1/embeddings", json=body) as answer:
                found.append([each["embedding"] for each in (await answer.json())["data"]])
    assert [list(struct.unpack("<4f", base64.b64decode(text))) for text in found[1]] == [
        pytest.approx(values) for values in found[0]
    ]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"tools": TOOLS, "tool_choice": tool("nobody")}, "tool_choice"),
        ("chat/completions", {"tools": TOOLS, "tool_choice": 7}, "tool_choice"),
        ("chat/completions", {"tools": [{"type": "function"}], "tool_choice": "auto"}, "tools"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("chat/completions", {"logprobs": 3}, "logprobs"),
        ("completions", {"logprobs": -1}, "logprobs"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": "x" * 9000}, "input"),
        ("embeddings", {"dimensions": 0}, "dimensions"),
        ("embeddings", {"encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_makes_no_sense_is_refused(server: str, path: str, fields: dict[str, Any], param: str) -> None:
    body = {"prompt": "x", "messages": ASK, "input": "x", "max_tokens": 1} | fields
    async with aiohttp.ClientSession() as session, session.post(f"{server}/v1/{path}", json=body) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["param"]) == (400, param)
    assert param in error["message"] or "maximum context length" in error["message"]


async def test_what_clients_leave_null_is_as_if_unsaid(client: AsyncOpenAI) -> None:
    unsaid = {name: None for name in ("min_tokens", "ignore_eos", "stream_options", "top_logprobs", "tools", "n")}
    answer = await client.chat.completions.create(model="tiny", messages=ASK, max_tokens=3, extra_body=unsaid)
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 3


async def test_it_says_which_version_answers(server: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(f"{server}/version") as answer:
        assert await answer.json() == {"version": __version__}
