"""Everything else that replicas offer under /v1 (embeddings, responses, tokenize, ...): handed through, best effort.

Nothing is planned or promised for these requests. A replica that doesn't know the path (404, 405) or fails before its
first byte is passed over for the next; telemetry shows the others what such a request costs its replica.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.types import Receive, Send

from slosgate.gateway.errors import InvalidRequest, ModelNotFound, ReplicaLost, Unavailable
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upstream import Response, Upstream, UpstreamError

_NOT_HERE = (404, 405, 501)
_FORWARDED = (b"content-type", b"accept", b"openai-beta")


class _Body(msgspec.Struct):
    model: str | None = None


class Passthrough:
    def __init__(self, upstream: Upstream, fleet: Fleet) -> None:
        self._upstream = upstream
        self._fleet = fleet

    async def answer(
        self, method: str, path: str, body: bytes, headers: dict[bytes, bytes], request_id: str, authorization: str,
        receive: Receive, send: Send,
    ) -> None:  # fmt: skip
        """Serve one request; `authorization` is the client's, for replicas that check keys themselves.

        Raises GatewayError while the client has seen nothing.
        """
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        gone: list[bool] = []
        hang_up = asyncio.create_task(_cancel_on_hang_up(task, receive, gone))
        try:
            forwarded = _forwarded(headers, request_id)
            await self._answer(method, path, body, forwarded, request_id, authorization, send)
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
        finally:
            hang_up.cancel()

    async def _answer(
        self, method: str, path: str, body: bytes, headers: dict[str, str], request_id: str, authorization: str,
        send: Send,
    ) -> None:  # fmt: skip
        replicas, reason = self._capable(body), ""
        for last, replica in ((r is replicas[-1], r) for r in replicas):
            self._fleet.dispatched(replica)
            if key := replica.authorization(authorization):
                headers["authorization"] = key
            try:
                async with self._upstream.request(method, replica.url, path, body=body, headers=headers) as answer:
                    if answer.status in _NOT_HERE:
                        if not last:
                            continue
                        if b"json" not in answer.headers.get(b"content-type", b""):
                            raise InvalidRequest(_unknown(method, path, replica), code="not_found", status=404)
                    first = await answer.next()
                    self._fleet.succeeded(replica)
                    await self._hand_on(replica, answer, first, request_id, send)
                    return
            except UpstreamError as exc:
                self._fleet.failed(replica)
                reason = str(exc)
        raise ReplicaLost(f"replica {replicas[-1].name} failed under the request: {reason}")

    async def _hand_on(self, replica: Replica, answer: Response, first: bytes, request_id: str, send: Send) -> None:
        kind = answer.headers.get(b"content-type", b"application/json")
        headers = [(b"content-type", kind), (b"x-request-id", request_id.encode())]
        headers += [(b"x-slo-admission", b"best-effort"), (b"x-slo-replica", replica.name.encode("latin-1", "replace"))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        part = first
        try:
            while part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                part = await answer.next()
        except UpstreamError:
            # The client has seen a part: an answer that breaks off is all that can be said.
            self._fleet.failed(replica)
            raise ConnectionAbortedError(f"replica {replica.name} broke off") from None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _capable(self, body: bytes) -> list[Replica]:
        """Replicas of the model that the body names, or all, the least busy first."""
        living = list(self._fleet.living())
        if not living:
            raise Unavailable("no replica is up; try again shortly", code="no_replica")
        try:
            model = msgspec.json.decode(body, type=_Body).model if body else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            model = None
        fit = [replica for replica in living if model is None or replica.serves(model)]
        if not fit:
            models = ", ".join(self._fleet.models())
            raise ModelNotFound(f"no such model: {model!r}; accepted: {models}", param="model")
        return sorted(fit, key=lambda replica: len(replica.own))


def _unknown(method: str, path: str, replica: Replica) -> str:
    return f"no replica of {replica.model!r} answers {method} {path.partition('?')[0]}"


def _forwarded(headers: dict[bytes, bytes], request_id: str) -> dict[str, str]:
    kept = {name.decode(): headers[name].decode("latin-1") for name in _FORWARDED if name in headers}
    return {**kept, "accept-encoding": "identity", "x-request-id": request_id}


async def _cancel_on_hang_up(task: asyncio.Task[None], receive: Receive, gone: list[bool]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.append(True)
    task.cancel()
