"""The scheduler class that `vllm serve --scheduler-cls slosgate.engines.vllm.scheduler.SloScheduler` loads.

Every `schedule()` asks the plan follower which requests decode, which prefill how many tokens, and how many drafts
each decode verifies; vLLM's own scheduler then does the work, with a budget, an order and per-request limits that
leave it no other choice. Memory, prefix cache and whatever else vLLM's scheduler does stay vLLM's.

Under asynchronous scheduling vLLM asks for the next iteration while one is running. The follower's table is therefore
advanced when an iteration is scheduled, and corrected when its output is known.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from slosgate import planner
from slosgate.engines.calibrating import Calibrator
from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.clock import SteadyClock
from slosgate.engines.follower import PlanFollower
from slosgate.engines.messages import Announcement, IterationReport, Plan, PlannedIteration, SloArgs
from slosgate.engines.vllm.compat import (
    ClampedScheduler,
    cached_prefix_tokens,
    require_supported_config,
    require_supported_version,
    thinking_ends,
    waiting_queues,
)
from slosgate.engines.vllm.engine_profile import effective_profile
from slosgate.engines.vllm.flight import Flight, Flights
from slosgate.engines.vllm.iteration_log import IterationLog
from slosgate.engines.vllm.link import Link
from slosgate.engines.vllm.queue import ChosenQueue
from slosgate.engines.vllm.reporter import Reporter
from slosgate.engines.vllm.settings import ReplicaSettings
from slosgate.engines.vllm.starting import starting_profile
from slosgate.engines.vllm.thinking import Thinking
from slosgate.engines.vllm.tracker import RUNNING, Attended, Selection, Tracker, advance_rows, attended_by
from slosgate.planner.batch import Batch
from slosgate.planner.profile import HardwareProfile

logger = init_logger("vllm.slosgate")

POLICY = "slosgate"


class SyncSloScheduler(ClampedScheduler):
    """The scheduler for engines that run one iteration at a time."""

    looks_ahead = False
    running: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        require_supported_version()
        super().__init__(*args, **kwargs)
        require_supported_config(self.vllm_config)
        settings = ReplicaSettings.from_environment(os.environ)
        self.clock: Callable[[], float] = SteadyClock()
        self.sleep: Callable[[float], None] = time.sleep
        profile, self._measuring = starting_profile(settings, self)
        self.follower = PlanFollower(profile, Calibrator(profile.perf))
        self._tracker = Tracker(self.follower)
        self._thinking = Thinking(self.follower, self._tracker, thinking_ends(self))
        self._flights = Flights(self.follower.profile, looks_ahead=self.looks_ahead)
        self._last_scheduled: dict[str, int] = {}
        self._refused = False  # vLLM found no memory for what was selected last
        self._lead_s = 0.0  # how long before its start the next iteration was to be chosen
        self._put_off = False  # the last schedule() left the next iteration's choice to this one
        self._starting: list[Any] = []  # selected requests that are still waiting
        self._offered: tuple[list[Any], list[Any], int] | None = None  # see `_offer`
        self._largest_budget: int = self.max_num_scheduled_tokens
        for name in waiting_queues():
            setattr(self, name, ChosenQueue())
        warm_up(self.follower.profile)
        self._log = IterationLog(settings.iteration_log) if settings.iteration_log else None
        self._settings = settings
        self._link: Link | None = None
        self._reporter = Reporter(None, self.follower, settings.replica)
        if self._measuring is None:
            self._connect()
        logger.info(
            "slosgate schedules replica %s (%s, profile %s, plans from %s)",
            settings.replica,
            type(self).__name__,
            self.follower.profile.name,
            "a gateway" if settings.redis_url else "itself",
        )

    def _connect(self) -> None:
        """Have the replica registered, now that its profile is known."""
        settings = self._settings
        if not settings.redis_url:
            return
        model = self.vllm_config.model_config.served_model_name
        info = ReplicaInfo(
            name=settings.replica,
            url=settings.url,
            model=model[0] if isinstance(model, list) else model,
            profile=self.follower.profile,
            engine="vllm",
            policy=POLICY,
            started_at_s=self.clock(),
            supports_plans=True,
        )
        self._link = Link(settings.redis_url, info)
        self._reporter = Reporter(self._link, self.follower, settings.replica)

    def _take_measured(self) -> None:
        """Plan with what the replica has measured of itself, once that is known."""
        measured = self._measuring.result() if self._measuring else None
        if measured is not None:
            self._measuring = None
            profile = effective_profile(measured, self)
            self.follower.plan_with(profile, Calibrator(profile.perf))
            self._connect()

    # What the engine calls

    def add_request(self, request: Any) -> None:
        known = request.request_id in self.requests
        super().add_request(request)
        if not known:
            self._tracker.add(request, cached_prefix_tokens(self, request))
            self._thinking.begin(request)

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: Any) -> Any:
        result = super().finish_requests(request_ids, finished_status)
        if self._tracker.forget_finished(self._tracker.request_ids(), self.requests):
            self._report(self.clock(), urgent=True)
        return result

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._take_news()
        now_s = self.clock()
        ends_s = self._flights.expected_end_s(now_s)
        start_s = max(ends_s, now_s + self.follower.profile.decide_s)
        if self._awaits(now_s, start_s):
            # Asked again once the iteration in flight has ended, or at once if there is none.
            self._put_off = True
            self.mind_allowance(True)
            return self._schedule_within({}, 0, args, kwargs)
        self._preempt(self.follower.to_preempt(self._blocks_left))
        batch = self._next_batch(start_s, ends_s - now_s)
        selection = self._tracker.select(self._with_usable_drafts(batch))
        self._offer(selection)
        # A decode for each of all that run is what vLLM does by itself.
        self.mind_allowance(bool(self._starting or batch.prefill.size) or len(selection.requests) < len(self.running))
        output = self._schedule_within(selection.allowance, selection.budget, args, kwargs)
        self._refused = bool(selection.requests) and not output.num_scheduled_tokens
        if selection.requests or output.preempted_req_ids:
            self._settle(output, selection, now_s, start_s)
        self._put_off = False
        if not self._flights:
            self._report(now_s, urgent=False)  # no iteration will end that could: all wait
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now_s = self.clock()
        landed = self._flights.land(scheduler_output, now_s)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if landed is not None:
            self._account(*landed, now_s, model_runner_output)
        return outputs

    def shutdown(self) -> None:
        super().shutdown()
        if self._measuring is not None:
            self._measuring.close()
        if self._link is not None:
            self._link.close()
        if self._log is not None:
            self._log.close()

    # Before an iteration

    def _take_news(self) -> None:
        if self._measuring is not None:
            self._take_measured()
        if self._link is None:
            return
        plan = self._link.plan()
        if plan is not None:
            self.follower.apply(plan)
        for heard in self._link.arrivals():
            self.follower.announce(heard.announcement, heard.at_s)

    def _awaits(self, now_s: float, start_s: float) -> bool:
        """Whether requests on their way here are to have a say in what could start then."""
        if self._flights:
            return self.follower.awaits(start_s, self._blocks_left)
        return self.follower.rests_until_s(now_s, start_s, self._blocks_left) > now_s

    def _next_batch(self, start_s: float, within_s: float) -> Batch:
        """What the follower wants; only decodes after vLLM found no memory for anything that it wanted before."""
        batch = decodes_only(self.follower) if self._refused else None
        if batch is None or batch.empty:
            batch = self.follower.next_batch(start_s, self._blocks_left, within_s if self.looks_ahead else math.inf)
        victim = self.follower.stuck() if not self._flights and (batch.empty or self._refused) else None
        if victim is not None and not batch.decode.size:
            self._preempt([victim])
        return batch

    def _preempt(self, job_ids: Iterable[str]) -> None:
        """Take these jobs' KV back, except where output is in flight: those wait until it has come."""
        for job_id, request in zip(job_ids, self._tracker.requests(job_ids), strict=True):
            if request.num_output_placeholders:
                continue
            if request.status is RUNNING:
                self.running.remove(request)
                self._preempt_request(request, time.monotonic())
            self.follower.preempted(job_id)
            self._tracker.sync(request, 0.0)

    def _with_usable_drafts(self, batch: Batch) -> Batch:
        """The batch with no more drafts than there are: a request skipped by the last iteration has none left."""
        if not self.num_spec_tokens or not batch.decode.size:  # the profile then says that nothing drafts
            return batch
        ids = self.follower.table.ids
        requests = self._tracker.requests(ids[row] for row in batch.decode.tolist())
        usable = np.array([self._drafts_of(request) for request in requests], dtype=np.int64)
        return batch._replace(drafts=np.minimum(batch.drafts, usable))

    def _drafts_of(self, request: Any) -> int:
        # Ahead of the output the drafts are known to the worker alone, which keeps those of its last iteration.
        if self.looks_ahead and request.request_id not in self._last_scheduled:
            request.spec_token_ids = []
        return len(request.spec_token_ids)

    def _offer(self, selection: Selection) -> None:
        """Show vLLM the selected requests first, in the planner's order; behind them, victims last."""
        if self._is_offered(selection):
            return
        chosen = selection.allowance
        for request in selection.requests[: selection.batch.decode.size] if self.num_spec_tokens else ():
            # A new list: asynchronous scheduling shares one list of placeholders among all requests.
            request.spec_token_ids = request.spec_token_ids[: chosen[request.request_id] - 1]
        running = [r for r in selection.requests if r.status is RUNNING]
        self._starting = [r for r in selection.requests if r.status is not RUNNING]
        # Those that run already may be all that is selected: then none is left behind.
        rest = [r for r in self.running if r.request_id not in chosen] if len(running) < len(self.running) else []
        if self._blocks_left < len(selection.requests):
            running.sort(key=self._tracker.importance, reverse=True)
            rest.sort(key=self._tracker.importance, reverse=True)
        self.running = running + rest
        self._offered = (selection.requests, self.running, len(self.running)) if not self._starting else None
        # vLLM's worker cannot take back in the same iteration what was just taken from it.
        waiting = [r.request_id for r in self._starting if r.request_id not in self.reset_preempted_req_ids]
        for name in waiting_queues():
            getattr(self, name).choose(waiting)

    def _is_offered(self, selection: Selection) -> bool:
        """Whether vLLM still sees just these requests, all of them running, as it did for the last iteration."""
        if self._offered is None or self.num_spec_tokens:
            return False
        requests, running, count = self._offered
        unchanged = selection.requests is requests and self.running is running and len(running) == count
        return unchanged and self._blocks_left >= len(requests)

    def _schedule_within(self, allowance: dict[str, int], budget: int, args: Any, kwargs: Any) -> Any:
        """vLLM's own schedule(), with these new tokens for these requests, `budget` in all, and none for others."""
        self.allowance = allowance
        if budget and self.num_spec_tokens and self._starting:
            budget += self.num_spec_tokens  # room for vLLM's padding, see `clamp`
        self.max_num_scheduled_tokens = min(budget, self._largest_budget)
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens = self._largest_budget

    def clamp(self, request: Any, computed: int, tokens: int) -> int:
        allowed = self.allowance.get(request.request_id, 0)
        # vLLM pads a waiting request that has one token left to a whole draft, and counts on getting all of it.
        padded = allowed and self.num_spec_tokens and request.status is not RUNNING
        return tokens if padded and request.num_tokens - computed == 1 else allowed

    # After an iteration was scheduled, and after it ended

    def _settle(self, output: Any, selection: Selection, now_s: float, start_s: float) -> None:
        """Bring the table to where vLLM is after this schedule()."""
        scheduled = output.num_scheduled_tokens
        expected_s = selection.batch.duration_s
        ends = True  # unless known better
        as_selected = selection.scheduled(scheduled, output.total_num_scheduled_tokens)
        if as_selected and not output.preempted_req_ids:
            first, attended, ends = self._tracker.advance(selection.batch, self._starting, start_s + expected_s)
        else:
            strayed = [self.requests[r] for r in output.preempted_req_ids or () if r in self.requests]
            touched = {r.request_id: r for r in [*selection.requests, *strayed]}
            first = [r for r in touched.values() if self._tracker.sync(r, start_s + expected_s)]
            attended = attended_by((self.requests[r], tokens) for r, tokens in scheduled.items())
        for request in self._starting:
            tokens = scheduled.get(request.request_id, 0)
            if tokens and not request.num_preemptions and request in self._tracker:
                self._reporter.took_in(self._tracker.prefix_of(request, tokens))
        if scheduled:
            self._launch(output, attended, now_s, start_s, expected_s, first)
        if ends:
            self._tracker.forget_complete()

    def _launch(
        self, output: Any, attended: Attended, now_s: float, start_s: float, expected_s: float, first: list[Any]
    ) -> None:
        scheduled = output.num_scheduled_tokens
        drafts = output.scheduled_spec_decode_tokens
        self._last_scheduled = scheduled
        self._flights.launch(
            Flight(
                output=output,
                scheduled_at_s=now_s,
                expected_s=expected_s,
                expected_end_s=start_s + expected_s,
                new_tokens=output.total_num_scheduled_tokens,
                context_tokens=attended.context,
                sequences=len(scheduled),
                draft_steps=max(map(len, drafts.values())) if drafts else 0,
                put_off=self._put_off,
                pairs=attended.pairs,
                first_tokens=first,
                lead_s=self._lead_s,
            )
        )

    def _account(self, flight: Flight, report: IterationReport, now_s: float, output: Any) -> None:
        """An iteration ended: drop what it finished, correct what was assumed, and report."""
        self.follower.moved_on()
        self._launch_as_learned()
        scheduled = flight.output.num_scheduled_tokens
        self._tracker.forget_finished(self.finished_req_ids & scheduled.keys(), self.requests)
        jobless = self._tracker.jobless(scheduled)  # they ended, or their last token is in flight
        for request in self._alive(scheduled if self.num_spec_tokens else jobless):
            self._tracker.restore(request, now_s)
        for request in flight.first_tokens:
            self._tracker.first_token(request, now_s)
        self._thinking.look()
        if self._log is not None:
            self._log.write(report, flight, self._blocks_left)
        if self._measuring is not None:
            self._measuring.note(report, flight)
        if not flight.put_off:  # the pause before it is no time of the device
            self._reporter.landed(report)
            if flight.tells:
                self.follower.learn(report)
        for verified in self._tracker.verified(flight.output, output):
            self._reporter.verified(verified)
        self._report(now_s, urgent=len(self._alive(jobless)) < len(jobless))

    def _launch_as_learned(self) -> None:
        """Plan with what launching takes here, once that is not what was assumed."""
        assumed, learned = self.follower.profile.launches, self._flights.launches
        if assumed is not None and assumed.differs(learned):
            self.follower.profile = msgspec.structs.replace(self.follower.profile, launches=learned)

    def _alive(self, request_ids: Iterable[str]) -> list[Any]:
        """Those of the requests that vLLM has and has not finished."""
        return [self.requests[r] for r in request_ids if r in self.requests and not self.requests[r].is_finished()]

    def _report(self, now_s: float, *, urgent: bool) -> None:
        busy_s = self._flights.expected_end_s(now_s) - now_s
        self._reporter.send(now_s, busy_s, self._blocks_left, urgent=urgent)

    @property
    def _blocks_left(self) -> int:
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())


