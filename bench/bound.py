"""The bound: a rate that no scheduler can exceed on a hardware profile, not even one that knows the future.

*Work.* An iteration lasts at least as long as each single term of the roofline. For a term, hand its time out to the
requests in the iteration: each pays for its new tokens, the context tokens read for it, its pairs and its sequence, and
of the constant the share context / M, where M tokens of KV memory hold the context of any iteration: no more is handed
out than the iteration takes. So prefilling p tokens behind q cached ones costs at least a p + (c + b / M) (q + p) + s
seconds of a replica and what their pairs take, however they are divided into chunks, and the decode step at context k
costs a + (c + b / M) k + s. With d drafts of acceptance alpha a step verifies d + 1 tokens, pays its share of d draft
steps, and keeps A = (1 - alpha^(d+1)) / (1 - alpha) tokens on average; every token is charged what it costs with the d
that suits it best.

*Deadlines.* To be attained by the paper's rule a request has its first token 1.05 TTFT SLOs after its arrival at the
latest, and token k (every 20th, and the last) 1.05 k TPOT SLOs after that; a later call arrives no later than the gap
after the latest end of the call before it. None of its work is done before its first call arrived and the replica's
request overhead has passed.

*Windows.* Take any window from s to t. Of the requests that arrive in it, those that are attained have all their work
that is due by t done inside it, in t - s seconds on each replica. Hence for every window

- the cheapest of them, in order of what each must have had by t, are as many as can be attained (a knapsack of equal
  values); and
- looking at first prompts alone, which cost their tokens and at least one iteration's constant together: a set that is
  in time can be computed by one machine, to which all of it is released at s already, in the order of its deadlines;
  the Moore-Hodgson rule finds the largest such set.

What is left out is lost in every schedule, and windows that do not overlap add up: a recursion over the arrivals finds
the disjoint windows that lose most. n replicas count as one that is n times as fast. Left aside is that iterations are
whole, that requests hold memory while they wait, and that the future is unknown: a bound need not be within reach.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slosgate.bench.attainment import PAPER, ROUNDING_S
from slosgate.bench.load import Load
from slosgate.engines.sim.systems import Call, Offered
from slosgate.planner.compiling import compiled
from slosgate.planner.perf_model import Term, pairs_of
from slosgate.planner.profile import HardwareProfile

PROMPTS_WITHIN_S = 30.0  # Moore-Hodgson windows longer than this add little and cost much
MARKS = 64  # windows of all work begin and end at so many arrivals
TAIL = 16  # or end at one of so many times after the last arrival
PRECISION = 1.01
UNBOUNDED_RPS = 1e6  # a load that passes at this rate has no bound

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def bound_rps_per_gpu(
    load_at: Callable[[float], Load],
    profile: HardwareProfile,
    *,
    target: float,
    replicas: int = 1,
    acceptance: float = 0.0,
) -> float:
    """The highest rate per replica at which `target` of the requests are attainable, to one percent; inf if any is.

    `load_at` makes the load for a rate in requests per second over all replicas.
    """

    def passes(rate_rps: float) -> bool:
        return attainable(load_at(rate_rps).requests, profile, replicas, acceptance) >= target

    low = high = float(replicas)
    while passes(high):
        low, high = high, high * 2
        if high > UNBOUNDED_RPS * replicas:
            return math.inf
    while low == high or not passes(low):
        low, high = low / 2, low
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low / replicas


def attainable(
    requests: Sequence[Offered], profile: HardwareProfile, replicas: int = 1, acceptance: float = 0.0
) -> float:
    """No schedule attains more than this share of the requests, which are in order of arrival."""
    n = len(requests)
    marks = np.unique(np.linspace(0, n, min(MARKS, n) + 1).astype(np.int64))
    arrival_s = np.array([r.arrival_s for r in requests])
    by_work = _lost_between(marks, arrival_s, _work(requests), profile, replicas, acceptance)
    follows = np.minimum(np.arange(by_work.shape[1]), len(marks) - 1)  # the mark at or after each end
    prompts = _Prompts.of(requests, arrival_s, profile, replicas)
    mark = {first: number for number, first in enumerate(marks.tolist())}
    lost = np.zeros(n + 1, dtype=np.int64)  # lost[i]: requests lost for certain among those from the i-th on
    for i in range(n - 1, -1, -1):
        lost[i] = max(lost[i + 1], prompts.lost_from(i, lost))
        if i in mark:
            after = lost[marks[follows[mark[i] + 1 :]]]
            lost[i] = max(lost[i], int((by_work[mark[i], mark[i] + 1 :] + after).max()))
    return 1.0 - float(lost[0]) / n


@dataclass(frozen=True, slots=True)
class _Work:
    """Pieces of the requests' work, by due time: one for each prompt, one for each 20 tokens that are decoded."""

    request: Ints
    due_s: Floats
    new_tokens: Ints  # of a prompt; 0 for decoding
    steps: Ints  # decode steps without drafts; 0 for a prompt
    context: Floats  # tokens read, over all steps

    def cost_s(self, term: Term, profile: HardwareProfile, acceptance: float) -> Floats:
        """The least time of a replica that each piece takes, by one term of the roofline."""
        drafts = range(profile.max_drafts + 1) if acceptance > 0 else range(1)
        decode: Floats = np.min([self._decode_s(term, profile, acceptance, d) for d in drafts], axis=0)
        pairs = pairs_of(self.context - self.new_tokens, self.new_tokens)
        prompt = (
            term.per_new_token_s * self.new_tokens + term.per_sequence_s + _per_context_s(term, profile) * self.context
        ) + term.per_pair_s * pairs
        return np.where(self.steps > 0, decode, prompt)

    def _decode_s(self, term: Term, profile: HardwareProfile, acceptance: float, drafts: int) -> Floats:
        kept = (1 - acceptance ** (drafts + 1)) / (1 - acceptance) if drafts else 1.0
        step_s = term.per_new_token_s * (drafts + 1) + term.per_sequence_s
        return (step_s * self.steps + _per_context_s(term, profile, drafts) * self.context) / kept


