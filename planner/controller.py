"""The planner's front door: what a gateway asks. Where does an arrival go, who can be promoted, what runs next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.budget import fits
from planner.jobs import JobTable
from planner.profile import HardwareProfile
from planner.rollout import roll_forward
from planner.slack import coefficients

HOP_LIMIT = 4  # replicas asked for a guarantee before the request becomes best effort
PROMOTION_LIMIT = 16  # best-effort requests examined per call of `promote`


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica as the controller sees it at `now_s`."""

    name: str
    profile: HardwareProfile
    jobs: JobTable
    free_blocks: int
    busy_for_s: float = 0.0  # how much longer the iteration in flight takes
    prefix_tokens: int = 0  # tokens of this arrival's prompt that are cached there


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that wants a place."""

    request_id: str
    ttft_s: float  # what is left of the TTFT SLO from now; inf without one
    tpot_s: float  # inf without an SLO
    prompt_tokens: int  # the whole prompt
    output_tokens: int  # planning value
    weight: float = 1.0
    acceptance: float = 0.0
    switch_at: int = 0
    next_tpot_s: float = math.inf

    @property
    def has_slo(self) -> bool:
        return self.ttft_s < math.inf or self.tpot_s < math.inf


@dataclass(frozen=True, slots=True)
class Decision:
    """Where an arrival goes and what it was promised."""

    replica: int
    guaranteed: bool
    predicted_ttft_s: float
    reason: str
    retry_after_s: float | None  # when a guarantee could be possible; None when it was given or never will be
    preempt: tuple[str, ...] = ()  # best-effort requests that must make room


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One iteration of a plan's horizon, by request ids."""

    token_budget: int
    duration_s: float
    speculation: tuple[tuple[float, int], ...]  # (TPOT of the tier, draft tokens); a tier not named does not decode
    prefill: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    horizon: tuple[PlannedStep, ...] = ()
    hold: tuple[str, ...] = ()
    preempt: tuple[str, ...] = field(default=())


def place(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float, *, hop_limit: int = HOP_LIMIT) -> Decision:
    """Route and admit in one call. Raises ValueError without replicas."""
    if not replicas:
        raise ValueError("no replica to place the request on")
    order = sorted(range(len(replicas)), key=lambda i: expected_ttft_s(arrival, replicas[i]))
    best = order[0]
    predicted_s = expected_ttft_s(arrival, replicas[best])
    if not arrival.has_slo:
        return Decision(best, False, predicted_s, "no SLO was asked for", None)
    fitting = [i for i in order if whole_request_fits(arrival, replicas[i].profile)]
    if not fitting:
        return Decision(best, False, predicted_s, "the request is longer than any replica can hold", None)
    for i in fitting[:hop_limit]:
        ok, spare_s = can_guarantee(arrival, replicas[i], now_s)
        if ok:
            return Decision(i, True, min(expected_ttft_s(arrival, replicas[i]), arrival.ttft_s), "fits", None)
    _, spare_s = can_guarantee(arrival, replicas[fitting[0]], now_s)
    retry_s = max(0.05, -spare_s) if math.isfinite(spare_s) else None
    return Decision(fitting[0], False, predicted_s, "no replica can guarantee it now", retry_s)


def whole_request_fits(arrival: Arrival, profile: HardwareProfile) -> bool:
    tokens = arrival.prompt_tokens + arrival.output_tokens
    return tokens <= profile.max_model_tokens and profile.blocks_for(tokens) <= profile.kv_blocks


def expected_ttft_s(arrival: Arrival, replica: ReplicaState) -> float:
    """The cost that orders replicas: prefill work queued there and our own, stretched by the decodes' share of time."""
    rows, perf = replica.jobs.rows, replica.profile.perf
    queued = int(rows["prompt_left"].sum())
    own = max(1, arrival.prompt_tokens - replica.prefix_tokens)
    decoding = rows["prompt_left"] == 0
    context, n = int(rows["context"][decoding].sum()), int(decoding.sum())
    step_s = perf.iteration_s(n, context + n, n) if n else 0.0
    return replica.busy_for_s + step_s + perf.iteration_s(queued + own, queued + own, 1)


def can_guarantee(arrival: Arrival, replica: ReplicaState, now_s: float) -> tuple[bool, float]:
    """Whether the replica keeps all its guarantees and this one too, and the least time to spare at a deadline."""
    rows = np.concatenate([replica.jobs.rows, np.zeros(1, replica.jobs.rows.dtype)])
    cached = min(replica.prefix_tokens, arrival.prompt_tokens - 1)
    deadline_s = now_s + arrival.ttft_s
    rows[-1] = (
        deadline_s, arrival.tpot_s, deadline_s, arrival.weight, arrival.acceptance, arrival.prompt_tokens - cached,
        cached, 0, arrival.output_tokens, arrival.switch_at, arrival.next_tpot_s, True, False,
    )  # fmt: skip
    return all_fit(rows, replica, now_s)


def all_fit(rows: np.ndarray, replica: ReplicaState, now_s: float) -> tuple[bool, float]:
    profile = replica.profile
    ok, spare_s = fits(
        rows, coefficients(profile.perf), profile.block_tokens, now_s + replica.busy_for_s, replica.free_blocks
    )
    return bool(ok), float(spare_s)


def promote(state: ReplicaState, now_s: float) -> tuple[str, ...]:
    """Best-effort requests, by deadline, that can be guaranteed from now on without harm to a guarantee."""
    rows = state.jobs.rows.copy()
    hopeful = (~rows["guaranteed"]) & (rows["prompt_left"] > 0) & np.isfinite(rows["deadline_s"])
    hopeful &= rows["deadline_s"] > now_s
    candidates = np.flatnonzero(hopeful)
    candidates = candidates[np.argsort(rows["deadline_s"][candidates], kind="stable")][:PROMOTION_LIMIT]
    promoted = []
    for row in candidates:
        rows["guaranteed"][row] = True
        if all_fit(rows, state, now_s)[0]:
            promoted.append(state.jobs.ids[row])
        else:
            rows["guaranteed"][row] = False
    return tuple(promoted)


def plan_replica(state: ReplicaState, now_s: float, *, horizon_s: float = 0.5, max_iterations: int = 32) -> ReplicaPlan:
    """The next iterations of a replica, from the end of the one in flight."""
    rows, ids = state.jobs.rows, state.jobs.ids
    rollout = roll_forward(
        rows, state.profile, now_s + state.busy_for_s, state.free_blocks,
        horizon_s=horizon_s, max_iterations=max_iterations,
    )  # fmt: skip
    steps = []
    for batch in rollout.batches:
        tiers = {}
        for row, drafts in zip(batch.decode.tolist(), batch.drafts.tolist(), strict=True):
            tiers[float(rows["tpot_s"][row])] = drafts
        prefill = tuple((ids[row], n) for row, n in zip(batch.prefill.tolist(), batch.tokens.tolist(), strict=True))
        steps.append(PlannedStep(batch.new_tokens, batch.duration_s, tuple(sorted(tiers.items())), prefill))
    return ReplicaPlan(tuple(steps))
