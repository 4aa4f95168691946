"""A replica that follows a script: a real HTTP server, registered in a real Redis, that can misbehave on purpose."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from slosgate.engines import profiles
from slosgate.engines.cancelling import ended
from slosgate.engines.channel import ReplicaChannel, ReplicaInfo
from slosgate.engines.messages import IterationReport, Plan, RequestProgress, Telemetry
from slosgate.planner.profile import Launches

Script: TypeAlias = Callable[["Call"], Awaitable[None]]

MODEL = "facebook/opt-13b"
VANISH_S = 5.0


@dataclass
class Call:
    """One request as the replica got it, and the way back."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    text: bytes = b""  # the body as it came

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, kind: str = "text/event-stream") -> None:
        await self.raw(f"HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        await self.chunk(f"data: {text}\n\n".encode())

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    def token(self, number: int) -> dict[str, Any]:
        if "chat" in self.path:
            choice = {"index": 0, "delta": {"content": f"t{number} "}, "finish_reason": None}
            return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        choice = {"index": 0, "text": f"t{number} ", "logprobs": None, "finish_reason": None}
        return {"id": "x", "object": "text_completion", "created": 1, "model": MODEL, "choices": [choice]}


def good(token_s: float = 0.005) -> Script:
    """Answers as it should: `max_tokens` tokens, one every `token_s` seconds."""

    async def script(call: Call) -> None:
        count = call.body.get("max_tokens") or 16
        if not call.body.get("stream"):
            await asyncio.sleep(token_s * count)
            await call.head(kind="application/json")
            await call.chunk(json.dumps(_whole(call, count)).encode())
            return await call.end()
        await call.head()
        for number in range(count):
            await asyncio.sleep(token_s)
            await call.event(call.token(number))
        if (call.body.get("stream_options") or {}).get("include_usage"):
            await call.event({**call.token(0), "choices": [], "usage": _usage(count)})
        await call.event("[DONE]")
        return await call.end()

    return script


def _whole(call: Call, count: int) -> dict[str, Any]:
    text = "".join(f"t{i} " for i in range(count))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    choice |= {"message": {"role": "assistant", "content": text}} if "chat" in call.path else {"text": text}
    kind = "chat.completion" if "chat" in call.path else "text_completion"
    return {"id": "x", "object": kind, "created": 1, "model": MODEL, "choices": [choice], "usage": _usage(count)}


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}


async def dies_at_once(call: Call) -> None:
    call.writer.transport.abort()


async def dies_after_two(call: Call) -> None:
    await call.head()
    await call.event(call.token(0))
    await call.event(call.token(1))
    await asyncio.sleep(0.02)
    call.writer.transport.abort()


async def half_an_event(call: Call) -> None:
    await call.head()
    await call.event(call.token(0))
    await call.chunk(b'data: {"id": "x", "obj')
    await asyncio.sleep(0.02)
    call.writer.transport.abort()


async def garbage(call: Call) -> None:
    await call.head()
    await call.chunk(b"\x00\xffthis is no event stream\n\n")
    await call.end()


async def not_http(call: Call) -> None:
    await call.raw(b"\x16\x03\x01 what?\r\n\r\n")
    call.writer.close()


async def busy(call: Call) -> None:
    await call.head(503, "application/json")
    await call.chunk(b'{"error": {"message": "queue full"}}')
    await call.end()


async def humble(call: Call) -> None:
    """Answers whatever it is asked."""
    if call.body.get("stream") is True:
        await call.head()
        await call.event(call.token(0))
        await call.event("[DONE]")
    else:
        await call.head(kind="application/json")
        await call.chunk(json.dumps(_whole(call, 1)).encode())
    await call.end()


async def stalls(call: Call) -> None:
    await asyncio.sleep(3600)


def holds(progress: dict[str, RequestProgress]) -> Script:
    """Takes every request in, says so in its telemetry, and never gets anywhere."""

    async def script(call: Call) -> None:
        told = call.body["vllm_xargs"]
        progress[told["slo_id"]] = RequestProgress(
            request_id=told["slo_id"],
            prompt_left=len(call.body["prompt"]),
            context_tokens=0,
            generated_tokens=0,
            due_base_s=time.time() + told.get("slo_ttft_ms", 0) / 1000,
            guaranteed=bool(told.get("slo_guaranteed")),
        )
        await asyncio.sleep(3600)

    return script


