"""A fleet on a Ray cluster of three simulated nodes: a replica's process, an actor, a node and a gateway are killed in
turn, while clients keep asking. Every request ends exactly once, and the fleet is whole again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI
from ray.cluster_utils import Cluster

from slosgate.engines.fleet.status import MemberStatus
from tests.engines.fleet.fleets import FleetUnderTest, alive, fleet
from tests.gateway.conftest import eventually
from tests.gateway.offering import Load
from tests.processes import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

# Four replicas with two of the twelve GPUs each, which nobody looks for: simulated replicas need none.
TEXT = '[models.chat]\nengine = "sim"\nreplicas = 4\ngpus = 2\n'
WHOLE_S = 60.0  # half of it is enough where the machine has nothing else to do
# How soon the cluster notices that a node is dead; Ray's own default is half a minute.
NOTICES = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


@dataclass
class OnRay:
    fleet: FleetUnderTest
    cluster: Cluster

    def replicas(self) -> list[MemberStatus]:
        return self.fleet.members("chat")


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    head = {"num_cpus": 4, "num_gpus": 4, "_system_config": NOTICES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=4, num_gpus=4)
    try:
        with fleet(tmp_path_factory.mktemp("fleet"), TEXT, gateways=2, options=("--ray", cluster.address)) as found:
            yield OnRay(found, cluster)
            before = {pid for pid in found.processes() if b"slosgate" in _arguments(pid)}
            assert found.command("down").exit_code == 0
            wait_for(lambda: not alive(before), 20)
    finally:
        cluster.shutdown()


async def test_it_serves_an_openai_client(on_ray: OnRay) -> None:
    async with AsyncOpenAI(base_url=f"{on_ray.fleet.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.completions.create(model="facebook/opt-13b", prompt="Hi", max_tokens=3)
    assert answer.usage is not None
    assert all(len(replica.gpus) == 2 for replica in on_ray.replicas())


async def test_a_replica_s_process_is_killed(on_ray: OnRay, client: aiohttp.ClientSession) -> None:
    victim = on_ray.replicas()[0]
    offered = await _under_load(on_ray, client, lambda: os.kill(victim.pid, signal.SIGKILL))
    assert offered.ended() <= {"done", "replica_lost"}
    _only_on(offered, victim)


async def test_an_actor_is_killed(on_ray: OnRay, client: aiohttp.ClientSession) -> None:
    """Its replica goes with it."""
    victim = on_ray.replicas()[1]
    offered = await _under_load(on_ray, client, lambda: os.kill(_parent(victim.pid), signal.SIGKILL))
    assert not alive({victim.pid})
    assert offered.ended() <= {"done", "replica_lost"}
    _only_on(offered, victim)


async def test_a_node_is_killed(on_ray: OnRay, client: aiohttp.ClientSession) -> None:
    """Its replicas go with it, and start where there is room."""
    node = on_ray.cluster.list_all_nodes()[-1]
    raylet = node.all_processes["raylet"][0].process.pid
    victims = [replica for replica in on_ray.replicas() if _parent(_parent(replica.pid)) == raylet]
    assert victims
    offered = await _under_load(
        on_ray, client, lambda: on_ray.cluster.remove_node(node, allow_graceful=False), len(victims)
    )
    assert not alive({victim.pid for victim in victims})
    assert offered.ended() <= {"done", "replica_lost"}
    _only_on(offered, *victims)


async def test_a_gateway_is_killed(on_ray: OnRay, client: aiohttp.ClientSession) -> None:
    """Both share one address: the other one takes what comes."""
    victim = on_ray.fleet.members("gateway")[0]
    offered = await _under_load(on_ray, client, lambda: os.kill(victim.pid, signal.SIGKILL))
    assert offered.ended() <= {"done", "broken"}
    assert [ask for ask in offered.asked if ask.guaranteed and ask.ends == ["done"] and not ask.kept] == []
    broken = sum(ask.ends == ["broken"] for ask in offered.asked)
    assert broken < len(offered.asked) / 2


async def _under_load(on_ray: OnRay, client: aiohttp.ClientSession, kill: object, victims: int = 1) -> Load:
    """Kill something while 20 requests/s are asked for, and wait until the fleet is whole again."""
    assert callable(kill)
    offered, stop = Load(client, [on_ray.fleet.url]), asyncio.Event()
    failures = _failures(on_ray)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(offered.run(tasks, stop))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(kill)
        await eventually(lambda: _failures(on_ray) >= failures + victims, WHOLE_S)
        await eventually(lambda: on_ray.fleet.status().whole, WHOLE_S)
        await asyncio.sleep(1.0)
        stop.set()
    return offered


def _failures(on_ray: OnRay) -> int:
    return sum(member.failures for group in on_ray.fleet.status().groups for member in group.members)


def _only_on(offered: Load, *victims: MemberStatus) -> None:
    """Only what was on the victims was lost; guarantees elsewhere are kept."""
    names = {victim.name for victim in victims}
    assert {ask.replica for ask in offered.asked if ask.ends == ["replica_lost"]} <= names
    promised = [ask for ask in offered.asked if ask.guaranteed and ask.replica not in names]
    assert promised
    assert [ask for ask in promised if not ask.kept] == []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
