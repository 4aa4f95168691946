"""The server process: how it stops, and how many files it may open."""

from __future__ import annotations

import resource
import time
from types import FrameType

import uvicorn

ENOUGH_FILES = 65_536  # a stream takes two: its client's connection and its replica's
FEW_FILES = 8_192


class Server(uvicorn.Server):
    """uvicorn's, which on a signal first lets /ready be false for `notice_s`, and only then closes its listener.

    A second signal ends the notice.
    """

    def __init__(self, config: uvicorn.Config, *, notice_s: float) -> None:
        super().__init__(config)
        self._notice_s = notice_s
        self._closes_s: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._closes_s is None and self._notice_s > 0 and self.started:
            self._captured_signals.append(sig)
            self._closes_s = time.monotonic() + self._notice_s
            self.config.app.state.gateway.draining = True  # type: ignore[union-attr]
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        over = self._closes_s is not None and time.monotonic() >= self._closes_s
        return await super().on_tick(counter) or over


def raise_file_limit() -> str:
    """Let this process open as many files as it may; a sentence when those are few, else nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in ((ENOUGH_FILES, max(hard, ENOUGH_FILES)), (hard, hard)):
        if hard == resource.RLIM_INFINITY:
            wanted = (max(soft, ENOUGH_FILES), hard)
        if soft >= wanted[0]:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
            break
        except (ValueError, OSError):
            continue
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return ""
    return f"only {soft} files may be open, enough for {soft // 2} streams: raise the limit (ulimit -n {ENOUGH_FILES})"
