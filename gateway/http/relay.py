"""The relay: a request to its replica, the answer back to the client, byte for byte.

A stream is forwarded in whole events and never parsed: the relay counts events, notes the first, and looks whether the
last is [DONE]. Nothing reaches the client before the replica's first event, so that until then another replica can
take over unseen; after it, a replica's death becomes an error event. An answer under way can be cut from outside: its
client hangs up, its replica is lost, or nothing has come for too long.

A replica is blamed for what is its own doing: it can't be reached, breaks off, hangs, or says that it is unavailable.
What it says about the request (4xx, 429, 501) is the client's to know. A 500 may be either's: the replica is blamed
when another one could serve the request. A request that two replicas died of is not given to a third.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

import msgspec
from starlette.types import Message, Receive, Send

from slosgate.engines.door import UNREADABLE
from slosgate.engines.messages import PrefixReport
from slosgate.engines.told import slo_args
from slosgate.gateway.config import ServerConfig
from slosgate.gateway.decisions.admission import Admission
from slosgate.gateway.errors import GatewayError, RateLimited, ReplicaLost, Unavailable, error_event
from slosgate.gateway.http.answers import (
    UNAVAILABLE,
    WITHOUT_BODY,
    Refusal,
    is_json,
    is_object,
    is_stream,
    looks_like_json,
    refusal,
    sized,
)
from slosgate.gateway.http.events import DONE, EventStream, data_events, finishes, is_event_stream
from slosgate.gateway.http.headers import of_answer, retry_after_s
from slosgate.gateway.http.idle import IdleLimit
from slosgate.gateway.http.overflow import Overflow
from slosgate.gateway.promises.completion import BOM, with_slo_args
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.promises.tries import trying
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upstream import Response, Upstream, UpstreamError

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ATTEMPTS = 3
ITS_KEY = "its API key comes from api_key_env, or from server.replica_api_key_env if it registers"
MAX_DEATHS = 2  # replicas that broke off or hung under one request
SLOW_TOKEN_S = 0.25  # what an answer in one piece may take for each token before its replica is taken to hang
AFTER_DONE_S = 0.5
MAX_HELD_BYTES = 64 * 1024  # of comments before the first event
_FIRST_OBJECT = re.compile(rb"((?:\A|[\r\n])data: ?\{)")
SPARE_EVENTS = 1000  # events beyond max_tokens that a stream may have: roles, tool calls, usage


class ReplicaFailed(Exception):
    """The replica did not answer, or not as it should; the message says what happened.

    `fault`: whether that is the replica's own ("unknown": another replica will tell). `died`: the request reached it,
    and may be what it failed of. `unreached`: it did not, so that trying again costs nothing. `answer`: what it said,
    if that is for the client in case nobody else answers. `retry_after_s`: when it wants to be asked again.
    """

    def __init__(
        self, message: str, *, fault: Literal["its own", "none", "unknown"] = "its own", died: bool = False,
        unreached: bool = False, answer: Refusal | None = None, retry_after_s: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.fault = fault
        self.died = died
        self.unreached = unreached
        self.answer = answer
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> str:
        """What happened in a word."""
        if self.unreached:
            return "not_reached"
        if self.died:
            return "broken_off"
        return "moved" if self.fault == "none" else "unusable_answer"


class Relay:
    def __init__(
        self,
        upstream: Upstream,
        fleet: Fleet,
        admission: Admission,
        overflow: Overflow,
        config: ServerConfig,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._fleet = fleet
        self._admission = admission
        self._overflow = overflow
        self._config = config
        self._clock = clock

    async def answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Answer an admitted request and free its place. Raises GatewayError while the client has seen nothing."""
        exchange.task = asyncio.current_task()
        hang_up = asyncio.create_task(_cut_on_hang_up(exchange, receive))
        idle = IdleLimit(self._config.request_timeout_s, lambda: exchange.cut("timeout"))
        exchange.touch = idle.touch
        try:
            await self._answer(exchange, _touching(send, idle))
        except asyncio.CancelledError:
            if exchange.cut_reason not in ("hung-up", "timeout"):
                raise
            await self._end_cut(exchange, send)
        finally:
            idle.stop()
            hang_up.cancel()
            if exchange.attempts:
                self._admission.release(exchange)

    async def _end_cut(self, exchange: Exchange, send: Send) -> None:
        """The client hung up, which needs no answer, or waited too long, which does."""
        _uncancel(exchange)
        exchange.outcome = exchange.cut_reason
        if exchange.cut_reason == "timeout":
            limit_s = self._config.request_timeout_s
            said = f"nothing more of the answer came within {limit_s:g} s"
            await self._fail(exchange, Unavailable(said, code="timeout"), send)

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        if not exchange.overflow:
            await self._replicas(exchange, send)
        elif not await self._outside(exchange, send):
            await self._admission.readmit(exchange, frozenset())
            await self._replicas(exchange, send)

    async def _outside(self, exchange: Exchange, send: Send) -> bool:
        """Have the overflow provider answer; False when it can't and a replica here could, as best effort."""
        try:
            await self._overflow.answer(exchange, send)
        except (Unavailable, RateLimited):
            if not self._fleet.serving(exchange.completion.model):
                raise
            exchange.overflow = ""
            return False
        return True

    async def _replicas(self, exchange: Exchange, send: Send) -> None:
        tried: frozenset[str] = frozenset()
        suspects: list[Replica] = []
        attempts = deaths = 0
        while True:
            replica = exchange.placement.replica
            try:
                with trying(exchange.tries, "replica", replica.name, replica.url, self._clock):
                    await self._attempt(exchange, replica, send)
            except ReplicaFailed as failure:
                reason = failure
            else:
                for suspect in suspects:
                    self._fleet.failed(suspect)
                return
            self._admission.release(exchange)
            self._judge(replica, reason, suspects)
            tried |= {replica.name}
            attempts += 1
            deaths += reason.died
            last = exchange.begun or attempts == MAX_ATTEMPTS or deaths == MAX_DEATHS
            if reason.unreached and not self._fleet.serving(exchange.completion.model, tried):
                tried -= {replica.name}  # there is no other, and it has not seen the request
            if last or not self._fleet.serving(exchange.completion.model, tried):
                await self._give_up(exchange, replica, reason, send, final=deaths == MAX_DEATHS)
                return
            await self._admission.readmit(exchange, tried)

    def _judge(self, replica: Replica, failure: ReplicaFailed, suspects: list[Replica]) -> None:
        if failure.fault == "its own":
            self._fleet.failed(replica)
        elif failure.fault == "unknown":
            suspects.append(replica)
        elif failure.answer is not None:
            self._fleet.succeeded(replica)

    async def _give_up(
        self, exchange: Exchange, replica: Replica, failure: ReplicaFailed, send: Send, *, final: bool
    ) -> None:
        """No replica is left to take over: a provider outside may, as long as the client has seen nothing."""
        if not exchange.begun and exchange.contract.when_full == "overflow":
            exchange.overflow = exchange.contract.overflow
            await self._overflow.answer(exchange, send)
            return
        if failure.answer is not None and not exchange.begun:
            await self._refuse(exchange, failure.answer, send)
            return
        exchange.outcome = "replica-lost"
        lost = f"replica {replica.name} failed under the request: {failure}"
        if final:
            lost += "; it was not given to another one, since two failed under it"
        await self._fail(exchange, ReplicaLost(lost, final=final, retry_after_s=failure.retry_after_s), send)

    async def _refuse(self, exchange: Exchange, refusal: Refusal, send: Send) -> None:
        """Hand on what a replica says about the request instead of an answer."""
        exchange.outcome = "refused"
        exchange.status, exchange.begun = refusal.status, True
        headers, body = refusal.for_client(PATHS[exchange.completion.kind])
        headers = sized(refusal.status, [*headers, *exchange.answer_headers()], body)
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _fail(self, exchange: Exchange, error: GatewayError, send: Send) -> None:
        if not exchange.begun:
            raise error
        exchange.failure = exchange.failure or error.message
        if exchange.completion.stream:
            await send({"type": "http.response.body", "body": error_event(error), "more_body": False})

    async def _attempt(self, exchange: Exchange, replica: Replica, send: Send) -> None:
        """One try at one replica. Raises ReplicaFailed."""
        replica.answers[exchange.request_id] = exchange
        exchange.dispatched_s = self._clock()
        exchange.generating_s = math.nan
        self._fleet.dispatched(replica, exchange.completion.prefix, exchange.prompt_tokens)
        replica.expect(exchange.request_id, exchange.prompt_tokens, exchange.cached)
        try:
            async with self._upstream.request(
                "POST",
                replica.url,
                PATHS[exchange.completion.kind],
                body=self._body(exchange),
                headers=_upstream_headers(exchange, replica),
                begins_within_s=self._begins_within_s(exchange),
            ) as response:
                await self._forward(exchange, response, send)
            if exchange.outcome == "completed":
                _learn_prefix(exchange, replica)
        except asyncio.CancelledError:
            reason = exchange.cut_reason
            if reason not in ("lost", "moved"):
                raise
            _uncancel(exchange)
            exchange.cut_reason = ""
            if reason == "moved":
                raise ReplicaFailed("it drains", fault="none") from None
            raise ReplicaFailed("it stopped answering", died=True) from None
        except UpstreamError as exc:
            if exc.ours:
                said = f"the gateway can open no more connections: {exc}"
                raise Unavailable(said, code="no_files") from exc
            raise ReplicaFailed(str(exc), died=exc.reached, unreached=not exc.reached) from exc
        finally:
            replica.answers.pop(exchange.request_id, None)

    def _begins_within_s(self, exchange: Exchange) -> float:
        """A stream's headers need no token; an answer in one piece needs them all."""
        tokens = 0 if exchange.completion.stream else exchange.completion.max_tokens
        if tokens is None:
            return self._config.request_timeout_s
        return min(self._config.request_timeout_s, self._config.first_byte_timeout_s + tokens * SLOW_TOKEN_S)

    def _body(self, exchange: Exchange) -> bytes:
        arrival, guaranteed = exchange.arrival(self._clock()), exchange.placement.guaranteed
        args = slo_args(arrival, exchange.contract.slo_class, exchange.settings, guaranteed=guaranteed)
        return with_slo_args(exchange.completion, args)

    async def _forward(self, exchange: Exchange, response: Response, send: Send) -> None:
        exchange.status = exchange.tries[-1].status = response.status
        if not 200 <= response.status < 300 or response.status in WITHOUT_BODY:
            await self._not_served(exchange, await refusal(response, self._clock()), send)
            return
        opening = b""
        if exchange.completion.stream and not (is_json(response) and b"content-encoding" in response.headers):
            opening = await _opening(response)
            if not looks_like_json(opening):  # whatever its headers say
                await self._stream(exchange, response, opening, send)
                return
        await self._whole(exchange, response, opening, send)

    async def _not_served(self, exchange: Exchange, answer: Refusal, send: Send) -> None:
        """Tell what is the client's from what another replica may do better. Raises ReplicaFailed for the latter."""
        said = f"HTTP {answer.status}: {answer.quoted}"
        if answer.status == 429:
            raise ReplicaFailed(said, fault="none", answer=answer)
        if answer.status in (401, 403) and not exchange.authorization:
            raise ReplicaFailed(f"it does not let the gateway in ({ITS_KEY}), {said}")
        if answer.status == 500:
            raise ReplicaFailed(said, fault="unknown")
        if answer.status in UNAVAILABLE:
            told = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
            raise ReplicaFailed(said, retry_after_s=retry_after_s(told, self._clock()) or 1.0)
        self._fleet.succeeded(exchange.placement.replica)
        await self._refuse(exchange, answer, send)

    async def _whole(self, exchange: Exchange, response: Response, opening: bytes, send: Send) -> None:
        """An answer in one piece: it is read to its end before the client sees any of it."""
        body = opening + await response.read(exchange.touch)
        if b"content-encoding" not in response.headers and not is_object(body):
            raise ReplicaFailed("its answer is not JSON")
        await self._give_whole(exchange, response, body, send)

    async def _give_whole(self, exchange: Exchange, response: Response, body: bytes, send: Send) -> None:
        seen = exchange.note_whole(body, self._clock())
        exchange.outcome = "failed" if seen.error else "completed"
        if exchange.completion.service_tier is not None and looks_like_json(body):
            body = _with_tier(body, exchange.contract.served_tier(exchange.guaranteed))
        await self._begin(exchange, response, send, length=len(body))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, exchange: Exchange, response: Response, opening: bytes, send: Send) -> None:
        stream, held = EventStream(), b""
        before = latest = b""
        limit = _most_events(exchange)
        async for chunk in _chunks(response, opening, stream):
            events = stream.feed(chunk)
            if not events:
                if len(stream.rest) > MAX_EVENT_BYTES:
                    raise ReplicaFailed(f"it sent {len(stream.rest)} bytes without an end of event")
                continue
            if stream.answer and not is_event_stream(events):
                raise ReplicaFailed("it sent something that is no event stream")
            waited = not exchange.tokens
            seen = exchange.note_events(stream.answer, self._clock())
            if waited and exchange.tokens:
                exchange.placement.replica.prefixes.computed(exchange.completion.prefix, exchange.prompt_tokens)
            if seen.error and not seen.client_fault and not exchange.tokens and not exchange.begun:
                raise ReplicaFailed(f"its answer is an error: {seen.error}")
            if exchange.tokens > limit:
                raise ReplicaFailed(f"it sent more than {limit} events, which its answer can't have")
            if not exchange.begun:
                events, held = _after_comments(held + events, begins=data_events(events) > 0 or stream.done)
                if not events:
                    continue
                await self._begin(exchange, response, send)
                events = _first_with_tier(exchange, events)
            await send({"type": "http.response.body", "body": events, "more_body": True})
            before, latest = latest, events
        await self._end_stream(exchange, response, stream, send, latest=before + latest)

    async def _end_stream(
        self, exchange: Exchange, response: Response, stream: EventStream, send: Send, *, latest: bytes
    ) -> None:
        """A stream has ended. It is whole with [DONE], after which nothing counts, or, from servers that don't send
        that, with a reason why its only choice finished among the latest events."""
        end = stream.close()
        whole = stream.done or (exchange.completion.sequences == 1 and not stream.rest.strip() and finishes(latest))
        if not exchange.begun or not whole:
            raise ReplicaFailed("its stream ended before its answer", died=True)
        exchange.note_events(stream.answer, self._clock())
        end = end if stream.done else end + DONE
        exchange.end(self._clock())
        exchange.outcome = "failed" if exchange.failure else "completed"
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _begin(self, exchange: Exchange, response: Response, send: Send, *, length: int | None = None) -> None:
        exchange.begun = True
        self._fleet.succeeded(exchange.placement.replica)
        headers = [*_kept(response, self._clock(), stream=length is None), *exchange.answer_headers()]
        if length is None:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        else:
            headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _opening(response: Response) -> bytes:
    """The first bytes of an answer, as many as show what it is."""
    opening = b""
    while len(opening) < MAX_HELD_BYTES and not opening.lstrip(BOM + b" \t\r\n"):
        part = await response.next()
        if not part:
            break
        opening += part
    return opening


