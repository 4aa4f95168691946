"""Requests on one connection that don't wait for each other, and clients that stop sending or go."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import ScriptedReplica, good, stalls
from tests.gateway.test_wire import ask, hang_up, talk
from tests.processes import Process

GET = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in _answers(answer)]


def _answers(answer: bytes) -> list[bytes]:
    return answer.split(b"HTTP/1.1 ")[1:]


def _completion_tokens(answer: bytes) -> int:
    return int(answer.partition(b'"completion_tokens": ')[2].partition(b",")[0])


async def half_closing(url: str, *sent: bytes) -> bytes:
    """Send, shut down the sending side, and read to the end."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for part in sent:
        writer.write(part)
        await writer.drain()
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    await hang_up(writer)
    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_each_request_gets_its_answer_in_order(
    gateway: Process, replica: Start, model: str, stream: bool
) -> None:
    async with replica("a", good(token_s=0.02)):
        asked = [post(ask(model, stream=stream, max_tokens=count)) for count in (9, 1, 5)]
        answer = await talk(gateway.url, b"".join(asked) + GET.replace(b"host: a", b"host: a\r\nconnection: close"))
    assert statuses(answer) == [200] * 4
    told = [part.count(b'"text": "t') if stream else _completion_tokens(part) for part in _answers(answer)[:3]]
    assert told == [9, 1, 5]


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "apart"])
@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx-a : 1\x00\r\n\r\n", 400),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"2\r\n{}\r\n0\r\nno trailer\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx-a: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=["garbage", "a bad header", "a bad chunk", "a bad trailer", "a large head"],
)
async def test_a_good_request_is_answered_before_a_bad_one_is_refused(
    gateway: Process, replica: Start, model: str, behind: bytes, status: int, apart: bool
) -> None:
    async with replica("a", good(token_s=0.1)):
        first = post(ask(model))
        answer = await talk(gateway.url, *((first, behind) if apart else (first + behind,)))
    assert statuses(answer) == [200, status]
    assert answer.endswith(b"}")


@pytest.mark.parametrize("rest", [b"zz\r\n", b"2\r\n{}garbage", b"2\r\n{}\r\n0\r\nno trailer\x00\r\n\r\n", b"-1\r\n"])
@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "apart"])
async def test_a_bad_chunk_is_a_bad_request(gateway: Process, rest: bytes, apart: bool) -> None:
    answer = await talk(gateway.url, *((CHUNKED, rest) if apart else (CHUNKED + rest,)))
    assert statuses(answer) == [400]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_has_sent_all_may_say_so(
    gateway: Process, replica: Start, model: str, stream: bool
) -> None:
    cut_off = post(ask(model))[:-5]
    async with replica("a", good(token_s=0.1)) as server:
        assert statuses(await half_closing(gateway.url, post(ask(model, stream=stream, max_tokens=6)))) == [200]
        assert statuses(await half_closing(gateway.url, post(ask(model)) + post(ask(model)) + GET)) == [200, 200, 200]
        assert statuses(await half_closing(gateway.url, post(ask(model)), GET)) == [200, 200]
        assert statuses(await half_closing(gateway.url, post(ask(model)) + GET[:20])) == [200, 400]
        assert statuses(await half_closing(gateway.url, post(ask(model)) + cut_off)) == [200, 400]
        assert statuses(await half_closing(gateway.url, cut_off)) == [400]
        assert server.hang_ups == 0


async def test_a_hang_up_is_noticed_however_soon_it_comes(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", stalls) as server:
        host, port = gateway.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(post(ask(model)))
        writer.close()
        await eventually(partial(_hung_up, server, 1), timeout_s=10)


async def test_one_that_waits_long_for_its_answer_gets_it(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", good(token_s=1.0)):
        answer = await half_closing(gateway.url, post(ask(model)))
    assert statuses(answer) == [100, 100, 200]
    assert _completion_tokens(answer) == 2


@pytest.mark.parametrize("behind", [b"", post(b"{}"), GET * 3, post(b"{}" * 20_000), b"garbage\r\n\r\n", GET[:9]])
async def test_a_hang_up_is_noticed_whatever_else_was_asked(
    redis_url: str, replica: Start, model: str, gateway: Process, behind: bytes
) -> None:
    async with replica("a", stalls) as server:
        for parts in ((post(ask(model)) + behind,), (post(ask(model)), behind)):
            before = server.hang_ups
            host, port = gateway.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            for part in parts:
                writer.write(part)
                await writer.drain()
            await eventually(lambda: server.answering == 1)
            await asyncio.sleep(0.3)
            writer.close()
            await eventually(partial(_hung_up, server, before + 1), timeout_s=5)
    said = gateway.log.read_text()
    assert "Traceback" not in said, said


def _hung_up(server: ScriptedReplica, times: int) -> bool:
    return server.hang_ups == times
