"""The ASGI application."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware

from slosgate.gateway.config import Config
from slosgate.gateway.errors import GatewayError, handle
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http import operators
from slosgate.gateway.http.api import routes
from slosgate.gateway.http.leaving import Leaving
from slosgate.gateway.http.paths import CanonicalPaths
from slosgate.gateway.http.protocol import limits_of

ACQUAINT_S = 3.0
TOGETHER_S = 0.3  # replicas that are found at once answer within so long of each other

# What scripts of web pages may read of an answer.
EXPOSED_HEADERS = (
    "retry-after", "retry-after-ms", "x-request-id", "x-should-retry", "x-slo-admission", "x-slo-class",
    "x-slo-effective-e2e-ms", "x-slo-effective-think-tpot-ms", "x-slo-effective-tpot-ms", "x-slo-effective-ttft-ms",
    "x-slo-enforcement", "x-slo-ignored", "x-slo-predicted-ttft-ms", "x-slo-replica", "x-slo-request-id",
    "x-slo-service-tier", "x-slo-session-calls", "x-slo-session-left-ms",
)  # fmt: skip


def create_app(
    config: Config, redis_url: str, *, clock: Callable[[], float] = time.time, pages: Path | None = None
) -> Starlette:
    """A gateway on the Redis at `redis_url`; `clock` gives wall-clock seconds, `pages` is a folder for a socket that
    shows its pages to who may open it.

    Whoever serves it calls `planner.warm_up` first, or the first request waits for a compiler.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        gateway = app.state.gateway = Gateway(config, redis_url, clock=clock)
        app.router.routes.extend(routes(gateway))
        # What is loaded by now stays: looking through it for garbage would stop every stream for a tenth of a second.
        gc.freeze()
        admin = operators.listening(
            app, config.admin, limits_of(config.server), gateway.metrics.refused, shared=pages is not None
        )
        async with gateway.running():
            if pages is not None:
                await _acquainted(gateway)
            async with admin, operators.on_socket(app, pages):
                yield

    return Starlette(
        lifespan=lifespan,
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=config.server.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            ),
            Middleware(Leaving),
            Middleware(ExceptionMiddleware, handlers={GatewayError: handle, HTTPException: handle}),
            Middleware(CanonicalPaths),
            Middleware(operators.OperatorPages, config=config.admin),
        ],
        exception_handlers={GatewayError: handle, HTTPException: handle, Exception: handle},
    )


async def _acquainted(gateway: Gateway) -> None:
    """Wait until the gateway knows replicas, if there are any: one that shares its socket takes from the others what it
    could not serve yet."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ACQUAINT_S):
            while not any(gateway.fleet.taking()):  # noqa: ASYNC110  # replicas come from Redis, there is no event
                await asyncio.sleep(0.05)
            await asyncio.sleep(TOGETHER_S)
