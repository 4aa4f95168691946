"""What goes on beside the streams: loops that must not end while the gateway lives, and reading large bodies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from slosgate.engines.cancelling import failure_of

RESTART_S = 0.5
LARGE_BODY_BYTES = 1024 * 1024
P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("slosgate")


async def kept_up(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` until cancelled. When it fails of what nobody foresaw, say so and begin again: a gateway whose loop
    has ended would look alive and serve nobody."""
    while True:
        if (error := await failure_of(work())) is not None:
            _log.error("%s failed and begins again", getattr(work, "__qualname__", work), exc_info=error)
        await asyncio.sleep(RESTART_S)


async def read_aside(read: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **kwargs: P.kwargs) -> T:
    """Read a body; a large one beside the streams that go on meanwhile."""
    if len(body) < LARGE_BODY_BYTES:
        return read(body, *args, **kwargs)
    return await asyncio.to_thread(read, body, *args, **kwargs)
