"""What gateway and engines say to each other: plans one way, telemetry the other (DESIGN.md, "Contracts").

Both travel as msgpack over Redis. Times are seconds of the sender's wall clock (`engines/clock.py`), except where a
field's name says that it is a duration. What a field's type says of its range holds for every message that was read
(`engines/door.py`): a message that breaks it is no message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from slosgate.planner.perf_model import PerfModel
from slosgate.planner.plans import Count, Duration, Name
from slosgate.planner.plans import PlannedIteration as PlannedIteration
from slosgate.planner.profile import Launches

Epoch = Annotated[int, Meta(ge=0, le=1 << 52)]  # Redis's scripts count in doubles
Moment = Annotated[float, Meta(ge=-1e11, le=1e11)]  # on a wall clock
Due = Annotated[float, Meta(ge=-1e11)]  # on a wall clock; inf: never
Share = Annotated[float, Meta(ge=0, le=1)]
Pairs = Annotated[float, Meta(ge=0, le=1e15)]
Weight = Annotated[float, Meta(ge=0, le=1e9)]

MOST_REQUESTS = 1 << 14  # on one replica: reading a report must not hold up a gateway's streams
MOST_ITERATIONS = 1 << 14  # in one report


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Orders for one replica until the next plan. The newest epoch wins; older ones are dropped on arrival.

    Once the horizon is used up, or no longer fits what the engine sees, the slack rule applies. `guaranteed` are
    best-effort requests promoted by this plan. `hold` must not run, `preempt` must also give their KV blocks back;
    best-effort requests that are in neither may run.
    """

    replica: Name
    epoch: Epoch
    issued_at_s: Moment
    horizon: tuple[PlannedIteration, ...] = ()
    guaranteed: tuple[Name, ...] = ()
    hold: tuple[Name, ...] = ()
    preempt: tuple[Name, ...] = ()


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """A request with an SLO that is on its way to a replica."""

    request_id: Name
    prompt_tokens: Count  # to be computed: without the prefix that is likely to be cached
    ttft_s: Due  # what is left of its TTFT SLO
    guaranteed: bool = True  # only such ones are waited for; a gateway of before didn't say


class IterationReport(msgspec.Struct, frozen=True, array_like=True):
    """What one iteration did and how long it took: the performance model learns from these."""

    duration_s: Duration
    new_tokens: Count
    context_tokens: Annotated[int, Meta(ge=0, le=1 << 40)]  # of all sequences
    sequences: Count
    draft_steps: Count = 0
    pairs: Pairs = 0.0  # see planner/perf_model.py; 0 without prefill, and where a replica of before doesn't say

    @property
    def size(self) -> tuple[int, int, int, int, float]:
        """What the performance model makes a duration of: new tokens, context, sequences, draft steps, pairs."""
        return self.new_tokens, self.context_tokens, self.sequences, self.draft_steps, self.pairs


class DraftReport(msgspec.Struct, frozen=True, array_like=True):
    """How the drafts of one SLO class fared: a draft counts up to its first rejected token, later ones say nothing."""

    slo_class: Name
    accepted: Count
    rejected: Count


class PrefixReport(msgspec.Struct, frozen=True, array_like=True):
    """How much of a request's prompt a replica had cached when it took the request in."""

    request_id: Name
    prompt_tokens: Count
    cached_tokens: Count


class RequestProgress(msgspec.Struct, frozen=True, array_like=True):
    """Where one request stands on its replica."""

    request_id: Name
    prompt_left: Count
    context_tokens: Count
    generated_tokens: Count
    due_base_s: Due  # engine's clock; token k after the first is due at due_base_s + k * TPOT
    guaranteed: bool
    switch_at: Count = 0  # where the pace changes (`planner.pace`), as far as the engine has seen


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's report. `progress` is complete: a request that is not in it is not on the replica. `iterations`,
    `drafts` and `prefixes` are those since the last report."""

    replica: Name
    sent_at_s: Moment
    epoch: Epoch  # newest plan received, 0 before the first
    busy_for_s: Duration  # how much longer the iteration in flight is expected to take
    kv_blocks_total: Count
    kv_blocks_free: Count
    iterations: Annotated[tuple[IterationReport, ...], Meta(max_length=MOST_ITERATIONS)] = ()
    progress: Annotated[tuple[RequestProgress, ...], Meta(max_length=MOST_REQUESTS)] = ()
    drafts: Annotated[tuple[DraftReport, ...], Meta(max_length=MOST_REQUESTS)] = ()
    prefixes: Annotated[tuple[PrefixReport, ...], Meta(max_length=MOST_REQUESTS)] = ()
    perf: PerfModel | None = None  # what the replica plans with, where that is not the model it registered with
    launches: Launches | None = None  # how long launching takes there, where that is known
    request_overhead_s: Duration | None = None  # from its port to its scheduler, as it was lately
    answer_s: Duration = 0.0  # from its scheduler to the wire: how long its HTTP server takes to answer at all
    draining: bool = False  # it is to go: nothing new is sent there


class SloArgs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The `vllm_xargs` of a request's body: flat values only, as vLLM demands.

    `slo_ttft_ms` is what is left of the TTFT SLO when the request leaves the gateway, so that clocks of different
    hosts need not agree. Without it the request has no SLO.
    """

    slo_id: str
    slo_class: str = ""
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    slo_guaranteed: int = 0  # 1: an admitted guarantee, 0: best effort
    slo_promises: int = 1  # 0: no SLO; then `slo_ttft_ms` is how much longer others may go first
    slo_weight: float = 1.0
    slo_output_tokens: int = 0  # the planning value for the output's length; 0 means max_tokens
    slo_acceptance: float = 0.0  # planning value for the chance that a drafted token is accepted; 0: don't draft
    slo_switch_at: int = 0  # after so many output tokens the TPOT SLO becomes slo_next_tpot_ms; 0: never
    slo_next_tpot_ms: float | None = None


def read_slo(extra: Mapping[str, Any] | None, request_id: str) -> SloArgs:
    """The SLO in a request's `vllm_xargs`; what can't be read as one is best effort without an SLO.

    `request_id` names the request where the arguments don't.
    """
    try:
        slo = msgspec.convert({"slo_id": request_id, **(extra or {})}, SloArgs, strict=False)
    except (msgspec.ValidationError, TypeError):
        return SloArgs(slo_id=request_id)
    return slo if slo.slo_id else msgspec.structs.replace(slo, slo_id=request_id)
