"""The hardware profile of one running engine: what was measured, with this engine's own memory, limits and drafts."""

from __future__ import annotations

from typing import Any

import msgspec

from slosgate.engines.vllm.compat import captured_tokens
from slosgate.planner.launching import MARGIN_S
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile, Launches

LOOKED_UP = {"ngram", "ngram_gpu", "suffix"}  # speculative methods that find drafts in earlier text, without a model


def effective_profile(profile: HardwareProfile, scheduler: Any) -> HardwareProfile:
    """The profile for a vLLM scheduler, from the configuration that vLLM gave it."""
    served = scheduler.vllm_config.model_config.served_model_name
    steps = draft_steps(scheduler.vllm_config.speculative_config)
    return msgspec.structs.replace(
        profile,
        model=served[0] if isinstance(served, list) else served,
        gpus=int(scheduler.vllm_config.parallel_config.world_size),
        perf=PerfModel(tuple(drafting(term, steps) for term in profile.perf.terms)),
        kv_blocks=scheduler.cache_config.num_gpu_blocks - 1,  # vLLM keeps one block for itself
        block_tokens=scheduler.block_size,
        max_model_tokens=scheduler.max_model_len,
        max_batched_tokens=scheduler.max_num_scheduled_tokens,
        max_sequences=scheduler.max_num_running_reqs,
        max_drafts=scheduler.num_spec_tokens,
        launches=launches_of(profile, scheduler.vllm_config),
    )


def launches_of(profile: HardwareProfile, vllm_config: Any) -> Launches | None:
    """How long launching takes until it has been seen, for the graphs that vLLM captures; None where it doesn't matter.

    Without asynchronous scheduling an iteration is chosen and launched when the one before it has ended.
    """
    if not vllm_config.scheduler_config.async_scheduling:
        return None
    usual, captured_s = Launches(), max(0.0, profile.lead_s - MARGIN_S)
    known = profile.launches or Launches(
        decodes_s=min(usual.decodes_s, captured_s),
        captured_s=captured_s,
        beyond_s=max(usual.beyond_s, captured_s),
    )
    return msgspec.structs.replace(known, captured_tokens=captured_tokens(vllm_config))


def draft_steps(speculative_config: Any) -> int:
    """How often vLLM runs a draft model after an iteration; 0 without speculation or a model."""
    if speculative_config is None or speculative_config.method in LOOKED_UP:
        return 0
    return int(speculative_config.num_speculative_tokens)


def drafting(term: Term, steps: int) -> Term:
    """The term for an engine that drafts so many steps in every iteration, however many drafts are verified.

    vLLM drafts all `num_speculative_tokens` for every request each time (v1/spec_decode/llm_base_proposer.py), also
    after an iteration that only prefills: on an H200 such ones took 1.5 to 2.2 ms longer with four steps of drafts.
    """
    constant_s = term.constant_s + steps * term.per_draft_step_s
    return msgspec.structs.replace(term, constant_s=constant_s, per_draft_step_s=0.0)