@dataclass
class ScriptedReplica:
    name: str
    url: str
    script: Script
    models: tuple[str, ...] = (MODEL,)  # what it lists
    calls: list[Call] = field(default_factory=list)
    hang_ups: int = 0
    answering: int = 0  # calls under way
    plans: list[Plan] = field(default_factory=list)
    progress: dict[str, RequestProgress] = field(default_factory=dict)
    busy_until_s: float = 0.0
    free_blocks: int | None = None
    hangs: bool = False
    deaf: bool = False  # reports that no plan has come
    iterations: list[IterationReport] = field(default_factory=list)  # to be told of in the next report
    launches: Launches | None = None
    draining: bool = False
    channel: ReplicaChannel | None = None
    reports: asyncio.Event = field(default_factory=asyncio.Event)
    registered: asyncio.Task[None] | None = None
    connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = field(default_factory=dict)

    def busy_for(self, seconds: float) -> None:
        """Report an iteration in flight that lasts this much longer."""
        self.busy_until_s = time.time() + seconds

    async def reported(self) -> None:
        """Wait until the next report has left."""
        self.reports.clear()
        if self.channel is not None:
            self.channel.report(urgent=True)
        await self.reports.wait()
        await asyncio.sleep(0.05)

    async def stop_beating(self) -> None:
        if self.registered is not None:
            await ended([self.registered])

    async def fall_silent(self) -> None:
        """No more heartbeats, and nobody answers: a process that hangs."""
        self.hangs = True
        await self.stop_beating()

    async def vanish(self) -> None:
        """End all connections without a goodbye."""
        for writer, serving in list(self.connections.items()):
            writer.transport.abort()
            await asyncio.wait([serving], timeout=VANISH_S)
            await ended([serving])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self.connections[writer] = serving
        try:
            await self._serve(reader, writer)
        finally:
            del self.connections[writer]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                call = await _read(reader, writer)
                if self.hangs:
                    await reader.read()
                    break
                if call.path == "/health":
                    await call.raw(b"HTTP/1.1 200 -\r\ncontent-length: 0\r\n\r\n")
                    continue
                if call.path == "/v1/models":
                    listed = json.dumps({"object": "list", "data": [{"id": name} for name in self.models]})
                    await call.raw(f"HTTP/1.1 200 -\r\ncontent-length: {len(listed)}\r\n\r\n{listed}".encode())
                    continue
                self.calls.append(call)
                await self._answer(call, reader)
                if writer.is_closing():
                    break
        writer.close()

    async def _answer(self, call: Call, reader: asyncio.StreamReader) -> None:
        self.answering += 1
        work = asyncio.ensure_future(self.script(call))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.hang_ups += 1
                call.writer.transport.abort()
        finally:
            await ended([work, gone])
            self.answering -= 1
        with suppress(asyncio.CancelledError, ConnectionError):
            work.result()

    def telemetry(self) -> Telemetry:
        self.reports.set()
        ran, self.iterations = self.iterations, []
        total = profiles.load("h200-opt-13b").kv_blocks
        return Telemetry(
            replica=self.name,
            sent_at_s=time.time(),
            epoch=0 if self.deaf else max((plan.epoch for plan in self.plans), default=0),
            busy_for_s=max(0.0, self.busy_until_s - time.time()),
            kv_blocks_total=total,
            kv_blocks_free=total if self.free_blocks is None else self.free_blocks,
            progress=tuple(self.progress.values()),
            iterations=tuple(ran),
            launches=self.launches,
            draining=self.draining,
        )


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(head[0].split(" ")[1], headers, _object(body), writer, body)


def _object(body: bytes) -> dict[str, Any]:
    """The body as an object; what is none reads as an empty one."""
    with suppress(ValueError, RecursionError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}


@asynccontextmanager
async def scripted_replica(
    redis_url: str, name: str, script: Script, *, model: str = MODEL, url: str = ""
) -> AsyncIterator[ScriptedReplica]:
    """A replica on a free port, registered as `name` (at `url`, if something stands before it); gone without a goodbye
    at the end of the block."""
    replica = ScriptedReplica(name, "", script, (model,))
    server = await asyncio.start_server(replica.serve, "127.0.0.1", 0, limit=2**25)
    replica.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    profile = msgspec.structs.replace(profiles.load("h200-opt-13b"), model=model, max_drafts=0)
    info = ReplicaInfo(
        name=name, url=url or replica.url, model=model, profile=profile, engine="scripted", policy="none",
        started_at_s=time.time(), supports_plans=True,
    )  # fmt: skip
    replica.channel = channel = ReplicaChannel(
        redis_url, info, snapshot=replica.telemetry, on_plan=replica.plans.append
    )
    replica.registered = asyncio.create_task(channel.run())
    try:
        yield replica
    finally:
        await replica.fall_silent()
        server.close()
        await replica.vanish()