def _per_context_s(term: Term, profile: HardwareProfile, drafts: int = 0) -> float:
    memory = profile.kv_blocks * profile.block_tokens
    return term.per_context_token_s + (term.constant_s + term.per_draft_step_s * drafts) / memory


def _work(requests: Sequence[Offered]) -> _Work:
    pieces: list[NDArray[np.float64]] = []
    for number, request in enumerate(requests):
        latest_s = request.arrival_s
        for call in request.calls:
            latest_s += PAPER.tolerance * call.ttft_slo_s
            context = call.cached_tokens + call.prompt_tokens
            pieces.append(np.array([[number, latest_s, call.prompt_tokens, 0, context]]))
            if call.output_tokens > 1:
                decoded = _decoded(call)
                pieces.append(np.column_stack([np.full(len(decoded), number), decoded]))
                pieces[-1][:, 1] += latest_s
                latest_s = float(pieces[-1][-1, 1])
            latest_s += call.gap_s
    table = np.concatenate(pieces)
    table = table[np.argsort(table[:, 1], kind="stable")]
    request_of, due_s, new_tokens, steps, context_read = table.T
    return _Work(request_of.astype(np.int64), due_s, new_tokens.astype(np.int64), steps.astype(np.int64), context_read)


def _decoded(call: Call) -> Floats:
    """Rows of (due after the first token's latest time, 0, decode steps, context read), one for each token checked."""
    last = call.output_tokens - 1  # the prefill emits the first token
    checked = np.array([*range(PAPER.every, last, PAPER.every), last])
    steps = np.diff(checked, prepend=0)
    before = np.minimum(checked, call.switch_at - 1) if call.switch_at else checked
    pace_s = before * call.tpot_slo_s
    pace_s[checked > before] += (checked - before)[checked > before] * call.next_tpot_slo_s
    first = call.cached_tokens + call.prompt_tokens + checked - steps  # context before these steps
    return np.column_stack(
        [PAPER.tolerance * pace_s, np.zeros(len(steps)), steps, steps * first + steps * (steps + 1) / 2]
    )


