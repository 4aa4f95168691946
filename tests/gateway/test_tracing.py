"""Spans, as a collector gets them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, Call, Script, dies_at_once, good, scripted_replica
from tests.processes import Process, free_port, running_gateway

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SECRET = "a prompt that nobody else may read"


class Collector:
    """Takes spans over OTLP and HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, dict[str, Any]] = {}  # by name
        self.bodies: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        found = MessageToDict(ExportTraceServiceRequest.FromString(self.bodies[-1]))
        for resource in found["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.spans |= {span["name"]: span for span in scope["spans"]}
        return web.Response()

    def attributes(self, name: str) -> dict[str, Any]:
        return {a["key"]: next(iter(a["value"].values())) for a in self.spans[name]["attributes"]}


@asynccontextmanager
async def collecting(port: int) -> AsyncIterator[Collector]:
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield collector
    await runner.cleanup()


async def test_a_request_its_admission_and_its_replica_are_one_trace(
    client: aiohttp.ClientSession, redis_url: str
) -> None:
    port = free_port()
    config = f'[tracing]\nendpoint = "http://127.0.0.1:{port}"\n[classes.strict]\nttft_ms = 1\nwhen_full = "reject"\n'
    body = {"model": MODEL, "prompt": SECRET, "max_tokens": 5, "stream": True}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-slo-ttft-ms": "3000", "x-slo-tpot-ms": "300"}
    async with collecting(port) as collector:
        with running_gateway(redis_url, config) as gateway:
            async with scripted_replica(redis_url, "traced", good()) as replica:
                await until_known(client, gateway.url, replica.name)
                async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
                    request_id = answer.headers["x-slo-request-id"]
                    await answer.read()
                told = replica.calls[-1].headers["traceparent"].split("-")
            gateway.popen.terminate()  # what is left is sent before it ends
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0
    request = collector.spans[f"text_completion {MODEL}"]
    children = [collector.spans[name] for name in ("admission", "replica traced")]
    assert {span["traceId"] for span in (request, *children)} == {request["traceId"]}
    assert {child["parentSpanId"] for child in children} == {request["spanId"]}
    assert (told[1], told[2]) == (TRACE, base64.b64decode(request["spanId"]).hex())
    assert base64.b64decode(request["parentSpanId"]).hex() == PARENT
    decided, asked = collector.attributes("admission"), collector.attributes(f"text_completion {MODEL}")
    assert (decided["slosgate.admission"], decided["slosgate.replica"]) == ("guaranteed", "traced")
    assert float(decided["slosgate.predicted_ttft_ms"]) > 0
    assert (asked["slosgate.request_id"], asked["gen_ai.usage.output_tokens"]) == (request_id, "5")
    assert (asked["gen_ai.operation.name"], asked["gen_ai.provider.name"]) == ("text_completion", "vllm")
    assert [event["name"] for event in collector.spans["replica traced"]["events"]] == ["first token"]
    assert SECRET.encode() not in b"".join(collector.bodies)


@asynccontextmanager
async def tracing(redis_url: str, config: str = "") -> AsyncIterator[tuple[Process, Collector]]:
    """A gateway and the collector that has all of its spans once the block has ended."""
    port = free_port()
    endpoint = f'[tracing]\nendpoint = "http://127.0.0.1:{port}"\n'
    async with collecting(port) as collector:
        with running_gateway(redis_url, endpoint + config) as gateway:
            yield gateway, collector
            gateway.popen.terminate()  # what is left is sent before it ends
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0


async def unwell(call: Call) -> None:
    await call.head(503, "application/json")
    await call.chunk(b"{}")
    await call.end()


@pytest.mark.parametrize(
    ("script", "trouble", "status"),
    [(dies_at_once, "broken_off", None), (unwell, "503", "503")],
    ids=["dies", "unwell"],
)
async def test_each_replica_that_was_tried_has_a_span(
    client: aiohttp.ClientSession, redis_url: str, model: str, script: Script, trouble: str, status: str | None
) -> None:
    """The first one fails when the second has come."""
    come = asyncio.Event()

    async def fails(call: Call) -> None:
        await come.wait()
        await script(call)

    async with (
        tracing(redis_url) as (gateway, collector),
        scripted_replica(redis_url, f"{model}-bad", fails, model=model) as bad,
    ):
        await until_known(client, gateway.url, bad.name)
        body = {"model": model, "prompt": SECRET, "max_tokens": 5}
        asked = asyncio.create_task(client.post(f"{gateway.url}/v1/completions", json=body))
        await eventually(lambda: bad.calls)
        async with scripted_replica(redis_url, f"{model}-well", good(), model=model) as well:
            await until_known(client, gateway.url, well.name)
            come.set()
            async with await asked as answer:
                assert (answer.status, answer.headers["x-slo-replica"]) == (200, well.name)
                await answer.read()
    request = collector.spans[f"text_completion {model}"]
    first, second = (collector.spans[f"replica {name}"] for name in (bad.name, well.name))
    assert first["parentSpanId"] == second["parentSpanId"] == request["spanId"]
    assert int(first["endTimeUnixNano"]) <= int(second["startTimeUnixNano"])
    failed, served = collector.attributes(f"replica {bad.name}"), collector.attributes(f"replica {well.name}")
    assert (failed["error.type"], failed.get("http.response.status_code")) == (trouble, status)
    assert (served["http.request.resend_count"], served["http.response.status_code"]) == ("1", "200")
    assert first["status"]["code"] == "STATUS_CODE_ERROR"
    assert "code" not in second["status"]
    assert "error.type" not in served


async def test_a_provider_outside_has_a_span_beneath_the_request_that_overflowed(
    client: aiohttp.ClientSession, redis_url: str, model: str
) -> None:
    """And so has the replica that failed before."""
    outside = f'[overflow.cloud]\nmodel = "openai/m"\napi_base = "http://127.0.0.1:{free_port()}/v1"\n'
    config = f'{outside}[classes.wide]\nttft_ms = 60000\nwhen_full = "overflow"\noverflow = "cloud"\n'
    body, headers = {"model": model, "prompt": SECRET, "max_tokens": 5}, {"x-slo-class": "wide"}
    async with (
        tracing(redis_url, config) as (gateway, collector),
        scripted_replica(redis_url, model, dies_at_once, model=model),
    ):
        await until_known(client, gateway.url, model)
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
            assert answer.status == 503
    request = collector.spans[f"text_completion {model}"]
    tried = [collector.spans[name] for name in (f"replica {model}", "overflow cloud")]
    assert {span["parentSpanId"] for span in tried} == {request["spanId"]}
    assert collector.attributes(f"replica {model}")["error.type"] == "broken_off"
    assert collector.attributes("overflow cloud")["error.type"] == "overflow_unavailable"
