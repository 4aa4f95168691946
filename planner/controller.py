"""Placing, promoting, planning: where an arrival goes, what can be promoted, what runs next (asked by `planner.desk`).

What the budget model admits is rehearsed (`planner.rehearsal`), and promised its SLO if it and every other promise
hold then: what is not sure to be in time is served all the same, and promised once it is.

A promise is final, so it is given once it costs no other request anything. In a burst most requests are kept by
dropping the longest prompts (Moore and Hodgson, see `planner.slack`), which may be the first to come: one that is
promised on arrival takes the place of several short ones. Hence only a prompt of which at most `firm_tokens` are left,
the median prompt of late, is promised; a longer one competes with its deadline until so little of it is left. A request
that must know at once, because the alternative is a refusal, is told at once (`Arrival.at_once`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from slosgate.planner.admission import Admission, admit
from slosgate.planner.arrivals import Patience
from slosgate.planner.budget import problems
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import as_planned
from slosgate.planner.jobs import Jobs, JobTable, describe
from slosgate.planner.judging import Judgement, Moment, blocks_short, judge, keeping_promises
from slosgate.planner.kernels import Bools, pairs_of, token_due_s
from slosgate.planner.machine import delays_of, machine_of
from slosgate.planner.memory import first_to_yield
from slosgate.planner.plans import PlannedIteration, ReplicaPlan
from slosgate.planner.prefixes import NOT_CACHED, Cached
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.rollout import roll_forward

WhenFull: TypeAlias = Literal["best-effort", "reject", "overflow"]  # what becomes of what can't be guaranteed

SHORTEST_RETRY_S = 0.05
MOST_PLANNED = 32  # iterations of a plan
LOOKED_AT = 4  # replicas that are told apart by the performance model, of those that look best
# What a replica has chosen for so long without telling of it is not rehearsed: a busy one tells sooner.
LONGEST_OVERDUE_S = 0.1
PROMOTION_LIMIT = 32  # best-effort requests examined per call of `promote`


class ReplicaState(msgspec.Struct, frozen=True):
    """One replica as the controller sees it at `now_s`."""

    name: str
    profile: HardwareProfile
    jobs: JobTable
    free_blocks: int
    busy_for_s: float = 0.0  # how much longer the iteration in flight takes
    running_for_s: float = 0.0  # how long ago it began, or the latest that is known of
    # How long ago the latest iteration that is known of has ended: what has been chosen since then is not known.
    overdue_s: float = 0.0
    cached: Cached = NOT_CACHED  # of this arrival's prompt (`planner.prefixes`)
    patience: Patience = msgspec.field(default_factory=Patience)  # of the latest arrivals there
    firm_tokens: float = math.inf  # prompt tokens left, per unit of weight, up to which a request is promised its SLO
    waiting: tuple[int, int, int, float] | None = None  # `waiting_load` of the jobs, where that is known already
    registered: HardwareProfile | None = None  # what it began with, where `profile` has what it learned since
    sent_s: float = -math.inf  # when whoever decides has last sent a request there


class Arrival(msgspec.Struct, frozen=True):
    """A request that wants a place, as it is known when that is decided."""

    request_id: str
    ttft_s: float  # what is left of the TTFT SLO from now; inf without one
    tpot_s: float  # inf without an SLO
    prompt_tokens: int  # the whole prompt
    output_tokens: int  # planning value
    weight: float = 1.0
    acceptance: float = 0.0
    switch_at: int = 0
    next_tpot_s: float = math.inf
    waited_s: float = 0.0  # since it came
    when_full: WhenFull = "best-effort"
    stated: bool = False  # its client said the numbers of its SLO, rather than its class
    sequences: int = 1  # outputs that it wants of one prompt
    prompt_is_exact: bool = False  # `prompt_tokens` were counted, not estimated
    derived: bool = False  # its pace follows from lengths that are only planned for: it may be out of reach, or not
    relative: bool = False  # its TTFT SLO is a multiple of a zero-load TTFT that nobody knows
    whole_s: float = math.inf  # what is left of the SLO for the whole answer from now
    fewest_tokens: int = 1  # that the answer will have
    longest_tokens: int = 0  # of several prompts, each of which has its own window; 0: there is one

    @property
    def at_once(self) -> bool:
        """Whether it is promised its SLO now or never: the alternative is a refusal."""
        return self.when_full != "best-effort"

    @property
    def strictest_s(self) -> float:
        """The tightest TPOT SLO it will ever be under."""
        return min(self.tpot_s, self.next_tpot_s)

    @property
    def has_slo(self) -> bool:
        return self.ttft_s < math.inf or self.tpot_s < math.inf

    @property
    def promisable(self) -> bool:
        """Whether it can be promised its SLO, now or later: the plan counts each request as one sequence."""
        return self.has_slo and self.sequences == 1


Ranking: TypeAlias = Callable[[Arrival, Sequence[ReplicaState], float], list[int]]


class Decision(msgspec.Struct, frozen=True):
    """Where an arrival goes and what it was promised."""

    replica: int
    guaranteed: bool
    predicted_ttft_s: float
    reason: str
    retry_after_s: float | None  # when a guarantee could be possible; None when it was given or never will be
    preempt: tuple[str, ...] = ()  # best-effort requests that must make room


def soonest(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    """The numbers of the replicas by what the request would cost there: `expected_ttft_s`, for those that look best."""
    order = promising(arrival, replicas)
    costs = {n: expected_ttft_s(arrival, replicas[n]) for n in order[:LOOKED_AT]}
    return sorted(costs, key=costs.__getitem__) + order[LOOKED_AT:]


def promising(arrival: Arrival, replicas: Sequence[ReplicaState]) -> list[int]:
    """The numbers of the replicas by about how long the work there takes: what tells most of them apart cheaply.

    A line instead of the performance model: what a prompt token, a decode and its context add where prompts are long.
    """
    if len(replicas) <= LOOKED_AT:
        return list(range(len(replicas)))
    line = {replica.profile: _line(replica.profile) for replica in replicas}
    busy_s = []
    for replica in replicas:
        queued, decodes, context, _ = replica.waiting or waiting_load(replica.jobs.rows)
        token_s, decode_s, context_s = line[replica.profile]
        own = arrival.prompt_tokens - replica.cached.likely
        busy_s.append(replica.busy_for_s + token_s * (queued + own) + decode_s * decodes + context_s * context)
    return sorted(range(len(replicas)), key=busy_s.__getitem__)


@lru_cache(maxsize=256)
def _line(profile: HardwareProfile) -> tuple[float, float, float]:
    """Seconds for a prompt token, a decode, and a token of its context, by the term that bounds large prefills."""
    big = max(profile.perf.terms, key=lambda term: term.per_new_token_s + term.per_context_token_s)
    token_s = big.per_new_token_s + big.per_context_token_s
    return token_s, token_s + big.per_sequence_s, big.per_context_token_s


def place(
    arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float, *, hop_limit: int | None = None,
    ranking: Ranking = soonest,
) -> Decision:  # fmt: skip
    """Route and admit in one call. Raises ValueError without replicas.

    Replicas are asked in the order of the ranking; the first that can guarantee it, with all it has guaranteed already,
    takes it, with a promise if that costs no other anything. After `hop_limit` of them it is best effort on the first
    that could meet its SLO.
    """
    if not replicas:
        raise ValueError("no replica to place the request on")
    order = ranking(arrival, replicas, now_s)
    if not arrival.has_slo:
        return _best_effort(arrival, order[0], replicas, "no SLO was asked for")
    fitting = (i for i in order if possible(arrival, replicas[i].profile))
    first = next(fitting, -1)
    if first < 0:
        return _best_effort(arrival, order[0], replicas, "no replica could meet this SLO even if it were idle")
    for i in islice(chain([first], fitting), hop_limit):
        replica = claimed(replicas[i])
        own = arrival.prompt_tokens - replica.cached.sure
        if soonest_s(replica, own, replica.cached.sure) > arrival.ttft_s:
            continue
        judged, room = judged_with_room(with_arrival(arrival, replica, now_s), replica, now_s)
        if judged.kept:
            unreached = math.isinf(judged.first_s)
            first_s = expected_ttft_s(arrival, replicas[i]) if unreached else judged.first_s - now_s
            predicted_s = float(min(first_s, arrival.ttft_s))
            if not arrival.at_once and own > replica.firm_tokens * arrival.weight:
                return Decision(i, False, predicted_s, "fits, but shorter prompts may come first", None)
            return Decision(i, True, predicted_s, "fits", None, room)
    found = _best_effort(arrival, first, replicas, "no replica can guarantee it now")
    return replace(found, retry_after_s=max(SHORTEST_RETRY_S, found.predicted_ttft_s - arrival.ttft_s))


def _best_effort(arrival: Arrival, number: int, replicas: Sequence[ReplicaState], reason: str) -> Decision:
    return Decision(number, False, expected_ttft_s(arrival, replicas[number]), reason, None)


def possible(arrival: Arrival, profile: HardwareProfile) -> bool:
    """Whether an idle replica could hold the request and meet its SLO."""
    tokens = arrival.prompt_tokens + arrival.output_tokens
    fits = tokens <= profile.max_model_tokens and profile.blocks_for(tokens) <= profile.kv_blocks
    return fits and profile.perf.iteration_s(1, tokens, 1) <= arrival.strictest_s


def expected_ttft_s(arrival: Arrival, replica: ReplicaState) -> float:
    """What a request costs there: prefill work queued there and our own, beside one step of its decodes."""
    own = max(1, arrival.prompt_tokens - replica.cached.likely)
    queued, decodes, context, pairs = replica.waiting or waiting_load(replica.jobs.rows)
    perf = replica.profile.perf
    step_s = perf.iteration_s(decodes, context + decodes, decodes) if decodes else 0.0
    attended = queued + own + replica.cached.likely
    pairs += pairs_of(replica.cached.likely, own)
    work_s = replica.profile.request_overhead_s + perf.iteration_s(queued + own, attended, 1, 0, pairs)
    return float(replica.busy_for_s + step_s + work_s)


def claimed(replica: ReplicaState) -> ReplicaState:
    """The replica once the arrival has taken what is cached of its prompt: those blocks are free before, not after."""
    if not replica.cached.sure:
        return replica
    return replace(replica, free_blocks=replica.free_blocks - replica.profile.blocks_for(replica.cached.sure))


def soonest_s(replica: ReplicaState, prompt_tokens: int, cached_tokens: int = 0) -> float:
    """The least TTFT of an arrival there, behind the iteration in flight alone."""
    profile = replica.profile
    behind_s = max(replica.busy_for_s, profile.request_overhead_s) + profile.perf.chunk_s(prompt_tokens, cached_tokens)
    return max(behind_s, profile.soonest_s(prompt_tokens, cached_tokens))


def judged_with_room(rows: Jobs, replica: ReplicaState, now_s: float) -> tuple[Judgement, tuple[str, ...]]:
    """What becomes of the arrival in the last row, and the best effort that must make room for it."""
    machine, delays = machine_of(replica.profile), delays_of(replica.profile)
    judged = judge(rows, machine, delays, replica.patience.latest_s, moment_of(replica, now_s))
    if judged.short_blocks <= 0:
        return judged, ()
    room = make_room(rows, replica)
    candidate = np.zeros(len(rows), np.bool_)
    candidate[-1] = True
    sure, first_s = rehearsed(rows, candidate, replica, now_s, room)
    return Judgement(0, bool(sure[-1]), float(first_s[-1])), room


def moment_of(replica: ReplicaState, now_s: float) -> Moment:
    overdue_s = min(replica.overdue_s, LONGEST_OVERDUE_S)
    return Moment(now_s, replica.busy_for_s, replica.running_for_s, overdue_s, replica.free_blocks)


def rehearsed(
    rows: Jobs, candidate: Bools, replica: ReplicaState, now_s: float, preempt: Sequence[str] = ()
) -> tuple[Bools, NDArray[np.float64]]:
    """(candidates whose promise would be kept and break no other, when first tokens would come), per row."""
    free_blocks = replica.free_blocks
    if preempt:
        rows = rows.copy()
    for row in [replica.jobs.row_of(job_id) for job_id in preempt]:
        free_blocks += replica.profile.blocks_for(int(rows["context"][row]))
        rows["context"][row] = 0
        rows["held"][row] = True
    machine, delays = machine_of(replica.profile), delays_of(replica.profile)
    moment = moment_of(replica, now_s)._replace(free_blocks=free_blocks)
    found: tuple[Bools, NDArray[np.float64]] = keeping_promises(
        rows, candidate, machine, delays, replica.patience.latest_s, moment
    )
    return found


@compiled
def waiting_load(jobs: Jobs) -> tuple[int, int, int, float]:
    """(prompt tokens still to be computed, sequences that decode, their context, pairs of the prompts)."""
    queued, decodes, context, pairs = 0, 0, 0, 0.0
    for row in range(len(jobs)):
        queued += jobs[row].prompt_left
        pairs += pairs_of(jobs[row].context, jobs[row].prompt_left)
        if jobs[row].prompt_left == 0:
            decodes += 1
            context += jobs[row].context
    return queued, decodes, context, pairs


def with_arrival(arrival: Arrival, replica: ReplicaState, now_s: float) -> Jobs:
    """The replica's jobs and, in the last row, the arrival as a best-effort prefill of what is not cached for sure."""
    jobs = replica.jobs.rows
    rows = np.empty(len(jobs) + 1, jobs.dtype)
    rows[:-1] = jobs
    describe(
        rows, len(jobs), deadline_s=now_s + arrival.ttft_s, tpot_s=arrival.tpot_s, weight=arrival.weight,
        acceptance=arrival.acceptance, prompt_left=arrival.prompt_tokens - replica.cached.sure,
        context=replica.cached.sure, output=arrival.output_tokens,
        switch_at=arrival.switch_at, next_tpot_s=arrival.next_tpot_s, guaranteed=False, arrival_s=now_s,
    )  # fmt: skip
    return rows


