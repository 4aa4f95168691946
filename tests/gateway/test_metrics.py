"""What an operator reads off /metrics."""

from __future__ import annotations

import re
from typing import Any

import aiohttp

from slosgate.gateway.config import Config
from slosgate.gateway.promises.completion import parse
from slosgate.gateway.promises.contract import resolve
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.reports.metrics import MOST_MODELS, Metrics
from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import good
from tests.processes import Process

SLO = {"x-slo-ttft-ms": "1500", "x-slo-tpot-ms": "100"}


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


def test_clients_that_invent_models_do_not_fill_the_page() -> None:
    metrics = Metrics()
    for number in range(3 * MOST_MODELS):
        completion = parse(b'{"model": "m%d", "prompt": "x"}' % number, "completions")
        contract = resolve({}, None, Config())
        metrics.ended(Exchange("r", completion, contract, 0.0, 1, 1, 1.0), 1.0)
    models = {sample.labels.get("model_name") for family in metrics.registry.collect() for sample in family.samples}
    assert len(models - {None}) == MOST_MODELS + 1
