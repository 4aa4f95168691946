"""The bound: a rate that no scheduler can exceed on a hardware profile, from what is known about the load.

Two necessary conditions, each generous to the scheduler. The bound is the highest rate that passes both.

*Steady state.* Let a second of a replica hold K iterations that serve X new tokens, N decode steps of sequences (one
per sequence and iteration) and C tokens of context read. An iteration lasts at least as long as each single term of
the roofline, so summed over the second, for every term i of the profile

    1 >= a_i X + c_i C + s_i N + v_i V + b_i K.

At r served requests a second X = r (p + g d), N = r d / A and C = r d (p + d / 2) / A for p prompt and d output tokens,
where A tokens come of one decode step and g tokens are computed for one that is kept (both 1 without drafts; with s
drafts of acceptance alpha, A = (1 - alpha^(s+1)) / (1 - alpha), g = (s + 1) / A and V = s K; the best s counts).
KV memory of M tokens holds the context of any iteration, so K >= C / M; likewise K >= N / max sequences and
K >= X / max batched tokens. All of these are linear in r. With attainment 90 % a scheduler may decline the tenth of the
requests that costs most, so each condition is computed without its own costliest tenth.

*Bursts.* A request whose prompt was not computed by its deadline is lost. Take any window from s to t: of the requests
that arrive after s and are due before t, those in time form a set that one machine, to which all of them are released
at s already, can compute in the order of their deadlines; the Moore-Hodgson rule finds the largest such set. What it
leaves out is lost in every schedule, and windows that do not overlap add up. Prompts cost their tokens only (the
largest a_i); decoding costs nothing, and n replicas are one that is n times as fast.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.attainment import PAPER
from bench.load import Load, Offered
from planner.profile import HardwareProfile

WINDOW_S = 30.0  # windows longer than this add little and cost much
MAX_DRAFTS = 6
PRECISION = 1.01

Floats = NDArray[np.float64]


def bound_rps_per_gpu(
    load_at: Callable[[float], Load],
    profile: HardwareProfile,
    *,
    target: float,
    replicas: int = 1,
    acceptance: float = 0.0,
) -> float:
    """The highest rate per replica that passes both conditions, to one percent.

    `load_at` makes the load for a rate in requests per second over all replicas.
    """
    steady = steady_rps(load_at(float(replicas)).requests, profile, target=target, acceptance=acceptance)
    passes, fails = 0.0, steady * replicas
    if burst_attainment(load_at(fails).requests, profile, replicas) >= target:
        return steady
    low = fails
    while passes == 0.0:
        low /= 2
        if burst_attainment(load_at(low).requests, profile, replicas) >= target:
            passes = low
        else:
            fails = low
    while fails / passes > PRECISION:
        middle = math.sqrt(passes * fails)
        if burst_attainment(load_at(middle).requests, profile, replicas) >= target:
            passes = middle
        else:
            fails = middle
    return passes / replicas


def steady_rps(
    requests: Sequence[Offered], profile: HardwareProfile, *, target: float, acceptance: float = 0.0
) -> float:
    """The first condition: offered requests per second and replica, with the number of drafts that suits best."""
    drafts = range(MAX_DRAFTS + 1) if acceptance > 0 else range(1)
    return max(_steady_with(requests, profile, target, acceptance, s) for s in drafts)


def _steady_with(
    requests: Sequence[Offered], profile: HardwareProfile, target: float, acceptance: float, drafts: int
) -> float:
    kept = (1 - acceptance ** (drafts + 1)) / (1 - acceptance) if drafts else 1.0
    work = np.array([_work(r) for r in requests])
    prompt, decoded, context = work[:, 0], work[:, 1], work[:, 2] / kept
    steps = decoded / kept
    new = prompt + steps * (drafts + 1)
    memory = profile.kv_blocks * profile.block_tokens
    iterations = (context / memory, steps / profile.max_sequences, new / profile.max_batched_tokens)
    shares = [
        t.per_new_token_s * new
        + t.per_context_token_s * context
        + t.per_sequence_s * steps
        + (t.per_draft_step_s * drafts + t.constant_s) * k
        for t in profile.perf.terms
        for k in iterations
    ]
    return min(1.0 / _mean_of_cheapest(share, target) for share in shares)


def _work(request: Offered) -> tuple[int, int, float]:
    """(prompt tokens computed, tokens decoded, context tokens read by the decoding) over all stages."""
    prompt = sum(c.prompt_tokens for c in request.calls)
    decoded = sum(c.output_tokens - 1 for c in request.calls)  # the prefill emits the first token
    read = sum((c.output_tokens - 1) * (c.cached_tokens + c.prompt_tokens + c.output_tokens / 2) for c in request.calls)
    return prompt, decoded, read


def _mean_of_cheapest(cost: Floats, share: float) -> float:
    """Cost per offered request when only the cheapest `share` of them is served."""
    served = np.sort(cost)[: max(1, math.ceil(share * len(cost)))]
    return float(served.sum() / len(cost))


def burst_attainment(requests: Sequence[Offered], profile: HardwareProfile, replicas: int = 1) -> float:
    """The second condition: no schedule gives more than this share of the requests their first token in time."""
    per_token_s = max(t.per_new_token_s for t in profile.perf.terms) / replicas
    release = [r.arrival_s for r in requests]
    due = np.array([r.arrival_s + PAPER.tolerance * r.calls[0].ttft_slo_s for r in requests])
    cost = [r.calls[0].prompt_tokens * per_token_s for r in requests]
    by_due = np.argsort(due, kind="stable")
    lost = [0] * (len(requests) + 1)  # lost[i]: requests lost for certain among those from the i-th on
    for i in range(len(requests) - 1, -1, -1):
        inside = by_due[(by_due >= i) & (due[by_due] <= release[i] + WINDOW_S)]
        lost[i] = max(lost[i + 1], _lost_from(release[i], inside, due, cost, release, lost))
    return 1.0 - lost[0] / len(requests)


def _lost_from(
    start_s: float,
    inside: NDArray[np.int64],
    due: Floats,
    cost: Sequence[float],
    release: Sequence[float],
    lost: Sequence[int],
) -> int:
    """The worst window that begins at `start_s`: what Moore-Hodgson leaves out of it, plus what is lost after it."""
    taken: list[float] = []
    busy_s, out, worst = 0.0, 0, 0
    for j in inside.tolist():
        heapq.heappush(taken, -cost[j])
        busy_s += cost[j]
        if busy_s > due[j] - start_s:
            busy_s += heapq.heappop(taken)  # the longest goes
            out += 1
            worst = max(worst, out + lost[bisect.bisect_left(release, due[j])])
    return worst