async def _chunks(response: Response, opening: bytes, stream: EventStream) -> AsyncIterator[bytes]:
    """What comes of a stream. After [DONE] it is whole, and its server has little time to end it."""
    yield opening
    while not stream.done:
        chunk = await response.next()
        if not chunk:
            return
        yield chunk
    last = b""
    with suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(AFTER_DONE_S):
            while chunk := await response.next():
                last += chunk
                if len(last) > MAX_HELD_BYTES:
                    break
    if last:
        yield last


def _learn_prefix(exchange: Exchange, replica: Replica) -> None:
    """An answer is complete: its prompt is cached there, and its usage may say how much of it was before."""
    replica.prefixes.ended(exchange.completion.prefix, exchange.prompt_tokens, exchange.tokens)
    if exchange.cached_tokens is not None:
        replica.note_cached(PrefixReport(exchange.request_id, exchange.prompt_tokens, exchange.cached_tokens))


def _kept(response: Response, now_s: float, *, stream: bool) -> list[tuple[bytes, bytes]]:
    """The replica's headers, and with them what kind of answer it really is."""
    headers = of_answer(response.headers, now_s)
    if b"content-type" not in response.headers or is_stream(response) != stream:
        headers = [(name, value) for name, value in headers if name != b"content-type"]
        headers.append((b"content-type", b"text/event-stream; charset=utf-8" if stream else b"application/json"))
    return headers


