"""Cutting and pairing: windows of time, requests that fit a window, arrivals of one trace with lengths of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces.burstiness import Times, burstiness
from slosgate.traces.errors import TraceError
from slosgate.traces.records import TraceRequest


@dataclass(frozen=True)
class Slice:
    """Requests that arrive in [start_s, end_s); times then count from start_s.

    `rate_rps` and `peak_10s` are the real slice's: a generator, which has no such moment, gives its likest window.
    """

    start_s: float = 0.0
    end_s: float = math.inf
    rate_rps: float | None = None
    peak_10s: float | None = None

    @property
    def span_s(self) -> float:
        return self.end_s - self.start_s


WHOLE = Slice()


def between(requests: Iterable[TraceRequest], part: Slice) -> Iterator[TraceRequest]:
    """The requests of a slice. Asks for nothing beyond the first request after it."""
    for request in requests:
        if request.arrival_s >= part.end_s:
            return
        if request.arrival_s >= part.start_s:
            yield msgspec.structs.replace(request, arrival_s=request.arrival_s - part.start_s)


def likest(times: Times, part: Slice, *, step_s: float = 10.0) -> Times:
    """The window of a long draw, as long as `part`, whose rate and 10 s peak come closest to those `part` names."""
    starts = np.arange(0.0, times[-1] - part.span_s, step_s) if len(times) else np.zeros(0)
    if not len(starts):
        return times[times < part.span_s]

    def cut(start_s: float) -> Times:
        first, last = np.searchsorted(times, (start_s, start_s + part.span_s))
        return times[first:last] - start_s

    def distance(start_s: float) -> float:
        window = burstiness(cut(start_s), part.span_s)
        wanted = ((window.rate_rps, part.rate_rps), (window.peak_10s, part.peak_10s))
        return sum(math.log(max(found, 1e-9) / value) ** 2 for found, value in wanted if value)

    return cut(min(starts, key=distance))


def drop_longer(requests: Sequence[TraceRequest], window_tokens: int) -> list[TraceRequest]:
    """Without the requests whose context outgrows the window."""
    return [request for request in requests if request.total_tokens <= window_tokens]


def pair(times: Times, lengths: Sequence[TraceRequest]) -> list[TraceRequest]:
    """Requests at `times`, row by row, starting over when the lengths run out. Raises TraceError without lengths."""
    if not lengths:
        raise TraceError("there are no lengths to pair with the arrivals")
    return [TraceRequest(arrival_s=float(t), stages=row.stages) for t, row in zip(times, cycle(lengths), strict=False)]


def arrival_times(requests: Sequence[TraceRequest]) -> NDArray[np.float64]:
    """Seconds, shape (requests,)."""
    return np.array([request.arrival_s for request in requests], dtype=np.float64)
