"""The plan follower: what a replica runs next, by the gateway's plan or, without one, by the same planner code.

Simulator and vLLM plug-in share it. It keeps the replica's jobs in one table. Its engine tells it of arrivals, ends,
preemptions and progress, and asks `to_preempt` and `next_batch` before each iteration. No I/O, no clock, no threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.engines.announced import Announced
from slosgate.engines.messages import (
    Announcement,
    IterationReport,
    Plan,
    PlannedIteration,
    RequestProgress,
    SloArgs,
)
from slosgate.engines.passage import Passage
from slosgate.planner.arrivals import Next, Patience, bearable_s
from slosgate.planner.batch import Batch
from slosgate.planner.controller import ReplicaState
from slosgate.planner.desk import ALONE, run_next
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.launching import BEYOND, CAPTURED, kind_of, prefill_kind
from slosgate.planner.lengths import LengthHistogram, firm_tokens, for_its_weight
from slosgate.planner.machine import coefficients, delays_of
from slosgate.planner.memory import first_to_yield, recompute, yielding
from slosgate.planner.obeying import decoding, weigh
from slosgate.planner.pace import thought
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.progress import Progress as Progress
from slosgate.planner.slack import next_batch

Recalibration = Callable[[IterationReport], PerfModel | None]
Rule = Callable[[Jobs, HardwareProfile, float, int, NDArray[np.float64], float], Batch]
"""Chooses an iteration as `slack.next_batch`: jobs, profile, now, free KV blocks, patience of the latest arrivals, and
how much longer the device is busy."""

UNPLANNED_S = 3.0  # without a plan for this long, the follower plans for itself
ALONE_EVERY_S = 0.25
SETTLED = 64  # iterations without a better model, after which a replica counts as running as planned
RESTARTED_AFTER_S = 5.0  # a lower epoch that was issued this much later comes from a counter that began anew


class PlanFollower:
    """Owns the job table of one replica.

    `table` may be written to directly by an engine that keeps its own count of progress. `recalibrate` sees every
    iteration that `record` is told of and may return a better performance model. `rule` stands in for the slack rule.
    """

    def __init__(
        self, profile: HardwareProfile, recalibrate: Recalibration | None = None, rule: Rule = next_batch
    ) -> None:
        self.profile = profile
        self.table = JobTable()
        self.patience = Patience()  # of what arrived here
        self.plan: Plan | None = None
        self._recalibrate = recalibrate
        self._rule = rule
        self._registered = profile.perf
        self._as_planned = 0  # iterations since the model last changed
        self._prompts = LengthHistogram()  # of what arrived here
        self._horizon: list[PlannedIteration] = []  # what is left of the plan's, next one last
        self._preempt: set[str] = set()  # ordered by the plan and not yet done
        self._held: set[str] = set()  # by the newest orders
        self._promoted: set[str] = set()
        self._plan_is_news = True
        self._planned_s = 0.0  # when this follower plans for itself, unless a plan comes before
        self._foreseen: tuple[float, int, Batch] | None = None  # what was chosen already: when, with what
        self._announced = Announced()
        self._passage = Passage(profile.request_overhead_s)

    @property
    def epoch(self) -> int:
        """Epoch of the newest plan taken, 0 before the first."""
        return self.plan.epoch if self.plan else 0

    def add(
        self,
        slo: SloArgs,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        max_tokens: int,
        now_s: float,
        seen_s: float | None = None,
    ) -> None:
        """A request that arrived at `now_s` has come through the front end at `seen_s`, if that is not the same.

        Raises ValueError when its id is already here.
        """
        self._foreseen = None
        announced_s = self._announced.arrived(slo.slo_id)
        seen_s = now_s if seen_s is None else seen_s
        if announced_s is not None and self._passage.took(seen_s - announced_s, seen_s):
            self.profile = msgspec.structs.replace(self.profile, request_overhead_s=self._passage.s)
        add_job(self.table, slo, prompt_tokens, cached_tokens, max_tokens, now_s)
        self.patience.observe(_seconds(slo.slo_ttft_ms), prompt_tokens - cached_tokens, self.profile)
        job = self.table[slo.slo_id]
        if job["has_slo"]:
            self._prompts = self._prompts.observe(for_its_weight(prompt_tokens - cached_tokens, slo.slo_weight))
        # A plan may overtake the request that it speaks of.
        job["guaranteed"] |= slo.slo_id in self._promoted
        job["held"] = slo.slo_id in self._held and not job["guaranteed"]

    def remove(self, job_id: str) -> None:
        """A request has ended or was cancelled. Raises KeyError for an unknown id."""
        self._foreseen = None
        self.table.remove(job_id)
        self._preempt.discard(job_id)

    def preempted(self, job_id: str) -> None:
        """The engine took a job's KV away; all it had is to be computed again."""
        self._foreseen = None
        recompute(self.table.rows, self.table.row_of(job_id))
        self._preempt.discard(job_id)

    def apply(self, plan: Plan) -> bool:
        """Take a plan from the next iteration on; False for one that is older than what is being followed."""
        if self.plan and plan.epoch <= self.plan.epoch and plan.issued_at_s < self.plan.issued_at_s + RESTARTED_AFTER_S:
            return False
        self.plan = plan
        self._plan_is_news = True
        self._obey(plan)
        return True

    def to_preempt(self, free_blocks: int) -> list[str]:
        """Jobs whose KV the engine must take away before the next iteration, telling `preempted` of each.

        Those the plan names, then as many as it takes for every decode to find a block (`planner.memory`).
        """
        if not self._preempt and free_blocks >= len(self.table):  # a decode asks for one block at most
            return []
        rows, gone = self.table.rows, np.zeros(len(self.table), np.bool_)
        ordered = [job_id for job_id in self._preempt if self.table[job_id]["context"] > 0]
        gone[self._rows_of(ordered)] = True
        free_blocks += sum(self.profile.blocks_for(tokens) for tokens in rows["context"][gone].tolist())
        more = yielding(rows, gone, self.profile.block_tokens, free_blocks)
        return ordered + [self.table.ids[row] for row in more.tolist()]

    def next_batch(self, now_s: float, free_blocks: int, within_s: float = math.inf) -> Batch:
        """What to run now: the plan's next iteration while it is safe and fits what is here, else the slack rule.

        `within_s`: how much longer the device is busy.
        """
        self._plan_alone(now_s, free_blocks)
        if self._horizon:
            batch = self._planned(self._horizon.pop(), now_s, free_blocks)
            if batch is not None and self._launches_within(batch, within_s):
                return batch
            self._horizon.clear()
        foreseen, self._foreseen = self._foreseen, None
        if (
            foreseen is not None
            and foreseen[:2] == (now_s, free_blocks)
            and self._launches_within(foreseen[2], within_s)
        ):
            return foreseen[2]
        return self._by_rule(now_s, free_blocks, within_s)

    def announce(self, coming: Announcement, admitted_s: float) -> None:
        """A request is on its way here since then."""
        if coming.request_id not in self.table:
            self._announced.add(coming, admitted_s, self.profile)
            if coming.request_id in self._promoted:  # a plan that was here sooner says so
                self._announced.promise({coming.request_id})

    def awaits(self, start_s: float, free_blocks: int) -> bool:
        """Whether to choose the next iteration only when the one in flight has ended, at `start_s`.

        So it is when an announced request can't wait for that iteration.

        If not, a `next_batch` at `start_s` need not choose again what was chosen here.
        """
        if not self._announced or self._awaited_s(start_s, start_s, free_blocks) == -math.inf:
            return False
        self._foreseen = None
        return True

    def rests_until_s(self, now_s: float, start_s: float, free_blocks: int) -> float:
        """Until when to run nothing, of what could start at `start_s`: an announced request may not be able to wait.

        When that is `now_s`, a `next_batch` at `start_s` need not choose again what was chosen here.
        """
        if not self._announced:
            return now_s
        return max(now_s, self._awaited_s(now_s, start_s, free_blocks))

    def lead_s(self, start_s: float, free_blocks: int) -> float:
        """How long before an iteration that could start at `start_s` it is to be chosen, by the kind it would be."""
        return float(delays_of(self.profile).lead_s[self.next_kind(start_s, free_blocks)])

    def next_kind(self, start_s: float, free_blocks: int) -> int:
        """The kind of iteration (`planner.launching`) that would start then.

        Never DECODES: what arrives until it is chosen brings a prompt, and the device would wait for its launch.
        """
        if self.profile.launches is None:
            return CAPTURED
        captured_tokens = self.profile.launches.captured_tokens
        if self._horizon:
            return int(prefill_kind(self._horizon[-1].token_budget, captured_tokens))
        batch = self._foreseen_batch(start_s, free_blocks)
        return max(CAPTURED, kind_of(batch.decode, batch.drafts, batch.tokens, captured_tokens))

    def _foreseen_batch(self, start_s: float, free_blocks: int) -> Batch:
        if self._foreseen is None or self._foreseen[:2] != (start_s, free_blocks):
            self._foreseen = (start_s, free_blocks, self._by_rule(start_s, free_blocks))
        return self._foreseen[2]

    def _foresee(self, start_s: float, free_blocks: int) -> float:
        """How long what would start then takes."""
        return self._horizon[-1].duration_s if self._horizon else self._foreseen_batch(start_s, free_blocks).duration_s

    def _awaited_s(self, free_s: float, start_s: float, free_blocks: int) -> float:
        """When everything is here that is awaited instead of starting an iteration at `start_s`; -inf for nothing.

        The device is free at `free_s`.
        """
        next_s = self._foresee(start_s, free_blocks)
        until_s = float(bearable_s(self.table.rows, coefficients(self.profile.perf), start_s, next_s))
        return self._announced.awaited_s(Next(free_s, start_s, next_s, until_s), self.profile.decide_s)

    def _by_rule(self, now_s: float, free_blocks: int, within_s: float = math.inf) -> Batch:
        return self._rule(self.table.rows, self.profile, now_s, free_blocks, self.patience.latest_s, within_s)

    def _launches_within(self, batch: Batch, within_s: float) -> bool:
        """Whether the device need not wait for the batch, so that no smaller one can be better."""
        launches = self.profile.launches
        if launches is None:
            return True
        kind = kind_of(batch.decode, batch.drafts, batch.tokens, launches.captured_tokens)
        return kind < BEYOND or launches.beyond_s <= within_s

    def undisturbed_s(self) -> float:
        """Until when `next_batch` is the slack rule and nothing else, if no plan comes; -inf: it isn't."""
        learns = self._recalibrate is not None and self._as_planned < SETTLED
        if self._horizon or self._preempt or self._plan_is_news or learns:
            return -math.inf
        return self._planned_s

    def stuck(self) -> str | None:
        """What to preempt when `next_batch` found nothing although jobs wait; None when nothing has KV."""
        rows = self.table.rows
        if rows["held"].all():
            return None
        victim = first_to_yield(rows, np.zeros(len(rows), np.bool_))
        return self.table.ids[victim] if victim >= 0 else None

    def record(self, progress: Progress, end_s: float, report: IterationReport | None = None) -> None:
        """An iteration ended at `end_s`."""
        self._foreseen = None
        progress.apply(self.table, end_s)
        if report is not None:
            self.learn(report)

    def thought(self, job_id: str, tokens: int) -> None:
        """A job's thinking has ended with so many output tokens; 0: it doesn't think. Raises KeyError."""
        self._foreseen = None
        thought(self.table[job_id], tokens)

    def plan_with(self, profile: HardwareProfile, recalibrate: Recalibration | None) -> None:
        """Plan with another profile from now on, and recalibrate that one."""
        self.profile, self._registered, self._recalibrate = profile, profile.perf, recalibrate
        self._passage = Passage(profile.request_overhead_s)

    def moved_on(self) -> None:
        """The engine has written into the table: what was foreseen may not hold."""
        self._foreseen = None

    def learn(self, report: IterationReport) -> None:
        """An iteration took so long: plan with a better model from now on, if that shows one."""
        if self._recalibrate is None:
            return
        self._as_planned += 1
        model = self._recalibrate(report)
        if model is not None:
            self._as_planned = 0
            self.profile = msgspec.structs.replace(self.profile, perf=model)

    @property
    def recalibrated(self) -> PerfModel | None:
        """The model it plans with, where that is not the one it began with."""
        return None if self.profile.perf is self._registered else self.profile.perf

    def _plan_alone(self, now_s: float, free_blocks: int) -> None:
        """Do what a gateway would, when there is best effort to promote or hold and no plan has come for a while."""
        if self._plan_is_news:
            self._plan_is_news, self._planned_s = False, now_s + UNPLANNED_S
        if now_s < self._planned_s:
            return
        self._planned_s = now_s + ALONE_EVERY_S
        if self.table.rows["guaranteed"].all():
            return
        state = ReplicaState(
            "", self.profile, self.table, free_blocks, patience=self.patience, firm_tokens=firm_tokens(self._prompts)
        )
        orders = run_next(state, now_s, ALONE)
        self._obey(
            Plan(
                replica="",
                epoch=self.epoch,
                issued_at_s=now_s,
                guaranteed=orders.promoted,
                preempt=orders.plan.preempt,
            )
        )

    def _obey(self, plan: Plan) -> None:
        self._foreseen = None
        self._horizon = list(reversed(plan.horizon))
        rows = self.table.rows
        self._held, self._promoted = {*plan.hold, *plan.preempt}, set(plan.guaranteed)
        self._announced.promise(self._promoted)
        rows["guaranteed"][self._rows_of(self._promoted)] = True
        rows["held"] = False
        rows["held"][self._rows_of(self._held)] = True
        rows["held"] &= ~rows["guaranteed"]
        self._preempt = {job_id for job_id in plan.preempt if job_id in self.table and self.table[job_id]["held"]}

    def _rows_of(self, job_ids: Iterable[str]) -> list[int]:
        """The rows of those that are here."""
        return [self.table.row_of(job_id) for job_id in job_ids if job_id in self.table]

    def _planned(self, planned: PlannedIteration, now_s: float, free_blocks: int) -> Batch | None:
        """The planned iteration as a batch; None when it names what is not here, is too large or would come late."""
        rows = self.table.rows
        ids = [job_id for job_id, _ in planned.prefill]
        if any(job_id not in self.table for job_id in ids):
            return None
        prefill = np.array([self.table.row_of(job_id) for job_id in ids], dtype=np.int64)
        tokens = np.array([count for _, count in planned.prefill], dtype=np.int64)
        if (rows["prompt_left"][prefill] < tokens).any() or rows["held"][prefill].any():
            return None
        decode, drafts = decoding(rows, _tiers(planned), self.profile.max_drafts)
        weight = weigh(rows, decode, drafts, prefill, tokens, self.profile.block_tokens, now_s)
        load = weight.load
        if not load.new or load.new > planned.token_budget or weight.blocks > free_blocks:
            return None
        duration_s = self.profile.perf.iteration_s(load.new, load.context, load.sequences, load.drafts, load.pairs)
        if duration_s > max(weight.slack_s, 0.0):
            return None
        return Batch(decode=decode, drafts=drafts, prefill=prefill, tokens=tokens, duration_s=duration_s)


