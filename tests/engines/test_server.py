"""`slosgate engine sim` as its clients see it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from typer.testing import CliRunner

from slosgate.engines import profiles
from slosgate.gateway.cli import app
from tests.engines.serving import sim_engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with sim_engine("alone", None, "--model", "tiny", "--policy", "vllm", log=log) as url:
        yield url


@pytest_asyncio.fixture
async def client(server: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server}/v1", api_key="-", max_retries=0) as client:
        yield client


async def test_a_chat_is_answered_whole(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello there"}],
        max_tokens=5,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].message.content == " tok" * 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)


async def test_a_chat_streams_one_event_a_token_then_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.content for c in chunks if c.choices] == ["", " tok", " tok", " tok", " tok"]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_a_completion_takes_token_ids_and_stops_by_itself(client: AsyncOpenAI) -> None:
    async def answer() -> tuple[str, str]:
        made = await client.completions.create(model="tiny", prompt=[1, 2, 3], max_tokens=400)
        return made.choices[0].text, made.choices[0].finish_reason

    text, reason = await answer()
    assert 1 <= text.count("tok") < 400
    assert reason == "stop"
    assert (text, reason) == await answer()


async def test_each_prompt_of_a_batch_is_answered_n_times(client: AsyncOpenAI) -> None:
    made = await client.completions.create(model="tiny", prompt=[[1, 2, 3], [4]], n=2, max_tokens=50)
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in made.choices}) > 1
    assert made.usage is not None
    assert made.usage.prompt_tokens == 4
    assert made.usage.completion_tokens == sum(choice.text.count("tok") for choice in made.choices)


async def test_choices_stream_side_by_side(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        n=3,
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    said, ends = Counter[int](), {}
    async for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += (choice.delta.content or "").count("tok")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert said == {0: 4, 1: 4, 2: 4}
    assert ends == dict.fromkeys(range(3), "length")
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "huge", "prompt": "x"}, 404, "`huge` does not exist"),
        ({"prompt": "x" * 9000}, 400, "maximum context length is 2048"),
        ({"prompt": "x", "max_tokens": 3000}, 400, "lower max_tokens"),
        ({"prompt": "x", "max_tokens": 0}, 400, "at least 1"),
        ({"prompt": "x", "max_tokens": "many"}, 400, "max_tokens"),
        ({"prompt": "x", "n": 0}, 400, "n must be at least 1"),
        ({"prompt": []}, 400, "non-empty"),
        ({}, 400, "prompt must be"),
        (b"{not json", 400, "not valid JSON"),
    ],
    ids=["model", "prompt too long", "output too long", "no output", "type", "n", "empty", "missing", "json"],
)
async def test_bad_input_is_answered_as_openai_does(
    server: str, body: dict[str, object] | bytes, status: int, message: str
) -> None:
    data = {"data": body} if isinstance(body, bytes) else {"json": body}
    async with aiohttp.ClientSession() as session, session.post(f"{server}/v1/completions", **data) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, status)
    assert message in error["message"]


async def test_the_openai_client_raises_its_own_errors(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="huge", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="messages"):
        await client.chat.completions.create(model="tiny", messages=[])


async def test_models_and_metrics_carry_vllms_names(server: str, client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    async with aiohttp.ClientSession() as session, session.get(f"{server}/metrics") as response:
        text = await response.text()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "generation_tokens_total"):
        assert f'vllm:{name}{{engine="0",model_name="tiny"}}' in text


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--hardware", "h300"], "choose one of"), (["--policy", "fifo"], "choose one of sarathi")],
    ids=["hardware", "policy"],
)
def test_an_unknown_name_on_the_command_line_is_refused_with_the_choices(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["engine", "sim", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        ("chat/completions", {"max_tokens": 9, "max_completion_tokens": 5}, 5),
        ("completions", {"max_tokens": 9, "max_completion_tokens": 5}, 9),
        ("completions", {"max_completion_tokens": 5}, 16),
        ("completions", {"max_tokens": None}, 16),
        ("completions", {"max_tokens": 3.0}, 3),
        ("completions", {"max_tokens": 0, "echo": True}, 1),
    ],
)
async def test_max_tokens_is_read_as_vllm_reads_it(
    server: str, path: str, fields: dict[str, object], tokens: int
) -> None:
    body = {"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
    async with aiohttp.ClientSession() as client, client.post(f"{server}/v1/{path}", json=body | fields) as answer:
        assert (await answer.json())["usage"]["completion_tokens"] == tokens


def test_a_replica_that_is_slowed_down_takes_so_many_times_as_long(tmp_path: Path) -> None:
    perf = profiles.load("h200-opt-13b").perf
    with sim_engine("slow", None, "--slowdown", "5", "--policy", "vllm", log=tmp_path / "log") as url:
        began_s = time.monotonic()
        body = {"prompt": [1] * 1000, "max_tokens": 1}
        assert httpx.post(f"{url}/v1/completions", json=body, trust_env=False).status_code == 200
        assert time.monotonic() - began_s >= 5 * perf.iteration_s(1000, 1000, 1)
