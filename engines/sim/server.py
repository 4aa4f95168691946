"""`slosgate engine sim`: an OpenAI-compatible server whose model is a simulated replica in real time.

One request's life: `understand` reads the body, the engine's loop takes it in, each iteration's tokens are written
to its stream as they appear. A client that hangs up is cancelled at once; its KV blocks are free when the iteration
in flight ends. With Redis the replica registers, reports and follows plans; without, or while Redis is away, it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slosgate import __version__
from slosgate.engines.addresses import default_name, reachable_url
from slosgate.engines.cancelling import ended
from slosgate.engines.channel import ReplicaChannel, ReplicaInfo
from slosgate.engines.clock import SteadyClock
from slosgate.engines.draining import Drain
from slosgate.engines.messages import Telemetry
from slosgate.engines.sim import policies
from slosgate.engines.sim.answering import Completion
from slosgate.engines.sim.embeddings import EmbeddingAsk, embeddings, understand_embeddings
from slosgate.engines.sim.metrics import Metrics
from slosgate.engines.sim.openai import Ask, BadRequest, understand
from slosgate.engines.sim.realtime import RealTimeEngine, TokenStream, faster
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.engines.sim.warmup import warm_up
from slosgate.planner.profile import HardwareProfile

KEEP_ALIVE_S = 75  # longer than any client pools a connection for


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`url` is where gateways find the server; by default host and port."""

    profile: HardwareProfile
    model: str = ""  # "": the profile's
    host: str = "127.0.0.1"
    port: int = 8000
    policy: str = "slosgate"
    name: str = ""  # "": this machine's, and the port
    redis: str | None = None
    url: str | None = None
    seed: int = 0
    noise: float = 0.0
    speed: float = 1.0
    slowdown: float = 1.0  # iterations take so many times what the profile says
    acceptance: float = 0.0  # chance that a drafted token is accepted; 0: there is no draft model
    drain_s: float = 60.0  # how long what runs at a signal to stop may go on
    thinking: float = 0.0  # share of a chat's answer that is thinking; 0: the model doesn't think
    async_scheduling: bool = True