def add_job(
    table: JobTable, slo: SloArgs, prompt_tokens: int, cached_tokens: int, max_tokens: int, arrival_s: float
) -> None:
    """Add a request to a table as the planner sees it. Raises ValueError when its id is already there."""
    table.add(
        slo.slo_id,
        deadline_s=arrival_s + _seconds(slo.slo_ttft_ms),
        tpot_s=_seconds(slo.slo_tpot_ms),
        prompt_left=prompt_tokens - cached_tokens,
        context=cached_tokens,
        output=min(slo.slo_output_tokens or max_tokens, max_tokens),
        guaranteed=bool(slo.slo_guaranteed) and slo.slo_ttft_ms is not None,
        has_slo=bool(slo.slo_promises) and slo.slo_ttft_ms is not None,
        weight=slo.slo_weight,
        acceptance=slo.slo_acceptance,
        switch_at=slo.slo_switch_at,
        next_tpot_s=_seconds(slo.slo_next_tpot_ms),
        arrival_s=arrival_s,
    )


def progress_of(table: JobTable) -> tuple[RequestProgress, ...]:
    """Where every job of a table stands."""
    rows = table.rows
    names = ("prompt_left", "context", "generated", "due_base_s", "guaranteed", "switch_at")
    columns = (rows[name].tolist() for name in names)
    return tuple(RequestProgress(*fields) for fields in zip(table.ids, *columns, strict=True))


def _seconds(milliseconds: float | None) -> float:
    return math.inf if milliseconds is None else milliseconds / 1e3


def _tiers(planned: PlannedIteration) -> NDArray[np.float64]:
    """Shape (tiers, 2): TPOT, draft tokens."""
    return np.array(planned.speculation, dtype=np.float64).reshape(-1, 2)