def admitted(rows: Jobs, candidate: NDArray[np.bool_], replica: ReplicaState, now_s: float) -> Admission:
    """The admission DP for one replica, from the end of the iteration in flight."""
    return admit(rows, candidate, replica.profile, now_s + replica.busy_for_s, replica.free_blocks)


def make_room(rows: Jobs, replica: ReplicaState) -> tuple[str, ...]:
    """Best effort that must give its memory back, so that every guaranteed prefill and the last row can start.

    In the order of `planner.memory`; none when even all of them would not be enough.
    """
    profile, ids = replica.profile, replica.jobs.ids
    short = blocks_short(rows, len(ids), profile.block_tokens, replica.free_blocks)
    if short <= 0:
        return ()
    spared = rows["guaranteed"].copy()
    spared[len(ids) :] = True  # the last row, where it is no job yet
    victims: list[str] = []
    while short > 0:
        row = first_to_yield(rows, spared)
        if row < 0:
            return ()
        spared[row] = True
        victims.append(ids[row])
        short -= profile.blocks_for(int(rows["context"][row]))
    return tuple(victims)


def promote(state: ReplicaState, now_s: float) -> tuple[str, ...]:
    """Best-effort requests that can be guaranteed from now on without harm to a guarantee.

    Those whose first token came in time hold their memory already, and are promised the others while they are not
    behind and all decodes can keep their pace; those that wait, by deadline, if they are admitted and rehearsed.
    """
    rows = state.jobs.rows
    hopeful = ~rows["guaranteed"] & ~rows["held"] & rows["has_slo"] & (rows["deadline_s"] < math.inf)
    begun = hopeful & (rows["prompt_left"] == 0)
    for row in np.flatnonzero(begun):
        on_pace = now_s + state.busy_for_s <= token_due_s(rows[row], int(rows["generated"][row]))
        begun[row] = on_pace and as_planned(rows[row])
    if begun.any() and not sustained(state, now_s):
        begun[:] = False
    waiting = hopeful & (rows["prompt_left"] > 0) & (rows["deadline_s"] > now_s) & (rows["generated"] == 0)
    waiting &= rows["prompt_left"] <= state.firm_tokens * rows["weight"]
    for row in np.flatnonzero(waiting):
        waiting[row] = now_s + soonest_s(state, int(rows["prompt_left"][row])) <= rows["deadline_s"][row]
    accepted = _admissible(state, waiting, now_s)
    if accepted.any():
        accepted &= rehearsed(rows, accepted | begun, state, now_s)[0]
    return tuple(state.jobs.ids[row] for row in np.flatnonzero(begun | accepted))


