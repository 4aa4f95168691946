"""Replicas between limits: as many as what is asked for wants, and no stream is cut when they become fewer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from slosgate.engines import profiles
from slosgate.engines.fleet.scaling import Scaling
from slosgate.engines.fleet.spec import LimitsSpec, ModelSpec
from slosgate.planner.perf_model import PerfModel, Term
from tests.engines.fleet.fleets import FleetUnderTest, fleet
from tests.processes import wait_for

SLOW = PerfModel((Term(per_new_token_s=1e-4, per_sequence_s=0.02, constant_s=0.05),))  # ten decodes at 250 ms a token
SLO = {"x-slo-ttft-ms": "4000", "x-slo-tpot-ms": "250"}


def models(profile: Path, most: int) -> str:
    return (
        f'[models.chat]\nengine = "sim"\nreplicas = {{least = 1, most = {most}}}\n'
        f'options = ["--profile", "{profile}"]\n'
    )


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a device on which few requests run at once."""
    slow = msgspec.structs.replace(profiles.load("h200-opt-13b"), perf=SLOW, launches=None)
    file = tmp_path_factory.mktemp("profile") / "slow.json"
    file.write_text(json.dumps(msgspec.to_builtins(slow)))
    return file


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory, profile: Path) -> Iterator[FleetUnderTest]:
    with fleet(tmp_path_factory.mktemp("fleet"), models(profile, 2)) as found:
        yield found


async def test_more_are_started_under_load_and_those_that_go_finish_what_they_have(
    scaled: FleetUnderTest, profile: Path, client: aiohttp.ClientSession
) -> None:
    assert len(scaled.members("chat")) == 1
    async with asyncio.timeout(110), asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(stream(client, scaled.url)) for _ in range(25)]
        await asyncio.to_thread(wait_for, lambda: ready(scaled) == 2, 60)
        shown = scaled.command("status").stdout
        assert "2 of 2 ready" in shown
        later = [tasks.create_task(stream(client, scaled.url)) for _ in range(8)]
        await asyncio.sleep(1)
        scaled.write(models(profile, 1))
        done = await asyncio.to_thread(scaled.up)
    assert done.exit_code == 0, done.output
    assert len(scaled.members("chat")) == 1
    assert all(answer.result().endswith("data: [DONE]\n\n") for answer in (*first, *later))


def ready(found: FleetUnderTest) -> int:
    return sum(member.state == "ready" for member in found.members("chat"))


async def stream(client: aiohttp.ClientSession, url: str) -> str:
    body = {"prompt": [1] * 100, "max_tokens": 40, "ignore_eos": True, "stream": True}
    async with client.post(f"{url}/v1/completions", json=body, headers=SLO) as answer:
        return await answer.text()


def test_more_at_once_fewer_one_by_one_and_nothing_while_nobody_says() -> None:
    now_s = 0.0
    scaling = Scaling(lambda: now_s)
    spec = ModelSpec(engine="sim", replicas=LimitsSpec(least=1, most=6, down_after_s=60))
    assert scaling.count("chat", spec) == 1
    counts = []
    for at_s, wanted in [(0, None), (5, 4), (10, 9), (15, 2), (60, 2), (71, 2), (76, 1), (81, None), (86, 1), (150, 1)]:
        now_s = at_s
        before = scaling.count("chat", spec)
        changed = scaling.look({"chat": spec}, {"chat": wanted}.get)
        counts.append(scaling.count("chat", spec))
        assert changed or counts[-1] == before
    assert counts == [1, 4, 6, 6, 6, 5, 4, 4, 3, 2]
    fixed = ModelSpec(engine="sim", replicas=3)
    assert scaling.count("chat", fixed) == 3
    assert not scaling.look({"chat": fixed}, {"chat": 9}.get)
