"""Whose turn it is on the event loop: decisions take some of its time, and then everything else has its turn.

In a burst an event loop would run all that have come before it looks at a socket again. The first to be decided would
wait until the last is, and be late for what it was promised: it would have to be decided again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LONGEST_S = 0.001  # that is decided at a stretch; the last decision may take longer


class Turns:
    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began_s: float | None = None  # when the first decision of this round of the loop began

    async def mine(self) -> None:
        """Wait for a turn, in the order in which it was asked for."""
        while self._began_s is not None and self._monotonic() - self._began_s > LONGEST_S:  # noqa: ASYNC110  # the next round
            await asyncio.sleep(0)
        if self._began_s is None:
            self._began_s = self._monotonic()
            asyncio.get_running_loop().call_soon(self._over)

    def _over(self) -> None:
        """The loop's next round has begun."""
        self._began_s = None
