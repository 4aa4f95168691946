"""A rolling update of everything, while clients keep asking: no stream is cut, and guarantees are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from tests.engines.fleet.fleets import FleetUnderTest, fleet
from tests.gateway.offering import Load

MODELS = '[models.chat]\nengine = "sim"\nreplicas = 2\noptions = ["--seed", "{seed}"]\n'
LEAST_KEPT = 0.99


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """Two gateways on one port, two replicas."""
    with fleet(tmp_path_factory.mktemp("fleet"), MODELS.format(seed=1), gateways=2) as found:
        yield found


async def test_all_replicas_and_gateways_are_replaced_under_load(
    pair: FleetUnderTest, client: aiohttp.ClientSession
) -> None:
    before = {member.pid for group in ("chat", "gateway") for member in pair.members(group)}
    stop = asyncio.Event()
    offered = Load(client, [pair.url])
    async with asyncio.timeout(110), asyncio.TaskGroup() as tasks:
        tasks.create_task(offered.run(tasks, stop))
        long = [tasks.create_task(_long_stream(client, pair.url)) for _ in range(8)]
        pair.write(MODELS.format(seed=2) + "[gateways.environment]\nROLLED = '1'\n", gateways=2)
        done = await asyncio.to_thread(pair.up)
        stop.set()
    assert done.exit_code == 0, done.output
    after = {member.pid for group in ("chat", "gateway") for member in pair.members(group)}
    assert (len(after), after & before) == (4, set())
    assert offered.ended() == {"done"}
    assert all(stream.result().endswith("data: [DONE]\n\n") for stream in long)
    promised = [ask for ask in offered.asked if ask.guaranteed]
    assert len(promised) > len(offered.asked) / 2
    assert sum(ask.kept for ask in promised) >= LEAST_KEPT * len(promised)


async def _long_stream(client: aiohttp.ClientSession, url: str) -> str:
    """One that begins before the update and outlives what it began on."""
    body = {"prompt": [1] * 100, "max_tokens": 1800, "ignore_eos": True, "stream": True}
    async with client.post(f"{url}/v1/completions", json=body) as answer:
        return await answer.text()
