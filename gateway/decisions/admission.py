"""Admission: snapshot the replicas, let the planner place the request, enter it in the ledger, or decide again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import msgspec

from slosgate.engines.messages import Announcement
from slosgate.gateway.config import AdmissionConfig
from slosgate.gateway.errors import GatewayError, InvalidRequest, ModelNotFound, NotAdmitted, Unavailable, some
from slosgate.gateway.promises.contract import CLASS_SAID_IN, E2E_HEADERS, THINK_HEADERS, TPOT_HEADERS, TTFT_HEADERS
from slosgate.gateway.promises.exchange import Exchange, Placement
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.reports.metrics import Metrics
from slosgate.gateway.state.ledger import Conflict, Ledger, StoreDown
from slosgate.gateway.state.records import LedgerEntry
from slosgate.planner.controller import Decision, ReplicaState
from slosgate.planner.desk import Refusal, decide, rank
from slosgate.planner.prefixes import NOT_CACHED, Cached

SLO_HEADERS = {"ttft": TTFT_HEADERS, "tpot": (*TPOT_HEADERS, *THINK_HEADERS), "e2e": E2E_HEADERS}


@dataclass(frozen=True, slots=True)
class _Choice:
    replica: Replica
    decision: Decision
    decided_s: float
    cached: Cached = NOT_CACHED  # of the prompt
    jobs: dict[str, bool] = field(default_factory=dict)  # that a guarantee was decided on: by id, whether guaranteed

    @property
    def report_s(self) -> float:
        return self.replica.mirror.report_s if self.replica.mirror else -math.inf


class Admission:
    def __init__(
        self, fleet: Fleet, ledger: Ledger, config: AdmissionConfig, metrics: Metrics, *,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._ledger = ledger
        self._config = config
        self._metrics = metrics
        self._clock = clock

    def candidates(self, model: str, tried: frozenset[str] = frozenset()) -> list[Replica]:
        """Replicas that could take a request. Raises ModelNotFound, or Unavailable when none lives."""
        found = self._fleet.serving(model, tried)
        if found:
            return found
        living = self._fleet.models()
        if living and not self._fleet.knows(model) and not self._fleet.unread:
            raise ModelNotFound(f"no such model: {model!r}; accepted: {some(living)}", param="model")
        raise self._fleet.nobody(model)

    async def admit(self, exchange: Exchange) -> Placement:
        """Find a place for a new request and enter it in the ledger.

        Raises NotAdmitted when its class wants no best effort, InvalidRequest when it can never be served as asked,
        Unavailable without replicas, or while Redis is away if the configuration has it refused then.
        """
        if self._ledger.available:
            with suppress(StoreDown):
                return await self._admit(exchange)
        return self._admit_alone(exchange)

    def _admit_alone(self, exchange: Exchange) -> Placement:
        """Redis is away: nobody knows what others promise, so nothing is promised."""
        if self._config.when_state_is_away == "refuse" or exchange.contract.when_full == "overflow":
            raise Unavailable("the gateway's shared state is away; try again shortly", code="state_unavailable")
        choice = self._choose(exchange, self.candidates(exchange.completion.model), refuses=False)
        choice.replica.enter(self._entry(exchange, choice, guaranteed=False))
        decision = msgspec.structs.replace(choice.decision, reason="the gateway's shared state is away")
        return self._placed(exchange, replace(choice, decision=decision), guaranteed=False)

    async def _admit(self, exchange: Exchange) -> Placement:
        replicas = exchange.replicas  # just looked up
        for _ in range(self._config.commit_retries):
            choice = self._choose(exchange, replicas or self.candidates(exchange.completion.model))
            replicas = []
            if not choice.decision.guaranteed:
                break
            try:
                await self._commit(exchange, choice)
            except Conflict:
                continue
            return self._placed(exchange, choice, guaranteed=True)
        else:
            choice = self._choose(exchange, self.candidates(exchange.completion.model))
        entry = self._entry(exchange, choice, guaranteed=False)
        await self._enter(exchange, choice, entry)
        return self._placed(exchange, choice, guaranteed=False)

    async def readmit(self, exchange: Exchange, tried: frozenset[str]) -> Placement:
        """Another place for a request whose replica failed it before its first byte. It was promised an answer, so
        it is never refused for want of room, and a Redis that is away doesn't stop it."""
        choice = self._choose(exchange, self.candidates(exchange.completion.model, tried), refuses=False)
        try:
            if choice.decision.guaranteed:
                await self._commit(exchange, choice)
                return self._placed(exchange, choice, guaranteed=True)
        except (Conflict, StoreDown):
            pass
        entry = self._entry(exchange, choice, guaranteed=False)
        with suppress(StoreDown):
            await self._enter(exchange, choice, entry)
        choice.replica.enter(entry)
        return self._placed(exchange, choice, guaranteed=False)

    def release(self, exchange: Exchange) -> None:
        """The answer has ended, or never began: free the place."""
        replica = exchange.placement.replica
        if replica.strike(exchange.request_id, self._clock()):
            self._ledger.remove(replica.name, (exchange.request_id,))
            self._fleet.tell(replica)

    def _choose(self, exchange: Exchange, replicas: list[Replica], *, refuses: bool = True) -> _Choice:
        """Ask the desk. Raises what becomes of a refusal; unless it `refuses`, what can't be guaranteed is best effort.

        Replicas whose hardware profile is unknown are only asked when there are no others.
        """
        planned = [(replica, replica.mirror) for replica in replicas if replica.mirror is not None]
        now_s = self._clock()
        states = [state_of(replica, mirror, now_s, _cached(exchange, replica)) for replica, mirror in planned]
        arrival = exchange.arrival(now_s)
        if not refuses:
            arrival = msgspec.structs.replace(arrival, when_full="best-effort", stated=False)
        with self._metrics.planner_call("place"):
            verdict = decide(arrival, states, now_s, exchange.settings)
        if isinstance(verdict, Refusal):
            raise refused(exchange, verdict)
        if not planned:
            return _Choice(min(replicas, key=lambda replica: len(replica.own)), verdict, now_s)
        state = states[verdict.replica]
        guaranteed = state.jobs.rows["guaranteed"].tolist() if verdict.guaranteed else []
        known = dict(zip(state.jobs.ids, guaranteed, strict=False))  # none when it is best effort
        return _Choice(planned[verdict.replica][0], verdict, now_s, state.cached, known)

    async def _commit(self, exchange: Exchange, choice: _Choice) -> None:
        """Enter a guarantee. It shows in the mirror at once, so that the next decision counts it."""
        replica, mirror = choice.replica, choice.replica.mirror
        assert mirror is not None
        entry, known = self._entry(exchange, choice, guaranteed=True), mirror.version
        replica.enter(entry)
        self._announce(exchange, choice, entry)
        try:
            committed = await self._ledger.commit(replica.name, known, entry)
            mirror.committed(committed.version, committed.missed)
            if not self._still_fits(exchange, choice, committed.missed):
                raise Conflict(replica.name)
        except BaseException:
            self._withdraw(replica, entry)
            raise

    def _still_fits(self, exchange: Exchange, choice: _Choice, missed: tuple[LedgerEntry, ...]) -> bool:
        """Whether a guarantee that is in the ledger can be given: what came before it there may be known only now, and
        while it was on its way the replica may have lost the time that it needs."""
        now_s = self._clock()
        late = now_s - choice.decided_s > exchange.settings.headroom_s
        if not late and all(_counted(choice, entry) for entry in missed):
            return True
        state = _as_it_is(choice, missed, exchange.request_id, now_s)
        with self._metrics.planner_call("place"):
            verdict = decide(exchange.arrival(now_s), [state], now_s, exchange.settings)
        return isinstance(verdict, Decision) and verdict.guaranteed

    async def _enter(self, exchange: Exchange, choice: _Choice, entry: LedgerEntry) -> None:
        replica = choice.replica
        replica.enter(entry)
        self._announce(exchange, choice, entry)
        try:
            await self._ledger.add(replica.name, (entry,))
        except BaseException:
            self._withdraw(replica, entry)
            raise

    def _withdraw(self, replica: Replica, entry: LedgerEntry) -> None:
        """An entry that failed, or whose client hung up while it was on its way: no trace of it may stay."""
        replica.strike(entry.request_id, self._clock())
        self._ledger.remove(replica.name, (entry.request_id,))

    def _entry(self, exchange: Exchange, choice: _Choice, *, guaranteed: bool) -> LedgerEntry:
        return LedgerEntry(
            request_id=exchange.request_id,
            gateway=self._ledger.gateway,
            slo_class=exchange.contract.slo_class,
            arrival_s=exchange.arrival_s,
            has_slo=exchange.contract.has_slo and exchange.completion.sequences == 1,
            deadline_s=exchange.turn_s,
            tpot_s=exchange.pace.tpot_s,
            switch_at=exchange.pace.switch_at,
            next_tpot_s=exchange.pace.next_tpot_s,
            weight=rank(exchange.arrival(exchange.arrival_s)),
            prompt_tokens=exchange.prompt_tokens,
            output_tokens=exchange.output_tokens,
            acceptance=exchange.acceptance,
            guaranteed=guaranteed,
            dispatched_s=self._clock(),
            decided_s=choice.decided_s,
            report_s=choice.report_s,
            cached_tokens=choice.cached.sure,
        )

    def _placed(self, exchange: Exchange, choice: _Choice, *, guaranteed: bool) -> Placement:
        waited_s = self._clock() - exchange.arrival_s
        placement = Placement(
            choice.replica, guaranteed, waited_s + choice.decision.predicted_ttft_s, choice.decision.reason
        )
        exchange.attempts.append(placement)
        exchange.cached = choice.cached
        self._fleet.tell(choice.replica)
        return placement

    def _announce(self, exchange: Exchange, choice: _Choice, entry: LedgerEntry) -> None:
        """Tell the engine who is coming: it sees a request only when its HTTP server has read and tokenized it.

        Said with the entry into the ledger, in the same round trip, though that may fail: whoever is announced and
        doesn't come is soon forgotten, while an announcement that waits for the answer may miss its iteration.
        """
        if choice.replica.follows_plans and exchange.contract.has_slo:
            tokens = exchange.prompt_tokens - choice.cached.likely
            coming = Announcement(exchange.request_id, tokens, exchange.turn_s - self._clock(), entry.guaranteed)
            self._ledger.announce(choice.replica.name, coming)


