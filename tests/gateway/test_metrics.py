"""What an operator reads off /metrics."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from slosgate.engines.messages import RequestProgress
from slosgate.gateway.config import Config
from slosgate.gateway.promises.completion import parse
from slosgate.gateway.promises.contract import resolve
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.reports.metrics import MOST_MODELS, Metrics
from tests.gateway.conftest import CONFIG, Start, eventually, gateway_of_its_own, until_known
from tests.gateway.scripted import MODEL, Call, good, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

SLO = {"x-slo-ttft-ms": "1500", "x-slo-tpot-ms": "100"}


# One that has not been told of many models before: it tells only so many apart.
gateway = pytest.fixture(scope="module", name="gateway")(gateway_of_its_own)


async def page(client: aiohttp.ClientSession, url: str, model: str) -> dict[str, float]:
    """The samples that speak of one model, by name; of several with one name, the last."""
    async with client.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [re.fullmatch(r"(\S+?){(.*)} (\S+)", line) for line in lines if f'"{model}"' in line]
    return {match[1]: float(match[3]) for match in found if match}


async def test_attainment_prediction_and_headroom(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    body: dict[str, Any] = {"model": model, "prompt": [1] * 1000, "max_tokens": 4, "stream": True}

    async def headroom(busy_s: float) -> float:
        """With a replica that is busy for so long; the page is looked at often, and counted now and then."""
        server.busy_for(busy_s)
        await server.reported()
        return (await page(client, gateway.url, model))["slosgate_headroom_requests"]

    async def some_room() -> bool:
        return 0 < await headroom(1.0) < idle

    async def no_room() -> bool:
        return await headroom(600) == 0

    async with replica("a", good()) as server:
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=SLO) as answer:
            await answer.read()
        seen = await page(client, gateway.url, model)
        assert seen["slosgate_slo_offered_total"] == seen["slosgate_slo_attained_total"] == 1
        assert seen["gen_ai_server_time_to_first_token_seconds_count"] == 1
        assert seen["gen_ai_server_request_duration_seconds_count"] == 1
        assert seen["slosgate_predicted_time_to_first_token_seconds_count"] == 1
        assert seen["slosgate_ttft_prediction_error_seconds_count"] == 1
        assert seen["slosgate_generation_tokens_total"] == 4
        idle = seen["slosgate_headroom_requests"]
        await eventually(some_room)
        await eventually(no_room)


@pytest.mark.parametrize(("slo", "told", "attained"), [
    ({"x-slo-ttft-ms": "700"}, False, 0),
    ({"x-slo-ttft-ms": "700"}, True, 1),
    ({"x-slo-ttft-ms": "2000"}, False, 1),
    ({"x-slo-ttft-ms": "700", "x-slo-tpot-ms": "200"}, False, 1),
    ({"x-slo-ttft-ms": "700", "x-slo-tpot-ms": "40"}, False, 0),
    ({"x-slo-ttft-ms": "700", "x-slo-tpot-ms": "40"}, True, 0),
    ({"x-slo-ttft-ms": "100", "x-slo-tpot-ms": "1000"}, True, 0),
])  # fmt: skip
async def test_an_answer_in_one_piece_has_its_first_token_when_it_comes_unless_its_replica_told_before(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    slo: dict[str, str], told: bool, attained: int,
) -> None:  # fmt: skip
    """Eight tokens, of which the first is there after 0.2 s and the last after 1.2 s."""

    async def script(call: Call) -> None:
        name = call.body["vllm_xargs"]["slo_id"]
        await asyncio.sleep(0.2)
        if told:
            server.progress[name] = RequestProgress(name, 0, 3, 1, time.time(), True)
            await server.reported()
        await asyncio.sleep(1.2 - 0.25)
        await good(token_s=0)(call)

    async with replica("a", script) as server:
        body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 8}
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=slo) as answer:
            assert answer.status == 200
            await answer.read()
        seen = await page(client, gateway.url, model)
        assert (seen["slosgate_slo_offered_total"], seen["slosgate_slo_attained_total"]) == (1, attained)


def test_clients_that_invent_models_do_not_fill_the_page() -> None:
    metrics = Metrics()
    for number in range(3 * MOST_MODELS):
        completion = parse(b'{"model": "m%d", "prompt": "x"}' % number, "completions")
        contract = resolve({}, None, Config())
        metrics.ended(Exchange("r", completion, contract, 0.0, 1, 1, 1.0), 1.0)
    models = {sample.labels.get("model_name") for family in metrics.registry.collect() for sample in family.samples}
    assert len(models - {None}) == MOST_MODELS + 1


CLIENTS, REPLICAS = 40, 5  # of each day


async def test_many_days_of_clients_and_replicas_leave_the_page_as_long_as_the_first(
    client: aiohttp.ClientSession,
) -> None:
    """Sessions, ids, models and classes that clients invent are no labels, and replicas that left are none any more."""
    with running_valkey() as redis, running_gateway(redis.url, CONFIG) as gateway:
        async with scripted_replica(redis.url, "stays", good()):
            await until_known(client, gateway.url, "stays")
            series = [await a_day(client, redis.url, gateway.url, day) for day in range(3)]
    assert 200 < series[0] < 1000
    assert max(series) < series[0] + REPLICAS


async def a_day(client: aiohttp.ClientSession, redis_url: str, url: str, day: int) -> int:
    """What goes on in a day, in small; how many series there are at its end."""
    names = [f"passing-{day}-{number}" for number in range(REPLICAS)]
    async with AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(scripted_replica(redis_url, name, good()))
        for name in names:
            await until_known(client, url, name)
        assert names[0] in await labels(client, url)
        await asyncio.gather(*(one_client(client, url, f"invented-{day}-{number}") for number in range(CLIENTS)))
    await eventually(lambda: _forgot(client, url, names))
    assert "invented" not in await labels(client, url)
    return (await labels(client, url)).count("\n")


async def one_client(client: aiohttp.ClientSession, url: str, name: str) -> None:
    good_body = {"model": MODEL, "prompt": [1] * 50, "max_tokens": 3, "stream": True, "user": name}
    own = {**SLO, "x-slo-session": name, "x-request-id": name, "authorization": f"Bearer {name}"}
    for body, headers in (
        (good_body, own),
        ({**good_body, "model": name}, own),
        ({**good_body, "max_tokens": name}, own),
        (good_body, {**own, "x-slo-class": name}),
        (good_body, {**own, f"x-slo-{name}": "1"}),
    ):
        async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
            await answer.read()
            assert answer.status < 500
    async with client.get(f"{url}/v1/{name}") as answer:
        assert answer.status == 404


async def labels(client: aiohttp.ClientSession, url: str) -> str:
    """The page without its comments, a series a line."""
    async with client.get(f"{url}/metrics") as answer:
        return re.sub(r"^#.*\n", "", await answer.text(), flags=re.MULTILINE)


async def _forgot(client: aiohttp.ClientSession, url: str, names: list[str]) -> bool:
    said = await labels(client, url)
    return not any(name in said for name in names)
