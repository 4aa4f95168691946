"""`slosgate serve --workers 2`: two processes, one gateway to its clients and to who scrapes it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.conftest import eventually
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

ASKED = 40
BODY = {"model": MODEL, "prompt": [1], "max_tokens": 2}


@pytest.fixture(scope="module")
def state() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


@pytest.fixture(scope="module")
def pair(state: str) -> Iterator[Process]:
    with running_gateway(state, options=("--workers", "2")) as gateway:
        yield gateway


async def test_both_serve_and_any_tells_the_counts_of_both(
    client: aiohttp.ClientSession, pair: Process, state: str
) -> None:
    async with scripted_replica(state, "one", good()):
        await eventually(partial(_all_know, pair.url, "one"))
        served = [await _ask(pair.url) for _ in range(ASKED)]
        assert served == [200] * ASKED
        assert [await _counted(pair.url) for _ in range(8)] == [ASKED] * 8
        assert [await _counted(pair.url, "slosgate_replicas") for _ in range(8)] == [1] * 8


async def test_a_worker_that_is_killed_is_started_again_and_its_counts_stay(pair: Process) -> None:
    victim, other = _workers(pair)
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: len(_workers(pair)) == 2 and victim not in _workers(pair))
    assert other in _workers(pair)
    assert [await _counted(pair.url) for _ in range(8)] == [ASKED] * 8


async def test_told_to_stop_it_finishes_what_it_has(client: aiohttp.ClientSession, pair: Process, state: str) -> None:
    async with scripted_replica(state, "slow", good(token_s=0.05)) as slow:
        await eventually(partial(_all_know, pair.url, "slow"))
        workers = _workers(pair)
        long = {"model": MODEL, "prompt": [1], "max_tokens": 40, "stream": True}
        async with client.post(f"{pair.url}/v1/completions", json=long) as answer:
            await eventually(lambda: bool(slow.calls))
            pair.popen.terminate()
            assert (await answer.text()).endswith("data: [DONE]\n\n")
        assert await asyncio.to_thread(pair.popen.wait, 30) == 0
    assert not [worker for worker in workers if _runs(worker)]


def _workers(gateway: Process) -> list[int]:
    """Process ids of the workers, in the order in which they started."""
    children = Path(f"/proc/{gateway.popen.pid}/task/{gateway.popen.pid}/children").read_text().split()
    return [int(child) for child in children if b"--fd" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _ask(url: str) -> int:
    """Over a connection of its own, which any worker may accept."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=BODY) as answer:
        await answer.read()
        return answer.status


async def _counted(url: str, metric: str = "slosgate_requests_total") -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{metric}{{"))


async def _all_know(url: str, name: str) -> bool:
    """Whether whoever answers knows the replica, often enough for both to have been asked."""
    for _ in range(10):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/ready") as answer:
            if name not in (await answer.json())["replicas"]:
                return False
    return True
