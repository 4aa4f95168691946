"""A table of single requests, as CSV or Parquet: a row for each call, so a row for each request of one call.

What did not happen is empty: the TTFT of a request that was refused, the time of a promise that was never made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from slosgate.bench import results
from slosgate.bench.attainment import (
    GUARANTEED,
    PAPER,
    STRICT,
    RequestOutcome,
    StageOutcome,
    attained,
    collect,
    stages_attained,
)
from slosgate.bench.errors import InputError, require
from slosgate.bench.goodput import Goodput, met
from slosgate.bench.results import Row
from slosgate.engines.sim.systems import Offered

CSV, PARQUET = ".csv", ".parquet"


def check(path: Path) -> None:
    """Whether a table can be written there. Raises InputError, so that no run is in vain."""
    if path.suffix not in (CSV, PARQUET):
        raise InputError(f"--requests takes a file that ends in {CSV} or {PARQUET}, not {str(path)!r}")
    if path.suffix == PARQUET:
        require("pyarrow", "writing Parquet")


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows in the form that the name asks for; missing folders are made. Raises InputError."""
    check(path)
    if path.suffix == CSV:
        results.write_csv(rows, path)
        return
    import pyarrow as arrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(list(rows)), path)


def rows(
    scenario: str, requests: Sequence[Offered], outcomes: Sequence[RequestOutcome], limits: Goodput | None = None
) -> list[Row]:
    """One row for each call of the requests, in their order; `limits` adds whether a request counts for goodput."""
    served = collect(outcomes)
    in_time, strict, calls_in_time = attained(served, PAPER), attained(served, STRICT), stages_attained(served, PAPER)
    good = met(served, limits) if limits else None
    found, number = [], 0
    for n, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        for call, said in enumerate(_calls(request, outcome)):
            row = {"request": n, "call": call, "scenario": scenario, "slo_class": request.slo_class, **said}
            row |= {"attained": bool(in_time[n]), "attained_strict": bool(strict[n])}
            row |= {"call_attained": bool(calls_in_time[number]), "error": outcome.error}
            found.append(row | ({"good": bool(good[n])} if good is not None else {}))
            number += 1
    return found


def _calls(request: Offered, outcome: RequestOutcome) -> Iterator[Row]:
    for call, stage in zip(request.calls, outcome.stages, strict=True):
        admission = stage.admission or outcome.admission
        yield {
            "arrival_s": _said(stage.arrival_s),
            "prompt_tokens": stage.prompt_tokens,
            "new_prompt_tokens": call.prompt_tokens,
            "cached_tokens": stage.cached_tokens,
            "output_tokens": call.output_tokens,
            "received_tokens": len(stage.token_s),
            "ttft_slo_s": _said(stage.ttft_slo_s),
            "tpot_slo_s": _said(stage.tpot_slo_s),
            **_times(stage),
            "replica": stage.replica or None,
            "admission": admission or None,
            "promised": admission == GUARANTEED,
            "promised_after_s": _said(outcome.told_after_s),
            "predicted_ttft_s": _said(stage.predicted_ttft_s),
        }


def _times(stage: StageOutcome) -> Row:
    tokens = stage.token_s
    if not len(tokens):
        return {"ttft_s": None, "tpot_s": None, "e2e_s": None}
    first_s, last_s = float(tokens[0]), float(tokens[-1])
    return {
        "ttft_s": _said(first_s - stage.arrival_s),
        "tpot_s": _said((last_s - first_s) / (len(tokens) - 1)) if len(tokens) > 1 else None,
        "e2e_s": _said(last_s - stage.arrival_s),
    }


def _said(seconds: float) -> float | None:
    """To a microsecond; None for what never came."""
    return round(float(seconds), 6) if math.isfinite(seconds) else None