class AsyncSloScheduler(SyncSloScheduler, AsyncScheduler):  # type: ignore[misc]  # vLLM is untyped here
    """The scheduler for engines that schedule one iteration ahead."""

    looks_ahead = True

    def has_requests(self) -> bool:
        """As vLLM asks before it takes in what has arrived, and has the next iteration scheduled (v1/engine/core.py).

        While an iteration runs it has both done at once. Both can wait until that is nearly over: what arrives by then
        needs no other iteration to end before its own. But where a pipeline runs several at once, to wait for one would
        leave the others' places empty.
        """
        if self.vllm_config.parallel_config.pipeline_parallel_size == 1:
            wait_s = self._undecided_s()
            if wait_s > 0.0:
                self.sleep(wait_s)
        return bool(super().has_requests())

    def _undecided_s(self) -> float:
        """How long the next iteration need not be chosen yet."""
        if not self._flights:
            return 0.0
        now_s = self.clock()
        kind = self.follower.next_kind(self._flights.expected_end_s(now_s), self._blocks_left)
        self._lead_s = self._flights.lead_s(kind)
        return self._flights.undecided_s(now_s, kind)

    def get_grammar_bitmask(self, scheduler_output: Any) -> Any:
        """What vLLM asks for as soon as it has launched an iteration (v1/engine/core.py)."""
        if not scheduler_output.pending_structured_output_tokens:  # else vLLM asks once the iteration before has ended
            self._flights.launched(self.clock())
        return super().get_grammar_bitmask(scheduler_output)


