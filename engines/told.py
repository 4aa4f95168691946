"""What a replica is told about a request: by a gateway, and by the simulated front end."""

from __future__ import annotations

import math

from slosgate.engines.messages import SloArgs
from slosgate.planner.controller import Arrival
from slosgate.planner.desk import DeskSettings, due_in_s, rank


def slo_args(arrival: Arrival, slo_class: str, settings: DeskSettings, *, guaranteed: bool) -> SloArgs:
    """The arguments that travel with it as it leaves. Durations without an SLO (inf) are left out."""
    due_s = due_in_s(arrival, settings)
    return SloArgs(
        slo_id=arrival.request_id,
        slo_class=slo_class,
        slo_ttft_ms=max(1.0, round(due_s * 1000, 3)) if math.isfinite(due_s) else None,
        slo_tpot_ms=round(arrival.tpot_s * 1000, 3) if math.isfinite(arrival.tpot_s) else None,
        slo_guaranteed=int(guaranteed),
        slo_promises=int(arrival.has_slo),
        slo_weight=rank(arrival),
        slo_output_tokens=arrival.output_tokens,
        slo_acceptance=round(arrival.acceptance, 3),
        slo_switch_at=arrival.switch_at,
        slo_next_tpot_ms=round(arrival.next_tpot_s * 1000, 3) if math.isfinite(arrival.next_tpot_s) else None,
    )
