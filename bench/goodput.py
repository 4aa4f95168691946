"""Goodput as `vllm bench serve --goodput` counts it: requests per second that meet every limit that is named.

--goodput ttft:400 tpot:50 e2el:10000      milliseconds; also ttft:400,tpot:50, and the option given several times

A request meets them when each of its calls does: time to the first token, mean time per token after it, time to the
last one. It is no rule of ours: requests are judged by means, without a tolerance. Seconds count from the first arrival
to the last token of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from slosgate.bench.attainment import Bools, Served, first_token_s, last_token_s
from slosgate.bench.errors import InputError
from slosgate.bench.results import Row

ACCEPTED = "ttft:MS, tpot:MS and e2el:MS, as ttft:400,tpot:50"


@dataclass(frozen=True, slots=True)
class Goodput:
    """Limits in seconds; inf where none is wanted."""

    ttft: float = math.inf
    tpot: float = math.inf
    e2el: float = math.inf

    @property
    def limits_ms(self) -> dict[str, float]:
        """Those that there are, in milliseconds."""
        named = {each.name: getattr(self, each.name) * 1e3 for each in fields(self)}
        return {name: round(value, 6) for name, value in named.items() if math.isfinite(value)}


def goodput(texts: Iterable[str]) -> Goodput | None:
    """What `--goodput` says, in milliseconds; None for nothing. Raises InputError."""
    found: dict[str, float] = {}
    for pair in " ".join(texts).replace(",", " ").split():
        name, _, value = pair.partition(":")
        try:
            found[name] = float(value) / 1000
        except ValueError:
            found[name] = math.nan
        if name not in ("ttft", "tpot", "e2el") or not 0 < found[name] < math.inf:
            raise InputError(f"--goodput does not take {pair!r}; accepted: {ACCEPTED}")
    return Goodput(**found) if found else None


def met(served: Served, limits: Goodput) -> Bools:
    """Per request: was each of its calls answered whole, within every limit?"""
    first_s, last_s = first_token_s(served), last_token_s(served)
    gaps = np.maximum(served.tokens - 1, 1)  # a single token has no pace
    whole = (served.tokens >= served.expected) & (served.tokens > 0)
    with np.errstate(invalid="ignore"):  # nan where no token came
        good = whole & (first_s - served.arrival_s <= limits.ttft)
        good &= (last_s - first_s) / gaps <= limits.tpot
        good &= last_s - served.arrival_s <= limits.e2el
    result = np.array([not error for error in served.error], dtype=np.bool_)
    np.logical_and.at(result, served.request, good)
    return result


def goodput_row(served: Served, limits: Goodput) -> Row:
    """What a result says of it: `request_goodput`, by vLLM's name, in requests per second."""
    good = int(met(served, limits).sum())
    seconds = duration_s(served)
    return {
        "goodput_slo_ms": limits.limits_ms,
        "good": good,
        "request_goodput": float(f"{good / seconds:.6g}") if seconds > 0 else 0.0,
        "duration_s": round(seconds, 6),
    }


def duration_s(served: Served) -> float:
    """From the first arrival to the last token of all, in seconds; 0 when no token came."""
    return float(served.token_s.max() - served.offered_s.min()) if len(served.token_s) else 0.0
