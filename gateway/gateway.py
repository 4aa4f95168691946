"""The gateway as one object: its parts, and the life of a request through them."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

from starlette.types import Receive, Send

from slosgate.engines.cancelling import ended
from slosgate.engines.clock import SteadyClock
from slosgate.gateway.background import kept_up, read_aside
from slosgate.gateway.config import Config
from slosgate.gateway.decisions import tokenizing
from slosgate.gateway.decisions.admission import Admission
from slosgate.gateway.decisions.drafts import Drafts
from slosgate.gateway.decisions.headroom import Headroom
from slosgate.gateway.decisions.lengths import Lengths
from slosgate.gateway.decisions.planning import Planning
from slosgate.gateway.decisions.shortage import Shortage
from slosgate.gateway.decisions.tokenizing import Tokenizers
from slosgate.gateway.decisions.turns import Turns
from slosgate.gateway.errors import GatewayError, InvalidRequest, NotAdmitted, Unavailable, some
from slosgate.gateway.http.headers import tracing, visible_id
from slosgate.gateway.http.keys import Holder, Keys
from slosgate.gateway.http.overflow import Overflow
from slosgate.gateway.http.passthrough import Passthrough
from slosgate.gateway.http.relay import Relay
from slosgate.gateway.promises.completion import Completion, Kind, parse
from slosgate.gateway.promises.contract import E2E_HEADERS, TPOT_HEADERS, TTFT_HEADERS, Contract, ignored, resolve
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upkeep import Upkeep
from slosgate.gateway.replicas.upstream import Upstream
from slosgate.gateway.reports import events
from slosgate.gateway.reports.explaining import explain, is_broken
from slosgate.gateway.reports.history import History
from slosgate.gateway.reports.live import Live
from slosgate.gateway.reports.metrics import Metrics
from slosgate.gateway.reports.records import Records, log_stream
from slosgate.gateway.reports.tracing import Tracing
from slosgate.gateway.reports.watch import Watch
from slosgate.gateway.state.ledger import Ledger
from slosgate.gateway.state.sessions import Context, Session, Sessions, session_id
from slosgate.planner.desk import window_tokens
from slosgate.planner.loops import weight_of_next

IMPLIED_SLOWDOWN = 5.0  # of the zero-load TTFT: the paper's loose prefill SLO


class Gateway:
    """One gateway: use `running` to start and stop it, `answer` for each request."""

    def __init__(
        self, config: Config, redis_url: str, *,
        clock: Callable[[], float] = time.time, random: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.config = config
        self.clock = clock = SteadyClock(clock)
        self.upstream = Upstream(
            connect_timeout_s=config.server.connect_timeout_s, max_answer_bytes=config.server.max_answer_bytes
        )
        self.ledger = Ledger(redis_url, f"gw-{uuid4().hex[:12]}", timeout_s=config.redis.timeout_s, clock=clock)
        self.fleet = Fleet(clock=clock, random=random)
        self.upkeep = Upkeep(self.fleet, self.ledger, self.upstream, config, clock=clock)
        self.metrics = Metrics()
        self.history = History()
        self.headroom = Headroom(self.fleet)
        self.shortage = Shortage(self.fleet, self.headroom)
        self.admission = Admission(self.fleet, self.ledger, config.admission, self.metrics, clock=clock)
        self.planning = Planning(
            self.fleet, self.upkeep.books, self.ledger, self.metrics,
            interval_s=config.admission.plan_interval_s, settings=config.admission.desk, clock=clock,
        )  # fmt: skip
        self.watch = Watch(self.fleet, self.ledger, clock=clock)
        self.overflow = Overflow(config, clock=clock)
        self.relay = Relay(self.upstream, self.fleet, self.admission, self.overflow, config.server, clock=clock)
        self.passthrough = Passthrough(self.upstream, self.fleet, config.server)
        self.closing = False  # the listener is closed: streams without an end must end
        self.draining = False  # a signal to stop has come: /ready says so before the listener closes
        self.drafts = Drafts(config.classes)
        self.fleet.on_drafts(self.drafts.learn)
        self.lengths = Lengths(Tokenizers(tokenizing.files(config)))
        self.keys = Keys(config.keys)
        self.turns = Turns()
        self.sessions = Sessions(self.ledger)
        self.records = Records(config.admin.records, log_stream(config.server.log_requests))
        self.tracing = Tracing(config)
        self.live = Live(config, self.fleet, self.ledger, self.headroom, self.history, self.records, clock=clock)

    def reconfigure(self, config: Config) -> None:
        """Serve what comes from now on by this configuration; what is under way stays as it was promised."""
        self.config = self.live.config = config
        self.keys.change(config.keys)
        self.drafts.classes = config.classes

    async def answer(
        self, kind: Kind, body: bytes, headers: Mapping[bytes, bytes], arrival_s: float, request_id: str,
        receive: Receive, send: Send,
    ) -> None:  # fmt: skip
        """Serve one completion request. Raises GatewayError while the client has seen nothing."""
        await self.turns.mine()
        holder = self.keys.holder(headers)  # known already, but a body is long in coming
        completion = self._named(await read_aside(parse, body, kind))
        session = await self._session(completion, headers, holder)
        exchange = self._exchange(completion, session, headers, arrival_s, request_id, holder)
        self.keys.enter(holder)
        self.tracing.begin(exchange)
        error = None
        try:
            await self._admit(exchange)
            await self._relay(exchange, receive, send)
        except GatewayError as exc:
            error = exc
            raise
        finally:
            self.tracing.ended(exchange, self.clock(), error)
            if holder is not None:
                holder.leave()

    async def _admit(self, exchange: Exchange) -> None:
        began_s = self.clock()
        try:
            await self.admission.admit(exchange)
            self.shortage.came(exchange)
        except (NotAdmitted, Unavailable) as error:
            if isinstance(error, NotAdmitted):
                self.shortage.came(exchange, refused=True)
            if exchange.contract.when_full != "overflow":
                self._note_refusal(exchange, error)
                raise
            exchange.overflow = exchange.contract.overflow
        finally:
            self.tracing.admitted(exchange, began_s, self.clock())
        self.metrics.decided(self.clock() - began_s)

    async def _relay(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        error = None
        try:
            await self.relay.answer(exchange, receive, send)
        except GatewayError as exc:
            error = exc
            raise
        finally:
            self.lengths.learn(exchange)
            self._end_session(exchange)
            self.headroom.note(exchange)
            self.shortage.ended(exchange)
            self._note_end(exchange, error)

    def _note_refusal(self, exchange: Exchange, error: GatewayError) -> None:
        self.metrics.refused_slo(exchange, error.reason)
        self.history.refused(exchange, error.reason, self.clock())
        self.records.keep(exchange, self.clock(), error)

    def _note_end(self, exchange: Exchange, error: GatewayError | None) -> None:
        now_s = self.clock()
        why = explain(exchange, now_s)
        self.metrics.ended(exchange, now_s)
        self.history.ended(exchange, now_s)
        self.records.keep(exchange, now_s, error, why)
        if is_broken(exchange):
            events.say(events.PromiseBroken(
                request_id=exchange.request_id, slo_class=exchange.contract.slo_class, why=why,
                replica=exchange.server[0],
            ))  # fmt: skip

    async def _session(
        self, completion: Completion, headers: Mapping[bytes, bytes], holder: Holder | None
    ) -> Session | None:
        """The session that a call belongs to. Its replicas have what it begins with, as far as it does."""
        name = session_id(headers, completion.cache_key, holder.name if holder else "")
        if not name:
            return None
        session = await self.sessions.recall(name, alone=len(self.fleet.gateways) <= 1)
        tokens = completion.prompt_tokens or completion.prompt_bytes // 4
        for context in session.contexts:
            replica = self.fleet.replicas.get(context.replica)
            if replica is not None and context.begins(completion.prefix):
                replica.prefixes.told(completion.prefix, context.blocks, tokens)
        return session

    def _end_session(self, exchange: Exchange) -> None:
        if exchange.session is None or exchange.outcome != "completed":
            return
        context, hashes = None, exchange.completion.prefix.hashes
        if hashes and not exchange.overflow:
            context = Context(exchange.placement.replica.name, len(hashes), hashes[-1])
        session = self.sessions.newest(exchange.session.id)
        self.sessions.remember(session.ended(context, exchange.tokens, promised=exchange.guaranteed))

    def _exchange(
        self, completion: Completion, session: Session | None, headers: Mapping[bytes, bytes], arrival_s: float,
        request_id: str, holder: Holder | None,
    ) -> Exchange:  # fmt: skip
        """What is asked for."""
        contract = resolve(headers, completion.service_tier, self.config, holder.config if holder else None)
        contract = self.overflow.applied(contract, completion)
        replicas = self._candidates(completion.model, contract)
        size = self.lengths.size(completion)
        prompt_tokens = self.lengths.prompt_tokens(completion, size)
        if completion.truncate_tokens is not None and completion.truncate_tokens > 0 and size.unit != "exact":
            prompt_tokens = min(prompt_tokens, completion.truncate_tokens)
        longest = prompt_tokens if completion.longest_tokens is None else completion.longest_tokens
        left = window_tokens([r.mirror.profile for r in replicas if r.mirror is not None]) - longest
        output_tokens = self.lengths.output_tokens(completion, contract.slo_class, max(1, left))
        e2e_s = contract.e2e_s
        if session is not None:
            session = session.begun(arrival_s + contract.session_e2e_s)
            self.sessions.remember(session)
            output_tokens = output_tokens if completion.exact_output else session.output_tokens(output_tokens)
            contract = contract.within(session.due_s - arrival_s)
            contract = replace(contract, weight=_weight(contract, session, completion))
        ttft_s = _ttft_s(contract, completion, prompt_tokens, replicas)
        return Exchange(
            request_id=request_id,
            completion=completion,
            contract=contract,
            arrival_s=arrival_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            thinking_planned=self.lengths.thinking_tokens(completion, contract.slo_class, output_tokens),
            ttft_s=ttft_s,
            e2e_s=e2e_s,
            acceptance=self.drafts.planning_value(replicas, completion.model, contract.slo_class),
            stated=any(name in headers for name in (*TTFT_HEADERS, *TPOT_HEADERS, *E2E_HEADERS)),
            settings=self.config.admission.desk,
            longest_tokens=longest,
            prompt_is_exact=size.unit == "exact" and completion.truncate_tokens is None,
            size=size,
            replicas=replicas,
            session=session,
            key=holder.name if holder else "",
            # A key of ours is none of the replica's business; without keys of ours it may be the replica's own.
            authorization="" if holder else headers.get(b"authorization", b"").decode("latin-1"),
            client_id=visible_id(headers, ""),
            tracing=tracing(headers),
            ignored=ignored(headers, contract, completion.service_tier, ttft_s, session.due_s if session else math.inf),
        )

    def _named(self, completion: Completion) -> Completion:
        """One that names no model is for the only one there is, as in vLLM."""
        if completion.model:
            return completion
        models = self.fleet.base_models()
        if not models:
            raise self.fleet.nobody()
        if len(models) > 1:
            raise InvalidRequest(f"model is missing: name one of {some(models)}", param="model")
        return replace(completion, model=models[0])

    def _candidates(self, model: str, contract: Contract) -> list[Replica]:
        """The replicas that could serve a request; none when it can go outside instead."""
        try:
            return self.admission.candidates(model)
        except Unavailable:
            if contract.when_full != "overflow":
                raise
            return []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the parts, wait until Redis has answered once (or not), and stop them at the end."""
        logging.getLogger("slosgate").addHandler(self.metrics.tally)
        tasks = [asyncio.create_task(self.upkeep.run())]
        tasks += [asyncio.create_task(kept_up(part.run)) for part in (self.planning, self.watch)]
        try:
            yield
        finally:
            # The last answers have just struck their requests off the ledger: that must still reach Redis.
            await self.ledger.flush()
            await ended(tasks)
            await self.ledger.close()
            await self.upstream.close()
            await asyncio.to_thread(self.tracing.close)
            logging.getLogger("slosgate").removeHandler(self.metrics.tally)


def _weight(contract: Contract, session: Session, completion: Completion) -> float:
    """What a session's call competes with."""
    return weight_of_next(contract.weight, promised=session.goes_on(completion.prefix))


def _ttft_s(contract: Contract, completion: Completion, prompt_tokens: int, replicas: list[Replica]) -> float:
    """The TTFT SLO in seconds; a slowdown is relative to the fastest replica's zero-load TTFT of what is not cached.

    Token deadlines count from the first token's, so a TPOT SLO that comes alone implies a loose TTFT.
    """
    stated = math.isfinite(contract.ttft_s)
    slowdown = contract.ttft_slowdown or (IMPLIED_SLOWDOWN if math.isfinite(contract.tpot_s) else math.inf)
    if math.isinf(slowdown) or (stated and not contract.ttft_slowdown):
        return contract.ttft_s
    known = [(r.mirror.profile, r.prefixes.cached(completion.prefix, prompt_tokens).sure) for r in replicas if r.mirror]
    times = [profile.zero_load_ttft_s(prompt_tokens - cached, cached) for profile, cached in known]
    by_prompt_s = slowdown * min(times, default=math.inf)
    return max(by_prompt_s, contract.ttft_s) if stated else by_prompt_s
