"""The HTTP client towards replicas, against a raw server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from slosgate.gateway.replicas.upstream import Upstream, UpstreamError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PIECE_BYTES = 256 * 1024
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[tuple[str, list[int]]]:
    """A server on a free port, and how many connections it has taken."""
    connections: list[int] = []
    ended: list[asyncio.Event] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        ended.append(asyncio.Event())
        mine = ended[-1]
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        mine.set()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connections
    finally:
        listening.close()
        for event in ended:
            await event.wait()


async def asks(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    found = Upstream(connect_timeout_s=1.0)
    yield found
    await found.close()


async def test_connections_are_used_again(upstream: Upstream) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asks(reader)
            writer.write(PLAIN)

    async with server(serve) as (target, connections):
        for _ in range(3):
            assert await upstream.fetch(target, "/", timeout_s=5) == (200, b"ok")
        assert len(connections) == 1


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(upstream: Upstream) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(PLAIN)
        await asks(reader)

    async with server(serve) as (target, connections):
        for _ in range(2):
            assert await upstream.fetch(target, "/", timeout_s=5) == (200, b"ok")
        assert len(connections) == 2


async def test_an_answer_may_end_with_its_connection(upstream: Upstream) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall there is")

    async with server(serve) as (target, _):
        assert await upstream.fetch(target, "/", timeout_s=5) == (200, b"all there is")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "the connection broke"),
        (b"\x16\x03\x01 what?\r\n\r\n", "not HTTP"),
    ],
)
async def test_says_what_went_wrong(upstream: Upstream, sent: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(sent)

    async with server(serve) as (target, _):
        with pytest.raises(UpstreamError, match=said):
            await upstream.fetch(target, "/", timeout_s=5)


async def test_nobody_there_and_nobody_answering(upstream: Upstream) -> None:
    with pytest.raises(UpstreamError, match=r"no connection: .*127\.0\.0\.1"):
        await upstream.fetch("http://127.0.0.1:1", "/", timeout_s=5)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(serve) as (target, _):
        with pytest.raises(UpstreamError, match=r"no answer within 0\.1 s"):
            await upstream.fetch(target, "/", timeout_s=0.1)


async def test_a_slow_reader_holds_the_server_back(upstream: Upstream) -> None:
    """What the relay does not take stays with the server: memory is bounded, whatever it sends."""
    size = 64 * PIECE_BYTES
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await asks(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(64):
            writer.write(b"x" * PIECE_BYTES)
            await writer.drain()
            sent += PIECE_BYTES

    async with server(serve) as (target, _), upstream.request("GET", target, "/") as answer:
        await asyncio.sleep(0.3)
        assert sent < size
        assert len(await answer.read()) == size
