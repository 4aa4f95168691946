"""What the planner knows about a replica's hardware and model."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from slosgate.planner.perf_model import PerfModel

SHORTEST_ITERATION_S = 1e-6
WORTH = 0.1  # relative difference of a launch time
DECODES, CAPTURED, BEYOND = 0, 1, 2  # kinds of iterations: decodes alone; prefill, too, within the graphs; beyond them
Overhead = Annotated[float, Meta(ge=0, le=60)]


def prefill_kind(new_tokens: int, captured_tokens: int) -> int:
    """The kind of an iteration with prefill that computes so many tokens."""
    return BEYOND if 0 < captured_tokens < new_tokens else CAPTURED


class Launches(msgspec.Struct, frozen=True, kw_only=True):
    """How long an engine's host takes to launch an iteration, by its kind, whatever the size (`planner.launching`).

    The defaults are what vLLM 0.25.1 took on an H200's host with Llama-3.1-8B's shape.
    """

    decodes_s: Overhead = 0.002  # decodes alone
    captured_s: Overhead = 0.009  # with prefill, within the sizes that CUDA graphs were captured for
    beyond_s: Overhead = 0.026  # larger
    captured_tokens: Annotated[int, Meta(ge=0, le=1 << 24)] = 1024  # the largest of those sizes; 0: there are none

    @property
    def by_kind(self) -> tuple[float, float, float]:
        return self.decodes_s, self.captured_s, self.beyond_s

    def prefill_s(self, new_tokens: int) -> float:
        """How long an iteration with prefill takes that computes so many tokens."""
        return self.by_kind[prefill_kind(new_tokens, self.captured_tokens)]

    def differs(self, other: Launches) -> bool:
        """Whether another one is so different that it is worth planning with."""
        return any(abs(a - b) > WORTH * max(a, b) for a, b in zip(self.by_kind, other.by_kind, strict=True))


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """A model on a device. KV memory is counted in blocks of `block_tokens` tokens, as vLLM does.

    The ranges are checked where a profile is read, and are far beyond any hardware.
    """

    name: str
    model: str
    device: str
    perf: PerfModel
    gpus: Annotated[int, Meta(ge=1, le=1 << 16)] = 1  # devices that one replica spans; rates per GPU divide by it
    kv_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)] = 16
    max_model_tokens: Annotated[int, Meta(ge=2, le=1 << 31)]  # prompt + output a request may have
    # vLLM's max_num_batched_tokens: no iteration takes more new tokens
    max_batched_tokens: Annotated[int, Meta(ge=8, le=1 << 24)] = 8192
    max_sequences: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024  # vLLM's max_num_seqs
    # most draft tokens a decode may verify in one iteration; jobs without acceptance use none
    max_drafts: Annotated[int, Meta(ge=0, le=64)] = 6
    request_overhead_s: Overhead = 0.0  # from a request's arrival at the replica until its first iteration can begin
    # How long the device waits when an iteration is decided only after the one before it has ended. The default is what
    # vLLM 0.25.1 took on an H200 (median 2.7 ms).
    decide_s: Overhead = 0.003
    # How long before the expected end of an iteration the next one is chosen (`planner.arrivals`). The default is by
    # when three of four that prefill had been launched, and 1 ms more (vLLM 0.25.1 with CUDA graphs, on such a host).
    # The plug-in learns its own, by kind of iteration: then `launches` stands instead of it.
    lead_s: Overhead = 0.010
    launches: Launches | None = None
    kv_bytes_per_token: Annotated[int, Meta(ge=0, le=1 << 40)] = 0  # for transfer times (prefill/decode disaggregation)
    source: str  # where the numbers come from: measured file, or a derivation in a sentence

    def problem(self) -> str:
        """What is wrong with the profile beyond the range of a single value, in a sentence; empty when nothing is."""
        if self.perf.iteration_s(1, 1, 1) < SHORTEST_ITERATION_S:
            return f"its iterations take no time; accepted: at least {SHORTEST_ITERATION_S:g} s"
        return ""

    def zero_load_ttft_s(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """T0(p): TTFT of p uncached prompt tokens on an idle replica, chunked at `max_batched_tokens`, behind cached
        ones, to which they attend."""
        return _zero_load_ttft_s(self, prompt_tokens, cached_tokens)

    def soonest_s(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """The least TTFT of so many prompt tokens from now on, behind cached ones: in an iteration of their own."""
        return self.request_overhead_s + self.alone_s(prompt_tokens, cached_tokens)

    def alone_s(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """How long an iteration with nothing but so many prompt tokens takes from its choice on, on an idle device.

        The device computes what it has while the host launches the rest of it.
        """
        return max(self.perf.chunk_s(prompt_tokens, cached_tokens), self.launch_s(prompt_tokens))

    def launch_s(self, prompt_tokens: int) -> float:
        """How long the host takes to launch a prefill of so many tokens; 0 where that is not known."""
        return self.launches.prefill_s(prompt_tokens) if self.launches is not None else 0.0

    def blocks_for(self, tokens: int) -> int:
        """KV blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)


@lru_cache(maxsize=4096)
def _zero_load_ttft_s(profile: HardwareProfile, prompt_tokens: int, cached_tokens: int) -> float:
    """Asked for every replica that a request could go to, and most of them are alike."""
    done, total_s = 0, profile.request_overhead_s
    while done < prompt_tokens:
        chunk = min(profile.max_batched_tokens, prompt_tokens - done)
        # Later chunks are launched while the first is computed.
        total_s += profile.perf.chunk_s(chunk, cached_tokens + done) if done else profile.alone_s(chunk, cached_tokens)
        done += chunk
    return total_s
