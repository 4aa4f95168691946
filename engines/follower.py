"""The plan follower: what a replica runs next, by the gateway's plan or, without one, by the same planner code.

Simulator and vLLM plug-in share it. It keeps the replica's jobs in one table; its engine tells it of arrivals, ends,
preemptions and progress, and asks `to_preempt` and `next_batch` before each iteration. No I/O, no clock, no threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.engines.messages import (
    Announcement,
    DraftReport,
    IterationReport,
    Plan,
    PlannedIteration,
    RequestProgress,
    SloArgs,
    Telemetry,
)
from slosgate.planner.batch import Batch
from slosgate.planner.commitment import Patience, awaited
from slosgate.planner.compiling import compiled
from slosgate.planner.controller import ReplicaState
from slosgate.planner.desk import ALONE, run_next
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.kernels import tier_s, token_due_s
from slosgate.planner.lengths import LengthHistogram, firm_tokens
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.slack import next_batch

Recalibration = Callable[[IterationReport], PerfModel | None]

PATIENCE_S = 3.0  # without a plan for this long, the follower plans for itself
ALONE_EVERY_S = 0.25
LOST_S = 0.1  # whoever is announced and so much late does not come any more
SETTLED = 64  # iterations without a better model, after which a replica counts as running as planned
RESTARTED_AFTER_S = 5.0  # a lower epoch that was issued this much later comes from a counter that began anew


class _Announced(NamedTuple):
    """A request that is on its way here."""

    ready_s: float  # when it should be here
    latest_s: float  # when it must run at the latest


@dataclass(frozen=True, slots=True)
class Progress:
    """What one iteration did to rows of the table; arrays of one length, and no row twice."""

    rows: NDArray[np.int64]
    computed: NDArray[np.int64]  # tokens of context gained
    prompt: NDArray[np.int64]  # prompt tokens among them
    emitted: NDArray[np.int64]  # output tokens

    def apply(self, table: JobTable, end_s: float) -> None:
        """Write it into a table; the iteration ended at `end_s`."""
        advance(table.rows, self.rows, self.computed, self.prompt, self.emitted, end_s)


class PlanFollower:
    """Owns the job table of one replica.

    `table` may be written to directly by an engine that keeps its own count of progress. `recalibrate` sees every
    iteration that `record` is told of and may return a better performance model.
    """

    def __init__(self, profile: HardwareProfile, recalibrate: Recalibration | None = None) -> None:
        self.profile = profile
        self.table = JobTable()
        self.patience = Patience()  # of who arrived here
        self.plan: Plan | None = None
        self._recalibrate = recalibrate
        self._registered = profile.perf
        self._as_planned = 0  # iterations since the model last changed
        self._prompts = LengthHistogram()  # of who arrived here
        self._horizon: list[PlannedIteration] = []  # what is left of the plan's, next one last
        self._preempt: set[str] = set()  # ordered by the plan and not yet done
        self._held: set[str] = set()  # by the newest orders
        self._promoted: set[str] = set()
        self._plan_is_news = True
        self._planned_s = 0.0  # when this follower plans for itself, unless a plan comes before
        self._foreseen: tuple[float, int, Batch] | None = None  # what was chosen already: when, with what
        self._announced: dict[str, _Announced] = {}

    @property
    def epoch(self) -> int:
        """Epoch of the newest plan taken, 0 before the first."""
        return self.plan.epoch if self.plan else 0

    def add(self, slo: SloArgs, *, prompt_tokens: int, cached_tokens: int, max_tokens: int, now_s: float) -> None:
        """A request has arrived. Raises ValueError when its id is already here."""
        self._foreseen = None
        self._announced.pop(slo.slo_id, None)
        add_job(self.table, slo, prompt_tokens, cached_tokens, max_tokens, now_s)
        self.patience.observe(_seconds(slo.slo_ttft_ms), prompt_tokens - cached_tokens, self.profile)
        self._prompts = self._prompts.observe(prompt_tokens)
        # A plan may overtake the request that it speaks of.
        job = self.table[slo.slo_id]
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
        job = self.table[job_id]
        # A decode's last token has no KV yet; it is computed again with the rest.
        job["prompt_left"] += job["context"] + (job["prompt_left"] == 0)
        job["context"] = 0
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

        Those the plan names, then as many as it takes for every decode to find a block: held ones first, then best
        effort, then guarantees; among equals the one whose first token was due last.
        """
        if not self._preempt and free_blocks >= len(self.table):  # a decode asks for one block at most
            return []
        rows, block = self.table.rows, self.profile.block_tokens
        victims = [job_id for job_id in self._preempt if self.table[job_id]["context"] > 0]
        free_blocks += sum(self.profile.blocks_for(int(self.table[job_id]["context"])) for job_id in victims)
        shortage = growth(rows, block) - free_blocks
        if shortage <= 0:
            return victims
        taken = {self.table.row_of(job_id) for job_id in victims}
        for row in np.lexsort((-rows["deadline_s"], rows["guaranteed"], ~rows["held"])).tolist():
            if shortage <= 0:
                break
            if row in taken or not rows["context"][row]:
                continue
            victims.append(self.table.ids[row])
            shortage -= self.profile.blocks_for(int(rows["context"][row])) + _grows(rows[row], block)
        return victims

    def next_batch(self, now_s: float, free_blocks: int) -> Batch:
        """What to run now: the plan's next iteration while it is safe and fits what is here, else the slack rule."""
        self._plan_alone(now_s, free_blocks)
        if self._horizon:
            batch = self._planned(self._horizon.pop(), now_s, free_blocks)
            if batch is not None:
                return batch
            self._horizon.clear()
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is not None and foreseen[:2] == (now_s, free_blocks):
            return foreseen[2]
        return self._by_rule(now_s, free_blocks)

    def announce(self, coming: Announcement, admitted_s: float) -> None:
        """A request is on its way here since then."""
        if coming.request_id not in self.table:
            own_s = self.profile.perf.iteration_s(coming.prompt_tokens, coming.prompt_tokens, 1)
            self._announced[coming.request_id] = _Announced(
                admitted_s + self.profile.request_overhead_s, admitted_s + coming.ttft_s - own_s
            )

    def awaits(self, start_s: float, free_blocks: int) -> bool:
        """Whether to choose the next iteration only when the one in flight has ended, at `start_s`: who is announced
        can't wait for it.

        If not, a `next_batch` at `start_s` need not choose again what was chosen here.
        """
        if not self._announced or self._awaited_s(start_s, self._foresee(start_s, free_blocks)) == -math.inf:
            return False
        self._foreseen = None
        return True

    def rests_until_s(self, now_s: float, start_s: float, free_blocks: int) -> float:
        """Until when to run nothing, of what could start at `start_s`, for who is announced and can't wait for it.

        When that is `now_s`, a `next_batch` at `start_s` need not choose again what was chosen here.
        """
        if not self._announced:
            return now_s
        return max(now_s, self._awaited_s(start_s, self._foresee(start_s, free_blocks)))

    def _foresee(self, start_s: float, free_blocks: int) -> float:
        """How long what would start then takes."""
        if self._horizon:
            return self._horizon[-1].duration_s
        if self._foreseen is None or self._foreseen[:2] != (start_s, free_blocks):
            self._foreseen = (start_s, free_blocks, self._by_rule(start_s, free_blocks))
        return self._foreseen[2].duration_s

    def _awaited_s(self, start_s: float, next_s: float) -> float:
        """When all are here who are awaited instead of starting an iteration of `next_s` at `start_s`; -inf: nobody."""
        self._announced = {
            job_id: a for job_id, a in self._announced.items() if start_s <= min(a.latest_s, a.ready_s + LOST_S)
        }
        decide_s = self.profile.decide_s
        ready_s = [
            announced.ready_s
            for announced in self._announced.values()
            if awaited(announced.ready_s, announced.latest_s, start_s, next_s, decide_s)
        ]
        return max(ready_s, default=-math.inf)

    def _by_rule(self, now_s: float, free_blocks: int) -> Batch:
        return next_batch(self.table.rows, self.profile, now_s, free_blocks, self.patience.latest_s)

    def undisturbed_s(self) -> float:
        """Until when `next_batch` is the slack rule and nothing else, if no plan comes; -inf: it isn't."""
        learns = self._recalibrate is not None and self._as_planned < SETTLED
        if self._horizon or self._preempt or self._plan_is_news or learns:
            return -math.inf
        return self._planned_s

    def stuck(self) -> str | None:
        """Whom to preempt when `next_batch` found nothing although jobs wait: the last of those with KV, or None."""
        rows = self.table.rows
        holders = np.flatnonzero(rows["context"] > 0)
        if not holders.size or not (~rows["held"]).any():
            return None
        order = np.lexsort((-rows["deadline_s"][holders], rows["guaranteed"][holders], ~rows["held"][holders]))
        return self.table.ids[int(holders[order[0]])]

    def record(self, progress: Progress, end_s: float, report: IterationReport | None = None) -> None:
        """An iteration ended at `end_s`."""
        self._foreseen = None
        progress.apply(self.table, end_s)
        if report is not None:
            self.learn(report)

    def learn(self, report: IterationReport) -> None:
        """An iteration took so long: plan with a better model from now on, if that shows one."""
        if self._recalibrate is None:
            return
        self._as_planned += 1
        model = self._recalibrate(report)
        if model is not None:
            self._as_planned = 0
            self.profile = msgspec.structs.replace(self.profile, perf=model)

    def progress(self) -> tuple[RequestProgress, ...]:
        """Where every job stands."""
        return progress_of(self.table)

    def telemetry(
        self,
        *,
        replica: str,
        sent_at_s: float,
        busy_for_s: float,
        kv_blocks_total: int,
        kv_blocks_free: int,
        iterations: tuple[IterationReport, ...] = (),
        drafts: tuple[DraftReport, ...] = (),
    ) -> Telemetry:
        """The replica's report."""
        return Telemetry(
            replica=replica,
            sent_at_s=sent_at_s,
            epoch=self.epoch,
            busy_for_s=busy_for_s,
            kv_blocks_total=kv_blocks_total,
            kv_blocks_free=kv_blocks_free,
            iterations=iterations,
            progress=self.progress(),
            drafts=drafts,
            perf=self.recalibrated,
        )

    @property
    def recalibrated(self) -> PerfModel | None:
        """The model it plans with, where that is not the one it began with."""
        return None if self.profile.perf is self._registered else self.profile.perf

    def _plan_alone(self, now_s: float, free_blocks: int) -> None:
        """Do what a gateway would, when there is best effort to promote or hold and no plan has come for a while."""
        if self._plan_is_news:
            self._plan_is_news, self._planned_s = False, now_s + PATIENCE_S
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
                hold=orders.plan.hold,
                preempt=orders.plan.preempt,
            )
        )

    def _obey(self, plan: Plan) -> None:
        self._foreseen = None
        self._horizon = list(reversed(plan.horizon))
        rows = self.table.rows
        self._held, self._promoted = {*plan.hold, *plan.preempt}, set(plan.guaranteed)
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
        new, context, steps, blocks, slack_s = weigh(
            rows, decode, drafts, prefill, tokens, self.profile.block_tokens, now_s
        )
        if not new or new > planned.token_budget or blocks > free_blocks:
            return None
        duration_s = self.profile.perf.iteration_s(new, context, len(decode) + len(prefill), steps)
        if duration_s > max(slack_s, 0.0):
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
        weight=slo.slo_weight,
        acceptance=slo.slo_acceptance,
        switch_at=slo.slo_switch_at,
        next_tpot_s=_seconds(slo.slo_next_tpot_ms),
        arrival_s=arrival_s,
    )


