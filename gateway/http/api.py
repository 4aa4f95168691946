"""The routes: OpenAI's API, and what operators ask for."""

from __future__ import annotations

from uuid import uuid4

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from slosgate import __version__
from slosgate.gateway.background import read_aside
from slosgate.gateway.errors import InvalidRequest, ModelNotFound, Unauthorized, some
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http import dashboard
from slosgate.gateway.http.bodies import Through, handed_through, read_body
from slosgate.gateway.http.headers import content, credentials, tracing, visible_id
from slosgate.gateway.http.keys import Holder, matches
from slosgate.gateway.http.operators import PRIVATE
from slosgate.gateway.http.passthrough import Ask
from slosgate.gateway.http.paths import BARE, LOOKED_UP, RESOURCES, upstream_path
from slosgate.gateway.promises.completion import Kind

OWN_PATHS = {"/v1/completions": "POST", "/v1/chat/completions": "POST", "/v1/models": "GET, HEAD"}
MOST_RECORDS = 1_000_000


class Completions:
    """POST /v1/completions and /v1/chat/completions, as a plain ASGI application: nothing buffers the answer."""

    def __init__(self, gateway: Gateway, kind: Kind) -> None:
        self._gateway = gateway
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        arrival_s = gateway.clock()
        request_id, headers = _identified(scope)
        try:
            gateway.keys.holder(headers)  # before the body: nothing is read for strangers
            body = await _body(gateway, headers, receive)
            await gateway.answer(self._kind, body, headers, arrival_s, request_id, receive, send)
        except ClientDisconnect:
            return


class Others:
    """Whatever else replicas offer, handed through."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, headers = _identified(scope)
        path: str = scope["path"]
        if path in OWN_PATHS:
            raise HTTPException(405, headers={"Allow": OWN_PATHS[path]})
        try:
            await self._hand_through(scope, headers, receive, send)
        except ClientDisconnect:
            return

    async def _hand_through(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        gateway, path = self._gateway, scope["path"]
        holder = gateway.keys.holder(headers)
        if not _offered(path):
            raise HTTPException(404)
        gateway.keys.enter(holder)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                gateway.metrics.handed_through(_resource(path), message["status"])
            await send(message)

        try:
            body = await _body(gateway, headers, receive)
            through = await read_aside(handed_through, body, headers.get(b"content-type", b""))
            await gateway.passthrough.answer(_ask(scope, headers, through, holder), receive, counted)
        finally:
            if holder is not None:
                holder.leave()


def _identified(scope: Scope) -> tuple[str, dict[bytes, bytes]]:
    """The gateway's own id for a request, and its headers."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    request_id = f"req-{uuid4().hex}"
    scope["slosgate_request_id"] = visible_id(headers, request_id)
    return request_id, headers


