"""Requests that are announced to a replica and not there yet."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import NamedTuple

import numpy as np

from slosgate.engines.messages import Announcement
from slosgate.planner.arrivals import Coming, Next, awaited_s
from slosgate.planner.profile import HardwareProfile

MOST_REMEMBERED = 1024
NO_SHOW_S = 0.1  # what is announced and so much late does not come any more


class _Times(NamedTuple):
    ready_s: float  # when it should be here
    latest_s: float  # when it must run at the latest
    lag_s: float  # from its choice until it runs, on an idle device
    own_s: float  # how long it takes then


class Announced:
    """When the announced requests should be here, and whether the next iteration is to wait for them."""

    def __init__(self) -> None:
        self._times: dict[str, _Times] = {}  # of those that may still be in time
        self._promised: set[str] = set()  # of these: only they are waited for
        self._since_s: dict[str, float] = {}  # when each was announced

    def __len__(self) -> int:
        return len(self._promised)

    def add(self, coming: Announcement, admitted_s: float, profile: HardwareProfile) -> None:
        """A request is on its way since then."""
        self._since_s[coming.request_id] = admitted_s
        own_s = profile.perf.chunk_s(coming.prompt_tokens)
        self._times[coming.request_id] = _Times(
            ready_s=admitted_s + profile.request_overhead_s,
            latest_s=admitted_s + coming.ttft_s - own_s,
            lag_s=max(profile.decide_s, profile.launch_s(coming.prompt_tokens) - own_s),
            own_s=own_s,
        )
        if coming.guaranteed:
            self._promised.add(coming.request_id)
        if len(self._since_s) > MOST_REMEMBERED:
            self.arrived(next(iter(self._since_s)))

    def promise(self, request_ids: Set[str]) -> None:
        """These are promised their SLO, wherever they are."""
        self._promised |= request_ids & self._times.keys()

    def arrived(self, request_id: str) -> float | None:
        """A request is here: when it was announced, if it was."""
        self._forget(request_id)
        return self._since_s.pop(request_id, None)

    def _forget(self, request_id: str) -> None:
        self._times.pop(request_id, None)
        self._promised.discard(request_id)

    def awaited_s(self, follows: Next, decide_s: float) -> float:
        """When all are here that are waited for instead of starting what follows; -inf: none.

        What doesn't come, or can't be in time any more, is forgotten.
        """
        for request_id in list(self._promised):
            times = self._times[request_id]
            if follows.start_s > min(times.latest_s, times.ready_s + NO_SHOW_S):
                self._forget(request_id)
        if not self._promised:
            return -math.inf
        columns = np.array([self._times[request_id] for request_id in self._promised]).T
        return float(awaited_s(Coming(*np.ascontiguousarray(columns)), follows, decide_s))