def progress_of(table: JobTable) -> tuple[RequestProgress, ...]:
    """Where every job of a table stands."""
    rows = table.rows
    columns = (rows[name].tolist() for name in ("prompt_left", "context", "generated", "due_base_s", "guaranteed"))
    return tuple(RequestProgress(*fields) for fields in zip(table.ids, *columns, strict=True))


def _seconds(milliseconds: float | None) -> float:
    return math.inf if milliseconds is None else milliseconds / 1e3


def _tiers(planned: PlannedIteration) -> NDArray[np.float64]:
    """Shape (tiers, 2): TPOT, draft tokens."""
    return np.array(planned.speculation, dtype=np.float64).reshape(-1, 2)


def _grows(job: np.void, block_tokens: int) -> int:
    return int(job["prompt_left"] == 0 and not job["held"] and job["context"] % block_tokens == 0)


@compiled
def growth(jobs: Jobs, block_tokens: int) -> int:
    """Blocks that one more token for every decode asks for."""
    blocks = 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.prompt_left == 0 and not job.held and job.context % block_tokens == 0:
            blocks += 1
    return blocks


@compiled
def decoding(jobs: Jobs, tiers: NDArray[np.float64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that decode when only the named tiers do, and the draft tokens of each, `most` at most."""
    rows = np.empty(len(jobs), np.int64)
    drafts = np.empty(len(jobs), np.int64)
    n = 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.prompt_left > 0 or job.held:
            continue
        tpot_s = tier_s(job)
        for i in range(len(tiers)):
            if tiers[i, 0] == tpot_s or abs(tiers[i, 0] - tpot_s) < 1e-6:
                rows[n], drafts[n] = row, min(most, int(tiers[i, 1]))
                n += 1
                break
    return rows[:n], drafts[:n]


@compiled
def weigh(
    jobs: Jobs,
    decode: NDArray[np.int64],
    drafts: NDArray[np.int64],
    prefill: NDArray[np.int64],
    tokens: NDArray[np.int64],
    block_tokens: int,
    now_s: float,
) -> tuple[int, int, int, int, float]:
    """(new tokens, context tokens, draft steps, blocks, tightest slack of any guarantee that is not yet lost)."""
    new, context, steps, blocks = 0, 0, 0, 0
    for i in range(len(decode)):
        held = jobs[decode[i]].context
        wanted = 1 + drafts[i]
        new += wanted
        context += held + wanted
        blocks += -(-(held + wanted) // block_tokens) - -(-held // block_tokens)
        steps = max(steps, drafts[i])
    for i in range(len(prefill)):
        held = jobs[prefill[i]].context
        new += tokens[i]
        context += held + tokens[i]
        blocks += -(-(held + tokens[i]) // block_tokens) - -(-held // block_tokens)
    slack_s = np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        if not job.guaranteed or job.held:
            continue
        due_s = job.deadline_s
        if job.prompt_left == 0:
            due_s = token_due_s(job, job.generated)
        if due_s > now_s:
            slack_s = min(slack_s, due_s - now_s)
    return new, context, steps, blocks, slack_s


@compiled
def advance(
    jobs: Jobs,
    rows: NDArray[np.int64],
    computed: NDArray[np.int64],
    prompt: NDArray[np.int64],
    emitted: NDArray[np.int64],
    end_s: float,
) -> None:
    """Write an iteration's progress; the first token sets the base of all later due times."""
    for i in range(len(rows)):
        job = jobs[rows[i]]
        job.context += computed[i]
        job.prompt_left -= prompt[i]
        if emitted[i] > 0 and job.generated == 0:
            job.due_base_s = end_s if job.deadline_s == np.inf else max(job.deadline_s, end_s)
        job.generated += emitted[i]
