"""Arrivals that the next iteration reckons with: how long the latest could wait, and which are waited for.

Asynchronous scheduling chooses while the device is busy, so that it never waits. vLLM does so as soon as the iteration
in flight has begun, and what arrives meanwhile waits for two. Nothing has to be known so early: to choose and to launch
takes milliseconds, and how long an iteration runs is known but for a small error. Made `lead_s` before the end that the
performance model expects, the choice sees all that has arrived by then, and the device still has work until the next
iteration has been launched. Of arrivals in an iteration of tau seconds, the share 1 - lead_s / tau waits for it alone.

A gateway announces a request to its replica when it sends it there, `request_overhead_s` before it can run. If the
request would be late behind the next iteration, but not in it, it is awaited: the iteration is chosen when the request
is there, and the device waits `decide_s` for it.
"""

from __future__ import annotations

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import Floats
from slosgate.planner.profile import HardwareProfile

REMEMBERED = 128
NO_ARRIVALS: Floats = np.empty(0)
# From when a request leaves the gateway until its replica has heard of it. `slosbench gateway-bench` measures -0.4 ms
# (median) against the request's first byte at the engine, and more when other processes are in the way.
ANNOUNCED_S = 0.0005


class Patience:
    """How long the latest arrivals with a TTFT SLO could have waited."""

    def __init__(self) -> None:
        self._latest = np.empty(REMEMBERED)
        self._count = 0
        self._ascending = NO_ARRIVALS

    def observe(self, ttft_s: float, prompt_tokens: int, profile: HardwareProfile) -> None:
        """A request has arrived that wants its first token within `ttft_s`, and `prompt_tokens` tokens computed."""
        if ttft_s < np.inf:
            self._latest[self._count % REMEMBERED] = ttft_s - profile.soonest_s(prompt_tokens)
            self._count += 1
            self._ascending = np.sort(self._latest[: self._count])

    @property
    def latest_s(self) -> Floats:
        """Seconds, one for each, ascending."""
        return self._ascending


@compiled
def awaited(ready_s: float, latest_s: float, start_s: float, next_s: float, decide_s: float) -> bool:
    """Whether an iteration of `next_s` that could start at `start_s` is to wait for an announced request.

    It can run from `ready_s` on, and must start by `latest_s` to get its first token in time: too late behind the
    iteration, but early enough if it is waited for.
    """
    return max(start_s, ready_s + decide_s) <= latest_s < start_s + next_s + decide_s