def _lost_between(
    marks: Ints, arrival_s: Floats, work: _Work, profile: HardwareProfile, replicas: int, acceptance: float
) -> Ints:
    """[i, j]: of the requests from marks[i] on, how many are lost by time j: those that arrive by then.

    Times are the arrivals at all marks but the last, which lies behind the last request, then some until all is due.
    """
    start_s = arrival_s[marks[:-1]]
    end_s = np.append(start_s, _tail(arrival_s[-1], work.due_s))
    behind = np.append(marks[:-1], np.full(TAIL, marks[-1]))  # index of the first request that arrives later
    first = np.searchsorted(work.due_s, end_s, side="right")
    lost = np.zeros((len(start_s), len(end_s)), dtype=np.int64)
    room_s = replicas * np.maximum(0.0, end_s[None, :] - start_s[:, None] - profile.request_overhead_s) + ROUNDING_S
    for term in profile.perf.terms:
        cost_s = work.cost_s(term, profile, acceptance)
        due = np.zeros(len(arrival_s))  # what each must have had by then
        for j in range(1, len(end_s)):
            fresh = slice(first[j - 1] if j > 1 else 0, first[j])
            due += np.bincount(work.request[fresh], cost_s[fresh], minlength=len(due))
            starts = marks[: min(j, len(start_s)), None]
            cheapest = np.argsort(due[: behind[j]], kind="stable")
            inside = cheapest[None, :] >= starts
            spent_s = np.cumsum(np.where(inside, due[cheapest], 0.0), axis=1)
            kept = (inside & (spent_s <= room_s[: len(starts), j, None])).sum(axis=1)
            lost[: len(starts), j] = np.maximum(lost[: len(starts), j], behind[j] - starts[:, 0] - kept)
    return lost


def _tail(last_arrival_s: float, due_s: Floats) -> Floats:
    """Times from the last arrival until all work is due that ever is."""
    finite_s = due_s[np.isfinite(due_s)]
    end_s = max(last_arrival_s, float(finite_s[-1])) if len(finite_s) else last_arrival_s
    return np.linspace(last_arrival_s, end_s, TAIL + 1)[1:]


@dataclass(frozen=True, slots=True)
class _Prompts:
    """First prompts on one machine as fast as all replicas."""

    arrival_s: Floats
    due_s: Floats
    by_due: Ints
    cost_s: Floats
    once_s: float  # what a window loses however little is computed in it

    @classmethod
    def of(cls, requests: Sequence[Offered], arrival_s: Floats, profile: HardwareProfile, replicas: int) -> _Prompts:
        term = max(profile.perf.terms, key=lambda t: t.per_new_token_s)
        first = [r.calls[0] for r in requests]
        due_s = arrival_s + PAPER.tolerance * np.array([c.ttft_slo_s for c in first]) + ROUNDING_S
        prompt = np.array([c.prompt_tokens for c in first])
        context = prompt + np.array([c.cached_tokens for c in first])
        cost_s = term.per_new_token_s * prompt + term.per_context_token_s * context + term.per_sequence_s
        cost_s = cost_s + term.per_pair_s * pairs_of(context - prompt, prompt)
        return cls(
            arrival_s,
            due_s,
            np.argsort(due_s, kind="stable"),
            cost_s / replicas,
            profile.request_overhead_s + term.constant_s / replicas,
        )

    def lost_from(self, first: int, lost: Ints) -> int:
        """The worst window that begins with a request: what Moore-Hodgson leaves out of it, plus what is lost after."""
        return int(_lost_from(first, lost, self.arrival_s, self.due_s, self.by_due, self.cost_s, self.once_s))


@compiled
def _lost_from(
    first: int, lost: Ints, arrival_s: Floats, due_s: Floats, by_due: Ints, cost_s: Floats, once_s: float
) -> int:
    start_s = arrival_s[first]
    taken = [0.0]  # a heap of negative costs; what costs nothing is never the longest
    busy_s, out, worst = once_s, 0, 0
    for j in by_due:
        if j < first:
            continue
        if due_s[j] > start_s + PROMPTS_WITHIN_S:
            break
        heapq.heappush(taken, -cost_s[j])
        busy_s += cost_s[j]
        if busy_s > due_s[j] - start_s:
            busy_s += heapq.heappop(taken)  # the longest goes
            out += 1
            worst = max(worst, out + lost[np.searchsorted(arrival_s, due_s[j])])
    return worst
