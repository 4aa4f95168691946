"""What a trace is made of: requests of one or more stages, with arrival times. SLOs are added by scenarios."""

from __future__ import annotations

import msgspec


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One call to the model."""

    prompt_tokens: int  # new prompt tokens, to be computed
    output_tokens: int
    cached_tokens: int = 0  # prompt tokens whose KV earlier stages (or a shared prefix) left behind
    gap_s: float = 0.0  # from the end of this stage to the arrival of the next (a tool runs)
    block_ids: tuple[int, ...] = ()  # identities of the prompt's blocks, where the trace tells them
    id_tokens: int = 0  # of each of those

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0 or self.cached_tokens < 0 or self.prompt_tokens + self.cached_tokens < 1:
            raise ValueError(f"a stage needs a prompt: {self.prompt_tokens} new, {self.cached_tokens} cached tokens")
        if self.output_tokens < 1:
            raise ValueError(f"a stage needs at least one output token, not {self.output_tokens}")


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request: its stages run one after the other. `arrival_s` counts from the start of the trace."""

    arrival_s: float
    stages: tuple[Stage, ...]

    @property
    def total_tokens(self) -> int:
        """The longest context the request reaches."""
        return max(s.cached_tokens + s.prompt_tokens + s.output_tokens for s in self.stages)


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trace's rows came from; every result repeats it."""

    name: str
    source: str  # "$SLOSBENCH_TRACES", "cache", "fetched" or "generated"
    detail: str  # file and checksum, or the generator and its seed
    left_out: str = ""  # rows that could not be used, and why
    licence: str = ""
    citation: str = ""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Requests sorted by arrival, with where they came from."""

    requests: tuple[TraceRequest, ...]
    provenance: Provenance