async def _body(gateway: Gateway, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    server = gateway.config.server
    return await read_body(headers, receive, server.max_body_bytes, server.body_timeout_s)


def _offered(path: str) -> bool:
    """Whether clients may ask replicas for this path: what they offer to all, not how they are managed."""
    words = path.split("/")[1:]
    if words[0] in ("v1", "v2"):
        return len(words) > 1 and words[1] in RESOURCES
    return len(words) == 1 and words[0] in BARE | LOOKED_UP


def _resource(path: str) -> str:
    """The word that says what is asked for."""
    words = path.split("/")[1:]
    return words[1] if words[0] in ("v1", "v2") else words[0]


def _ask(scope: Scope, headers: dict[bytes, bytes], through: Through, holder: Holder | None) -> Ask:
    # The replica knows the request by the gateway's id. A key of ours is none of its business.
    told = {**tracing(headers), **content(headers), "accept-encoding": "identity", "x-request-id": f"req-{uuid4().hex}"}
    if holder is None:
        told |= credentials(headers)
    return Ask(
        id=scope["slosgate_request_id"],
        method=scope["method"],
        path=upstream_path(scope["path"], scope["query_string"]),
        body=through.data,
        headers=told,
        model=through.model,
    )


class Pages:
    """What operators and clients look up: models, health, metrics, decision records."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, request: Request) -> Response:
        """The models of all living replicas, merged. Asks for a key where keys are configured, as OpenAI does."""
        self._gateway.keys.holder(dict(request.scope["headers"]))
        return _json({"object": "list", "data": list(self._listed().values())})

    async def model(self, request: Request) -> Response:
        """One of them; its id may have slashes."""
        self._gateway.keys.holder(dict(request.scope["headers"]))
        name, listed = request.path_params["model"], self._listed()
        if name not in listed:
            raise ModelNotFound(f"no such model: {name!r}; accepted: {some(listed)}", param="model")
        return _json(listed[name])

    def _listed(self) -> dict[str, object]:
        listed: dict[str, object] = {}
        for replica in self._gateway.fleet.living():
            window = {"max_model_len": replica.mirror.profile.max_model_tokens} if replica.mirror else {}
            created = int(replica.started_at_s)
            for name in replica.models:
                entry = {"id": name, "object": "model", "created": created, "owned_by": "slosgate", **window}
                listed.setdefault(name, entry)
        return listed

    async def anything(self, request: Request) -> Response:
        """OPTIONS *: what may be asked for at all."""
        return Response(status_code=204, headers={"allow": "GET, HEAD, OPTIONS, POST"})

    async def health(self, request: Request) -> Response:
        """The process lives."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """It can serve: there is a replica, and no signal to stop has come. Redis answers, unless best effort is
        served without.

        Where keys are configured, addresses of replicas are only for those who have one.
        """
        gateway = self._gateway
        known = _knows_a_key(gateway, request)
        replicas = {
            replica.name: {
                "model": replica.model,
                "models": replica.models,
                **({"url": replica.url} if known else {}),
                "plans": replica.follows_plans,
            }
            for replica in gateway.fleet.taking()
        }
        available = gateway.ledger.available
        served = available or gateway.config.admission.when_state_is_away == "best-effort"
        good = bool(replicas) and served and not gateway.draining
        body = {
            "ready": good, "version": __version__, "state_available": available, "draining": gateway.draining,
            "replicas": replicas,
        }  # fmt: skip
        return _json(body, status=200 if good else 503)

    async def metrics(self, request: Request) -> Response:
        now_s = self._gateway.clock()
        gateway = self._gateway
        if not _knows_a_key(gateway, request):
            raise Unauthorized("metrics ask for an API key or the admin key", param="authorization")
        page = gateway.metrics.page(
            gateway.fleet, gateway.drafts, now_s, gateway.headroom.requests(now_s),
            await gateway.shortage.found(now_s), state_available=gateway.ledger.available,
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
        if not (count.isascii() and count.isdigit() and len(count) <= len(str(MOST_RECORDS))):
            raise InvalidRequest(f"limit must be a number of records, not {count!r}", param="limit")
        return _json({"object": "list", "data": self._gateway.records.newest(int(count))})

    async def dashboard(self, request: Request) -> Response:
        """The live page; it asks for the admin key itself."""
        _admin_key(self._gateway)
        return dashboard.page()

    async def live(self, request: Request) -> Response:
        """What the live page shows, as server-sent events."""
        _admin_only(self._gateway, request)
        return dashboard.live(self._gateway, request)


def routes(gateway: Gateway) -> list[BaseRoute]:
    pages = Pages(gateway)
    return [
        Route("/v1/completions", Completions(gateway, "completions"), methods=["POST"]),
        Route("/v1/chat/completions", Completions(gateway, "chat"), methods=["POST"]),
        Route("/v1/models", pages.models),
        Route("/v1/models/{model:path}", pages.model),
        Route("/v1/{path:path}", Others(gateway), methods=["GET", "POST"]),
        Route("/v2/rerank", Others(gateway), methods=["POST"]),
        *(Route(f"/{path}", Others(gateway), methods=["POST"]) for path in sorted(BARE)),
        *(Route(f"/{path}", Others(gateway), methods=["GET"]) for path in sorted(LOOKED_UP)),
        Route("/*", pages.anything, methods=["OPTIONS"]),
        Route("/health", pages.health),
        Route("/ready", pages.ready),
        Route("/metrics", pages.metrics),
        Route("/dashboard", pages.dashboard),
        Route("/admin/live", pages.live),
        Route("/admin/requests", pages.records),
        Route("/admin/requests/{request_id}", pages.record),
    ]


def _admin_only(gateway: Gateway, request: Request) -> None:
    if not matches(_admin_key(gateway), dict(request.scope["headers"])):
        raise Unauthorized("the admin key is missing or wrong: send authorization: Bearer KEY", param="authorization")


def _admin_key(gateway: Gateway) -> str:
    """The digest of the admin key; without one the pages that ask for it are closed."""
    digest = gateway.config.admin.sha256
    if not digest:
        said = "this page is for the holder of the admin key, and none is configured: set sha256 under [admin]"
        raise ModelNotFound(said, code="not_found")
    return digest


def _knows_a_key(gateway: Gateway, request: Request) -> bool:
    """Whether it carries an API key or the admin key, or needs none; everybody does where no keys are configured."""
    if PRIVATE in request.scope:
        return True
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    if gateway.config.admin.sha256 and matches(gateway.config.admin.sha256, headers):
        return True
    try:
        gateway.keys.holder(headers)
    except Unauthorized:
        return False
    return True


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
