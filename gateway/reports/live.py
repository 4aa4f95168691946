"""What the dashboard shows: this gateway's last hour, its replicas beside their plans, the requests worth a look."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from slosgate import __version__
from slosgate.engines.channel import key
from slosgate.engines.messages import Plan
from slosgate.engines.store import STORE_ERRORS
from slosgate.gateway.config import ClassConfig, Config
from slosgate.gateway.decisions.headroom import Headroom
from slosgate.gateway.promises.contract import describe
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.reports.history import ClassHour, History, What
from slosgate.gateway.reports.records import Record, Records
from slosgate.gateway.state.ledger import Ledger

RAN = 24  # iterations of each replica that are shown
NEXT = 12


class Ran(Struct, frozen=True):
    number: int
    took_ms: float
    planned_ms: float
    new_tokens: int
    sequences: int


class Next(Struct, frozen=True):
    planned_ms: float
    token_budget: int


class ReplicaNow(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    plans: bool
    reports: bool
    under_way: int
    breaker: int  # 0 closed, 1 half-open, 2 open
    silent: bool
    kv_free: float | None  # share
    drift: float | None  # how long its iterations took over how long they were planned to take, in all
    plan_age_s: float | None
    ran: tuple[Ran, ...]
    next: tuple[Next, ...]


class ClassNow(Struct, frozen=True):
    name: str
    slo: str
    total: dict[What, int]
    minutes: dict[What, list[int]]


class Snapshot(Struct, frozen=True, kw_only=True):
    version: str
    gateway: str
    gateways: int
    started_s: float
    now_s: float
    state_available: bool
    draining: bool
    headroom: int | None  # None: nothing has been asked for yet
    classes: tuple[ClassNow, ...]
    reasons: list[tuple[str, int]]
    replicas: tuple[ReplicaNow, ...]
    broken: list[Record]
    slowest: list[Record]


class Live:
    def __init__(
        self, config: Config, fleet: Fleet, ledger: Ledger, headroom: Headroom, history: History, records: Records, *,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.config = config
        self._fleet = fleet
        self._ledger = ledger
        self._headroom = headroom
        self._history = history
        self._records = records
        self._clock = clock
        self._started_s = clock()

    async def snapshot(self, *, draining: bool) -> Snapshot:
        replicas = sorted(self._fleet.living(), key=lambda replica: replica.name)
        plans = await self._plans(replicas)
        now_s = self._clock()
        room = self._headroom.requests(now_s)
        hours = self._history.classes(tuple(self.config.classes), now_s)
        return Snapshot(
            version=__version__,
            gateway=self._ledger.gateway,
            gateways=max(1, len(self._fleet.gateways)),
            started_s=self._started_s,
            now_s=now_s,
            state_available=self._ledger.available,
            draining=draining,
            headroom=sum(room.values()) if room else None,
            classes=tuple(_class(name, self.config.classes[name], hour) for name, hour in hours.items()),
            reasons=self._history.reasons(now_s),
            replicas=tuple(_replica(replica, plans.get(replica.name, ()), now_s) for replica in replicas),
            broken=self._records.broken(),
            slowest=self._records.slowest(now_s),
        )

    async def _plans(self, replicas: list[Replica]) -> dict[str, tuple[Next, ...]]:
        """The next iterations of each replica, whichever gateway plans it; none while Redis is away."""
        names = [replica.name for replica in replicas if replica.follows_plans]
        if not names or not self._ledger.available:
            return {}
        try:
            values = await self._ledger.redis.mget([key("plan", name) for name in names])
        except STORE_ERRORS:
            return {}
        door, found = self._ledger.door, zip(names, values, strict=True)
        read = ((name, door.read(key("plan", name), value, Plan)) for name, value in found if value is not None)
        return {name: _next(plan) for name, plan in read if plan is not None}


def _next(plan: Plan) -> tuple[Next, ...]:
    return tuple(Next(_ms(planned.duration_s), planned.token_budget) for planned in plan.horizon[:NEXT])


def _class(name: str, config: ClassConfig, hour: ClassHour) -> ClassNow:
    return ClassNow(name, describe(config), hour.total, hour.minutes)


def _replica(replica: Replica, planned: tuple[Next, ...], now_s: float) -> ReplicaNow:
    mirror = replica.mirror
    iterations = mirror.iterations if mirror else None
    return ReplicaNow(
        name=replica.name,
        model=replica.model,
        plans=replica.follows_plans,
        reports=replica.reports,
        under_way=replica.under_way,
        breaker=replica.breaker.state(now_s).value,
        silent=replica.silent(now_s),
        kv_free=mirror.free_blocks / mirror.profile.kv_blocks if mirror else None,
        drift=iterations.took_s / iterations.planned_s if iterations and iterations.planned_s else None,
        plan_age_s=max(0.0, replica.plan_age_s(now_s)) if replica.follows_plans else None,
        ran=tuple(
            Ran(ran.number, _ms(ran.took_s), _ms(ran.planned_s), ran.new_tokens, ran.sequences)
            for ran in (iterations.latest(RAN) if iterations else ())
        ),
        next=planned,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
