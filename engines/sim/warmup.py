"""Compiling everything a replica runs before its first request does."""

from __future__ import annotations

import msgspec

from slosgate.engines.messages import Plan, PlannedIteration, SloArgs
from slosgate.engines.sim.policies.base import PolicyFactory
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.profile import HardwareProfile


def warm_up(profile: HardwareProfile, policy: PolicyFactory) -> None:
    """Serve a few requests on a replica that is then thrown away."""
    replica = SimReplica(msgspec.structs.replace(profile, max_drafts=3), policy)
    for n in range(3):
        slo = SloArgs(slo_id=str(n), slo_ttft_ms=1000.0 * n, slo_tpot_ms=50.0, slo_guaranteed=n % 2, slo_acceptance=0.5)
        prompt = min(40 + n, profile.max_model_tokens // 2)
        replica.submit(EngineRequest(id=str(n), prompt_tokens=prompt, output_tokens=9, slo=slo, acceptance=0.5), 0.0)
    # A plan's iteration goes through kernels of its own.
    planned = PlannedIteration(token_budget=64, duration_s=1.0, speculation=((0.05, 0),), prefill=(("1", 16),))
    replica.apply(Plan(replica="", epoch=1, issued_at_s=0.0, horizon=(planned,)))
    while replica.start(replica.counters.busy_s) is not None:
        replica.finish()
