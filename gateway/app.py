"""The ASGI application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from gateway.api import routes
from gateway.config import Config
from gateway.errors import GatewayError, handle
from gateway.gateway import Gateway
from planner.warmup import warm_up


def create_app(config: Config, redis_url: str, *, clock: Callable[[], float] = time.time) -> Starlette:
    """A gateway on the Redis at `redis_url`; `clock` gives wall-clock seconds."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warm_up()
        # No limit on connections: one per stream, and streams are many. No total time-out: the relay has its own.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.server.connect_timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**18) as session:
            gateway = Gateway(config, redis_url, session, clock)
            app.router.routes.extend(routes(gateway))
            async with gateway.running():
                yield

    return Starlette(
        lifespan=lifespan,
        exception_handlers={GatewayError: handle, HTTPException: handle, Exception: handle},
    )
