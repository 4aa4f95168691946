"""vLLM's engine loop around a scheduler class, with sampled tokens drawn at random: no model, no worker, no server."""

from __future__ import annotations

import inspect
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]  # comes with vLLM
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

HASH = get_hash_fn_by_name("sha256")
init_none_hash(HASH)
VOCABULARY = 500
TOKEN_BUDGET = 512
BLOCK_TOKENS = 16
ITERATION_S = 0.01
UNHURRIED_S = 0.001


def make_scheduler(
    scheduler_class: Callable[..., Any],
    model: Path,
    *,
    asynchronous: bool = False,
    drafts: int = 0,
    draft_model: Path | None = None,
    blocks: int = 400,
    token_budget: int = TOKEN_BUDGET,
    max_sequences: int = 64,
) -> Any:
    """A scheduler as vLLM's engine would build it for a model's folder; without a draft model drafts are looked up."""
    looked_up = {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    method = {"method": "draft_model", "model": str(draft_model)} if draft_model else looked_up
    speculative = {**method, "num_speculative_tokens": drafts} if drafts else None
    config = EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,
        max_model_len=2048,
        block_size=BLOCK_TOKENS,
        max_num_batched_tokens=token_budget,
        max_num_seqs=max_sequences,
        enforce_eager=True,
        enable_prefix_caching=True,
        speculative_config=speculative,
    ).create_engine_config()
    config.scheduler_config.async_scheduling = asynchronous  # the CPU platform switches it off
    config.cache_config.num_gpu_blocks = blocks
    block_tokens = config.cache_config.block_size
    layer = FullAttentionSpec(block_size=block_tokens, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
    return scheduler_class(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer0"], layer)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_tokens,
        hash_block_size=block_tokens,
        log_stats=True,
    )


def make_request(scheduler: Any, name: str, prompt: int | list[int], output: int, now_s: float, **xargs: Any) -> Any:
    """A request of `prompt` random (or the given) tokens and exactly `output` tokens of answer."""
    sampling = SamplingParams(max_tokens=output, ignore_eos=True, extra_args={"slo_id": name, **xargs})
    tokens = prompt if isinstance(prompt, list) else random.Random(name).choices(range(VOCABULARY), k=prompt)
    optional = {"eos_token_id": 2} if "eos_token_id" in inspect.signature(Request.__init__).parameters else {}
    return Request(
        request_id=f"{name}-vllm",
        prompt_token_ids=tokens,
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=now_s,
        block_hasher=get_request_block_hasher(scheduler.block_size, HASH),
        **optional,
    )


@dataclass
class Step:
    """One iteration as it was scheduled; requests go by their SLO ids."""

    output: Any
    tokens: dict[str, int]
    drafts: dict[str, int]
    sampling: set[str]  # vLLM's ids of the requests whose known tokens end in this iteration
    end_s: float

    @property
    def total(self) -> int:
        return sum(self.tokens.values())


@dataclass
class FakeEngine:
    """Steps a scheduler as EngineCore does: one batch at a time, or one ahead under asynchronous scheduling.

    An iteration takes ITERATION_S on the scheduler's clock, and a turn of the loop without one UNHURRIED_S.
    """

    scheduler: Any
    asynchronous: bool = False
    random: random.Random = field(default_factory=lambda: random.Random(0))
    steps: list[Step] = field(default_factory=list)
    emitted: Counter[str] = field(default_factory=Counter)
    now_s: float = 1000.0
    launch_s: float = 0.0  # from an iteration's choice until the device has it
    idle_s: float = 0.0  # how long nothing ran between two iterations

    def __post_init__(self) -> None:
        self.scheduler.clock = lambda: self.now_s
        self.scheduler.sleep = self._sleep
        self._queue: deque[Step] = deque()

    def add(self, name: str, prompt: int | list[int], output: int, **xargs: Any) -> Any:
        request = make_request(self.scheduler, name, prompt, output, self.now_s, **xargs)
        self.scheduler.add_request(request)
        return request

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(f"{name}-vllm", RequestStatus.FINISHED_ABORTED)

    def step(self) -> Step | None:
        """One turn of the loop; the iteration it scheduled, None when there was nothing to schedule."""
        step = self._schedule() if self.scheduler.has_requests() else None
        if step is not None:
            self._queue.append(step)
            if self.asynchronous and len(self._queue) < 2:
                return step
        if self._queue:
            self._finish(self._queue.popleft())
        if step is None or not step.tokens:
            self.now_s += UNHURRIED_S
        return step

    def run(self, limit: int = 5000) -> list[Step]:
        """Step until everything is done. Raises AssertionError after `limit` steps."""
        for _ in range(limit):
            if not (self.scheduler.has_requests() or self._queue):
                return self.steps
            self.step()
        raise AssertionError(f"not done after {limit} steps: {list(self.scheduler.requests)}")

    def drain(self) -> None:
        """Finish the iterations in flight without scheduling more."""
        while self._queue:
            self._finish(self._queue.popleft())

    @property
    def free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def _schedule(self) -> Step:
        output = self.scheduler.schedule()
        self.now_s += self.launch_s
        self.scheduler.get_grammar_bitmask(output)
        requests = self.scheduler.requests
        before_s = self.steps[-1].end_s if self.steps else self.now_s
        start_s = max(self.now_s, before_s)
        self.idle_s += start_s - before_s
        step = Step(
            output=output,
            tokens={_name(r): n for r, n in output.num_scheduled_tokens.items()},
            drafts={_name(r): len(t) for r, t in output.scheduled_spec_decode_tokens.items()},
            sampling={r for r in output.num_scheduled_tokens if not requests[r].is_prefill_chunk},
            end_s=start_s + (ITERATION_S if output.num_scheduled_tokens else 0.0),
        )
        self.steps.append(step)
        return step

    def _finish(self, step: Step) -> None:
        self.now_s = max(self.now_s, step.end_s)
        ids = list(step.output.num_scheduled_tokens)
        drafted = step.output.scheduled_spec_decode_tokens
        sampled = [self._sample(len(drafted.get(r, ()))) if r in step.sampling else [] for r in ids]
        outputs = self.scheduler.update_from_output(
            step.output,
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={r: i for i, r in enumerate(ids)},
                sampled_token_ids=sampled,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        for client in outputs.values():
            for output in client.outputs:
                self.emitted[_name(output.request_id)] += len(output.new_token_ids)
        length = step.output.num_spec_tokens_to_schedule
        if ids and length and not self.asynchronous:
            drafts = [self.random.choices(range(VOCABULARY), k=length) for _ in ids]
            self.scheduler.update_draft_token_ids(DraftTokenIds(ids, drafts))

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _sample(self, drafts: int) -> list[int]:
        return self.random.choices(range(VOCABULARY), k=1 + self.random.randint(0, drafts))


def _name(request_id: str) -> str:
    return request_id.removesuffix("-vllm")
