"""Names that replicas list, and keys that they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import good
from tests.processes import Process, free_port, running_gateway

KEY = "s3cret"


async def _models(client: aiohttp.ClientSession, url: str) -> set[str]:
    async with client.get(f"{url}/v1/models") as answer:
        return {model["id"] for model in (await answer.json())["data"]}


async def _status(client: aiohttp.ClientSession, url: str, path: str, model: str, **headers: str) -> int:
    body = {"model": model, "prompt": "x", "input": "x", "max_tokens": 2}
    async with client.post(f"{url}/v1/{path}", json=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_an_adapter_that_is_loaded_later_can_be_asked_for(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str
) -> None:
    async with replica("a", good(0.001)) as server:
        assert await _status(client, gateway.url, "completions", f"{model}-lora") == 404
        server.models = (model, f"{model}-lora")
        await eventually(lambda: _lists(client, gateway.url, f"{model}-lora"))
        for path in ("completions", "embeddings"):
            assert await _status(client, gateway.url, path, f"{model}-lora") == 200
        server.models = (model,)
        await eventually(lambda: _lacks(client, gateway.url, f"{model}-lora"))


async def _lists(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    return name in await _models(client, url)


async def _lacks(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    return name not in await _models(client, url)


@asynccontextmanager
async def guarded(key: str) -> AsyncIterator[str]:
    """A server that answers nothing under /v1 without its key, as vLLM with --api-key."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "base"}, {"id": "alias"}]})
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    served = web.Application()
    served.router.add_get("/health", health)
    served.router.add_route("*", "/{path:.*}", answer)
    runner, port = web.AppRunner(served), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def test_a_replica_with_a_key_of_its_own_is_used_on_every_path(
    client: aiohttp.ClientSession, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICA_KEY", KEY)
    async with guarded(KEY) as url:
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{url}'\napi_key_env = 'REPLICA_KEY'\n") as gateway:
            await eventually(lambda: _lists(client, gateway.url, "alias"))
            for path in ("completions", "embeddings"):
                assert await _status(client, gateway.url, path, "alias", authorization="Bearer a-client's") == 200


async def test_without_the_key_clients_bring_theirs(client: aiohttp.ClientSession, redis_url: str) -> None:
    async with guarded(KEY) as url:
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{url}'\n") as gateway:
            key = {"authorization": f"Bearer {KEY}"}
            await eventually(lambda: _serves(client, gateway.url, key))
            assert await _status(client, gateway.url, "embeddings", "base", **key) == 200
            assert await _status(client, gateway.url, "completions", "base", authorization="Bearer wrong") == 401


async def _serves(client: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> bool:
    return await _status(client, url, "completions", "base", **headers) == 200


GOOD = {"object": "list", "data": [{"id": "base"}, {"id": "alias"}]}
ODD = [{"id": None}, "x", {"id": ""}, {"id": "odd", "max_model_len": -1}, {"id": "base"}]


@dataclass
class Moody:
    """A server that is well, whatever it answers when asked for its models."""

    url: str
    answer: web.Response | None = None  # None: it is slow to

    well: bool = True

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.well else 503)

    async def listed(self, request: web.Request) -> web.Response:
        if self.answer is None:
            await asyncio.sleep(10)
        return web.Response(body=self.answer.body, status=self.answer.status) if self.answer else web.Response()


@asynccontextmanager
async def moody() -> AsyncIterator[Moody]:
    port = free_port()
    server = Moody(f"http://127.0.0.1:{port}", web.json_response(GOOD))

    async def complete(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        for _ in range((await request.json())["max_tokens"]):
            await stream.write(b'data: {"choices":[{"text":"t"}]}\n\n')
            await asyncio.sleep(0.1)
        await stream.write(b"data: [DONE]\n\n")
        return stream

    served = web.Application()
    served.router.add_get("/health", server.health)
    served.router.add_get("/v1/models", server.listed)
    served.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(served, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield server
    await runner.cleanup()


@pytest.mark.parametrize("told", ["", "model = 'base'\n"], ids=["names of its own", "named by the operator"])
async def test_a_server_keeps_its_names_and_its_streams_while_it_lists_none(
    client: aiohttp.ClientSession, redis_url: str, told: str
) -> None:
    async with moody() as server:
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{server.url}'\n{told}") as gateway:
            await eventually(lambda: _lists(client, gateway.url, "alias"))
            long = {"model": "alias", "prompt": "x", "max_tokens": 60, "stream": True}
            async with client.post(f"{gateway.url}/v1/completions", json=long) as stream:
                for odd in (
                    web.Response(status=500),
                    web.json_response({"data": []}),
                    web.Response(text="<html>"),
                    None,
                ):
                    server.answer = odd
                    await asyncio.sleep(1.3)  # it is asked every second
                    assert await _models(client, gateway.url) == {"base", "alias"}
                assert (await stream.read()).endswith(b"data: [DONE]\n\n")


async def test_a_server_that_falls_ill_ends_what_it_has_begun(client: aiohttp.ClientSession, redis_url: str) -> None:
    async with moody() as server:
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{server.url}'\n") as gateway:
            await eventually(lambda: _lists(client, gateway.url, "alias"))
            long = {"model": "base", "prompt": "x", "max_tokens": 50, "stream": True}
            async with client.post(f"{gateway.url}/v1/completions", json=long) as stream:
                server.well = False
                await eventually(lambda: _lacks(client, gateway.url, "base"))
                assert (await stream.read()).endswith(b"data: [DONE]\n\n")
            assert await _status(client, gateway.url, "completions", "base") == 503
            server.well = True
            await eventually(lambda: _lists(client, gateway.url, "base"))


async def test_an_unknown_name_is_told_with_as_many_as_one_reads(client: aiohttp.ClientSession, redis_url: str) -> None:
    async with moody() as server:
        server.answer = web.json_response({"data": [{"id": f"m{number:04}"} for number in range(3000)]})
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{server.url}'\n") as gateway:
            await eventually(lambda: _lists(client, gateway.url, "m2999"))
            for path in ("completions", "embeddings"):
                async with client.post(f"{gateway.url}/v1/{path}", json={"model": "x", "prompt": "x"}) as answer:
                    message = (await answer.json())["error"]["message"]
                assert message.endswith("m0019 and 2980 more")


async def test_a_name_that_cannot_be_costs_itself_alone(client: aiohttp.ClientSession, redis_url: str) -> None:
    async with moody() as server:
        server.answer = web.json_response({"data": ODD})
        with running_gateway(redis_url, f"[[replicas]]\nurl = '{server.url}'\n") as gateway:
            await eventually(lambda: _lists(client, gateway.url, "base"))
            assert await _models(client, gateway.url) == {"odd", "base"}


def test_a_key_that_is_not_set_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("[[replicas]]\nurl = 'http://h:1'\napi_key_env = 'NOT_SET'\n[[replicas]]\nurl = 'http://h:1/'\n")
    found = CliRunner().invoke(app, ["check-config", str(file)])
    assert found.exit_code == 2
    assert "line 4: replicas.1.name: 'h:1' is the name of another replica" in found.output
    file.write_text("[[replicas]]\nurl = 'http://h:1'\napi_key_env = 'NOT_SET'\n")
    found = CliRunner().invoke(app, ["check-config", str(file)])
    assert found.exit_code == 2
    assert "line 3: replicas.0.api_key_env: the environment variable NOT_SET is not set" in found.output