def refused(exchange: Exchange, refusal: Refusal) -> GatewayError:
    """What a client gets for a refusal: with a time to come back, or, where none would help, with the advice not to."""
    if refusal.retry_after_s is None:
        return InvalidRequest(_whose(exchange, refusal), param=_param(exchange, refusal), code=refusal.code)
    return NotAdmitted(
        f"the SLO of class {exchange.contract.slo_class!r} can't be guaranteed now ({refusal.reason}); "
        f"it could be in about {refusal.retry_after_s:.3g} s",
        retry_after_s=refusal.retry_after_s,
    )


def _param(exchange: Exchange, refusal: Refusal) -> str:
    """What the client can change, as it names it."""
    if refusal.field in SLO_HEADERS:
        return exchange.contract.said_in(SLO_HEADERS[refusal.field])
    if refusal.field == "prompt":
        return "messages" if exchange.completion.kind == "chat" else "prompt"
    return refusal.field or "model"


def _whose(exchange: Exchange, refusal: Refusal) -> str:
    """Why it is refused; of an SLO that the client has not stated itself, also where that comes from."""
    if refusal.field in SLO_HEADERS and _param(exchange, refusal) in CLASS_SAID_IN:
        return f"the SLO of class {exchange.contract.slo_class!r}: {refusal.reason}"
    return refusal.reason


