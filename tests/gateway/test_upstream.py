"""The HTTP client towards replicas, against a raw server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from slosgate.gateway.replicas.upstream import Upstream, UpstreamError
from tests.gateway.certificates import self_signed

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PIECE_BYTES = 256 * 1024
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[int]]]:
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

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connections
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


async def test_servers_that_the_system_trusts_are_asked_over_tls(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asks(reader)
            writer.write(PLAIN)

    certificate, key = await self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with server(serve, tls) as (target, connections):
        stranger = Upstream()
        with pytest.raises(UpstreamError, match=r"no connection: .*certificate verify failed") as caught:
            await stranger.fetch(target, "/", timeout_s=5)
        assert not caught.value.reached
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for _ in range(2):
            assert await upstream.fetch(target, "/", timeout_s=5) == (200, b"ok")
        assert len(connections) == 1  # one whose handshake fails is none
        await upstream.close()


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


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (b"HTTP/1.1 102 Processing\r\nx: 1\r\n\r\n" + PLAIN, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nx: " + b"1" * 60_000 + b"\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nlate: 1\r\n\r\n", 200, b"ok"),
        (PLAIN + b"and more", 200, b"ok"),
    ],
    ids=["interim", "no body", "long header", "chunks", "more than was announced"],
)
async def test_reads_what_servers_send(upstream: Upstream, sent: bytes, status: int, body: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        for at in range(0, len(sent), 7):  # in pieces, as they may come
            writer.write(sent[at : at + 7])
            await asyncio.sleep(0)

    async with server(serve) as (target, _):
        assert await upstream.fetch(target, "/", timeout_s=5) == (status, body)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 60_000, "head does not end|head is too large"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(300)), "head is too large"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "head does not end"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "status 101"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
    ],
    ids=["endless head", "headers", "endless interim", "upgrade", "bad chunk"],
)
async def test_what_makes_no_sense_ends(upstream: Upstream, sent: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(sent)
        await reader.read()

    async with server(serve) as (target, _):
        with pytest.raises(UpstreamError, match=said):
            await upstream.fetch(target, "/", timeout_s=5)


async def test_only_what_may_be_asked_twice_is_sent_again(upstream: Upstream) -> None:
    """A kept connection turns out to be closed: the server may have seen the request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(PLAIN)
        await asks(reader)

    async with server(serve) as (target, connections):
        assert await upstream.fetch(target, "/", timeout_s=5) == (200, b"ok")
        with pytest.raises(UpstreamError, match="the connection broke") as caught:
            async with upstream.request("POST", target, "/"):
                pass
        assert caught.value.reached
        assert len(connections) == 1


async def test_an_answer_need_not_wait_for_the_whole_request(upstream: Upstream) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asks(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(0.2)

    async with server(serve) as (target, connections):
        for _ in range(2):
            async with upstream.request("POST", target, "/", body=b"x" * 64 * PIECE_BYTES) as answer:
                assert (answer.status, await answer.read()) == (413, b"no")
        assert len(connections) == 2  # half a request is no place for the next one


async def test_an_answer_to_head_has_no_body(upstream: Upstream) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await asks(reader)).startswith(b"HEAD /v1/models HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
        await reader.read()

    async with server(serve) as (target, _), upstream.request("HEAD", target, "/v1/models") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_an_address_may_have_a_path_and_credentials(upstream: Upstream) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await asks(reader))
            writer.write(PLAIN)

    async with server(serve) as (target, _):
        address = target.replace("//", "//me:secret@") + "/base"
        assert await upstream.fetch(address, "/v1/models", timeout_s=5) == (200, b"ok")
        given = {"authorization": "Bearer key"}
        assert await upstream.fetch(address, "/", timeout_s=5, headers=given) == (200, b"ok")
    assert heads[0].startswith(b"GET /base/v1/models HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"authorization: Basic bWU6c2VjcmV0\r\n" in heads[0]
    assert b"authorization: Bearer key\r\n" in heads[1]
    assert b"Basic" not in heads[1]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:99999"])
async def test_what_is_no_address_is_said_so(upstream: Upstream, url: str) -> None:
    with pytest.raises(UpstreamError, match="its address can't be used"):
        await upstream.fetch(url, "/", timeout_s=5)


async def test_no_header_can_begin_another(upstream: Upstream) -> None:
    with pytest.raises(UpstreamError, match="line break"):
        await upstream.fetch("http://127.0.0.1:1", "/", timeout_s=5, headers={"x": "1\r\nauthorization: me"})


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
