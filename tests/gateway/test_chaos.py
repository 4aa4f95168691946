"""What breaks while clients keep asking: replicas, a gateway, Valkey. Real processes, one fault after the other.

Whatever happens, every request that was offered ends exactly once, guarantees on replicas that are well are kept (by
the paper's rule, as the client sees it), and no trace of a request stays in the ledger. The gateways' logs tell each
fault in a few lines.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from slosgate.engines.channel import key
from slosgate.gateway.state import valkey
from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.gateway.offering import SLO, Load
from tests.gateway.scripted import MODEL, garbage, half_an_event, scripted_replica
from tests.processes import Process, free_port, running_engine, running_gateway

MOST_LINES = 20  # of a log, for one fault
# A Redis that is gone shows at once, by its connections; one that is only slow, as this machine may be, must not count.
CONFIG = "[redis]\ntimeout_s = 20"


@dataclass
class Cluster:
    redis: valkey.Valkey
    gateways: list[Process]
    engines: dict[str, Process]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two gateways and three replicas, started together."""
    with ExitStack() as stack:
        redis = valkey.start(free_port())
        found = Cluster(redis, [], {})
        stack.callback(lambda: found.redis.stop())
        for _ in range(2):
            gateway = running_gateway(redis.url, CONFIG, options=["--log-format", "json"], wait=False)
            found.gateways.append(stack.enter_context(gateway))
        for name in ("safe", "doomed", "stuck"):
            found.engines[name] = stack.enter_context(running_engine(redis.url, name, wait=False))
        for process in (*found.gateways, *found.engines.values()):
            process.wait_until_up()
        yield found


@asynccontextmanager
async def load(client: aiohttp.ClientSession, cluster: Cluster) -> AsyncIterator[Load]:
    found, stop = Load(client, [gateway.url for gateway in cluster.gateways]), asyncio.Event()
    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        tasks.create_task(found.run(tasks, stop))
        await asyncio.sleep(0.5)
        try:
            yield found
            await asyncio.sleep(0.5)
        finally:
            stop.set()
    for name in cluster.engines:
        await eventually(partial(_is_empty, cluster.redis.url, name))


async def _is_empty(redis_url: str, name: str) -> bool:
    return await ledger_size(redis_url, name) == 0


class Told:
    """What gateways say from now on."""

    def __init__(self, *gateways: Process) -> None:
        self._from = [(gateway, gateway.log.stat().st_size) for gateway in gateways]

    def lines(self) -> list[list[dict[str, Any]]]:
        """Of each gateway."""
        read = [gateway.log.read_bytes()[start:] for gateway, start in self._from]
        return [[json.loads(line) for line in text.splitlines()] for text in read]

    async def of(self, event: str, subject: str = "") -> None:
        """Wait until every gateway has told this; together they must have said little."""
        await eventually(lambda: all(_tells(lines, event, subject) for lines in self.lines()))
        for lines in self.lines():
            assert len(lines) <= MOST_LINES, lines


def _tells(lines: list[dict[str, Any]], event: str, subject: str) -> bool:
    about = [line for line in lines if line["event"] == event]
    return any(subject in (line.get("replica", ""), line.get("gateway", ""), "") for line in about)


async def until_all_know(client: aiohttp.ClientSession, cluster: Cluster, *names: str) -> None:
    for gateway in cluster.gateways:
        for name in names:
            await until_known(client, gateway.url, name)


