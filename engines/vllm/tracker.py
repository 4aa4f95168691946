"""Which vLLM request is which job of the plan follower, and the follower's table kept in step with vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from vllm.v1.request import RequestStatus

from slosgate.engines.follower import PlanFollower
from slosgate.engines.messages import DraftReport, PrefixReport, SloArgs, read_slo
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import due_base_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Ints, pairs_of
from slosgate.planner.memory import keeping

RUNNING = RequestStatus.RUNNING  # looked up once: enum members are slow to reach
NO_ROWS = np.empty(0, dtype=np.bool_)


@dataclass(slots=True)
class Selection:
    """One iteration in vLLM's terms: requests, and how many new tokens each of them gets."""

    batch: Batch
    requests: list[Any]  # decodes, then prefills, each in the planner's order
    allowance: dict[str, int]  # by vLLM's request ids; drafts count
    budget: int  # sum of the allowances

    def scheduled(self, tokens: dict[str, int], total: int) -> bool:
        """Whether vLLM, which gives tokens to none but these requests, gave each of them what it was allowed."""
        if self.budget == len(self.allowance):  # one for each
            return len(tokens) == total == self.budget
        return tokens == self.allowance


class Attended(NamedTuple):
    """What an iteration attends to, as `planner.perf_model` counts."""

    context: int  # KV entries that its requests have then
    pairs: float


