"""What the soak's clients do, once each, to a real gateway and a simulated replica."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack

import aiohttp

from slosgate.bench.gateway_bench import visits
from slosgate.bench.gateway_bench.visits import Visit
from tests.processes import running_engine, running_gateway, running_valkey


def one_of_each() -> list[Visit]:
    draw = random.Random(1)
    found: dict[str, Visit] = {}
    while len(found) < len(visits.SHARES):
        visit = visits.drawn(draw, hangs_up=0.0)
        found.setdefault(visit.kind, visit)
    return list(found.values())


async def test_each_kind_of_visit_gets_a_whole_answer() -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(running_valkey())
        gateway = stack.enter_context(running_gateway(redis.url, wait=False))
        stack.enter_context(running_engine(redis.url, "one", wait=False))
        gateway.wait_until_up("/ready", needs=['"one"'])
        async with aiohttp.ClientSession() as session:
            made = one_of_each()
            ends = await asyncio.gather(*(visit.ask(session, gateway.url) for visit in made))
            assert [visit.kind for visit, end in zip(made, ends, strict=True) if not visit.complete(*end)] == []


async def test_a_refusal_is_no_whole_answer() -> None:
    draw = random.Random(2)
    while not (visit := visits.plain(draw)).body["stream"]:
        pass
    with ExitStack() as stack:
        redis = stack.enter_context(running_valkey())
        gateway = stack.enter_context(running_gateway(redis.url))
        async with aiohttp.ClientSession() as session:
            answer, text = await visit.ask(session, gateway.url)
    assert (answer.status, visit.complete(answer, text)) == (503, False)
