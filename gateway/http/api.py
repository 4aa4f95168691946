"""The routes: OpenAI's API, and what operators ask for."""

from __future__ import annotations

from uuid import uuid4

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from slosgate.gateway.errors import BodyTooLarge, GatewayError, InvalidRequest, Unauthorized
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http.keys import matches
from slosgate.gateway.promises.completion import Kind

OWN_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models")


class Completions:
    """POST /v1/completions and /v1/chat/completions, as a plain ASGI application: nothing buffers the answer."""

    def __init__(self, gateway: Gateway, kind: Kind) -> None:
        self._gateway = gateway
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival_s = self._gateway.clock()
        request_id = scope["slosgate_request_id"] = f"req-{uuid4().hex}"
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            body = await read_body(headers, receive, self._gateway.config.server.max_body_bytes)
            await self._gateway.answer(self._kind, body, headers, arrival_s, request_id, receive, send)
        except ClientDisconnect:
            return
        except GatewayError as error:
            self._gateway.metrics.refused(error.code)
            raise


class Others:
    """Whatever else replicas offer, handed through."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["slosgate_request_id"] = f"req-{uuid4().hex}"
        if scope["path"] in OWN_PATHS:
            raise HTTPException(405)
        path = scope["raw_path"].decode() + (f"?{query.decode()}" if (query := scope["query_string"]) else "")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        gateway = self._gateway
        holder = gateway.keys.holder(headers)
        gateway.keys.enter(holder)
        try:
            body = await read_body(headers, receive, gateway.config.server.max_body_bytes)
            # A key of ours is none of the replica's business; without keys of ours it may be the replica's own.
            client_key = "" if holder else headers.get(b"authorization", b"").decode("latin-1")
            await gateway.passthrough.answer(
                scope["method"], path, body, headers, request_id, client_key, receive, send
            )
        except ClientDisconnect:
            return
        finally:
            if holder is not None:
                holder.leave()


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge beyond `limit` bytes, ClientDisconnect when the client goes away."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is too large; accepted: at most {limit} bytes")


class Pages:
    """What operators and clients look up: models, health, metrics, decision records."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, request: Request) -> Response:
        """The models of all living replicas, merged. Asks for a key where keys are configured, as OpenAI does."""
        self._gateway.keys.holder(dict(request.scope["headers"]))
        listed: dict[str, object] = {}
        for replica in self._gateway.fleet.living():
            window = {"max_model_len": replica.mirror.profile.max_model_tokens} if replica.mirror else {}
            created = int(replica.started_at_s)
            for name in replica.models:
                entry = {"id": name, "object": "model", "created": created, "owned_by": "slosgate", **window}
                listed.setdefault(name, entry)
        return _json({"object": "list", "data": list(listed.values())})

    async def health(self, request: Request) -> Response:
        """The process lives."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """It can serve: there is a replica, and Redis answers, unless best effort is served without."""
        replicas = {
            replica.name: {
                "model": replica.model,
                "models": replica.models,
                "url": replica.url,
                "plans": replica.plans,
            }
            for replica in self._gateway.fleet.living()
        }
        available = self._gateway.ledger.available
        good = bool(replicas) and (available or self._gateway.config.admission.when_state_is_away == "best-effort")
        body = {"ready": good, "state_available": available, "replicas": replicas}
        return _json(body, status=200 if good else 503)

    async def metrics(self, request: Request) -> Response:
        now_s = self._gateway.clock()
        gateway = self._gateway
        page = gateway.metrics.page(
            gateway.fleet, gateway.drafts, now_s, gateway.headroom.requests(now_s),
            state_available=gateway.ledger.available,
        )  # fmt: skip
        return Response(page, media_type="text/plain; version=0.0.4")

    async def record(self, request: Request) -> Response:
        """What was decided about one request, and what became of it."""
        _admin_only(self._gateway, request)
        found = self._gateway.records.get(request.path_params["request_id"])
        if found is None:
            raise HTTPException(404)
        return _json(found)

    async def records(self, request: Request) -> Response:
        """The newest records."""
        _admin_only(self._gateway, request)
        count = request.query_params.get("limit", "100")
        if not count.isdigit():
            raise InvalidRequest(f"limit must be a number of records, not {count!r}", param="limit")
        return _json({"object": "list", "data": self._gateway.records.newest(int(count))})


def routes(gateway: Gateway) -> list[BaseRoute]:
    pages = Pages(gateway)
    return [
        Route("/v1/completions", Completions(gateway, "completions"), methods=["POST"]),
        Route("/v1/chat/completions", Completions(gateway, "chat"), methods=["POST"]),
        Route("/v1/models", pages.models),
        Route("/v1/{path:path}", Others(gateway), methods=["GET", "POST", "DELETE"]),
        Route("/tokenize", Others(gateway), methods=["POST"]),
        Route("/detokenize", Others(gateway), methods=["POST"]),
        Route("/health", pages.health),
        Route("/ready", pages.ready),
        Route("/metrics", pages.metrics),
        Route("/admin/requests", pages.records),
        Route("/admin/requests/{request_id}", pages.record),
    ]


def _admin_only(gateway: Gateway, request: Request) -> None:
    digest = gateway.config.admin.sha256
    if not digest:
        raise HTTPException(404)
    if not matches(digest, dict(request.scope["headers"])):
        raise Unauthorized("the admin key is missing or wrong: send authorization: Bearer KEY", param="authorization")


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