class Tracker:
    """Owns the mapping between requests and jobs, and writes what vLLM did into the follower's table.

    The table runs ahead: tokens of iterations in flight count as done. Nothing else may add or remove jobs.
    """

    def __init__(self, follower: PlanFollower) -> None:
        self.follower = follower
        self._requests: list[Any] = []  # by row of the table
        self._ids: list[str] = []  # vLLM's, by row of the table
        self._most = np.empty(64, dtype=np.int64)  # output tokens that vLLM lets each have, by row of the table
        self._job_of: dict[str, str] = {}  # vLLM's request id -> job id
        self._class_of: dict[str, str] = {}  # vLLM's request id -> SLO class
        self._steady: Selection | None = None  # the last one of decodes alone, while rows stay where they are
        self._steady_rows = NO_ROWS  # by row: whether it is in there

    def __contains__(self, request: Any) -> bool:
        return request.request_id in self._job_of

    def add(self, request: Any, cached_tokens: int) -> None:
        """Make a job of a request. Requests that share an SLO id (`n` > 1) become jobs of their own."""
        slo = slo_args(request)
        job_id = request.request_id if slo.slo_id in self.follower.table else slo.slo_id
        self._job_of[request.request_id] = job_id
        self._class_of[request.request_id] = slo.slo_class
        self._steady = None
        self.follower.add(
            msgspec.structs.replace(slo, slo_id=job_id),
            prompt_tokens=request.num_prompt_tokens,
            cached_tokens=cached_tokens,
            max_tokens=request.max_tokens,
            now_s=request.arrival_time,
        )
        self._add_row(request)

    def forget(self, request_id: str) -> bool:
        """Drop a request's job; False when there is none."""
        job_id = self._job_of.pop(request_id, None)
        if job_id is None:
            return False
        del self._class_of[request_id]
        self._steady = None
        self._remove_row(self.follower.table.row_of(job_id))
        self.follower.remove(job_id)
        return True

    def _add_row(self, request: Any) -> None:
        row = len(self._requests)
        if row == len(self._most):
            self._most = np.resize(self._most, 2 * row)
        self._requests.append(request)
        self._ids.append(request.request_id)
        self._most[row] = request.max_tokens

    def _remove_row(self, row: int) -> None:
        last, last_id = self._requests.pop(), self._ids.pop()
        if row < len(self._requests):  # as the table does it: the last one moves into the gap
            self._requests[row], self._ids[row], self._most[row] = last, last_id, self._most[len(self._requests)]

    def forget_finished(self, request_ids: Iterable[str], alive: dict[str, Any]) -> int:
        """Drop those of the requests that vLLM no longer has or has finished; how many they were."""
        gone = [r for r in request_ids if r in self._job_of and (r not in alive or alive[r].is_finished())]
        return sum(self.forget(request_id) for request_id in gone)

    def request_ids(self) -> list[str]:
        return list(self._job_of)

    def jobless(self, scheduled: dict[str, int]) -> list[str]:
        """Those of the scheduled requests that have no job."""
        jobless = scheduled.keys() - self._job_of.keys()
        return [request_id for request_id in scheduled if request_id in jobless] if jobless else []

    def verified(self, scheduled: Any, output: Any) -> Iterator[DraftReport]:
        """How each request's drafts fared that came back with this output; not those of a request that ends with it,
        whose last draft may have been cut short."""
        for request_id, drafts in scheduled.scheduled_spec_decode_tokens.items():
            slo_class, index = self._class_of.get(request_id), output.req_id_to_index.get(request_id)
            if slo_class is None or index is None or not output.sampled_token_ids:
                continue
            if tokens := len(output.sampled_token_ids[index]):
                yield DraftReport(slo_class, tokens - 1, int(tokens <= len(drafts)))

    def job_of(self, request: Any) -> str | None:
        """The job of a request; None when it has none."""
        return self._job_of.get(request.request_id)

    def prefix_of(self, request: Any, scheduled: int) -> PrefixReport:
        """How much of the prompt vLLM had cached of a request that has just started with so many tokens."""
        cached = max(0, min(request.num_computed_tokens - scheduled, request.num_prompt_tokens))
        return PrefixReport(self._job_of[request.request_id], request.num_prompt_tokens, cached)

    def requests(self, job_ids: Iterable[str]) -> Iterator[Any]:
        """The requests of these jobs, in their order."""
        return (self._requests[self.follower.table.row_of(job_id)] for job_id in job_ids)

    def select(self, batch: Batch) -> Selection:
        """Translate a batch of table rows.

        An iteration of the same decodes as the last one, without drafts, shares its lists with it.
        """
        if batch.prefill.size or (self.follower.profile.max_drafts and batch.drafts.any()):
            return self._translate(batch)
        last = self._steady
        if last is None or len(last.requests) != batch.decode.size or not self._are_steady(batch.decode):
            last = self._steady = self._translate(batch)
            self._steady_rows = np.zeros(len(self.follower.table), dtype=np.bool_)
            self._steady_rows[batch.decode] = True
        last.batch = batch
        return last

    def _are_steady(self, decode: Ints) -> bool:
        return decode.size == len(self._steady_rows) or bool(self._steady_rows[decode].all())

    def _translate(self, batch: Batch) -> Selection:
        rows = batch.decode.tolist() + batch.prefill.tolist()
        tokens = (batch.drafts + 1).tolist() + batch.tokens.tolist()
        requests = list(map(self._requests.__getitem__, rows))
        allowance = dict(zip(map(self._ids.__getitem__, rows), tokens, strict=True))
        return Selection(batch, requests, allowance, sum(tokens))

    def advance(self, batch: Batch, started: list[Any], expected_end_s: float) -> tuple[list[Any], Attended, bool]:
        """Count an iteration that vLLM scheduled just as selected; `started` are those that waited before.

        Returns the requests whose first token it makes, what it attends to, and whether it may make the last token of
        any.
        """
        rows, prefill, tokens = self.follower.table.rows, batch.prefill, batch.tokens
        first, pairs_started = [], 0.0
        if started:  # only vLLM knows how much of them its prefix cache had
            first = [request for request in started if self.sync(request, expected_end_s)]
            begun = np.isin(prefill, self._rows_of(started), invert=True)
            own = tokens[~begun]
            pairs_started = float(pairs_of(rows["context"][prefill[~begun]] - own, own).sum())
            prefill, tokens = prefill[begun], tokens[begun]
        context, pairs, ends = advance_rows(rows, self._most, batch.decode, batch.drafts, prefill, tokens)
        for row in prefill[rows["prompt_left"][prefill] <= 0].tolist() if prefill.size else ():
            if self._emit(rows[row], int(rows["generated"][row]) + 1, expected_end_s):
                first.append(self._requests[row])
            ends |= rows["generated"][row] >= self._most[row]
        attended = Attended(context + sum(r.num_computed_tokens for r in started), pairs + pairs_started)
        return first, attended, bool(ends or started)

    def _rows_of(self, requests: list[Any]) -> list[int]:
        return [self.follower.table.row_of(self._job_of[request.request_id]) for request in requests]

    def sync(self, request: Any, expected_end_s: float) -> bool:
        """Copy where vLLM stands with one request; True when its first token has come into sight."""
        job_id = self._job_of.get(request.request_id)
        if job_id is None:
            self.add(request, 0)
            job_id = self._job_of[request.request_id]
        row = self.follower.table.row_of(job_id)
        self._most[row] = request.max_tokens  # a streaming session's grows
        job = self.follower.table.rows[row]
        # Synchronous scheduling has no placeholders: there a last chunk that was scheduled and has no output yet shows
        # as nothing left to compute.
        in_flight = request.num_output_placeholders or int(request.num_computed_tokens >= request.num_tokens)
        left = request.num_tokens + in_flight - request.num_computed_tokens
        emitted = request.num_output_tokens + min(1, in_flight)
        decodes = request.status is RUNNING and emitted > 0 and left <= 1
        job["prompt_left"] = 0 if decodes else max(1, left)
        job["context"] = request.num_computed_tokens
        return self._emit(job, emitted, expected_end_s)

    def restore(self, request: Any, now_s: float) -> None:
        """Correct a job after output has come: drafts were rejected, or a last token in flight was not the last."""
        if request in self or request.num_output_tokens + request.num_output_placeholders < request.max_tokens:
            self.sync(request, now_s)

    def importance(self, request: Any) -> tuple[bool, bool, float]:
        """Sorts requests by which keeps its KV when memory runs out; the most important one is the largest."""
        job = self.follower.table[self._job_of[request.request_id]] if request in self else None
        if job is None:  # its last token is in flight
            return (True, True, 0.0)
        return keeping(bool(job["held"]), bool(job["guaranteed"]), float(job["deadline_s"]))

    def first_token(self, request: Any, at_s: float) -> None:
        """A request's first token came at this time: all later ones are due from there, or from its deadline."""
        job_id = self._job_of.get(request.request_id)
        if job_id is not None:
            _start_due_times(self.follower.table[job_id], at_s)

    def forget_complete(self) -> None:
        """Drop jobs whose last token is in flight: there is nothing left to schedule for them."""
        most = self._most[: len(self._requests)]
        complete = np.flatnonzero(self.follower.table.rows["generated"] >= most)
        for request_id in [self._ids[row] for row in complete.tolist()]:
            self.forget(request_id)

    @staticmethod
    def _emit(job: Any, emitted: int, at_s: float) -> bool:
        first = emitted > 0 and job["generated"] == 0
        job["generated"] = emitted
        if first:
            _start_due_times(job, at_s)
        return bool(first)


