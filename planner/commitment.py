"""When the next iteration is decided: while the one before it runs, once that has ended, or later still.

Asynchronous scheduling decides ahead, so the device never waits, but who arrives meanwhile waits for two iterations.
Put off, the decision sees them, and the device waits for the host: `decide_s`. With R left of the iteration in flight,
N the length of the one to be decided and p an arrival's patience (how long it can wait for its own iteration to start
and still get its first token in time), an arrival x before the end is lost by deciding ahead if

    p - N < x <= p - decide_s,  0 <= x <= R

so deciding ahead loses those who arrive in that much time. Putting off loses what the device could do in `decide_s`:
as many requests as arrive in it when all of its time is needed; when decodes alone are left, fewer, by the share
T(decodes) / TPOT of the time that they need. Put off if, on average over recent arrivals, the one exceeds the other.

A gateway announces a request to its replica when it sends it there, `request_overhead_s` before it can run. Whoever is
announced and would be lost behind the next iteration, but not in it, is awaited: that is decided when he is there.
"""

from __future__ import annotations

import numpy as np

from planner.compiling import compiled
from planner.kernels import Floats
from planner.profile import HardwareProfile

REMEMBERED = 128
PATIENT: Floats = np.empty(0)  # while there were no arrivals
# From when a request leaves the gateway until its replica has heard of it. `slosbench gateway-bench` measures -0.4 ms
# (median) against the request's first byte at the engine, and more when other processes are in the way.
ANNOUNCED_S = 0.0005


class Patience:
    """How long the latest arrivals with a TTFT SLO could have waited."""

    def __init__(self) -> None:
        self._latest = np.empty(REMEMBERED)
        self._count = 0
        self._ascending = PATIENT

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
def puts_off(patience_s: Floats, left_s: float, next_s: float, decide_s: float, needed: float) -> bool:
    """Whether to decide the next iteration, `next_s` long, only when the one in flight has ended, in `left_s`.

    `needed` is the share of the device's time that what waits for it needs.
    """
    lost_s = 0.0
    for i in range(len(patience_s)):
        lost_s += max(0.0, min(left_s, patience_s[i] - decide_s) - max(0.0, patience_s[i] - next_s))
    return lost_s > decide_s * needed * len(patience_s)


@compiled
def awaited(ready_s: float, latest_s: float, start_s: float, next_s: float, decide_s: float) -> bool:
    """Whether an iteration of `next_s` that could start at `start_s` is to wait for an announced request.

    It can run from `ready_s` on, and must start by `latest_s` to get its first token in time: too late behind the
    iteration, if what follows that is not chosen ahead, but early enough if it is waited for.
    """
    return max(start_s, ready_s + decide_s) <= latest_s < start_s + next_s + decide_s
