"""The relay: a request to its replica, the answer back to the client, byte for byte.

A stream is forwarded in whole events and never parsed: the relay counts events, notes the first, and looks whether the
last is [DONE]. Nothing reaches the client before the replica's first event, so that until then another replica can
take over unseen; after it, a replica's death becomes an error event. An answer under way can be cut from outside: its
client hangs up, its replica is lost, or its time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.types import Receive, Send

from slosgate.engines.told import slo_args
from slosgate.gateway.config import ServerConfig
from slosgate.gateway.decisions.admission import Admission
from slosgate.gateway.errors import GatewayError, RateLimited, ReplicaLost, Unavailable, error_event
from slosgate.gateway.http.overflow import Overflow
from slosgate.gateway.promises.completion import with_slo_args
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upstream import Response, Upstream, UpstreamError

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ATTEMPTS = 3
EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
DONE = b"data: [DONE]\n\n"


class ReplicaFailed(Exception):
    """The replica did not answer, or not as it should; the message says what happened."""


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
        timer = asyncio.get_running_loop().call_later(self._config.request_timeout_s, exchange.cut, "timeout")
        try:
            await self._answer(exchange, send)
        except asyncio.CancelledError:
            if exchange.cut_reason not in ("hung-up", "timeout"):
                raise
            await self._end_cut(exchange, send)
        finally:
            timer.cancel()
            hang_up.cancel()
            if exchange.attempts:
                self._admission.release(exchange)

    async def _end_cut(self, exchange: Exchange, send: Send) -> None:
        """The client hung up, which needs no answer, or waited too long, which does."""
        _uncancel(exchange)
        exchange.outcome = exchange.cut_reason
        if exchange.cut_reason == "timeout":
            limit_s = self._config.request_timeout_s
            await self._fail(exchange, Unavailable(f"no complete answer within {limit_s:g} s", code="timeout"), send)

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
        while True:
            replica = exchange.placement.replica
            try:
                await self._attempt(exchange, replica, send)
                return
            except ReplicaFailed as failure:
                reason = str(failure)
            self._admission.release(exchange)
            self._fleet.failed(replica)
            tried |= {replica.name}
            error = ReplicaLost(f"replica {replica.name} failed under the request: {reason}")
            if exchange.begun or len(tried) == MAX_ATTEMPTS or not self._fleet.serving(replica.model, tried):
                await self._give_up(exchange, error, send)
                return
            await self._admission.readmit(exchange, tried)

    async def _give_up(self, exchange: Exchange, error: ReplicaLost, send: Send) -> None:
        """No replica is left to take over: a provider outside may, as long as the client has seen nothing."""
        if not exchange.begun and exchange.contract.when_full == "overflow":
            exchange.overflow = exchange.contract.overflow
            await self._overflow.answer(exchange, send)
            return
        exchange.outcome = "replica-lost"
        await self._fail(exchange, error, send)

    async def _fail(self, exchange: Exchange, error: GatewayError, send: Send) -> None:
        if not exchange.begun:
            raise error
        if exchange.completion.stream:
            await send({"type": "http.response.body", "body": error_event(error), "more_body": False})

    async def _attempt(self, exchange: Exchange, replica: Replica, send: Send) -> None:
        """One try at one replica. Raises ReplicaFailed."""
        replica.answers[exchange.request_id] = exchange
        self._fleet.dispatched(replica, exchange.completion.prefix)
        try:
            async with self._upstream.request(
                "POST",
                replica.url,
                PATHS[exchange.completion.kind],
                body=self._body(exchange),
                headers=_upstream_headers(exchange),
            ) as response:
                await self._forward(exchange, response, send)
        except asyncio.CancelledError:
            if exchange.cut_reason != "lost":
                raise
            _uncancel(exchange)
            exchange.cut_reason = ""
            raise ReplicaFailed("it stopped answering") from None
        except UpstreamError as exc:
            raise ReplicaFailed(str(exc)) from exc
        finally:
            replica.answers.pop(exchange.request_id, None)

    def _body(self, exchange: Exchange) -> bytes:
        arrival, guaranteed = exchange.arrival(self._clock()), exchange.placement.guaranteed
        args = slo_args(arrival, exchange.contract.slo_class, exchange.settings, guaranteed=guaranteed)
        return with_slo_args(exchange.completion, args)

    async def _forward(self, exchange: Exchange, response: Response, send: Send) -> None:
        if response.status >= 500 or response.status == 429:
            raise ReplicaFailed(f"HTTP {response.status}: {(await response.read())[:200].decode(errors='replace')}")
        exchange.status = response.status
        if response.status == 200 and exchange.completion.stream:
            await self._stream(exchange, response, send)
        else:
            await self._whole(exchange, response, send)

    async def _whole(self, exchange: Exchange, response: Response, send: Send) -> None:
        """An answer in one piece: it is read to its end before the client sees any of it."""
        body = await response.read()
        if not body.lstrip().startswith(b"{"):
            raise ReplicaFailed("its answer is not JSON")
        exchange.note_usage(body)
        exchange.last_token_s = self._clock()
        exchange.outcome = "completed" if response.status == 200 else "refused"
        if exchange.completion.service_tier is not None and response.status == 200:
            body = _with_tier(body, exchange.contract.served_tier(exchange.guaranteed))
        await self._begin(exchange, response, send, length=len(body))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, exchange: Exchange, response: Response, send: Send) -> None:
        rest = last = b""
        while chunk := await response.next():
            events, rest = whole_events(rest + chunk if rest else chunk)
            if not events:
                if len(rest) > MAX_EVENT_BYTES:
                    raise ReplicaFailed(f"it sent {len(rest)} bytes without an end of event")
                continue
            if not events.startswith((b"data:", b":", b"event:", b"id:", b"retry:")):
                raise ReplicaFailed("it sent something that is no event stream")
            exchange.count(events.count(b"data: ") - events.endswith(DONE), self._clock())
            if not exchange.begun:
                await self._begin(exchange, response, send)
                events = _first_with_tier(exchange, events)
            await send({"type": "http.response.body", "body": events, "more_body": True})
            last = events
        if not exchange.begun or rest or not last.rstrip().endswith(b"[DONE]"):
            raise ReplicaFailed("its stream ended before its answer")
        exchange.check(self._clock())
        exchange.note_usage(last)
        exchange.outcome = "completed"
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, exchange: Exchange, response: Response, send: Send, *, length: int | None = None) -> None:
        exchange.begun = True
        self._fleet.succeeded(exchange.placement.replica)
        content_type = response.headers.get(b"content-type", b"application/json")
        headers = [(b"content-type", content_type), *exchange.answer_headers()]
        if length is None:
            headers.append((b"cache-control", b"no-cache"))
        else:
            headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})


def whole_events(data: bytes) -> tuple[bytes, bytes]:
    """(complete events, the beginning of the next): a client must never see half an event."""
    if data.endswith(EVENT_ENDS):
        return data, b""
    end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in EVENT_ENDS)
    return data[:end], data[end:]


def _upstream_headers(exchange: Exchange) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-request-id": exchange.request_id,
    }
    if exchange.authorization:
        headers["authorization"] = exchange.authorization
    return headers


def _with_tier(body: bytes, tier: str) -> bytes:
    """The answer with the tier that was served, whatever the replica said about it."""
    fields = msgspec.json.decode(body)
    fields["service_tier"] = tier
    return msgspec.json.encode(fields)


def _first_with_tier(exchange: Exchange, events: bytes) -> bytes:
    """The first event with the tier that was served, if the client asked for one: spliced in, nothing parsed."""
    if exchange.completion.service_tier is None:
        return events
    tier = exchange.contract.served_tier(exchange.guaranteed)
    return events.replace(b"data: {", b'data: {"service_tier":"%b",' % tier.encode(), 1)


async def _cut_on_hang_up(exchange: Exchange, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.cut("hung-up")


def _uncancel(exchange: Exchange) -> None:
    """Take back the cancellation that `Exchange.cut` asked for."""
    if exchange.task is not None:
        exchange.task.uncancel()
