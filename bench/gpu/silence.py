"""How long an HTTP server is silent while it is measured: a prober asks for /health, again and again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

EVERY_S = 0.05
GIVEN_UP_S = 20.0


@dataclass(slots=True)
class Silence:
    """What the prober saw. A probe that fails counts as long as it took."""

    longest_s: float = 0.0
    over_250_ms: int = 0
    probes: int = 0

    def saw(self, took_s: float) -> None:
        self.probes += 1
        self.longest_s = max(self.longest_s, took_s)
        self.over_250_ms += took_s > 0.25


@contextmanager
def probed(url: str) -> Iterator[Silence]:
    """Probe a server in a thread while the block runs."""
    seen, over = Silence(), threading.Event()

    def probe() -> None:
        with httpx.Client(timeout=GIVEN_UP_S, trust_env=False) as client:
            while not over.wait(EVERY_S):
                begun_s = time.perf_counter()
                with contextlib.suppress(httpx.HTTPError):
                    client.get(f"{url}/health")
                seen.saw(time.perf_counter() - begun_s)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(GIVEN_UP_S)
