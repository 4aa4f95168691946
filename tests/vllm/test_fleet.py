"""Two real vLLM replicas on the CPU as a fleet: they serve, and one that is to go finishes what it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from slosgate.bench.gpu.dummy_model import write_model
from tests.engines.fleet.fleets import FleetUnderTest, fleet
from tests.vllm.serving import CPU_PROFILE, MODEL, OPTIONS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
UP_S = 800.0  # importing vLLM alone takes minutes on a busy machine with a cold cache


def text(model: Path, profile: Path, replicas: int) -> str:
    options = json.dumps(["--profile", str(profile), *OPTIONS])
    environment = ", ".join(f'{name} = "{value}"' for name, value in ENVIRONMENT.items())
    return (
        f'[models.tiny]\nengine = "vllm"\nmodel = "{model}"\nreplicas = {replicas}\n'
        f"options = {options}\nenvironment = {{{environment}}}\n"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a profile."""
    folder = tmp_path_factory.mktemp("vllm")
    profile = folder / "profile.json"
    profile.write_bytes(msgspec.json.encode(CPU_PROFILE))
    return write_model(MODEL, folder / "model"), profile


@pytest.fixture(scope="module")
def pair(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    with fleet(tmp_path_factory.mktemp("fleet"), text(*files, replicas=2), up_s=UP_S) as found:
        yield found


async def test_one_of_two_replicas_goes_while_both_answer(pair: FleetUnderTest, files: tuple[Path, Path]) -> None:
    async with aiohttp.ClientSession() as session:
        begun = [await _begin(session, pair.url) for _ in range(8)]
        assert {answer.headers["x-slo-replica"] for answer in begun} == {"test-tiny-1", "test-tiny-2"}
        pair.write(text(*files, replicas=1))
        done = asyncio.create_task(asyncio.to_thread(pair.up))
        ends = await asyncio.gather(*(answer.text() for answer in begun))
        assert all(end.endswith("data: [DONE]\n\n") for end in ends)
        assert (await done).exit_code == 0
    assert len(pair.members("tiny")) == 1


async def _begin(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """A stream that takes some seconds."""
    body = {"model": MODEL, "prompt": [9] * 50, "max_tokens": 300, "ignore_eos": True, "stream": True}
    answer = await session.post(f"{url}/v1/completions", json=body)
    assert answer.status == 200, await answer.text()
    return answer