async def ready(client: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with client.get(f"{url}/ready") as answer:
        found: dict[str, Any] = await answer.json()
    return found


async def test_a_client_that_hangs_up_frees_its_replica(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    await until_all_know(client, cluster, *cluster.engines)
    url = cluster.gateways[0].url
    async with begun(client, url, tokens=1500) as answer:
        engine = cluster.engines[answer.headers["x-slo-replica"]]
        assert await running(client, engine.url) == 1
        answer.close()
    await eventually(partial(_is_idle, client, engine.url))
    await eventually(partial(_is_empty, cluster.redis.url, answer.headers["x-slo-replica"]))


@asynccontextmanager
async def begun(client: aiohttp.ClientSession, url: str, *, tokens: int) -> AsyncIterator[aiohttp.ClientResponse]:
    """A guaranteed stream whose first token has come."""
    body = {"model": MODEL, "prompt": [1] * 100, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    async with client.post(f"{url}/v1/completions", json=body, headers=SLO) as answer:
        await answer.content.readany()
        yield answer


async def _is_in_ledger(redis_url: str, answer: aiohttp.ClientResponse) -> bool:
    redis = Redis.from_url(redis_url)
    try:
        return bool(await redis.hexists(key("ledger", answer.headers["x-slo-replica"]), answer.headers["x-request-id"]))
    finally:
        await redis.aclose()


async def running(client: aiohttp.ClientSession, url: str) -> float:
    async with client.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


async def _is_idle(client: aiohttp.ClientSession, url: str) -> bool:
    return await running(client, url) == 0


@pytest.mark.parametrize("script", [garbage, half_an_event])
async def test_a_replica_that_talks_nonsense(client: aiohttp.ClientSession, cluster: Cluster, script: Any) -> None:
    """Garbage instead of an answer is replaced unseen; half an event after a whole one is an error in the stream."""
    told = Told(*cluster.gateways)
    async with load(client, cluster) as offered:
        async with scripted_replica(cluster.redis.url, script.__name__, script) as liar:
            await until_all_know(client, cluster, liar.name)
            await eventually(lambda: len(liar.calls) >= 3)
        await asyncio.sleep(0.5)
    for event in ("replica_joined", "replica_lost"):
        await told.of(event, liar.name)
    assert offered.ended() <= {"done", "replica_lost"}
    assert script is half_an_event or offered.ended() == {"done"}
    assert {a.replica for a in offered.asked if a.ends == ["replica_lost"]} <= {liar.name}
    offered.guarantees_kept_on(*cluster.engines)


async def test_a_replica_that_stalls_is_left_alone_until_it_moves_again(
    client: aiohttp.ClientSession, cluster: Cluster
) -> None:
    stuck, told = cluster.engines["stuck"].popen, Told(*cluster.gateways)
    async with load(client, cluster) as offered:
        stuck.send_signal(signal.SIGSTOP)
        for gateway in cluster.gateways:
            await eventually(partial(_lacks, client, gateway.url, "stuck"))
        stuck.send_signal(signal.SIGCONT)
        await until_all_know(client, cluster, "stuck")
    assert offered.ended() <= {"done", "replica_lost"}
    assert {a.replica for a in offered.asked if a.ends == ["replica_lost"]} <= {"stuck"}
    for event in ("replica_left", "replica_joined"):
        await told.of(event, "stuck")
    offered.guarantees_kept_on("safe", "doomed")


async def _lacks(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    return name not in (await ready(client, url))["replicas"]


async def test_a_replica_is_killed(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    told = Told(*cluster.gateways)
    async with load(client, cluster) as offered:
        await eventually(lambda: any(a.replica == "doomed" and not a.ends for a in offered.asked))
        cluster.engines["doomed"].kill()
        await asyncio.sleep(1.0)
    assert offered.ended() <= {"done", "replica_lost"}
    assert {a.replica for a in offered.asked if a.ends == ["replica_lost"]} <= {"doomed"}
    await told.of("replica_lost", "doomed")
    offered.guarantees_kept_on("safe", "stuck")


async def test_valkey_is_killed_and_comes_back_empty(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Streams under way go on and keep their SLO; what comes meanwhile is best effort; then all is as before."""
    first, told = cluster.gateways[0].url, Told(*cluster.gateways)
    async with load(client, cluster) as offered, begun(client, first, tokens=500) as long:
        cluster.redis.process.kill()
        cluster.redis.process.wait()
        killed = len(offered.asked)
        await eventually(lambda: _best_effort_everywhere(offered, killed))
        assert (await ready(client, first))["ready"]
        cluster.redis = valkey.start(cluster.redis.port)
        await eventually(partial(_guarantees_again, offered, len(offered.asked)))
        assert (await ready(client, first))["state_available"]
        # What the gateway still answers for is in the new ledger too.
        await eventually(partial(_is_in_ledger, cluster.redis.url, long))
        assert (await long.text()).endswith("data: [DONE]\n\n")
    assert offered.ended() == {"done"}
    for event in ("redis_away", "redis_back"):
        await told.of(event)
    offered.guarantees_kept_on("safe", "stuck")


def _best_effort_everywhere(offered: Load, since: int) -> bool:
    """Whether every gateway has served a request with an SLO to its end, and told that it was best effort."""
    served = {a.gateway for a in offered.asked[since:] if a.slo and a.ends == ["done"] and not a.guaranteed}
    return served == set(offered.gateways)


def _guarantees_again(offered: Load, since: int) -> bool:
    return {a.gateway for a in offered.asked[since:] if a.guaranteed} == set(offered.gateways)


async def epochs(redis_url: str) -> dict[str, int]:
    """The newest plan of each replica that is left."""
    async with Redis.from_url(redis_url) as redis:
        return {name: int(await redis.get(key("epoch", name)) or 0) for name in ("safe", "stuck")}


async def _all_later(redis_url: str, before: dict[str, int]) -> bool:
    return all(epoch > before[name] for name, epoch in (await epochs(redis_url)).items())


async def test_a_gateway_is_killed(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Its clients see their connections break; the other gateway frees what it had promised and goes on."""
    survivor, victim = cluster.gateways
    told = Told(survivor)
    async with load(client, cluster) as offered:
        await eventually(lambda: any(a.gateway == victim.url and a.token_s and not a.ends for a in offered.asked))
        victim.kill()
        offered.gateways = [survivor.url]
        # Whoever planned a replica before: the survivor plans them all.
        planned = await epochs(cluster.redis.url)
        await eventually(lambda: _all_later(cluster.redis.url, planned))
    assert offered.ended() == {"done", "broken"}
    assert {a.gateway for a in offered.asked if a.ends == ["broken"]} == {victim.url}
    await told.of("gateway_lost")
    offered.guarantees_kept_on("safe", "stuck", gateway=survivor.url)