def attended_by(scheduled: Iterable[tuple[Any, int]]) -> Attended:
    """What requests attend to that have just been given so many tokens each."""
    context, pairs = 0, 0.0
    for request, tokens in scheduled:
        context += request.num_computed_tokens
        before = request.num_computed_tokens - tokens
        if before < request.num_prompt_tokens:  # else it decodes
            pairs += pairs_of(before, tokens)
    return Attended(context, pairs)


def slo_args(request: Any) -> SloArgs:
    """The SLO that came with a request; without one it is best effort under its own id."""
    sampling = request.sampling_params
    return read_slo(sampling.extra_args if sampling is not None else None, request.request_id)


def _start_due_times(job: Any, at_s: float) -> None:
    job["due_base_s"] = due_base_s(float(job["deadline_s"]), at_s)


@compiled
def advance_rows(
    jobs: Jobs, most: Ints, decode: Ints, drafts: Ints, prefill: Ints, tokens: Ints
) -> tuple[int, float, bool]:
    """Count an iteration's tokens as computed.

    Returns the KV entries that its rows have then, the pairs of its prompts, and whether a decode of them has as many
    tokens as it may (`most`).
    """
    context, pairs, ends = 0, 0.0, False
    for i in range(len(decode)):
        job = jobs[decode[i]]
        job.context += 1 + drafts[i]
        job.generated += 1
        ends |= job.generated >= most[decode[i]]
        context += job.context
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        pairs += pairs_of(job.context, tokens[i])
        job.context += tokens[i]
        job.prompt_left -= tokens[i]
        context += job.context
    return context, pairs, ends
