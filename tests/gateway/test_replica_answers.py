"""What replicas say reaches the client as it was meant, and only their own faults are held against them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator

import aiohttp
import pytest

from tests.gateway.conftest import ADMIN, Start, eventually, until_known
from tests.gateway.scripted import Call, Script, dies_at_once, good, stalls
from tests.processes import Process, running_gateway

PATHS = ["/v1/completions", "/v1/embeddings"]
ERROR = b'{"error":{"message":"busy","type":"t","param":null,"code":"c"}}'


def says(status: int, body: bytes = ERROR, kind: str = "application/json", *headers: str) -> Script:
    async def script(call: Call) -> None:
        lines = [f"HTTP/1.1 {status} -", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        await call.raw("\r\n".join([*lines, "", ""]).encode() + body)

    return script


def streams(*parts: bytes) -> Script:
    async def script(call: Call) -> None:
        await call.head()
        for part in parts:
            await call.chunk(part)
        await call.end()

    return script


def body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "prompt": [1, 2, 3], "max_tokens": 4, **more}


async def breaker(client: aiohttp.ClientSession, gateway: Process, name: str) -> str:
    async with client.get(f"{gateway.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(x.split()[-1] for x in lines if x.startswith(f'slosgate_replica_breaker_state{{replica="{name}"}}'))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("script", "status", "headers"),
    [
        (says(429, ERROR, "application/json", "retry-after: 7"), 429, {"retry-after": "7"}),
        (says(413, b"<html>413</html>", "text/html"), 413, {"x-should-retry": "false"}),
        (says(400, b"<html>400</html>", "text/html"), 400, {"x-should-retry": "false"}),
        (says(422), 422, {}),
        (says(501), 501, {}),
        (says(307, b"", "text/plain", "location: http://a/b"), 307, {"location": "http://a/b"}),
        (says(307, b"", "text/plain", "location: http://h:999999/x"), 307, {"location": "http://h:999999/x"}),
    ],
    ids=["429", "413 by a proxy", "400 by a proxy", "422", "501", "307", "307 to a port that can't be"],
)
async def test_statuses_and_headers_keep_their_meaning_and_open_no_breaker(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    path: str, script: Script, status: int, headers: dict[str, str],
) -> None:  # fmt: skip
    async with replica("a", script) as server:
        for _ in range(4):
            async with client.post(gateway.url + path, json=body(model), allow_redirects=False) as answer:
                assert answer.status == status
                assert {name: answer.headers.get(name) for name in headers} == headers
                if status >= 400:
                    assert (await answer.json())["error"]["message"]
        assert await breaker(client, gateway, server.name) == "0.0"


async def test_a_full_replica_is_passed_over(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("full", says(429)) as full, replica("free", good()) as free:
        free.busy_for(60)  # so that the other one is asked first
        await free.reported()
        async with client.post(f"{gateway.url}/v1/completions", json=body(model)) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, free.name)
        assert len(full.calls) == 1


@pytest.mark.parametrize(
    ("status", "later", "told"),
    [(503, "9", "9"), (529, "Wed, 01 Jan 2098 00:00:00 GMT", "86400"), (522, "x", "1"), (503, "-5", "1")],
)
async def test_an_unwell_replica_is_passed_over_and_its_wish_to_wait_is_told(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, status: int, later: str, told: str
) -> None:
    url = f"{gateway.url}/v1/completions"
    async with replica("unwell", says(status, b"<html>", "text/html", f"retry-after: {later}")):
        async with client.post(url, json=body(model)) as answer:
            assert (answer.status, answer.headers["retry-after"]) == (503, told)
        async with replica("fine", good()) as fine, client.post(url, json=body(model)) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, fine.name)


@pytest.mark.parametrize("path", PATHS)
async def test_any_success_is_one(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    text = b'{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    async with replica("a", says(203, text)), client.post(gateway.url + path, json=body(model)) as answer:
        assert (answer.status, await answer.read()) == (203, text)
        request_id = answer.headers["x-request-id"]
    if path == PATHS[0]:
        async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
            assert (await answer.json())["outcome"] == "completed"


@pytest.mark.parametrize("path", PATHS)
async def test_a_header_that_nobody_may_send_on_costs_itself_alone(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    for odd in ("\0", "\x01", "\x7f"):
        script = says(422, ERROR, "application/json", f"retry-after: 1{odd}", "etag: a")
        async with replica(f"a{ord(odd)}", script), client.post(gateway.url + path, json=body(model)) as answer:
            assert (answer.status, answer.headers["etag"], "retry-after" in answer.headers) == (422, "a", False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"retry-after": "-5"}, {}),
        ({"retry-after": "soon"}, {}),
        ({"retry-after-ms": "-5", "retry-after": "7"}, {"retry-after": "7"}),
        ({"retry-after-ms": "Wed, 01 Jan 2098 00:00:00 GMT"}, {}),
        ({"retry-after-ms": "250"}, {"retry-after-ms": "250"}),
        ({"retry-after": "9" * 30}, {"retry-after": "86400"}),
        ({"retry-after-ms": "9" * 400}, {"retry-after-ms": "86400000"}),
        ({"retry-after": "Wed, 01 Jan 2098 00:00:00 GMT"}, {"retry-after": "86400"}),
        ({"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}, {"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}),
    ],
)
async def test_a_client_is_told_to_wait_only_for_a_time_that_is_one(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    path: str, sent: dict[str, str], told: dict[str, str],
) -> None:  # fmt: skip
    script = says(429, ERROR, "application/json", *(f"{name}: {value}" for name, value in sent.items()))
    async with replica("full", script), client.post(gateway.url + path, json=body(model)) as answer:
        assert answer.status == 429
        assert {name.lower(): value for name, value in answer.headers.items() if "retry-after" in name.lower()} == told


async def test_a_request_that_every_replica_fails_of_blames_none(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", says(500)) as a, replica("b", says(500)) as b:
        for _ in range(4):
            async with client.post(f"{gateway.url}/v1/completions", json=body(model)) as answer:
                assert answer.status == 503
        assert [await breaker(client, gateway, server.name) for server in (a, b)] == ["0.0", "0.0"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_deadly_request_gets_no_third_replica(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", dies_at_once) as a, replica("b", dies_at_once) as b, replica("c", dies_at_once) as c:
        async with client.post(gateway.url + path, json=body(model)) as answer:
            assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        assert sum(len(server.calls) for server in (a, b, c)) == 2


@pytest.mark.parametrize("path", PATHS)
async def test_what_comes_compressed_all_the_same_is_read(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    text = json.dumps({"choices": [{"text": "x"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode()
    members = gzip.compress(text[:7]) + gzip.compress(text[7:])
    for number, data in enumerate((gzip.compress(text), members)):
        packed = says(200, data, "application/json", "content-encoding: gzip")
        async with replica(str(number), packed), client.post(gateway.url + path, json=body(model)) as answer:
            assert "content-encoding" not in answer.headers
            assert await answer.json() == json.loads(text)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_answer_that_breaks_off_is_none(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, stream: bool
) -> None:
    text = b'data: {"choices":[{"text":"t"}]}\n\n' if stream else b'{"choices":[]}'
    packed = says(
        200, gzip.compress(text)[:-4], "text/event-stream" if stream else "application/json", "content-encoding: gzip"
    )
    async with replica("a", packed):
        async with client.post(f"{gateway.url}/v1/completions", json=body(model, stream=stream)) as answer:
            told = await answer.read()
        assert b"replica_lost" in told


async def test_one_object_may_answer_a_stream(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    for kind in ("application/json", "text/plain"):
        async with replica(kind[:4], says(200, b'{"choices": []}', kind)) as server:
            async with client.post(f"{gateway.url}/v1/completions", json=body(model, stream=True)) as answer:
                assert (answer.status, await answer.read()) == (200, b'{"choices": []}')
            assert len(server.calls) == 1


TOKEN = b'{"choices":[{"text":"t"}]}'
LAST = b'{"choices":[{"text":"t","finish_reason":"stop"}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'


@pytest.mark.parametrize(
    "parts",
    [
        [b"data: %b\r\n\r\n" % TOKEN, b"data: [DONE]\r\n\r\n"],
        [b"data: %b\r\r" % TOKEN, b"data: [DONE]\r\r"],
        [b"data:%b\n\n" % TOKEN, b"data:[DONE]\n\n"],
        [b"\xef", b"\xbb\xbfdata: %b\n\ndata: [DONE]\n\n" % TOKEN],
        [b": waiting\n\n", b"\n\n", b"data: %b\n\n" % TOKEN, b"data: [DONE]\n\n"],
        [b"event: x\nid: 1\ndata: %b\n\n" % TOKEN, b"data: [DONE]\n\n", b": bye\n\n"],
        [b"data: %b\n" % TOKEN, b"\ndata: [DO", b"NE]\n\n"],
        [b"x-trace: 7\ndata: %b\n\n" % TOKEN, b"data: [DONE]\n\n"],
    ],
    ids=[
        "CR LF",
        "CR",
        "no space",
        "BOM",
        "comment and blank lines first",
        "fields, comment last",
        "cut anywhere",
        "unknown field",
    ],
)
async def test_event_streams_as_they_are_met(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, parts: list[bytes]
) -> None:
    async with replica("a", streams(*parts)):
        async with client.post(f"{gateway.url}/v1/completions", json=body(model, stream=True)) as answer:
            text = await answer.read()
        assert answer.status == 200
        assert answer.headers["x-accel-buffering"] == "no"
        assert text == b"".join(parts).removeprefix(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("parts", "end"),
    [
        ([b"data: %b\n\n" % TOKEN, b"data: [DONE]"], b"data: [DONE]\n\n"),
        ([b"data: %b\n\ndata: [DONE]\n" % TOKEN], b"data: [DONE]\n\n"),
        ([b"data: %b\r\n\r\ndata:  [DONE] \r\n" % TOKEN], b"data:  [DONE] \n\n"),
        ([b"data: %b\n\n" % TOKEN, b"data:\t[DONE] \n\n"], b"data:\t[DONE] \n\n"),
        ([b"data: %b\n\n" % TOKEN, b"data: [DONE]\n\n: bye\n"], b"data: [DONE]\n\n"),
        ([b"data: %b\n\n" % TOKEN, b"data: [DONE]\n\nretry: 3000"], b"data: [DONE]\n\n"),
        ([b"data: %b\n\n" % TOKEN, b"data: %b\n\n" % LAST], b"%b\n\ndata: [DONE]\n\n" % LAST),
        ([b"data: %b\n\ndata: %b\n\n" % (LAST, USAGE)], b"%b\n\ndata: [DONE]\n\n" % USAGE),
    ],
)
async def test_a_stream_is_whole_whatever_stands_around_its_end(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, parts: list[bytes], end: bytes
) -> None:
    async with replica("a", streams(*parts)) as server:
        async with client.post(f"{gateway.url}/v1/completions", json=body(model, stream=True)) as answer:
            text = await answer.read()
        assert text.endswith(end)
        assert b"error" not in text
        assert await breaker(client, gateway, server.name) == "0.0"


async def test_a_stream_is_told_by_what_it_is(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    events, whole = b"data: %b\n\ndata: [DONE]\n\n" % LAST, b'{\n\n"choices": []\n\n}'
    for name, script, text, kind in (
        ("a", says(200, events, "application/json"), events, "text/event-stream"),
        ("b", says(200, whole, "text/event-stream"), whole, "application/json"),
    ):
        asked = body(model, stream=True)
        async with replica(name, script), client.post(f"{gateway.url}/v1/completions", json=asked) as answer:
            assert (answer.status, answer.content_type, await answer.read()) == (200, kind, text)


async def test_a_server_that_goes_on_after_the_end_of_its_stream_holds_nothing(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async def hangs(call: Call) -> None:
        await call.head()
        await call.chunk(b"data: %b\n\ndata: [DONE]\n\n" % LAST)
        await asyncio.sleep(30)

    async def breaks(call: Call) -> None:
        await call.head()
        await call.chunk(b"data: %b\n\ndata: [DONE]\n\n" % LAST)
        call.writer.transport.abort()

    for name, script in (("a", hangs), ("b", breaks)):
        async with replica(name, script) as server:
            async with asyncio.timeout(5), client.post(
                f"{gateway.url}/v1/completions", json=body(model, stream=True)
            ) as answer:  # fmt: skip
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
            assert await breaker(client, gateway, server.name) == "0.0"


async def test_long_headers_of_a_proxy_in_front_are_read(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    script = says(200, b'{"choices": []}', "application/json", f"x-policy: {'x' * 30_000}")
    async with replica("a", script), client.post(f"{gateway.url}/v1/completions", json=body(model)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "parts", [[b"data: %b\n\n" % TOKEN], [b"data: %b\n\ndata: {" % LAST]], ids=["no end", "half an event"]
)
async def test_a_stream_that_breaks_off_is_told_as_broken(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, parts: list[bytes]
) -> None:
    asked = body(model, stream=True)
    async with replica("a", streams(*parts)), client.post(f"{gateway.url}/v1/completions", json=asked) as answer:
        assert b'"code":"replica_lost"' in await answer.read()


@pytest.mark.parametrize("text", [b'{"choices": [{"text": "t"', b"{}}", b'["t"]', b'{"choices": [}'])
async def test_an_answer_that_is_no_json_object_is_none(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, text: bytes
) -> None:
    async with replica("a", says(200, text)) as broken, replica("b", good()) as whole:
        whole.busy_for(60)  # so that the other one is asked first
        await whole.reported()
        async with client.post(f"{gateway.url}/v1/completions", json=body(model)) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, whole.name)
        assert len(broken.calls) == 1


async def test_numbers_that_json_does_not_have_are_handed_on(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    text = b'{"choices": [{"text": "t", "logprobs": {"token_logprobs": [NaN, -Infinity]}}]}'
    async with replica("a", says(200, text)), client.post(f"{gateway.url}/v1/completions", json=body(model)) as answer:
        assert (answer.status, await answer.read()) == (200, text)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": -5, "completion_tokens": -4}, 2),
        ({"prompt_tokens": "x", "completion_tokens": 1}, 2),
        ({"completion_tokens": 10**30}, 2),
        ({"completion_tokens": 1e18}, 2),
        ({"completion_tokens": 2**40}, 2),
        ({"completion_tokens": 9}, 2),
        ("none", 2),
        ({"completion_tokens": 7}, 7),
    ],
    ids=["negative", "text", "beyond any integer", "absurd", "2^40", "beyond max_tokens", "no object", "good"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_that_cannot_be_is_not_counted(
    gateway: Process,
    client: aiohttp.ClientSession,
    replica: Start,
    model: str,
    usage: object,
    tokens: int,
    stream: bool,
) -> None:
    ending = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps({"choices": [], "usage": usage}).encode()
    whole = says(200, json.dumps({"choices": [{"text": "tt"}], "usage": usage}).encode())
    before = await _tokens(client, gateway)
    async with replica("a", streams(b"data: %b\n\n" % TOKEN * 2, ending) if stream else whole):
        for _ in range(2):
            asked = body(model, stream=stream, max_tokens=8)
            async with client.post(f"{gateway.url}/v1/completions", json=asked) as answer:
                assert answer.status == 200
                assert b"usage" in await answer.read()
        expected = 2.0 * (tokens if stream or tokens == 7 else 0)  # without usage nobody knows how many
        await eventually(lambda: _have_come(client, gateway, before + expected), timeout_s=5)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_window_is_not_believed(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, stream: bool
) -> None:
    told = {"prompt_tokens": 2**40, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 2**40}}
    text = json.dumps({"choices": [{"text": "tt"}], "usage": told}).encode()
    script = streams(b"data: %b\n\ndata: [DONE]\n\n" % text) if stream else says(200, text)
    asked = {**body(model, stream=stream), "prompt": "x" * 400}
    url = f"{gateway.url}/v1/completions"
    async with replica("a", script):
        for _ in range(4):  # what one says is learned for the next
            async with client.post(url, json=asked) as answer:
                assert answer.status == 200
                request_id = answer.headers["x-request-id"]
                assert str(2**40).encode() in await answer.read()  # the client sees what the replica said
    async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
        record = await answer.json()
    assert record["prompt_tokens"] < 400
    assert (record["cached_tokens"], record["output_tokens"], record["outcome"]) == (None, 2, "completed")


async def _have_come(client: aiohttp.ClientSession, gateway: Process, tokens: float) -> bool:
    return await _tokens(client, gateway) == tokens


async def _tokens(client: aiohttp.ClientSession, gateway: Process) -> float:
    """Of all models: a gateway tells only so many names apart."""
    async with client.get(f"{gateway.url}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("slosgate_generation_tokens_total{"))


@pytest.mark.parametrize("status", [600, 999])
async def test_a_status_that_is_none_is_the_replicas_fault(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, status: int
) -> None:
    async with replica("a", says(status)):
        for path in PATHS:
            async with client.post(gateway.url + path, json=body(model)) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "replica_lost")


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_answers_without_a_body_have_none(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, status: int
) -> None:
    async with replica("a", says(status, b"", "text/plain")):
        for path in PATHS:
            async with client.post(gateway.url + path, json=body(model)) as answer:
                assert (answer.status, await answer.read()) == (status, b"")
                assert answer.headers.get("content-length", "0") == "0"


async def test_an_answer_that_breaks_off_is_said_so_in_one_line(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async def breaks_off(call: Call) -> None:
        await call.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
        call.writer.close()

    async with replica("a", breaks_off) as server:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.post(f"{gateway.url}/v1/embeddings", json=body(model)) as answer:
                await answer.read()
        await eventually(lambda: f"replica {server.name} broke off" in gateway.log.read_text(), timeout_s=5)
        assert "Traceback" not in gateway.log.read_text()


async def _pours(call: Call) -> None:
    await call.head()
    while True:
        await call.event(call.token(0))


async def test_an_answer_without_end_is_ended(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", _pours) as server:
        async with client.post(f"{gateway.url}/v1/completions", json=body(model, stream=True)) as answer:
            text = await answer.read()
        assert b"replica_lost" in text[-500:]
        await eventually(lambda: not server.answering)


@pytest.mark.parametrize("path", PATHS)
async def test_traces_go_through_and_the_clients_id_comes_back(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    told = {"traceparent": "00-1-2-01", "tracestate": "a=b", "x-request-id": "mine-1"}
    async with replica("a", good()) as server:
        async with client.post(gateway.url + path, json=body(model), headers=told) as answer:
            assert answer.headers["x-request-id"] == "mine-1"
        got = server.calls[0].headers
        assert (got["traceparent"], got["tracestate"]) == ("00-1-2-01", "a=b")
        assert got["x-request-id"].startswith("req-")  # engines know requests by the gateway's ids


async def test_the_slo_that_holds_is_said(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()):
        slo = {"x-slo-class": "interactive", "x-slo-tpot-ms": "80"}
        async with client.post(f"{gateway.url}/v1/completions", json=body(model), headers=slo) as answer:
            assert answer.headers["x-slo-effective-ttft-ms"] == "1000.0"
            assert answer.headers["x-slo-effective-tpot-ms"] == "80.0"


async def test_the_slo_is_also_said_when_it_is_not_promised(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()) as server:
        server.busy_for(60)
        await server.reported()
        slo = {"x-slo-ttft-ms": "900"}
        async with client.post(f"{gateway.url}/v1/completions", json=body(model), headers=slo) as answer:
            assert answer.headers["x-slo-admission"] == "best-effort"
            assert answer.headers["x-slo-effective-ttft-ms"] == "900.0"


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"x-slo-tttf-ms": "400"}, "x-slo-tttf-ms"),
        ({"X-SLO-TTFT": "400", "x-slo-ttft-ms": "900"}, "x-slo-ttft"),
        ({"x-llm-d-slo-ttft": "1", "x_slo_ttft_ms": "1"}, "x-llm-d-slo-ttft, x_slo_ttft_ms"),
        ({"x-slo-class": "interactive", "x-slow": "1"}, None),
        ({}, None),
    ],
)
async def test_a_header_that_says_nothing_of_the_slo_is_named(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, sent: dict[str, str], named: str | None
) -> None:
    url = f"{gateway.url}/v1/completions"
    async with replica("a", good()), client.post(url, json=body(model), headers=sent) as answer:
        assert (answer.status, answer.headers.get("x-slo-ignored")) == (200, named)


@pytest.mark.parametrize("tier", ["on_demand", "", 5, {"a": "b"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_of_another_provider_is_served_as_the_default_and_named(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, tier: object, stream: bool
) -> None:
    sent = body(model, service_tier=tier, stream=stream)
    async with replica("a", good()), client.post(f"{gateway.url}/v1/completions", json=sent) as answer:
        assert (answer.status, answer.headers["x-slo-ignored"]) == (200, "service_tier")
        assert answer.headers["x-slo-class"] == "default"
        assert '"service_tier":"default"' in await answer.text()


@pytest.mark.parametrize("path", PATHS)
async def test_a_replica_that_redirects_to_itself_tells_nobody_its_address(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async def to_itself(call: Call) -> None:
        location = f"location: http://{call.headers['host']}/v1/elsewhere?a=%2F"
        await says(307, b"", "text/plain", location)(call)

    async with (
        replica("a", to_itself),
        client.post(gateway.url + path, json=body(model), allow_redirects=False) as answer,
    ):
        assert (answer.status, answer.headers["location"]) == (307, "/v1/elsewhere?a=%2F")


@pytest.fixture(scope="module")
def hasty(redis_url: str) -> Iterator[Process]:
    with running_gateway(redis_url, "[server]\nfirst_byte_timeout_s = 0.5\n") as process:
        yield process


async def test_a_replica_that_hangs_is_left_for_another(
    hasty: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("stuck", stalls) as stuck, replica("fine", good()) as fine:
        for server in (stuck, fine):
            await until_known(client, hasty.url, server.name)
        fine.busy_for(60)
        await fine.reported()
        async with client.post(f"{hasty.url}/v1/completions", json=body(model, stream=True)) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, fine.name)
        await eventually(lambda: stuck.hang_ups == 1)
