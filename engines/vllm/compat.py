"""Everything that differs between vLLM versions, in one place.

vLLM says that its scheduler interface is not public, so this package touches little of it and only in ways that were
tested on the versions that `versions.py` names; others are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import vllm
from vllm.v1.core.sched.scheduler import Scheduler

from slosgate.engines.vllm.versions import UnsupportedVllm, require_supported

# vLLM >= 0.32 asks every prefill chunk for its length through this method; older versions have no such place
# for all models, but one for Mamba's block alignment that any scheduler can switch on.
HAS_LOOKAHEAD_HOOK = hasattr(Scheduler, "_reserve_prefill_lookahead")
CLAMP_HOOK = "_reserve_prefill_lookahead" if HAS_LOOKAHEAD_HOOK else "_mamba_block_aligned_split"


def require_supported_version() -> None:
    """Raises UnsupportedVllm for a vLLM that was not tested, unless the environment overrides it."""
    require_supported(vllm.__version__)


def require_supported_config(vllm_config: Any) -> None:
    """Raises UnsupportedVllm, naming the option, where vLLM's own options contradict planning."""
    options = vllm_config.scheduler_config
    if options.policy != "fcfs":
        raise UnsupportedVllm("slosgate's scheduler orders requests itself: leave --scheduling-policy at fcfs")
    if options.long_prefill_token_threshold > 0:
        raise UnsupportedVllm(
            "slosgate's scheduler cuts long prompts itself: leave --long-prefill-token-threshold at 0"
        )
    # vLLM >= 0.33 holds prompts back for so many iterations; versions before did so between data-parallel ranks only.
    if getattr(options, "prefill_schedule_interval", 1) > 1:
        raise UnsupportedVllm(
            "slosgate's scheduler decides in which iterations prompts run: leave --prefill-schedule-interval at 1"
        )
    if vllm_config.parallel_config.data_parallel_size > 1:
        raise UnsupportedVllm(
            "a replica is one engine: instead of --data-parallel-size start one `slosgate engine vllm` per rank"
        )


class ClampedScheduler(Scheduler):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's scheduler, giving no request more new tokens than `allowance` says; `clamp` settles the other cases."""

    need_mamba_block_aligned_split: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowance: dict[str, int] = {}  # most new tokens of each request in this iteration; the others get none
        # The planner looks after memory: a prompt may start although not all of it fits yet.
        self.scheduler_reserve_full_isl = False
        if not HAS_LOOKAHEAD_HOOK:
            self._aligns_mamba_blocks: bool = self.need_mamba_block_aligned_split
            self.need_mamba_block_aligned_split = True

    def mind_allowance(self, needed: bool) -> None:
        """Whether vLLM has to ask about each request in the next schedule(), where a version leaves that open."""
        if not HAS_LOOKAHEAD_HOOK:
            self.need_mamba_block_aligned_split = needed or self._aligns_mamba_blocks

    def clamp(self, request: Any, computed: int, tokens: int) -> int:
        """What a request gets that wants more than its allowance, after `computed` tokens.

        0 skips a running request; a waiting one goes back into its queue, and before vLLM 0.33 that ended admission.
        """
        raise NotImplementedError

    if HAS_LOOKAHEAD_HOOK:

        def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
            tokens = num_new_tokens
            if tokens > self.allowance.get(request.request_id, 0):
                tokens = self.clamp(request, num_computed_tokens, tokens)
            if self.num_prefill_lookahead <= 1:  # vLLM's own rule has nothing to keep back then
                return tokens
            return int(super()._reserve_prefill_lookahead(request, num_computed_tokens, tokens))

    else:

        def _mamba_block_aligned_split(self, request: Any, num_new_tokens: int, *args: Any) -> int:
            tokens = num_new_tokens
            if tokens > self.allowance.get(request.request_id, 0):
                # A waiting request's cached tokens follow: local ones, then those that a connector holds.
                tokens = self.clamp(request, request.num_computed_tokens + sum(args[:2]), tokens)
            if not self._aligns_mamba_blocks:
                return tokens
            return int(super()._mamba_block_aligned_split(request, tokens, *args))


def waiting_queues() -> tuple[str, ...]:
    """The scheduler's attributes that hold requests which have no KV blocks yet."""
    return ("waiting",) if HAS_LOOKAHEAD_HOOK else ("waiting", "skipped_waiting")


def kv_bytes_per_token(scheduler: Any) -> int:
    """Of all layers on all GPUs; 0 where layers differ in what they keep."""
    config, parallel = scheduler.vllm_config.model_config, scheduler.vllm_config.parallel_config
    groups = scheduler.kv_cache_config.kv_cache_groups
    shared = parallel.tensor_parallel_size > config.get_total_num_kv_heads() or parallel.pipeline_parallel_size > 1
    if shared or len(groups) != 1:
        return 0
    spec = groups[0].kv_cache_spec
    layers = len(groups[0].layer_names)
    return int(parallel.tensor_parallel_size * layers * spec.page_size_bytes // spec.block_size)


def captured_tokens(vllm_config: Any) -> int:
    """The largest iteration that has a CUDA graph; 0 where none has."""
    if vllm_config.model_config.enforce_eager:
        return 0
    return max(vllm_config.compilation_config.cudagraph_capture_sizes or (0,))


def what_matters(vllm_config: Any) -> dict[str, str]:
    """Everything but the model and the device that decides how long an iteration takes, by name."""
    model, cache = vllm_config.model_config, vllm_config.cache_config
    parallel, compilation = vllm_config.parallel_config, vllm_config.compilation_config
    drafting, options = vllm_config.speculative_config, vllm_config.scheduler_config
    found = {
        "vllm": vllm.__version__,
        "tensor_parallel": parallel.tensor_parallel_size,
        "pipeline_parallel": parallel.pipeline_parallel_size,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "enforce_eager": model.enforce_eager,
        "max_model_len": model.max_model_len,
        "cache_dtype": cache.cache_dtype,
        "block_size": cache.block_size,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "max_num_seqs": options.max_num_seqs,
        "async_scheduling": options.async_scheduling,
        "compilation_mode": getattr(compilation, "mode", None),
        "graphs": getattr(compilation, "cudagraph_mode", None),
        "graph_sizes": getattr(compilation, "cudagraph_capture_sizes", None),
        "speculation": drafting and (drafting.method, drafting.model, drafting.num_speculative_tokens),
        "lora": vllm_config.lora_config is not None,
        "processors": os.cpu_count(),
    }
    return {name: str(value) for name, value in found.items()}


def thinking_ends(scheduler: Any) -> Callable[[Sequence[int]], int] | None:
    """What finds, in token ids, how many of them thinking takes up to its end: 0 where it doesn't end there.

    None for a model without a reasoning parser, or one whose parser knows no single end token.
    """
    manager = scheduler.structured_output_manager
    kind, tokenizer = getattr(manager, "reasoner_cls", None), getattr(manager, "tokenizer", None)
    reasoner = getattr(manager, "reasoner", None)
    if reasoner is None and kind is not None and tokenizer is not None:
        reasoner = kind(tokenizer=tokenizer)
    end = getattr(reasoner, "end_token_id", None)
    if end is None:
        return None

    def found(ids: Sequence[int]) -> int:
        return next((n + 1 for n, token in enumerate(ids) if token == end), 0)

    return found


def cached_prefix_tokens(scheduler: Any, request: Any) -> int:
    """Tokens of the request's prompt that the prefix cache holds now."""
    manager = scheduler.kv_cache_manager
    if not manager.enable_caching or request.skip_reading_prefix_cache:
        return 0
    hit = manager.coordinator.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)
    return int(hit[1])
