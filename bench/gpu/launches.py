"""How long iterations took to choose and launch, by kind, from an engine's iteration log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from slosgate.bench.results import Row

KINDS = ("decodes", "prefill, captured", "prefill, beyond")


def kind(new_tokens: int, sequences: int, draft_steps: int, captured_tokens: int) -> str:
    """Decodes alone, or with prefill: within the captured graph sizes, or beyond."""
    if new_tokens <= sequences * (1 + draft_steps):
        return KINDS[0]
    return KINDS[1] if new_tokens <= captured_tokens else KINDS[2]


def summary(log: Path, captured_tokens: int) -> list[Row]:
    """One row for each kind that the log has: iterations, launch and duration in ms, and the lead that was learned."""
    launches: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        one = json.loads(line)
        of = kind(one["new_tokens"], one["sequences"], one["draft_steps"], captured_tokens)
        off_ms = one["ms"] - one["expected_ms"]
        launches[of].append((one["launch_ms"], one["ms"], one.get("lead_ms", 0.0), off_ms))
    return [_row(of, np.array(launches[of])) for of in KINDS if of in launches]


def _row(of: str, seen: np.ndarray) -> Row:
    noted = seen[seen[:, 0] > 0, 0]  # synchronous scheduling doesn't let us know
    quantiles = np.percentile(noted, (50, 75, 95)) if len(noted) else np.zeros(3)
    row: Row = {"kind": of, "iterations": len(seen)}
    row |= {f"launch_p{q}_ms": round(float(v), 2) for q, v in zip((50, 75, 95), quantiles, strict=True)}
    row |= {f"duration_p{q}_ms": round(float(np.percentile(seen[:, 1], q)), 2) for q in (50, 99)}
    row["lead_p50_ms"], row["lead_last_ms"] = round(float(np.median(seen[:, 2])), 2), round(float(seen[-1, 2]), 2)
    row |= {f"late_p{q}_ms": round(float(np.percentile(seen[:, 3], q)), 2) for q in (10, 50, 90)}
    return row
