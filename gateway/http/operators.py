"""Pages for operators (/metrics, /ready, /admin, /dashboard): who may read them, and where.

Without configuration they stand beside the API for everybody; with `[admin] address` only there, and with
`[admin] pages_need_key` only for the holder of the admin key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from slosgate.engines.addresses import family_of
from slosgate.gateway.config import AdminConfig
from slosgate.gateway.errors import Unauthorized
from slosgate.gateway.http.keys import matches
from slosgate.gateway.http.protocol import Limits, limited

_PAGES = ("/metrics", "/ready")
_EVERYWHERE = "/health"
_MARK = "slosgate_operators"
PRIVATE = "slosgate_private"  # in the scope of what came over a socket that only the gateway's user can open
_PLAIN: dict[str, Any] = {
    "lifespan": "off", "access_log": False, "proxy_headers": False, "server_header": False, "log_config": None,
    "ws": "none",
}  # fmt: skip


class OperatorPages:
    """Lets through what may be read on this address. It stands inside what turns exceptions into answers."""

    def __init__(self, app: ASGIApp, config: AdminConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path: str = scope["path"]
        page = path in (*_PAGES, "/admin", "/dashboard") or path.startswith("/admin/")
        inside = scope.get(_MARK, False) or PRIVATE in scope
        if (page and self._config.address and not inside) or (inside and not page and path != _EVERYWHERE):
            raise HTTPException(404)
        if path in _PAGES and self._needs_key(scope) and not matches(self._config.sha256, dict(scope["headers"])):
            raise Unauthorized("this page needs the admin key: send authorization: Bearer KEY", param="authorization")

    def _needs_key(self, scope: Scope) -> bool:
        return self._config.pages_need_key and PRIVATE not in scope


@asynccontextmanager
async def listening(
    app: ASGIApp, config: AdminConfig, limits: Limits, refused: Callable[[str], None], *, shared: bool = False
) -> AsyncIterator[None]:
    """Serve operators' pages on their own address, if one is configured; ends the program where that is taken, unless
    it is `shared` with other gateways of this machine."""
    if not config.address:
        yield
        return
    host, _, port = config.address.rpartition(":")
    host = host.strip("[]")
    sockets = [socket.create_server((host, int(port)), family=family_of(host), reuse_port=True)] if shared else None
    http = limited(limits, refused)
    served = uvicorn.Config(_marked(app, _MARK), host=host, port=int(port), http=http, **_PLAIN)
    async with _serving(served, sockets):
        yield


@asynccontextmanager
async def on_socket(app: ASGIApp, folder: Path | None) -> AsyncIterator[None]:
    """Serve the pages on a socket in a folder, called by this process's id: who may open it needs no key."""
    if folder is None:
        yield
        return
    place = folder / f"{os.getpid()}.sock"
    try:
        async with _serving(uvicorn.Config(_marked(app, PRIVATE), uds=str(place), **_PLAIN)):
            yield
    finally:
        place.unlink(missing_ok=True)


def _marked(app: ASGIApp, mark: str) -> ASGIApp:
    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        scope[mark] = True
        await app(scope, receive, send)

    return marked


@asynccontextmanager
async def _serving(config: uvicorn.Config, sockets: list[socket.socket] | None = None) -> AsyncIterator[None]:
    server = _Beside(config)
    task = asyncio.create_task(server.serve(sockets))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Beside(uvicorn.Server):
    """A server beside the one that minds the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