class SloScheduler:
    """What `--scheduler-cls` names: becomes the scheduler that fits the engine's way of scheduling."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        asynchronous = kwargs["vllm_config"].scheduler_config.async_scheduling
        return (AsyncSloScheduler if asynchronous else SyncSloScheduler)(*args, **kwargs)


def decodes_only(follower: PlanFollower) -> Batch:
    """One token for every job that decodes and is not held."""
    rows = follower.table.rows
    decode = np.flatnonzero((rows["prompt_left"] == 0) & ~rows["held"])
    none = np.empty(0, dtype=np.int64)
    context = int(rows["context"][decode].sum()) + len(decode)
    duration_s = follower.profile.perf.iteration_s(len(decode), context, len(decode))
    return Batch(decode=decode, drafts=np.zeros_like(decode), prefill=none, tokens=none, duration_s=duration_s)


def warm_up(profile: HardwareProfile) -> None:
    """Compile the planner's kernels before the first request needs them, those for planning alone among them."""
    planner.warm_up()
    follower = PlanFollower(profile)
    for i, cached in enumerate((0, 8)):
        slo = SloArgs(slo_id=str(i), slo_ttft_ms=1e3, slo_tpot_ms=50.0, slo_guaranteed=1)
        follower.add(slo, prompt_tokens=64, cached_tokens=cached, max_tokens=8, now_s=0.0)
    follower.table.rows["prompt_left"][0] = 0
    steps = (PlannedIteration(token_budget=64, duration_s=0.1, speculation=((0.05, 1),), prefill=(("1", 16),)),)
    follower.apply(Plan(replica="", epoch=1, issued_at_s=0.0, horizon=steps))
    follower.announce(Announcement("2", 64, 1.0), 0.0)
    follower.awaits(0.0, profile.kv_blocks)
    for _ in range(2):  # first the plan's iteration, then the tail rule's
        follower.to_preempt(profile.kv_blocks)
        batch = follower.next_batch(0.0, profile.kv_blocks)
    advance_rows(follower.table.rows, np.ones(2, np.int64), batch.decode, batch.drafts, batch.prefill, batch.tokens)
