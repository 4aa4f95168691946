"""Ending tasks for certain.

Before Python 3.12 `asyncio.wait_for`, with which redis-py sends its commands, swallows a cancellation that comes just
as its work is done: a loop around it then goes on, and what waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

CANCEL_TIMES = 10
CANCEL_S = 1.0


def check_cancelled() -> None:
    """Raise the CancelledError that something under the running task has swallowed. For loops without an end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def failure_of(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run `work` to its end, and return what it raised. Cancelling this ends it for certain."""
    running = asyncio.create_task(work)
    try:
        await asyncio.wait((running,))
    finally:
        await ended((running,))
    return asyncio.CancelledError() if running.cancelled() else running.exception()


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they end, or CANCEL_TIMES; what they raise is not told."""
    pending = set(tasks)
    for _ in range(CANCEL_TIMES):
        for task in pending:
            task.cancel()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=CANCEL_S)
