"""How often a replica's drafts are accepted is learned from its reports, class by class, and planned with."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.gateway.conftest import ADMIN, Start, eventually, until_known
from tests.gateway.scripted import good
from tests.processes import Process, running_engine

CHANCE = 0.8


async def test_acceptance_is_learned_per_class_and_planned_with(
    client: aiohttp.ClientSession, gateway: Process, redis_url: str, model: str
) -> None:
    with running_engine(redis_url, model, "--model", model, "--acceptance", str(CHANCE)):
        await until_known(client, gateway.url, model)
        assert await _planned(client, gateway.url, model) == 0.6  # what is usual, before anything was seen
        # The batch class of this simulation is hard to guess.
        answers = [_complete(client, gateway.url, model, "interactive", 200) for _ in range(8)]
        answers += [_complete(client, gateway.url, model, "batch", 200, sim_acceptance=0.3) for _ in range(8)]
        await asyncio.gather(*answers)
        await eventually(lambda: _learned(client, gateway.url, model, "interactive", CHANCE))
        await eventually(lambda: _learned(client, gateway.url, model, "batch", 0.3))
        assert await _planned(client, gateway.url, model) == pytest.approx(CHANCE, abs=0.1)


async def test_no_drafts_are_planned_for_a_replica_that_makes_none(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str
) -> None:
    async with replica("a", good()):
        assert await _planned(client, gateway.url, model) == 0


async def _complete(
    client: aiohttp.ClientSession, url: str, model: str, slo_class: str, tokens: int, **xargs: float
) -> str:
    slo = {"x-slo-class": slo_class, "x-slo-ttft-ms": "20000", "x-slo-tpot-ms": "1000"}
    body = {"model": model, "prompt": [1] * 50, "max_tokens": tokens, "ignore_eos": True, "vllm_xargs": xargs}
    async with client.post(f"{url}/v1/completions", json=body, headers=slo) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["x-request-id"]


async def _planned(client: aiohttp.ClientSession, url: str, model: str) -> float:
    """The acceptance that a new request is planned with, as its decision record says."""
    request_id = await _complete(client, url, model, "interactive", 1)
    async with client.get(f"{url}/admin/requests/{request_id}", headers=ADMIN) as answer:
        return float((await answer.json())["planned_acceptance"])


async def _learned(client: aiohttp.ClientSession, url: str, model: str, slo_class: str, chance: float) -> bool:
    async with client.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    name = f'slosgate_draft_acceptance_ratio{{model_name="{model}",slo_class="{slo_class}"}}'
    found = [float(line.split()[-1]) for line in lines if line.startswith(name)]
    return bool(found) and abs(found[0] - chance) < 0.1