def state_of(replica: Replica, mirror: Mirror, now_s: float, cached: Cached = NOT_CACHED) -> ReplicaState:
    replica.observe()
    return ReplicaState(
        name=replica.name,
        profile=mirror.profile,
        jobs=mirror.jobs,
        free_blocks=mirror.free_blocks,
        busy_for_s=mirror.busy_for_s(now_s),
        running_for_s=mirror.running_for_s(now_s),
        overdue_s=mirror.overdue_s(now_s),
        firm_tokens=mirror.firm_tokens,
        patience=mirror.patience,
        cached=cached,
        waiting=mirror.waiting,
        registered=mirror.registered,
        sent_s=replica.sent_s,
    )


def _counted(choice: _Choice, entry: LedgerEntry) -> bool:
    """Whether a decision knew of a guarantee."""
    return choice.jobs.get(entry.request_id, False)


def _as_it_is(choice: _Choice, missed: tuple[LedgerEntry, ...], request_id: str, now_s: float) -> ReplicaState:
    """The replica of a choice now, with what was known to it and what it missed, but without what came after it."""
    mirror = choice.replica.mirror
    assert mirror is not None
    before = choice.jobs.keys() | {entry.request_id for entry in missed}
    jobs = mirror.jobs.copy()
    for job_id in [job_id for job_id in jobs.ids if job_id == request_id or job_id not in before]:
        jobs.remove(job_id)
    return msgspec.structs.replace(state_of(choice.replica, mirror, now_s, choice.cached), jobs=jobs, waiting=None)


def _cached(exchange: Exchange, replica: Replica) -> Cached:
    """What the replica may have cached of the prompt."""
    return replica.prefixes.cached(exchange.completion.prefix, exchange.prompt_tokens)