def sustained(state: ReplicaState, now_s: float) -> bool:
    """Whether the decodes of the promised, and of those whose first token came in time, can keep their pace."""
    rows = state.jobs.rows
    none = np.zeros(len(rows), np.bool_)
    found = problems(rows, none, state.profile, now_s + state.busy_for_s, state.free_blocks)
    return found[0].load_left >= 0.0


def _admissible(state: ReplicaState, waiting: NDArray[np.bool_], now_s: float) -> NDArray[np.bool_]:
    """Which of the rows that wait are admitted; those with the first deadlines are examined."""
    rows = state.jobs.rows
    candidates = np.flatnonzero(waiting)
    candidate = np.zeros(len(rows), np.bool_)
    if not candidates.size:
        return candidate
    candidate[candidates[np.argsort(rows["deadline_s"][candidates], kind="stable")][:PROMOTION_LIMIT]] = True
    return admitted(rows, candidate, state, now_s).accepted


def plan_replica(state: ReplicaState, now_s: float, *, horizon_s: float) -> ReplicaPlan:
    """The next iterations of a replica, from the end of the one in flight."""
    rows, ids = state.jobs.rows, state.jobs.ids
    begins_s = now_s + state.busy_for_s
    rolled = roll_forward(
        rows.copy(), machine_of(state.profile), begins_s, state.free_blocks, state.patience.latest_s,
        begins_s + horizon_s, MOST_PLANNED,
    )  # fmt: skip
    tiers: list[dict[float, int]] = [{} for _ in rolled.new_tokens]
    for iteration, tpot_s, drafts in rolled.tiers.tolist():
        tiers[int(iteration)][tpot_s] = int(drafts)
    prefill: list[list[tuple[str, int]]] = [[] for _ in rolled.new_tokens]
    for iteration, row, tokens in rolled.prefill.tolist():
        prefill[iteration].append((ids[row], tokens))
    horizon = (
        PlannedIteration(
            token_budget=new_tokens,
            duration_s=duration_s,
            speculation=tuple(sorted(tiers[n].items())),
            prefill=tuple(prefill[n]),
        )
        for n, (new_tokens, duration_s) in enumerate(
            zip(rolled.new_tokens.tolist(), rolled.duration_s.tolist(), strict=True)
        )
    )
    return ReplicaPlan(tuple(horizon), make_room(rows, state))
