"""Loops that must not end while the gateway lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from slosgate.engines.cancelling import failure_of

RESTART_S = 0.5

_log = logging.getLogger("slosgate")


async def kept_up(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` until cancelled. When it fails of what nobody foresaw, say so and begin again: a gateway whose loop
    has ended would look alive and serve nobody."""
    while True:
        if (error := await failure_of(work())) is not None:
            _log.error("%s failed and begins again", getattr(work, "__qualname__", work), exc_info=error)
        await asyncio.sleep(RESTART_S)
