"""A gateway that is told to stop finishes what it has accepted; a replica that is to go takes nothing new."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from tests.gateway.certificates import self_signed
from tests.gateway.conftest import Start, eventually, ledger_size, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica, stalls
from tests.processes import Process, running_gateway


async def test_a_stopping_gateway_loses_no_accepted_request(client: aiohttp.ClientSession, redis_url: str) -> None:
    with running_gateway(redis_url) as gateway:
        async with scripted_replica(redis_url, "drained", good(token_s=0.05)) as replica:
            await until_known(client, gateway.url, "drained")
            body = {"model": MODEL, "prompt": [1], "max_tokens": 20, "stream": True}
            async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
                await eventually(lambda: bool(replica.calls))
                gateway.popen.terminate()
                text = await answer.text()
            assert text.count("data: ") == 21
            assert text.endswith("data: [DONE]\n\n")
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0
            said = gateway.log.read_text()
            assert "told to stop: nothing new is accepted, 1 answers have 30 s to end" in said
            assert said.rstrip().endswith("every answer has ended")
        assert await ledger_size(redis_url, "drained") == 0


async def test_readiness_ends_before_the_listener_closes(client: aiohttp.ClientSession, redis_url: str) -> None:
    """A load balancer has the notice's time to look elsewhere, and until then everything is served."""
    async with scripted_replica(redis_url, "noticed", good(token_s=0.0)):
        with running_gateway(redis_url, "[drain]\nnotice_s = 3\n") as gateway:
            await until_known(client, gateway.url, "noticed")
            gateway.popen.terminate()
            await eventually(lambda: _draining(client, gateway.url))
            body = {"model": MODEL, "prompt": [1], "max_tokens": 2}
            async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
                assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0
            assert "/ready is false, and everything is served for another 3 s" in gateway.log.read_text()


async def test_answers_that_do_not_end_in_time_are_cut_and_counted(
    client: aiohttp.ClientSession, redis_url: str
) -> None:
    with running_gateway(redis_url, "[server]\ndrain_s = 1\n") as gateway:
        async with scripted_replica(redis_url, "slow", good(token_s=5.0)):
            await until_known(client, gateway.url, "slow")
            body = {"model": MODEL, "prompt": [1], "max_tokens": 20, "stream": True}
            asking = asyncio.create_task(client.post(f"{gateway.url}/v1/completions", json=body))
            await eventually(lambda: _under_way(client, gateway.url, "slow"))
            gateway.popen.terminate()
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0
            asking.cancel()
        assert "1 answers were cut" in gateway.log.read_text()


async def _under_way(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with client.get(f"{url}/metrics") as answer:
        return f'slosgate_requests_in_flight{{replica="{name}"}} 1.0' in await answer.text()


async def _draining(client: aiohttp.ClientSession, url: str) -> bool:
    async with client.get(f"{url}/ready") as answer:
        return (answer.status, (await answer.json())["draining"]) == (503, True)


async def test_a_replica_that_drains_finishes_what_it_has_and_takes_nothing_new(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str
) -> None:
    body = {"model": model, "prompt": [1], "max_tokens": 40, "stream": True}
    async with (
        replica("leaves", good(token_s=0.05)) as leaves,
        client.post(f"{gateway.url}/v1/completions", json=body) as answer,
    ):
        leaves.draining = True
        await leaves.reported()
        await eventually(partial(_lacks, client, gateway.url, leaves.name))
        async with client.post(f"{gateway.url}/v1/completions", json=body) as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (503, "no_replica")
        async with replica("stays", good()) as stays:
            async with client.post(f"{gateway.url}/v1/completions", json=body) as other:
                assert (await other.text()).endswith("data: [DONE]\n\n")
            assert (len(leaves.calls), len(stays.calls)) == (1, 1)
        assert (await answer.text()).endswith("data: [DONE]\n\n")
    await eventually(lambda: f"replica {leaves.name} takes nothing new: it has drained" in gateway.log.read_text())
    assert f"replica {leaves.name} takes nothing new: it drains; 1 answers" in gateway.log.read_text()
    assert f"replica {leaves.name} is lost" not in gateway.log.read_text()


@pytest.mark.parametrize(("headers", "moves"), [({}, True), ({"x-slo-ttft-ms": "60000"}, False)])
async def test_best_effort_that_waits_on_a_replica_that_drains_moves(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str, headers: dict[str, str], moves: bool
) -> None:
    body = {"model": model, "prompt": [1] * 50, "max_tokens": 2}
    async with replica("leaves", stalls) as leaves:
        asked = asyncio.create_task(_answered_by(client, gateway.url, body, headers))
        await eventually(lambda: bool(leaves.calls))
        async with replica("stays", good()) as stays:
            leaves.draining = True
            await leaves.reported()
            if moves:  # long before a replica that never begins is given up
                assert await asyncio.wait_for(asked, 20) == stays.name
            else:  # it is promised there
                await eventually(partial(_lacks, client, gateway.url, leaves.name))
                assert (stays.calls, asked.done()) == ([], False)
                asked.cancel()
    await asyncio.wait((asked,))


async def _answered_by(client: aiohttp.ClientSession, url: str, body: object, headers: dict[str, str]) -> str:
    async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
        await answer.read()
        return answer.headers["x-slo-replica"]


async def _lacks(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with client.get(f"{url}/ready") as answer:
        return name not in (await answer.json())["replicas"]


async def test_it_serves_tls(client: aiohttp.ClientSession, redis_url: str, tmp_path: Path) -> None:
    certificate, key = await self_signed(tmp_path)
    options = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    trusted = ssl.create_default_context(cafile=certificate)
    with running_gateway(redis_url, options=options, wait=False) as gateway:
        url = gateway.url.replace("http://", "https://")
        await eventually(lambda: _healthy(client, url, trusted))
        async with scripted_replica(redis_url, "behind-tls", good(), model="tls"):
            await eventually(lambda: _lists(client, url, trusted, "tls"))
            body = {"model": "tls", "prompt": [1], "max_tokens": 5, "stream": True}
            async with client.post(f"{url}/v1/completions", json=body, ssl=trusted) as answer:
                text = await answer.text()
        assert (text.count("data: "), text.endswith("data: [DONE]\n\n")) == (6, True)
        with pytest.raises(aiohttp.ClientError):  # who doesn't speak TLS gets nothing
            await client.get(f"{gateway.url}/health")
        assert await _healthy(client, url, trusted)


async def _lists(client: aiohttp.ClientSession, url: str, trusted: ssl.SSLContext, model: str) -> bool:
    async with client.get(f"{url}/v1/models", ssl=trusted) as answer:
        return model in [listed["id"] for listed in (await answer.json())["data"]]


async def _healthy(client: aiohttp.ClientSession, url: str, trusted: ssl.SSLContext) -> bool:
    with suppress(aiohttp.ClientConnectorError):
        async with client.get(f"{url}/health", ssl=trusted) as answer:
            return answer.status == 200
    return False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ssl-keyfile", "key.pem"], "needs --ssl-certfile beside it"),
        (["--ssl-certfile", "no-such.pem"], "no-such.pem"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["serve", *options])
    assert result.exit_code == 2
    assert said in result.output