class SimServer:
    """The app and what it is made of: engine, metrics, channel to the gateways."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.model = config.model or config.profile.model
        self.name = config.name or default_name(config.port)
        self.drain = Drain(config.drain_s)
        self._ids = itertools.count(1)
        self._clock = SteadyClock()
        self._started_s = self._clock()
        profile = faster(config.profile, config.speed)
        self._profile = profile if config.acceptance else msgspec.structs.replace(profile, max_drafts=0)

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/completions", _Generate(self, chat=False), methods=["POST"]),
            Route("/v1/chat/completions", _Generate(self, chat=True), methods=["POST"]),
            Route("/v1/embeddings", _Embed(self), methods=["POST"]),
            Route("/health", self._health),
            Route("/version", self._version),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    def understand(self, data: bytes, *, chat: bool) -> Ask:
        """Raises BadRequest."""
        number = next(self._ids)
        return understand(
            data,
            chat=chat,
            request_id=f"{'chatcmpl' if chat else 'cmpl'}-{self.name}-{number}",
            model=self.model,
            max_model_tokens=self._profile.max_model_tokens,
            seed=self.config.seed,
            thinking=self.config.thinking,
        )

    def understand_embeddings(self, data: bytes) -> EmbeddingAsk:
        """Raises BadRequest."""
        return understand_embeddings(
            data,
            request_id=f"embd-{self.name}-{next(self._ids)}",
            model=self.model,
            max_model_tokens=self._profile.max_model_tokens,
        )

    def embeddings(self, ask: EmbeddingAsk) -> bytes:
        return embeddings(ask, self.model, int(self._clock()))

    def submit(self, ask: Ask) -> dict[str, TokenStream]:
        """Hand a request to the engine: the tokens of each choice, by its id there. Raises BadRequest when it can
        never fit."""
        streams: dict[str, TokenStream] = {}
        for engine_id, choice in zip(self._engine_ids(ask), ask.choices, strict=True):
            request = EngineRequest(
                id=engine_id,
                prompt_tokens=choice.prompt_tokens,
                output_tokens=choice.output_tokens,
                max_tokens=choice.max_tokens,
                thinking_tokens=choice.thinking_tokens,
                parts=choice.prompt.parts(self._profile.block_tokens, choice.output_tokens),
                acceptance=self.config.acceptance if ask.sim.sim_acceptance is None else ask.sim.sim_acceptance,
                slo=ask.slo,
            )
            try:
                streams[engine_id] = self.engine.submit(request)
            except ValueError as error:
                self.cancel(streams)
                raise BadRequest(str(error), param="prompt") from None
        self.report(urgent=False)
        return streams

    def _engine_ids(self, ask: Ask) -> list[str]:
        """What the engine calls each choice: as the gateway does, unless a request of that id is under way."""
        for base in (ask.slo.slo_id, ask.id):
            ids = [base] if len(ask.choices) == 1 else [f"{base}-{index}" for index in range(len(ask.choices))]
            if not any(engine_id in self.engine.replica.state.slot_of for engine_id in ids):
                break
        return ids

    def answer(self, ask: Ask) -> Completion:
        return Completion(ask, self.model, int(self._clock()))

    def cached_tokens(self, engine_ids: Iterable[str]) -> int:
        """Prompt tokens of these requests that were cached when they were taken in."""
        hits = self.engine.replica.state.hits
        return sum(hits.get(engine_id, 0) for engine_id in engine_ids)

    def cancel(self, engine_ids: Iterable[str]) -> None:
        for engine_id in engine_ids:
            self.engine.cancel(engine_id)
        self.report(urgent=True)

    def report(self, *, urgent: bool) -> None:
        if self.channel is not None:
            self.channel.report(urgent=urgent)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        config = self.config
        policy = policies.load(config.policy)
        warm_up(self._profile, policy)
        gc.freeze()  # what is loaded by now stays: looking through it for garbage takes as long as many iterations
        replica = SimReplica(
            self._profile,
            policy,
            seed=config.seed,
            noise=config.noise,
            slowdown=config.slowdown,
            async_scheduling=config.async_scheduling,
        )
        self.engine = RealTimeEngine(replica, self._clock)
        self.metrics = Metrics(self.engine, self.model)
        self.channel = self._channel(config.redis) if config.redis else None
        self.engine.on_iteration.append(lambda outcome: self.report(urgent=bool(len(outcome.done))))
        tasks = [asyncio.create_task(self.engine.run())]
        if self.channel is not None:
            tasks.append(asyncio.create_task(self.channel.run()))
        try:
            yield
        finally:
            await ended(tasks)

    def _channel(self, redis: str) -> ReplicaChannel:
        info = ReplicaInfo(
            name=self.name,
            url=self.config.url or reachable_url(self.config.host, self.config.port, redis),
            model=self.model,
            profile=self._profile,
            engine="sim",
            policy=self.config.policy,
            started_at_s=self._started_s,
            supports_plans=self.engine.replica.policy.supports_plans,
        )
        return ReplicaChannel(redis, info, snapshot=self._telemetry, on_plan=self.engine.apply)

    def _telemetry(self) -> Telemetry:
        return msgspec.structs.replace(self.engine.telemetry(self.name), draining=self.drain.begun)

    async def _models(self, request: Request) -> Response:
        card = {
            "id": self.model,
            "object": "model",
            "created": int(self._started_s),
            "owned_by": "slosgate",
            "max_model_len": self._profile.max_model_tokens,
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")


class _Generate:
    """Both completion endpoints, as plain ASGI: a token costs one wake-up and one write."""

    def __init__(self, server: SimServer, *, chat: bool) -> None:
        self._server = server
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ask = self._server.understand(await _body(receive), chat=self._chat)
            streams = self._server.submit(ask)
        except BadRequest as error:
            await _respond(send, error.status, error.body)
            return
        answer = self._server.answer(ask)
        work = self._stream(send, streams, answer) if ask.stream else self._whole(send, streams, answer)
        if not await _unless_gone(work, receive):
            self._server.cancel(streams)

    async def _stream(self, send: Send, streams: dict[str, TokenStream], answer: Completion) -> None:
        await _start(send, 200, b"text/event-stream; charset=utf-8")

        def closing() -> bytes:
            return answer.closing(self._server.cached_tokens(streams))

        if len(streams) == 1:
            await self._relay(send, next(iter(streams.values())), answer, 0, answer.opening(), closing)
            return
        await send({"type": "http.response.body", "body": answer.opening(), "more_body": True})
        async with asyncio.TaskGroup() as tasks:
            for index, stream in enumerate(streams.values()):
                tasks.create_task(self._relay(send, stream, answer, index))
        await send({"type": "http.response.body", "body": closing(), "more_body": False})

    async def _relay(
        self,
        send: Send,
        stream: TokenStream,
        answer: Completion,
        index: int,
        opening: bytes = b"",
        closing: Callable[[], bytes] | None = None,
    ) -> None:
        """Write one choice's tokens as they come; with a `closing`, the answer ends with them."""
        pending, done = opening, False
        while not done:
            count, done = await stream.read()
            tokens = answer.tokens(index, count - 1) + answer.last(index) if done else answer.tokens(index, count)
            body = pending + tokens + (closing() if done and closing else b"")
            pending = b""
            await send({"type": "http.response.body", "body": body, "more_body": not (done and closing)})

    async def _whole(self, send: Send, streams: dict[str, TokenStream], answer: Completion) -> None:
        await _all_done(streams.values())
        await _respond(send, 200, answer.whole(self._server.cached_tokens(streams)))


