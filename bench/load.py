"""What a bench offers to a system: requests with arrival times and SLOs in seconds, ready to be sent."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One stage of a request: one call to the server. SLOs are in seconds, inf without one."""

    prompt_tokens: int  # new ones
    output_tokens: int
    ttft_slo_s: float
    tpot_slo_s: float
    cached_tokens: int = 0  # left behind by earlier stages; they stand before the new ones
    gap_s: float = 0.0  # from the end of this stage to the arrival of the next
    switch_at: int = 0  # from this output token on (0: never) the pace is next_tpot_slo_s
    next_tpot_slo_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Offered:
    """One request; its calls run one after the other. `arrival_s` counts from the start of the run."""

    arrival_s: float
    slo_class: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in order of arrival, offered over `seconds`, and a sentence about where they came from."""

    requests: tuple[Offered, ...]
    seconds: float
    trace_source: str
