"""Arrivals that the next iteration reckons with: how long the latest could wait, and which are waited for.

Asynchronous scheduling chooses while the device is busy, so that it never waits. vLLM does so as soon as the iteration
in flight has begun, and what arrives meanwhile waits for two. Nothing has to be known so early: to choose and to launch
takes milliseconds, and how long an iteration runs is known but for a small error. Made `lead_s` before the end that the
performance model expects, the choice sees all that has arrived by then, and the device still has work until the next
iteration has been launched. Of arrivals in an iteration of tau seconds, the share 1 - lead_s / tau waits for it alone.

A gateway announces a request to its replica when it sends it there, `request_overhead_s` before it can run. If one
that is promised would be late behind the next iteration, but not in it, it is awaited: the iteration is chosen when it
is there, and the device waits `decide_s` for it, or for its launch where that takes longer. Nothing is waited for where
that would make another promise late.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.dues import next_due_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, chunk_s
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


class Next(NamedTuple):
    """What would run next if nothing was waited for. Absolute seconds, but for `next_s`."""

    free_s: float  # when the device is free
    start_s: float  # when it could start
    next_s: float  # how long it takes
    bearable_s: float  # until when it can be put off without making a promise late


class Coming(NamedTuple):
    """Requests on their way, one entry each. Absolute seconds, but for the last two."""

    ready_s: Floats  # when each can run
    latest_s: Floats  # when it must start at the latest
    lag_s: Floats  # from its choice until it starts, on an idle device
    own_s: Floats  # how long it takes


@compiled
def awaited_s(coming: Coming, follows: Next, decide_s: float) -> float:
    """When all are ready that are waited for, instead of starting what follows; -inf for none.

    A request is waited for that is too late behind what follows, but early enough if that waits for it, and costs
    no promise. Those that are waited for wait for each other as long as none is late.
    """
    ready_s, latest_s, lag_s, own_s = coming
    behind_s = follows.start_s + follows.next_s + decide_s
    begins_s, first_s = np.full(len(ready_s), np.inf), np.inf
    for i in range(len(ready_s)):
        alone_s = max(follows.free_s, ready_s[i]) + lag_s[i]
        if alone_s <= latest_s[i] < behind_s and alone_s + own_s[i] <= follows.bearable_s:
            begins_s[i] = alone_s
            first_s = min(first_s, latest_s[i])
    last_s = -np.inf
    for i in range(len(ready_s)):
        if begins_s[i] <= first_s < np.inf:
            last_s = max(last_s, ready_s[i])
    return last_s


@compiled
def bearable_s(jobs: Jobs, coef: Floats, start_s: float, next_s: float) -> float:
    """Until when what could start then, and takes `next_s`, can be put off without making a promise late."""
    until_s = np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        if not job.guaranteed or job.held:
            continue
        if job.prompt_left > 0:
            due_s, takes_s = job.deadline_s, max(next_s, chunk_s(coef, job.context, job.prompt_left))
        else:
            due_s, takes_s = next_due_s(job, start_s), next_s
        if due_s >= start_s + takes_s:  # else waiting is not what makes it late
            until_s = min(until_s, due_s - takes_s)
    return until_s
