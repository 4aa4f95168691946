"""Compiling everything before the first request, so that no request pays for it."""

from __future__ import annotations

from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.desk import decide, run_next
from slosgate.planner.jobs import JobTable
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile


def warm_up() -> None:
    """Compile the kernels, or load them from the cache: seconds the first time on a machine, else less than one."""
    profile = HardwareProfile(
        name="warm-up",
        model="-",
        device="-",
        perf=PerfModel((Term(per_new_token_s=1e-4, per_context_token_s=1e-7, per_sequence_s=1e-5, constant_s=0.01),)),
        kv_blocks=1000,
        max_model_tokens=4096,
        source="made up, to have something to plan for",
    )
    jobs = JobTable()
    jobs.add("decode", deadline_s=0.1, tpot_s=0.1, prompt_left=0, context=100, generated=3, output=9, guaranteed=True)
    jobs.add("prefill", deadline_s=1.0, tpot_s=0.1, prompt_left=300, output=9, guaranteed=True)
    jobs.add("late", deadline_s=0.5, tpot_s=0.1, prompt_left=3000, output=9, guaranteed=False)
    state = ReplicaState("warm-up", profile, jobs, free_blocks=900)
    decide(Arrival("new", ttft_s=1.0, tpot_s=0.1, prompt_tokens=100, output_tokens=10), [state], 0.0)
    run_next(state, 0.0)
