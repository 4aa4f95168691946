"""Sessions: what belongs together is remembered, by every gateway, and believed as far as each call bears it out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis

from slosgate.gateway.errors import InvalidRequest
from slosgate.gateway.state.ledger import Ledger
from slosgate.gateway.state.sessions import CONTEXTS, KNOWN, OUTPUTS, Context, Session, Sessions, session_id
from slosgate.planner.prefixes import Leading
from tests.gateway.conftest import ADMIN, CONFIG, Start, eventually
from tests.gateway.scripted import good
from tests.processes import Process, running_engine, running_gateway

SYSTEM = "You are an agent that never tires of reading. " * 60
STRANGE = "Something else altogether stands in this one. " * 60


def test_a_session_is_its_holders_own_whatever_says_its_name() -> None:
    named = session_id({b"x-slo-session": b"loop"}, None, "team-a")
    assert named == session_id({b"x-session-id": b"loop"}, None, "team-a") == session_id({}, "loop", "team-a")
    assert named != session_id({b"x-slo-session": b"loop"}, None, "team-b")
    assert session_id({}, None, "team-a") == ""
    with pytest.raises(InvalidRequest, match="at most 512 bytes"):
        session_id({b"x-slo-session": b"x" * 513}, None, "")


def test_only_slosgates_own_header_is_held_to_its_length() -> None:
    long = b"x" * 1000
    with pytest.raises(InvalidRequest, match="x-slo-session must have at most 512 bytes"):
        session_id({b"x-slo-session": long}, None, "")
    assert session_id({b"x-session-id": long}, None, "") != session_id({b"x-session-id": long + b"y"}, None, "")
    assert session_id({}, "y" * 1000, "")


def test_what_is_remembered_of_a_session_does_not_grow() -> None:
    session = Session(id="s")
    for n in range(100):
        session = session.begun(float(n)).ended(Context("a", n + 1, n), 10 + n, promised=n != 50)
    assert (session.calls, session.due_s) == (100, 0.0)  # its SLO as a whole came with the first call
    assert (len(session.contexts), len(session.outputs)) == (CONTEXTS, OUTPUTS)
    assert (session.answered, session.promised) == (100, 99)
    assert session.contexts[0].begins(Leading((*range(1, 100), 99, 5), 0.01))
    assert not session.contexts[0].begins(Leading(tuple(range(1, 201)), 0.01))
    assert len(msgspec.msgpack.encode(session)) < 300


def test_the_next_output_is_planned_from_the_sessions_own_past() -> None:
    session = Session(id="s", outputs=(40, 50, 60))
    assert session.output_tokens(900) == 900  # too few are known
    assert msgspec.structs.replace(session, outputs=(40, 50, 60, 80)).output_tokens(900) == 100
    assert msgspec.structs.replace(session, outputs=(40, 50, 60, 80)).output_tokens(70) == 70


async def test_a_gateway_forgets_the_oldest_of_too_many(redis_url: str) -> None:
    ledger = Ledger(redis_url, "one")
    sessions = Sessions(ledger)
    for n in range(KNOWN + 5):
        sessions.remember(Session(id=str(n)))
    assert len(sessions) == KNOWN
    assert (await sessions.recall("0", alone=True)).calls == 0
    await ledger.close()


@pytest.fixture(scope="module")
def pair(redis_url: str) -> Iterator[tuple[Process, Process]]:
    """Two gateways and two equal replicas."""
    with ExitStack() as stack:
        gateways = [stack.enter_context(running_gateway(redis_url, CONFIG, wait=False)) for _ in range(2)]
        for name in ("pair-a", "pair-b"):
            stack.enter_context(running_engine(redis_url, name, "--model", "pair", wait=False))
        for gateway in gateways:
            gateway.wait_until_up("/ready", needs=["pair-a", "pair-b"])
        yield gateways[0], gateways[1]


async def ask(client: aiohttp.ClientSession, gateway: Process, text: str, **headers: str) -> aiohttp.ClientResponse:
    body = {"model": "pair", "messages": [{"role": "user", "content": text}], "max_tokens": 4, "ignore_eos": True}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=sent) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
        return answer


async def _is_remembered(redis_url: str, contexts: int) -> bool:
    """Whether the first calls of so many loops have ended for all gateways to see."""
    redis = Redis.from_url(redis_url)
    packed = [await redis.get(name) async for name in redis.scan_iter(match="slosgate:session:*", count=1000)]
    await redis.aclose()
    found = [msgspec.msgpack.decode(each, type=Session) for each in packed if isinstance(each, bytes)]
    return sum(bool(session.contexts) for session in found) >= contexts


async def expected(client: aiohttp.ClientSession, gateway: Process, answer: aiohttp.ClientResponse) -> int:
    url = f"{gateway.url}/admin/requests/{answer.headers['x-slo-request-id']}"
    async with client.get(url, headers=ADMIN) as record:
        found: int = (await record.json())["likely_cached_tokens"]
        return found


async def test_a_session_goes_on_at_another_gateway_where_it_was(
    redis_url: str, pair: tuple[Process, Process], client: aiohttp.ClientSession
) -> None:
    """The second gateway has never seen a word of it, and finds its replica all the same."""
    first, second = pair
    for n in range(4):
        began = await ask(client, first, f"{SYSTEM} {n}" + SYSTEM, x_slo_session=f"loop-{n}")
        await eventually(partial(_is_remembered, redis_url, contexts=n + 1))  # an agent's next call takes longer
        goes_on = await ask(client, second, f"{SYSTEM} {n}" + SYSTEM + " And then?", x_slo_session=f"loop-{n}")
        assert goes_on.headers["x-slo-session-calls"] == "2"
        assert goes_on.headers["x-slo-replica"] == began.headers["x-slo-replica"]
        assert await expected(client, second, goes_on) > 1000


async def test_a_session_outlives_the_gateway_that_began_it(
    redis_url: str, pair: tuple[Process, Process], client: aiohttp.ClientSession
) -> None:
    with running_gateway(redis_url, CONFIG, wait=False) as dies:
        dies.wait_until_up("/ready", needs=["pair-a", "pair-b"])
        answer = await ask(client, dies, "go", x_slo_session="outlives", x_slo_session_e2e_ms="600000")
        assert answer.headers["x-slo-session-calls"] == "1"
        await asyncio.sleep(0.2)  # it has said so in Redis
        dies.kill()
    for calls in ("2", "3"):
        later = await ask(client, pair[0], "on", x_slo_session="outlives")
        assert later.headers["x-slo-session-calls"] == calls
        assert 0 < float(later.headers["x-slo-session-left-ms"]) < 600_000


async def test_who_names_a_session_that_the_call_does_not_go_on_with_gains_nothing(
    pair: tuple[Process, Process], client: aiohttp.ClientSession
) -> None:
    first, second = pair
    await ask(client, first, SYSTEM + "mine", x_slo_session="mine")
    lied = await ask(client, second, STRANGE, x_slo_session="mine", x_slo_ttft_ms="5000", x_slo_tpot_ms="500")
    assert await expected(client, second, lied) == 0


async def test_a_sessions_slo_as_a_whole_is_what_its_calls_have_left(
    pair: tuple[Process, Process], client: aiohttp.ClientSession
) -> None:
    first, _ = pair
    began = await ask(client, first, "go", x_slo_session="timed", x_slo_session_e2e_ms="60000")
    later = await ask(client, first, "on", x_slo_session="timed", x_slo_session_e2e_ms="900000")
    assert float(began.headers["x-slo-session-left-ms"]) == pytest.approx(60_000)
    assert float(later.headers["x-slo-session-left-ms"]) < 60_000
    assert later.headers["x-slo-admission"] == "guaranteed"


async def test_sessions_expire_and_their_number_in_redis_is_bounded(
    redis_url: str, pair: tuple[Process, Process], client: aiohttp.ClientSession
) -> None:
    await ask(client, pair[0], "hello", x_session_id="expires")
    redis = Redis.from_url(redis_url)
    found = [k async for k in redis.scan_iter(match="slosgate:session:*", count=1000)]
    assert found
    for name in found:
        assert 0 < await redis.pttl(name) <= 15 * 60_000
        assert int(name.rpartition(b":")[2]) < 1 << 16
    await redis.aclose()


async def test_a_loop_that_was_promised_every_call_outweighs_newcomers_and_a_liar_does_not(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    """The weight is what competes where not everybody can be served in time."""
    prompt = list(range(1000, 1600))

    async def weight(tokens: list[int], session: str, slo_ms: str = "20000") -> float:
        headers = {"x-slo-session": session, "x-slo-ttft-ms": slo_ms, "x-slo-tpot-ms": "1000"} if slo_ms else {}
        body = {"model": model, "prompt": tokens, "max_tokens": 2}
        async with client.post(
            f"{gateway.url}/v1/completions", json=body, headers={"x-slo-session": session, **headers}
        ) as answer:
            assert answer.headers["x-slo-admission"] == ("guaranteed" if slo_ms else "best-effort")
            await answer.read()
        told: float = server.calls[-1].body["vllm_xargs"]["slo_weight"]
        return told

    async with replica("a", good()) as server:
        assert await weight(prompt, "loop") == 1.0
        assert await weight([*prompt, *range(300)], "loop") == 4.0
        assert await weight(list(range(5000, 5600)), "loop") == 1.0  # says so, and goes on from nothing
        assert await weight(prompt, "another") == 1.0
        await weight(prompt, "unpromised", slo_ms="")
        assert await weight([*prompt, *range(300)], "unpromised") == 1.0
