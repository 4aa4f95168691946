"""Everything else that replicas offer (embeddings, responses, tokenize, ...): handed through, best effort.

Nothing is planned or promised for these requests. A replica that doesn't know the path (404, 405, 501) or fails before
its first byte is passed over for the next; telemetry shows the others what such a request costs its replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

from slosgate.gateway.config import ServerConfig
from slosgate.gateway.errors import GatewayError, InvalidRequest, ModelNotFound, ReplicaLost, Unavailable, some
from slosgate.gateway.http.answers import UNAVAILABLE, Refusal, is_json, is_stream, refusal, sized
from slosgate.gateway.http.headers import of_answer
from slosgate.gateway.http.idle import IdleLimit
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upstream import Response, Upstream, UpstreamError

_NOT_HERE = (404, 405, 501)
_ELSEWHERE = (429, 500, *UNAVAILABLE)  # another replica may do better
MAX_DEATHS = 2  # replicas that broke off or hung under one request


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as a replica gets it. `id` is the one that its client knows."""

    id: str
    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    model: str | None


class Passthrough:
    def __init__(
        self, upstream: Upstream, fleet: Fleet, config: ServerConfig, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._upstream = upstream
        self._fleet = fleet
        self._config = config
        self._clock = clock

    async def answer(self, ask: Ask, receive: Receive, send: Send) -> None:
        """Serve one request. Raises GatewayError while the client has seen nothing."""
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        cut = _Cut(task)
        hang_up = asyncio.create_task(_on_hang_up(receive, lambda: cut("hung-up")))
        idle = IdleLimit(self._config.request_timeout_s, lambda: cut("timeout"))
        begun = asyncio.Event()
        try:
            await self._answer(ask, _beginning(send, begun), idle)
        except asyncio.CancelledError:
            if not cut.reason:
                raise
            task.uncancel()
            if cut.reason == "timeout":
                self._end_late(begun=begun.is_set())
        finally:
            idle.stop()
            hang_up.cancel()

    def _end_late(self, *, begun: bool) -> None:
        said = f"nothing more of the answer came within {self._config.request_timeout_s:g} s"
        raise ConnectionAbortedError(said) if begun else Unavailable(said, code="timeout")

    async def _answer(self, ask: Ask, send: Send, idle: IdleLimit) -> None:
        last: Refusal | GatewayError | None = None
        deaths = 0
        replicas = self._capable(ask.model)
        for replica in replicas:
            self._fleet.dispatched(replica)
            try:
                passed = await self._attempt(ask, replica, send, idle)
            except UpstreamError as exc:
                if exc.ours:
                    said = f"the gateway can open no more connections: {exc}"
                    raise Unavailable(said, code="no_files") from exc
                self._fleet.failed(replica)
                deaths += exc.reached
                last = ReplicaLost(
                    f"replica {replica.name} failed under the request: {exc}", final=deaths == MAX_DEATHS
                )
                if deaths == MAX_DEATHS:
                    break
            else:
                if passed is None:
                    return
                last = self._passed_over(ask, replica, passed)
        await _give_up(ask, replicas[-1], last, send)

    def _passed_over(self, ask: Ask, replica: Replica, answer: Refusal) -> Refusal | GatewayError:
        """What is told when no other replica does better."""
        if answer.status in UNAVAILABLE:
            self._fleet.failed(replica)
        else:
            self._fleet.succeeded(replica)
        json = any(name == b"content-type" and b"json" in value for name, value in answer.headers)
        if answer.status in (404, 405) and not json:
            return InvalidRequest(_unknown(ask, replica), code="not_found", status=404)
        return answer

    async def _attempt(self, ask: Ask, replica: Replica, send: Send, idle: IdleLimit) -> Refusal | None:
        """One try; None when the client has its answer, else what the replica said. Raises UpstreamError."""
        request = self._upstream.request(
            ask.method, replica.url, ask.path, body=ask.body, headers=_told(ask, replica),
            begins_within_s=self._config.request_timeout_s,
        )  # fmt: skip
        async with request as answer:
            if answer.status in _NOT_HERE or answer.status in _ELSEWHERE:
                return await refusal(answer, self._clock())
            if answer.status >= 400 and not is_json(answer):
                await _refuse(ask, replica, await refusal(answer, self._clock()), send)
            else:
                first = await answer.next()
                await self._hand_on(ask, replica, answer, first, send, idle)
            self._fleet.succeeded(replica)
            return None

    async def _hand_on(
        self, ask: Ask, replica: Replica, answer: Response, first: bytes, send: Send, idle: IdleLimit
    ) -> None:
        headers = [*of_answer(answer.headers, self._clock()), *_own_headers(ask, replica)]
        if is_stream(answer):
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        part = first
        try:
            while part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                idle.touch()
                part = await answer.next()
        except UpstreamError:
            # The client has seen a part: an answer that breaks off is all that can be said.
            self._fleet.failed(replica)
            raise ConnectionAbortedError(f"replica {replica.name} broke off") from None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _capable(self, model: str | None) -> list[Replica]:
        """Replicas of a model, or all, the least busy first."""
        fit = list(self._fleet.taking()) if model is None else self._fleet.serving(model)
        if fit:
            return sorted(fit, key=lambda replica: len(replica.own))
        if model is None or not any(self._fleet.taking()) or self._fleet.knows(model) or self._fleet.unread:
            raise self._fleet.nobody(model or "")
        raise ModelNotFound(f"no such model: {model!r}; accepted: {some(self._fleet.models())}", param="model")


class _Cut:
    """Ends an answer from outside, once."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.reason = ""
        self._task = task

    def __call__(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._task.cancel()


async def _give_up(ask: Ask, replica: Replica, last: Refusal | GatewayError | None, send: Send) -> None:
    if isinstance(last, Refusal):
        await _refuse(ask, replica, last, send)
    else:
        raise last or ReplicaLost(f"replica {replica.name} did not answer")


async def _refuse(ask: Ask, replica: Replica, answer: Refusal, send: Send) -> None:
    headers, body = answer.for_client(ask.path)
    headers = sized(answer.status, [*headers, *_own_headers(ask, replica)], body)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _own_headers(ask: Ask, replica: Replica) -> list[tuple[bytes, bytes]]:
    name = replica.name.encode("latin-1", "replace")
    return [(b"x-request-id", ask.id.encode()), (b"x-slo-admission", b"best-effort"), (b"x-slo-replica", name)]


def _unknown(ask: Ask, replica: Replica) -> str:
    return f"no replica of {replica.model!r} answers {ask.method} {ask.path.partition('?')[0]}"


async def _on_hang_up(receive: Receive, cut: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cut()


def _beginning(send: Send, begun: asyncio.Event) -> Send:
    """`send`, noting that the client has seen something."""

    async def noting(message: Message) -> None:
        begun.set()
        await send(message)

    return noting


def _told(ask: Ask, replica: Replica) -> dict[str, str]:
    """The headers that a replica gets: its own API key goes before the client's."""
    key = replica.authorization(ask.headers.get("authorization", ""))
    return {**ask.headers, "authorization": key} if key else ask.headers