class _Embed:
    """Embeddings, as plain ASGI: the prompts are computed, then the vectors are there."""

    def __init__(self, server: SimServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ask = self._server.understand_embeddings(await _body(receive))
            streams = self._server.submit(ask.work)
        except BadRequest as error:
            await _respond(send, error.status, error.body)
            return
        if not await _unless_gone(self._answer(ask, streams, send), receive):
            self._server.cancel(streams)

    async def _answer(self, ask: EmbeddingAsk, streams: dict[str, TokenStream], send: Send) -> None:
        await _all_done(streams.values())
        await _respond(send, 200, self._server.embeddings(ask))


async def _all_done(streams: Iterable[TokenStream]) -> None:
    for stream in streams:
        done = False
        while not done:
            _, done = await stream.read()


async def _unless_gone(work: Coroutine[None, None, None], receive: Receive) -> bool:
    """Do the work; False, with the work cancelled, when the client hangs up before it is done."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        # Also on cancellation, when the server shuts down.
        working.cancel()
        watching.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the client left before its request was complete")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _start(send: Send, status: int, content_type: bytes, length: int | None = None) -> None:
    headers = [(b"content-type", content_type)]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _respond(send: Send, status: int, body: bytes) -> None:
    await _start(send, status, b"application/json", len(body))
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """uvicorn's, which tells when it listens, and on SIGTERM first lets what runs come to its end.

    A second signal ends it.
    """

    def __init__(self, config: uvicorn.Config, server: SimServer, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._server = server
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self.started and not self._server.drain.begun:
            self._server.drain.begin()
            self._server.report(urgent=True)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        over = self._server.drain.begun and self._server.drain.over(self._server.engine.replica.requests)
        return await super().on_tick(counter) or over


def serve(config: ServerConfig, listening: Callable[[], None] = lambda: None) -> None:
    """Serve until interrupted; `listening` is called once it does."""
    server = SimServer(config)
    settings = uvicorn.Config(
        server.app(),
        host=config.host,
        port=config.port,
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    _Server(settings, server, listening).run()
