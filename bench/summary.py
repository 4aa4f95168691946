"""From what was served to a row of a result file: shares, percentiles, curves and a timeline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from slosgate.bench.attainment import (
    BEST_EFFORT,
    GUARANTEED,
    PAPER,
    REJECTED,
    STRICT,
    Bools,
    Floats,
    RequestOutcome,
    Served,
    attained,
    first_token_s,
    pace_share,
    tpot_s,
    tpot_share,
    ttft_s,
    ttft_share,
    wilson,
)
from slosgate.bench.results import Row

CURVE_POINTS = 201
TIMELINE_BINS = 60
NEVER = 100.0


def summarize(served: Served, seconds: float) -> Row:
    """The measured keys of a `run` row. `seconds` is how long requests were offered; requests must be one at least."""
    hits, strict = attained(served, PAPER), attained(served, STRICT)
    return {
        **_shares(hits, strict),
        "goodput_rps": _round(int(hits.sum()) / seconds),
        "offered_rps": _round(len(hits) / seconds),
        **_percentiles(served),
        **_fates(served, hits),
        "classes": _classes(served, hits, strict),
        "curves": {
            "ttft_s": _curve(np.nan_to_num(first_token_s(served) - served.arrival_s, nan=np.inf)),
            "ttft_share": _curve(ttft_share(served)),
            "ttft_slo_s": _curve(served.ttft_slo_s),
            "tpot_slo_s": _curve(served.tpot_slo_s),
            "tpot_s": _curve(tpot_s(served)),
            "tpot_share": _curve(tpot_share(served)),
            "pace_share": _curve(pace_share(served, PAPER)),
        },
        "timeline": _timeline(served, hits, seconds),
    }


def prompts(outcomes: Iterable[RequestOutcome]) -> Row:
    """Prompt tokens of the calls that were served, those that were cached, and the share that was computed although an
    earlier call had computed it. Nothing where servers don't tell; one that tells of some prompts had nothing of the
    others."""
    served = [s for outcome in outcomes for s in outcome.stages if len(s.token_s) >= s.output_tokens > 0]
    if all(stage.cached_tokens is None for stage in served):
        return {}
    prompt = sum(stage.prompt_tokens for stage in served)
    again = sum(max(0, stage.known_tokens - (stage.cached_tokens or 0)) for stage in served)
    return {
        "prompt_tokens": prompt,
        "cached_tokens": sum(stage.cached_tokens or 0 for stage in served),
        "computed_twice": round(again / prompt, 4),
    }


def _shares(hits: Bools, strict: Bools) -> Row:
    low, high = wilson(int(hits.sum()), len(hits))
    return {
        "offered": len(hits),
        "attained": int(hits.sum()),
        "attainment": _round(float(hits.mean())),
        "attainment_strict": _round(float(strict.mean())),
        "ci_low": _round(low),
        "ci_high": _round(high),
    }


def _percentiles(served: Served) -> Row:
    """Over the stages that got that far; `unfinished` says how many requests did not."""
    row: Row = {}
    for name, values in (("ttft", ttft_s(served)), ("tpot", tpot_s(served))):
        for q in (50, 90, 95, 99):
            row[f"{name}_p{q}_s"] = _round(float(np.percentile(values, q))) if len(values) else None
    return row


def _fates(served: Served, hits: Bools) -> Row:
    """How requests were admitted, and how those that failed did."""
    admission = np.array(served.admission)
    short = np.zeros(len(hits), dtype=np.int64)
    np.add.at(short, served.request, served.tokens < served.expected)
    guaranteed = admission == GUARANTEED
    best_effort = admission == BEST_EFFORT
    return {
        "guaranteed": int(guaranteed.sum()),
        "guaranteed_attainment": _round(float(hits[guaranteed].mean())) if guaranteed.any() else None,
        "best_effort": int(best_effort.sum()),
        "rejected": int((admission == REJECTED).sum()),
        "unfinished": int((short > 0).sum()),
        "errors": dict(sorted(Counter(e for e in served.error if e).items())),
        "output_tokens": int(served.tokens.sum()),
    }


def _classes(served: Served, hits: Bools, strict: Bools) -> list[Row]:
    of = np.array(served.slo_class)
    return [{"slo_class": str(name), **_shares(hits[of == name], strict[of == name])} for name in np.unique(of)]


def _curve(values: Floats) -> list[float | None]:
    """Quantiles at 0, 0.5, ..., 100 %; null where the value is infinite (it never came)."""
    if not len(values):
        return []
    quantiles = np.quantile(values, np.linspace(0, 1, CURVE_POINTS), method="inverted_cdf")
    return [_round(float(v)) for v in quantiles]


def _timeline(served: Served, hits: Bools, seconds: float) -> Row:
    """Counts by arrival time, in equal bins, and p99 of TTFT over its SLO (of guarantees, where any are given).

    A bin without such a request has none; a first token that never came counts as `NEVER` times its SLO.
    """
    admission = np.array(served.admission)
    edges = np.linspace(0.0, seconds, TIMELINE_BINS + 1)

    def counts(chosen: Bools) -> list[int]:
        return [int(n) for n in np.histogram(np.clip(served.offered_s[chosen], 0, seconds), edges)[0]]

    return {
        "bin_s": seconds / TIMELINE_BINS,
        "offered": counts(np.ones(len(hits), dtype=np.bool_)),
        "attained": counts(hits),
        **{kind.replace("-", "_"): counts(admission == kind) for kind in (GUARANTEED, BEST_EFFORT, REJECTED)},
        "ttft_share_p99": _worst_waits(served, admission == GUARANTEED, edges),
    }


def _worst_waits(served: Served, guaranteed: Bools, edges: Floats) -> list[float | None]:
    """p99 of TTFT over its SLO in each bin of arrivals."""
    share = np.full(len(served.offered_s), -np.inf)
    waits = np.nan_to_num((first_token_s(served) - served.arrival_s) / served.ttft_slo_s, nan=NEVER)
    np.maximum.at(share, served.request, np.minimum(waits, NEVER))  # the worst of a request's stages
    chosen = guaranteed if guaranteed.any() else np.ones(len(share), dtype=np.bool_)
    at = np.clip(np.searchsorted(edges, served.offered_s, side="right") - 1, 0, TIMELINE_BINS - 1)
    bins = [share[chosen & (at == n)] for n in range(TIMELINE_BINS)]
    return [_round(float(np.percentile(b, 99))) if len(b) else None for b in bins]


def _round(value: float) -> float | None:
    """Six significant digits: what is measured has no more, and files stay small. None for what never came."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
