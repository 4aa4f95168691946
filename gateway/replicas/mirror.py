"""What a gateway knows about one replica: its latest telemetry, and who was admitted there and isn't in it yet."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import msgspec
import numpy as np

from slosgate.engines.messages import RequestProgress, Telemetry
from slosgate.gateway.replicas.iterations import Iterations
from slosgate.gateway.state.records import LedgerEntry
from slosgate.planner.arrivals import Patience
from slosgate.planner.controller import waiting_load
from slosgate.planner.jobs import JobTable
from slosgate.planner.lengths import LengthHistogram, firm_tokens, for_its_weight
from slosgate.planner.pace import NOT_YET, thought
from slosgate.planner.profile import HardwareProfile

UNKNOWN_OUTPUT_TOKENS = 128  # what a request that bypassed the gateways is expected to generate yet
UNSEEN_S = 1.0  # a dispatched request that telemetry doesn't show for so long is not on the replica
FORGET_S = 2.0  # telemetry that is older than this no longer speaks of a request that ended here
LONGEST_LEAP = 1 << 32  # epochs that a replica may be ahead of what is known: more than it can have seen in a lifetime
WINDOW_S = 5.0  # over one or two of these it is told how far a replica's clock is ahead


def put(jobs: JobTable, entry: LedgerEntry) -> None:
    """Add a request that has just been admitted."""
    jobs.add(
        entry.request_id,
        deadline_s=entry.deadline_s,
        tpot_s=entry.tpot_s,
        prompt_left=entry.uncached_tokens,
        context=entry.prompt_tokens - entry.uncached_tokens,
        output=entry.output_tokens,
        guaranteed=entry.guaranteed,
        has_slo=entry.has_slo,
        weight=entry.weight,
        acceptance=entry.acceptance,
        arrival_s=entry.dispatched_s,
        switch_at=entry.switch_at,
        next_tpot_s=entry.next_tpot_s,
    )


class ClockDifference:
    """Our clock less a replica's, as far as its messages can tell: the shortest way here counts, of the latest ones, so
    that one bad message or a step of its clock is forgotten."""

    def __init__(self) -> None:
        self._began_s = -math.inf
        self._before = self._now = math.inf

    def observe(self, sent_at_s: float, now_s: float) -> float:
        """A message that was sent at `sent_at_s` has come; the difference, seconds."""
        if now_s - self._began_s > WINDOW_S:
            self._began_s, self._before, self._now = now_s, self._now, math.inf
        self._now = min(self._now, now_s - sent_at_s)
        return min(self._before, self._now)


class Mirror:
    """The jobs of one replica, as of now.

    A request is a job here from its admission on. Once telemetry has shown it, telemetry says where it stands, and
    its absence says that it is over; its ledger entry stays until its answer has ended at its gateway.
    """

    def __init__(self, profile: HardwareProfile) -> None:
        self.profile = profile
        self.registered = profile
        self.jobs = JobTable()
        self.entries: dict[str, LedgerEntry] = {}
        self.version = 0  # of the ledger: every guarantee up to it is known here
        self.epoch = 0  # newest plan that this gateway or the replica knows of
        self.free_blocks = profile.kv_blocks
        self.heard_s = -math.inf  # our clock, when the latest telemetry came
        self.report_s = -math.inf  # the replica's, when it left
        self.iterations = Iterations()
        self.followed = -1  # newest plan that the replica has had
        self.followed_s = math.inf  # our clock, when a report first told of it
        self.firm_tokens = math.inf  # see planner.controller.ReplicaState
        self.patience = Patience()  # the replica's, too
        self._prompts = LengthHistogram()  # of everyone who was sent here, by whichever gateway
        self._busy_for_s = 0.0
        self._difference = ClockDifference()
        self._clock_ahead_s = 0.0  # our clock less the replica's
        self._waiting: tuple[int, int, int, float] | None = None  # of the jobs as they are; None: to be counted anew
        self._shown: set[str] = set()  # ids that telemetry has shown
        self._ended: dict[str, float] = {}  # ids that ended here, and when

    def busy_for_s(self, now_s: float) -> float:
        """How much longer the iteration in flight is expected to take."""
        return max(0.0, self._busy_for_s - (now_s - self.heard_s))

    @property
    def waiting(self) -> tuple[int, int, int, float]:
        """What its jobs have to do (`planner.controller.waiting_load`), counted once for all decisions that ask."""
        if self._waiting is None:
            self._waiting = waiting_load(self.jobs.rows)
        return self._waiting

    def changed(self) -> None:
        """What its jobs have to do has changed."""
        self._waiting = None

    def running_for_s(self, now_s: float) -> float:
        """How long ago the latest iteration that is known of began: telemetry leaves when one does."""
        return now_s - self.heard_s if math.isfinite(self.heard_s) else 0.0

    def overdue_s(self, now_s: float) -> float:
        """How long ago that iteration was to end: what the replica has chosen since then is not known yet."""
        return max(0.0, self.running_for_s(now_s) - self._busy_for_s)

    def add(self, entry: LedgerEntry) -> None:
        """Enter a request, or what has changed about one (a promotion)."""
        known = self.entries.get(entry.request_id)
        if known is entry:
            return  # every commit tells of those that were under way with it
        self.changed()
        self.entries[entry.request_id] = entry
        self._ended.pop(entry.request_id, None)
        if known is None and entry.has_slo:
            self._prompts = self._prompts.observe(for_its_weight(entry.uncached_tokens, entry.weight))
            self.firm_tokens = firm_tokens(self._prompts)
            self.patience.observe(entry.deadline_s - entry.arrival_s, entry.uncached_tokens, self.profile)
        if known is None and entry.request_id not in self.jobs:
            put(self.jobs, entry)
        elif entry.request_id in self.jobs:
            self._describe(entry)

    def _describe(self, entry: LedgerEntry) -> None:
        job = self.jobs[entry.request_id]
        if entry.switch_at == job["switch_at"]:  # else its thinking has ended, and with it that pace
            job["tpot_s"] = entry.tpot_s
        job["deadline_s"], job["weight"] = entry.deadline_s, entry.weight
        job["guaranteed"], job["output"] = entry.guaranteed, entry.output_tokens

    def drop(self, request_id: str, now_s: float) -> None:
        """Strike a request off: its answer has ended, or it was never dispatched."""
        self.entries.pop(request_id, None)
        self._shown.discard(request_id)
        self._ended[request_id] = now_s
        if request_id in self.jobs:
            self.jobs.remove(request_id)
            self.changed()

    def load(self, version: int, entries: dict[str, LedgerEntry], asked_s: float, before: Collection[str]) -> None:
        """Replace the ledger by what Redis held when it was asked, at `asked_s`, while `before` were known here.

        What has come or ended since then is news that the answer didn't have, and stays as it is.
        """
        for request_id in [known for known in self.entries if known in before and known not in entries]:
            self.drop(request_id, asked_s)
        for entry in entries.values():
            if self._ended.get(entry.request_id, -math.inf) < asked_s:
                self.add(entry)
        self.version = version

    def committed(self, version: int, missed: Iterable[LedgerEntry]) -> None:
        """A guarantee of ours has this version; these came before it, and may not be known here."""
        for entry in missed:
            if entry.request_id not in self._ended:
                self.add(entry)
        self.version = max(self.version, version)

    def advanced(self, version: int, guarantees: int) -> None:
        """So many guarantees have come, the last of which has this version."""
        # Only what follows: what was committed before and isn't known yet must not look as if it were.
        if version == self.version + guarantees:
            self.version = version

    def take(self, report: Telemetry, now_s: float) -> None:
        """Bring the jobs up to date with a report that came at `now_s`."""
        self.heard_s, self.report_s = now_s, report.sent_at_s
        self.changed()
        self.free_blocks = report.kv_blocks_free
        if report.epoch != self.followed:
            self.followed, self.followed_s = report.epoch, now_s
        self.iterations.note(report.iterations, self.profile.perf, now_s)
        self._plan_with(report)
        if report.epoch < self.epoch + LONGEST_LEAP:
            self.epoch = max(self.epoch, report.epoch)
        self._busy_for_s = report.busy_for_s
        self._clock_ahead_s = self._difference.observe(report.sent_at_s, now_s)
        self._ended = {known: at for known, at in self._ended.items() if now_s - at < FORGET_S}
        progress = [p for p in report.progress if p.request_id not in self._ended]
        shown = {p.request_id for p in progress}
        for request_id in set(self.jobs.ids) - shown:
            if request_id in self._shown or self._overdue(request_id, now_s):
                self.jobs.remove(request_id)
        for p in progress:
            if p.request_id not in self.jobs:
                self._add_shown(p)
        self._shown = shown
        self._update(progress)

    def _plan_with(self, report: Telemetry) -> None:
        """Plan with what the replica has learned of itself, or with what it registered with."""
        registered = self.registered
        overhead_s = registered.request_overhead_s if report.request_overhead_s is None else report.request_overhead_s
        learned = msgspec.structs.replace(
            registered,
            perf=report.perf or registered.perf,
            launches=report.launches or registered.launches,
            request_overhead_s=overhead_s + report.answer_s,
        )
        if learned != self.profile:
            self.profile = learned

    @property
    def recalibration(self) -> float:
        """How long iterations like the last one take, as learned, over what the replica registered with."""
        size = self.iterations.last_size
        return self.profile.perf.iteration_s(*size) / self.registered.perf.iteration_s(*size)

    def _overdue(self, request_id: str, now_s: float) -> bool:
        """Whether telemetry should have shown a request by now; if it still comes, telemetry will add it again."""
        entry = self.entries.get(request_id)
        return entry is None or now_s - entry.dispatched_s > UNSEEN_S

    def _add_shown(self, p: RequestProgress) -> None:
        """A request that telemetry shows and that is not a job here: it came past the gateways, or again after all."""
        entry = self.entries.get(p.request_id)
        self.jobs.add(
            p.request_id,
            deadline_s=entry.deadline_s if entry else math.inf,
            tpot_s=entry.tpot_s if entry else math.inf,
            prompt_left=p.prompt_left,
            output=entry.output_tokens if entry else p.generated_tokens + UNKNOWN_OUTPUT_TOKENS,
            guaranteed=entry.guaranteed if entry else False,
            has_slo=entry.has_slo if entry else False,
            weight=entry.weight if entry else 1.0,
            acceptance=entry.acceptance if entry else 0.0,
            switch_at=entry.switch_at if entry else 0,
            next_tpot_s=entry.next_tpot_s if entry else math.inf,
        )

    def _update(self, progress: list[RequestProgress]) -> None:
        if not progress:
            return
        rows = self.jobs.rows
        at = [self.jobs.row_of(p.request_id) for p in progress]
        counts = np.array([(p.prompt_left, p.context_tokens, p.generated_tokens) for p in progress], dtype=np.int64)
        rows["prompt_left"][at] = counts[:, 0]
        rows["context"][at] = counts[:, 1]
        rows["generated"][at] = counts[:, 2]
        for n in np.flatnonzero(rows["switch_at"][at] == NOT_YET).tolist():
            if progress[n].switch_at != NOT_YET:
                thought(rows[at[n]], progress[n].switch_at + 1 if progress[n].switch_at else 0)
        due = np.array([p.due_base_s for p in progress]) + self._clock_ahead_s
        rows["due_base_s"][at] = np.maximum(due, rows["deadline_s"][at])
