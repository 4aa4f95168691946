"""The ASGI application."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from slosgate.gateway.config import Config
from slosgate.gateway.errors import GatewayError, handle
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http import operators
from slosgate.gateway.http.api import routes


def create_app(config: Config, redis_url: str, *, clock: Callable[[], float] = time.time) -> Starlette:
    """A gateway on the Redis at `redis_url`; `clock` gives wall-clock seconds.

    Whoever serves it calls `planner.warm_up` first, or the first request waits for a compiler.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        gateway = Gateway(config, redis_url, clock=clock)
        app.router.routes.extend(routes(gateway))
        # What is loaded by now stays: looking through it for garbage would stop every stream for a tenth of a second.
        gc.freeze()
        async with gateway.running(), operators.listening(app, config.admin):
            yield

    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(operators.OperatorPages, config=config.admin)],
        exception_handlers={GatewayError: handle, HTTPException: handle, Exception: handle},
    )
