"""HTTP as it comes from clients, proxies and attackers: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256

import aiohttp
import pytest

from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import Call, good
from tests.processes import Process, running_gateway

IMPATIENT = f"""
[server]
header_timeout_s = 1
body_timeout_s = 1
request_timeout_s = 2
cors_origins = ["https://app.example"]
[keys.a]
sha256 = "{sha256(b"key").hexdigest()}"
"""


@pytest.fixture(scope="module")
def impatient(redis_url: str) -> Iterator[Process]:
    """A gateway with short limits that asks for a key."""
    with running_gateway(redis_url, IMPATIENT) as process:
        yield process


async def talk(url: str, *sent: bytes, timeout_s: float = 20.0) -> bytes:
    """Send bytes on one connection and give all that comes back until the server closes it."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), timeout_s)
    except ConnectionError:
        return b""
    finally:
        await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


def post(body: bytes, *headers: str, path: str = "/v1/completions", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: a", "content-type: application/json", "connection: close", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(model: str, **more: object) -> bytes:
    return json.dumps({"model": model, "prompt": [1, 2], "max_tokens": 2, **more}).encode()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_of_h2c_is_declined_by_answering(
    gateway: Process, replica: Start, model: str, path: str, chunked: bool
) -> None:
    body = ask(model)
    offer = ["connection: Upgrade, HTTP2-Settings, close", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAA"]
    if chunked:
        offer.append("transfer-encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with replica("a", good()) as server:
        answer = await talk(gateway.url, post(body, *offer, path=path))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.calls[-1].body["prompt"] == [1, 2]


async def test_http_1_0_gets_no_chunks(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", good()):
        answer = await talk(gateway.url, post(ask(model, stream=True), version="1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_white_space_around_a_header_is_no_part_of_it(gateway: Process, replica: Start, model: str) -> None:
    async with replica("a", good()):
        answer = await talk(gateway.url, post(ask(model), "x-slo-class: \t interactive \t ", "x-request-id: mine  "))
    assert b"\r\nx-slo-class: interactive\r\n" in answer
    assert b"\r\nx-request-id: mine\r\n" in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nx-a: " + b"a" * 1_000_000,
        b"GET /health HTTP/1.1\r\n" + b"".join(b"x-%d: a\r\n" % i for i in range(1000)) + b"\r\n",
        b"GET /" + b"a" * 1_000_000,
    ],
    ids=["an endless header", "many headers", "an endless path"],
)
async def test_heads_are_bounded(gateway: Process, head: bytes) -> None:
    answer = await talk(gateway.url, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b"GET /hea", b"HTTP/1.1 408 "),
        (b"POST /v1/score HTTP/1.1\r\nhost: a\r\nx-api-key: key\r\ncontent-length: 9\r\n\r\n{", b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "blank lines", "half a request line", "half a body"],
)
async def test_slow_clients_are_let_go(impatient: Process, sent: bytes, status: bytes) -> None:
    answer = await talk(impatient.url, sent)
    assert answer.startswith(status)
    assert bool(answer) == bool(status)


async def test_a_stranger_is_turned_away_before_its_body_is_read(impatient: Process) -> None:
    host, port = impatient.url.removeprefix("http://").split(":")
    for path in ("/v1/completions", "/v1/embeddings"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 19000000\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: Bearer" in head
        await hang_up(writer)


def _raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


def _two_members(data: bytes) -> bytes:
    return gzip.compress(data[:9]) + gzip.compress(b"") + gzip.compress(data[9:])


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", _two_members),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
    ],
)
async def test_compressed_bodies_are_read(
    gateway: Process, replica: Start, model: str, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    async with replica("a", good()):
        answer = await talk(gateway.url, post(compress(ask(model)), f"content-encoding: {encoding}"))
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("zstd", b"x", b"415"),
        ("gzip", b"x", b"400"),
        ("gzip", gzip.compress(b"{}")[:-9], b"400"),
        ("gzip", gzip.compress(b"{}") + b"{}", b"400"),
        ("gzip", gzip.compress(b"{}") + gzip.compress(b" ")[:5], b"400"),
        ("gzip", zlib.compress(b"{}"), b"400"),
        ("deflate", zlib.compress(b"{}") * 2, b"400"),
        ("gzip", gzip.compress(b" " * 30_000_000), b"413"),
        ("gzip", gzip.compress(b" " * 15_000_000) * 2, b"413"),
    ],
    ids=[
        "unknown",
        "not gzip",
        "cut off",
        "garbage behind",
        "a second one cut off",
        "zlib",
        "two of zlib",
        "a bomb",
        "a bomb in parts",
    ],
)
async def test_what_cannot_be_unpacked_is_refused(gateway: Process, encoding: str, body: bytes, status: bytes) -> None:
    answer = await talk(gateway.url, post(body, f"content-encoding: {encoding}"))
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_stops_reading_is_let_go(
    impatient: Process, redis_url: str, replica: Start, model: str
) -> None:
    async def pours(call: Call) -> None:
        await call.head()
        while True:
            await call.event({**call.token(0), "padding": "x" * 10_000})

    async with replica("a", pours) as server:
        host, port = impatient.url.removeprefix("http://").split(":")
        await eventually(lambda: _known(impatient.url, server.name))
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = ask(model, stream=True, max_tokens=1_000_000)
        writer.write(post(body, "authorization: Bearer key"))
        await eventually(lambda: bool(server.calls))
        await eventually(lambda: not server.answering, timeout_s=20)
        await hang_up(writer)


async def _known(url: str, name: str) -> bool:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/ready") as answer:
        return name in (await answer.json())["replicas"]


async def test_a_stream_that_goes_on_is_not_cut_by_the_clock(impatient: Process, replica: Start, model: str) -> None:
    async with replica("a", good(token_s=0.4)) as server:
        await eventually(lambda: _known(impatient.url, server.name))
        answer = await talk(impatient.url, post(ask(model, stream=True, max_tokens=8), "authorization: Bearer key"))
        assert b"[DONE]" in answer
        assert b"error" not in answer


async def test_web_pages_may_call_it(gateway: Process, client: aiohttp.ClientSession) -> None:
    url = f"{gateway.url}/v1/chat/completions"
    asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    async with client.options(url, headers={**asks, "access-control-request-headers": "authorization"}) as answer:
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == "authorization"
    async with client.post(url, data=b"{}", headers={"origin": "http://localhost:3000"}) as answer:
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (400, "*")
        assert "x-slo-admission" in answer.headers["access-control-expose-headers"]


async def test_only_configured_pages_may_call_it(impatient: Process, client: aiohttp.ClientSession) -> None:
    for origin, allowed in (("https://app.example", "https://app.example"), ("https://evil.example", None)):
        async with client.get(f"{impatient.url}/health", headers={"origin": origin}) as answer:
            assert answer.headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("OPTIONS", "/v1/chat/completions", 204, "OPTIONS, POST"),
        ("GET", "/v1/chat/completions", 405, "OPTIONS, POST"),
        ("POST", "/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/responses/r", 405, "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/health", 405, "GET, HEAD, OPTIONS"),
    ],
)
async def test_methods_that_are_not_allowed_name_those_that_are(
    gateway: Process, client: aiohttp.ClientSession, method: str, path: str, status: int, allow: str
) -> None:
    async with client.request(method, gateway.url + path) as answer:
        assert (answer.status, answer.headers["allow"]) == (status, allow)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 204),
        (b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (post(b"{}", "content-length: 2"), 400),
        (post(b"2\r\n{}\r\n0\r\n\r\n", "content-length: 2", "transfer-encoding: chunked"), 400),
        (b"GET http://any.example/health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 200),
        (b"GET //health/?a=%00#b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nhost: a\r\nexpect: something\r\nte: trailers\r\nconnection: close, te\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"POST /v1/completions HTTP/2\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}", 400),
        (b"GET /health HTTP/2.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 505),
        (b"GET /health HTTP/0.9\r\nhost: a\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600, 400),
    ],
    ids=[
        "OPTIONS *", "two hosts", "no host", "no host in HTTP/1.0", "a transfer coding", "two lengths",
        "a length and chunks", "an absolute URI", "an odd path", "an expectation", "HTTP/2", "HTTP/2 as text",
        "half a version", "an upgrade from HTTP/2", "HTTP/0.9 with headers", "HTTP/0.9", "TLS",
    ],
)  # fmt: skip
async def test_oddities_are_answered(gateway: Process, sent: bytes, status: int) -> None:
    assert (await talk(gateway.url, sent)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
@pytest.mark.parametrize("offer", [(), ("connection: close, upgrade", "upgrade: h2c")], ids=["plain", "with an offer"])
async def test_a_request_with_two_keys_is_refused(impatient: Process, name: str, offer: tuple[str, ...]) -> None:
    good, bad = (f"{name}: {'Bearer ' if name == 'authorization' else ''}{key}" for key in ("key", "guess"))
    for pair in ((good, bad), (bad, good)):
        answer = await talk(impatient.url, post(b"{}", *pair, *offer, path="/v1/completions"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert f"several {name} headers".encode() in answer
    assert b"prompt is missing" in await talk(impatient.url, post(b"{}", good, good, *offer))  # it is let in


async def test_keys_open_what_tells_of_the_fleet(impatient: Process, client: aiohttp.ClientSession) -> None:
    for headers, status in (({}, 401), ({"authorization": "Bearer key"}, 200), ({"x-api-key": "key"}, 200)):
        async with client.get(f"{impatient.url}/metrics", headers=headers) as answer:
            assert answer.status == status


async def test_refusals_are_counted_by_reason_wherever_they_are_made(
    impatient: Process, client: aiohttp.ClientSession
) -> None:
    async def counted() -> dict[str, float]:
        async with client.get(f"{impatient.url}/metrics", headers={"authorization": "Bearer key"}) as page:
            lines = [line.split() for line in (await page.text()).splitlines() if "refused_requests_total{" in line]
        return {name.split('"')[1]: float(number) for name, number in lines}

    before = await counted()
    for path in ("/metrics", "/v1/models", "/v1/models/x", "/v1/embeddings"):
        async with client.get(impatient.url + path) as answer:
            assert answer.status == 401
    async with client.post(f"{impatient.url}/v1/completions") as answer:
        assert answer.status == 401
    large = b"GET /health HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"y" * 70_000)
    for sent, status in ((large, 431), (b"\x16\x03\x01\r\n\r\n", 400)):
        assert (await talk(impatient.url, sent)).startswith(b"HTTP/1.1 %d " % status)
    now = await counted()
    more = {code: now[code] - before.get(code, 0) for code in now if now[code] != before.get(code, 0)}
    assert more == {"invalid_api_key": 5, "headers_too_large": 1, "bad_http": 1}
