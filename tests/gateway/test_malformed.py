"""Malformed requests in numbers: never a 5xx, never a hang, nothing left behind.

SLOSGATE_FUZZ_BATCHES=1000 sends 10,000 of them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.gateway.scripted import MODEL, humble, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

BATCHES = int(os.environ.get("SLOSGATE_FUZZ_BATCHES", "40"))
BATCH = 10
GROWTH_KB = 40_000
JOIN_S = 10.0

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4))
fields = st.sampled_from(
    ["model", "prompt", "messages", "stream", "max_tokens", "n", "service_tier", "vllm_xargs", "stream_options", "stop"]
)
bodies = st.builds(
    lambda base, changes, dropped: {k: v for k, v in {**base, **changes}.items() if k not in dropped},
    st.just({"model": MODEL, "prompt": [1, 2, 3], "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
    st.dictionaries(fields, values, max_size=3),
    st.sets(fields, max_size=2),
)
texts = (
    st.binary(max_size=200)
    | values.map(lambda v: json.dumps(v).encode())
    | bodies.map(lambda v: json.dumps(v).encode())
    | st.builds(lambda v, cut: json.dumps(v).encode()[:-cut], bodies, st.integers(1, 20))
)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12) | st.floats().map(str)
headers = st.dictionaries(
    st.sampled_from(["x-slo-ttft-ms", "x-slo-tpot-ms", "x-slo-class", "authorization", "content-type"]),
    header_text,
    max_size=3,
)
paths = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/models", "/nowhere"])
requests = st.lists(st.tuples(paths, texts, headers), min_size=BATCH, max_size=BATCH)


T = TypeVar("T")


@dataclass
class Bench:
    gateway: Process
    redis_url: str
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A gateway, and a replica that lives in a thread of its own: its heart must beat while examples are thought up."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(running_valkey()).url
        gateway = stack.enter_context(running_gateway(redis_url))
        bench = Bench(gateway, redis_url, asyncio.new_event_loop())
        stack.callback(bench.loop.close)
        thread = Thread(target=bench.loop.run_forever, daemon=True)
        thread.start()
        stack.callback(thread.join, JOIN_S)
        stack.callback(bench.loop.call_soon_threadsafe, bench.loop.stop)
        served = scripted_replica(redis_url, "r", humble)
        bench.run(served.__aenter__())
        bench.run(_until_known(gateway.url))
        yield bench
        bench.run(served.__aexit__(None, None, None))


async def _until_known(url: str) -> None:
    async with aiohttp.ClientSession() as client:
        await until_known(client, url, "r")


async def send(url: str, batch: list[tuple[str, bytes, dict[str, str]]]) -> list[int]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=50)) as client:
        return list(await asyncio.gather(*(_send(client, url + path, body, head) for path, body, head in batch)))


async def _send(client: aiohttp.ClientSession, url: str, body: bytes, head: dict[str, str]) -> int:
    """The status; a gateway that asks to come back, since this machine starves its replica, is asked again."""
    while True:
        async with client.post(url, data=body, headers=head) as answer:
            text = await answer.read()
        if answer.status < 400:
            return answer.status
        error: dict[str, Any] = json.loads(text)["error"]
        assert error["message"]
        if error["code"] not in ("no_replica", "state_unavailable"):
            return answer.status
        await asyncio.sleep(float(answer.headers["retry-after"]))


def memory_kb(process: Process) -> int:
    lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_malformed_requests_break_nothing(bench: Bench) -> None:
    sizes: list[int] = []

    # Without shrinking: a smaller example would be sent thousands of times to find it.
    @settings(
        max_examples=BATCHES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
    )
    @given(requests)
    def sends(batch: list[tuple[str, bytes, dict[str, str]]]) -> None:
        statuses = bench.run(send(bench.gateway.url, batch))
        assert max(statuses) < 500, (statuses, batch)
        sizes.append(memory_kb(bench.gateway))

    sends()
    bench.run(eventually(partial(_is_empty, bench.redis_url), 50))
    assert sizes[-1] - sizes[len(sizes) // 5] < GROWTH_KB


async def _is_empty(redis_url: str) -> bool:
    return await ledger_size(redis_url, "r") == 0


NO_HTTP = [
    b"\x16\x03\x01\x02\x00",
    b"GET\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    b"\r\n" * 9,
]


@pytest.mark.parametrize("sent", NO_HTTP)
def test_what_is_no_http_is_turned_away(bench: Bench, sent: bytes) -> None:
    async def talk() -> bytes:
        host, port = bench.gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()
        return answer

    answer = bench.run(talk())
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