def _most_events(exchange: Exchange) -> float:
    """More events than these are no answer to what was asked; inf where nobody knows."""
    limit = exchange.completion.max_tokens
    return math.inf if limit is None else limit * exchange.completion.sequences + SPARE_EVENTS


def _after_comments(events: bytes, *, begins: bool) -> tuple[bytes, bytes]:
    """(what the client gets, what waits): comments alone don't begin an answer, for another replica may yet give it."""
    if begins:
        return events, b""
    return b"", events if len(events) <= MAX_HELD_BYTES else b""


def _touching(send: Send, idle: IdleLimit) -> Send:
    """`send`, noting that something happened each time the client has taken something."""

    async def touching(message: Message) -> None:
        await send(message)
        idle.touch()

    return touching


def _upstream_headers(exchange: Exchange, replica: Replica) -> dict[str, str]:
    headers = {
        **exchange.tracing,
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-request-id": exchange.request_id,
    }
    if authorization := replica.authorization(exchange.authorization):
        headers["authorization"] = authorization
    return headers


def _with_tier(body: bytes, tier: str) -> bytes:
    """The answer with the tier that was served, whatever the replica said about it."""
    try:
        fields = msgspec.json.decode(body)
    except UNREADABLE:
        return body  # no JSON that anyone could read: the header says it, too
    return msgspec.json.encode({**fields, "service_tier": tier})


def _first_with_tier(exchange: Exchange, events: bytes) -> bytes:
    """The first event with the tier that was served, if the client asked for one: spliced in, nothing parsed."""
    if exchange.completion.service_tier is None:
        return events
    tier = exchange.contract.served_tier(exchange.guaranteed)
    return _FIRST_OBJECT.sub(rb'\1"service_tier":"%b",' % tier.encode(), events, count=1)


async def _cut_on_hang_up(exchange: Exchange, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.cut("hung-up")


def _uncancel(exchange: Exchange) -> None:
    """Take back the cancellation that `Exchange.cut` asked for."""
    if exchange.task is not None:
        exchange.task.uncancel()
