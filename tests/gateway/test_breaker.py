"""When a replica is left alone, for how long, and how it comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp

from slosgate.gateway.replicas.breaker import BACK_OFF_S, FAILURES, LONGEST_BACK_OFF_S, PROBE_S, Breaker, State
from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import dies_at_once, good
from tests.processes import Process


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(5):
        assert [breaker.failed(0.0) for _ in range(FAILURES - 1)] == [False] * (FAILURES - 1)
        breaker.succeeded()
    assert [breaker.failed(0.0) for _ in range(FAILURES)][-1]
    assert breaker.state(0.0) is State.OPEN
    assert not breaker.failed(0.1)  # was under way when it opened: no news


def test_one_request_tries_a_replica_whose_back_off_is_over() -> None:
    breaker = Breaker(lambda: 1.0)
    for _ in range(FAILURES):
        breaker.failed(0.0)
    assert breaker.state(BACK_OFF_S - 0.01) is State.OPEN
    assert breaker.state(BACK_OFF_S) is State.HALF_OPEN
    breaker.dispatched(BACK_OFF_S)
    assert breaker.state(BACK_OFF_S) is State.OPEN
    assert breaker.state(BACK_OFF_S + PROBE_S) is State.HALF_OPEN  # its client hung up: another may try
    breaker.succeeded()
    assert breaker.state(BACK_OFF_S) is State.CLOSED


def test_back_off_doubles_up_to_a_limit_with_jitter_from_the_source_given() -> None:
    drawn = iter([0.0, 1.0] * 6)
    breaker, now_s, waits = Breaker(lambda: next(drawn)), 0.0, []
    for _ in range(FAILURES - 1):
        breaker.failed(now_s)
    for _ in range(9):
        breaker.dispatched(now_s)
        assert breaker.failed(now_s)
        waits.append(next(s / 4 for s in range(1, 1000) if breaker.state(now_s + s / 4) is State.HALF_OPEN))
        now_s += waits[-1]
    assert waits == [0.25, 1.0, 1.0, 4.0, 4.0, 16.0, LONGEST_BACK_OFF_S / 2, LONGEST_BACK_OFF_S, LONGEST_BACK_OFF_S / 2]


async def test_a_replica_that_keeps_failing_is_spared_and_comes_back_when_it_is_well(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async def asked() -> str:
        body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 1}
        async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            return answer.headers["x-slo-replica"]

    async def state(name: str) -> str:
        async with client.get(f"{gateway.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(x.split()[-1] for x in lines if x.startswith(f'slosgate_replica_breaker_state{{replica="{name}"}}'))

    async with replica("bad", dies_at_once) as bad, replica("fine", good(token_s=0.0)) as fine:
        fine.busy_for(60)  # so that the other one is always asked first
        await fine.reported()
        assert [await asked() for _ in range(FAILURES)] == [fine.name] * FAILURES
        assert await state(bad.name) == "2.0"
        for _ in range(10):
            await asked()
        assert FAILURES <= len(bad.calls) <= FAILURES + 2  # a probe or two, where this machine is slow
        bad.script = good(token_s=0.0)
        await eventually(lambda: _is(asked, bad.name))
        assert await state(bad.name) == "0.0"
        said = gateway.log.read_text()
        assert said.index(f"{bad.name} fails requests") < said.index(f"{bad.name} answers again")


async def _is(asked: Callable[[], Awaitable[str]], name: str) -> bool:
    return await asked() == name
