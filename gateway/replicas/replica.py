"""One server as a gateway knows it: where it is, what it serves, what it is doing, and the answers under way there."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.messages import PrefixReport, RequestProgress
from slosgate.gateway.replicas.breaker import Breaker
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.reports import events
from slosgate.gateway.state.records import LedgerEntry
from slosgate.planner.jobs import JobTable
from slosgate.planner.prefixes import Cached, Prefixes
from slosgate.planner.profile import HardwareProfile

UNKNOWN_KV_TOKENS = 1_000_000  # that a replica without a profile may hold
MOST_EXPECTED = 4096
SILENT_S = 2.0  # a replica that reports, and hasn't for so long, may hang: several times its longest pause


class Answer(Protocol):
    """One answer under way, as far as its replica needs it."""

    prompt_tokens: int
    tokens: int

    @property
    def model(self) -> str: ...

    @property
    def movable(self) -> bool: ...

    @property
    def begun(self) -> bool: ...

    def cut(self, reason: str) -> None: ...

    def note_cached(self, cached_tokens: int) -> None: ...

    def promote(self) -> None: ...

    def generating(self, now_s: float) -> None: ...


class _Expected(NamedTuple):
    prompt_tokens: int
    cached_tokens: int


class Replica:
    """One server. `mirror` is None when its hardware profile is unknown: it gets best effort only."""

    def __init__(
        self, name: str, url: str, model: str, breaker: Breaker, *,
        profile: HardwareProfile | None = None, info: ReplicaInfo | None = None, api_key: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.url = url.rstrip("/")
        self.model = model  # its first name; empty when the server tells nobody
        self.models: tuple[str, ...] = (model,) if model else ()  # every name: aliases and adapters, too
        self.mirror = Mirror(profile) if profile else None
        self.info = info  # what it registered with; None for a server from the configuration
        self.alive = True
        self._lost = False
        self.draining = False  # it finishes what it has, and takes nothing new
        self.breaker = breaker
        self.prefixes = Prefixes(profile.kv_blocks * profile.block_tokens if profile else UNKNOWN_KV_TOKENS)
        self.own: dict[str, LedgerEntry] = {}  # what this gateway answers for
        self.answers: dict[str, Answer] = {}
        self.sent_s = -math.inf  # when this gateway last sent it a request
        self._expected: OrderedDict[str, _Expected] = OrderedDict()  # what it has not told yet
        self._api_key = api_key

    @property
    def reports(self) -> bool:
        """Whether it sends telemetry."""
        return self.info is not None

    @property
    def follows_plans(self) -> bool:
        """Whether it carries out plans; otherwise slosgate only admits and routes."""
        return self.info is not None and self.info.supports_plans

    @property
    def started_at_s(self) -> float:
        return self.info.started_at_s if self.info else 0.0

    @property
    def under_way(self) -> int:
        """Requests there, of all gateways where it reports them."""
        return len(self.mirror.jobs) if self.mirror else len(self.own)

    def serves(self, model: str) -> bool:
        """Whether it answers to this name; one that tells nobody its names may."""
        return model in self.models or not self.models

    def authorization(self, client: str = "") -> str:
        """The Authorization header for it: its own API key's, else what the client sent."""
        return f"Bearer {self._api_key}" if self._api_key else client

    def call(self, names: tuple[str, ...]) -> None:
        """Its server lists these names now; the first one it was known by stays."""
        self.model = self.model or next(iter(names), "")
        self.models = tuple(dict.fromkeys((self.model, *names) if self.model else names))

    def take_over(self, known: Replica) -> None:
        """It is the same server as `known`, found again: what is under way there goes on."""
        self.own, self.answers, self.draining = known.own, known.answers, known.draining
        self.breaker, self.prefixes, self._expected = known.breaker, known.prefixes, known._expected

    def silent(self, now_s: float) -> bool:
        """Whether its reports have stopped, which shows sooner than the end of its heartbeat."""
        heard_s = self.mirror.heard_s if self.mirror else -math.inf
        return self.reports and math.isfinite(heard_s) and now_s - heard_s > SILENT_S

    def plan_age_s(self, now_s: float) -> float:
        """For how long it has told of no newer plan; -inf before its first report."""
        return now_s - self.mirror.followed_s if self.mirror else -math.inf

    def enter(self, entry: LedgerEntry) -> None:
        self.own[entry.request_id], self.sent_s = entry, entry.dispatched_s
        if self.mirror:
            self.mirror.add(entry)

    def expect(self, request_id: str, prompt_tokens: int, cached: Cached) -> None:
        """A request leaves for it, of whose prompt so much may be cached there."""
        self._expected[request_id] = _Expected(prompt_tokens, cached.guessed)
        if len(self._expected) > MOST_EXPECTED:
            self._expected.popitem(last=False)

    def note_cached(self, report: PrefixReport) -> None:
        """It had so much cached of a prompt that was sent there."""
        expected = self._expected.pop(report.request_id, None)
        if expected is not None:
            scale = report.prompt_tokens / max(1, expected.prompt_tokens)
            self.prefixes.counted(int(expected.cached_tokens * scale), report.cached_tokens)
        if answer := self.answers.get(report.request_id):
            answer.note_cached(report.cached_tokens)

    def promote(self, entry: LedgerEntry) -> None:
        """A best-effort request is guaranteed from now on, if it is still here."""
        if entry.request_id in self.own:
            self.own[entry.request_id] = entry
        if answer := self.answers.get(entry.request_id):
            answer.promote()
        if self.mirror and entry.request_id in self.mirror.entries:
            self.mirror.add(entry)

    def strike(self, request_id: str, now_s: float) -> bool:
        """Forget a request of ours; False when it was not here."""
        if self.mirror:
            self.mirror.drop(request_id, now_s)
        return self.own.pop(request_id, None) is not None

    def report(self, progress: Iterable[RequestProgress], now_s: float) -> None:
        """Tell the answers under way which of them have a first token."""
        for request in progress:
            if request.generated_tokens and (answer := self.answers.get(request.request_id)):
                answer.generating(now_s)

    def observe(self) -> None:
        """For a server that reports nothing: tell from the answers that pass through how far its jobs are."""
        if self.reports or self.mirror is None:
            return
        jobs = self.mirror.jobs
        if not jobs.ids:
            self.mirror.free_blocks = self.mirror.profile.kv_blocks
            return
        begun = [(jobs.row_of(i), a.tokens, a.prompt_tokens) for i, a in self.answers.items() if a.tokens and i in jobs]
        rows = jobs.rows
        if begun:
            at, tokens, prompts = np.array(begun).T
            rows["prompt_left"][at], rows["generated"][at], rows["context"][at] = 0, tokens, prompts + tokens
            self.mirror.changed()
        profile = self.mirror.profile
        used = int((-(-rows["context"] // profile.block_tokens)).sum())
        self.mirror.free_blocks = max(0, profile.kv_blocks - used)

    def waiting(self) -> list[Answer]:
        """Answers that another replica could give as well: best effort of which there is no token yet."""
        jobs = self.mirror.jobs if self.mirror else JobTable()
        begun = {i for i in self.answers if i in jobs and jobs[i]["generated"]}
        return [answer for i, answer in self.answers.items() if answer.movable and i not in begun]

    @property
    def joined(self) -> events.ReplicaJoined:
        """What there is to say when it comes."""
        profile = self.mirror.profile if self.mirror else None
        return events.ReplicaJoined(
            replica=self.name, url=self.url, model=self.model or "models that it tells nobody",
            engine=self.info.engine if self.info else "", plans=self.follows_plans,
            window_tokens=profile.max_model_tokens if profile else 0, kv_blocks=profile.kv_blocks if profile else 0,
        )  # fmt: skip

    def leave(self, why: str) -> None:
        """Nothing new goes there; the answers under way may end."""
        if self.alive:
            events.say(events.ReplicaLeft(replica=self.name, why=why, under_way=len(self.answers)))
        self.alive = False

    def fall_ill(self, why: str) -> None:
        """Nothing new goes there; what has begun may end, and what has not goes elsewhere."""
        if self.alive and not self._lost:
            events.say(events.ReplicaLost(replica=self.name, why=why, under_way=len(self.answers)))
        self.alive = False
        for answer in list(self.answers.values()):
            if not answer.begun:
                answer.cut("lost")

    def lose(self, why: str) -> None:
        """It is gone: nothing new goes there, and the answers under way are cut."""
        if not self._lost:
            events.say(events.ReplicaLost(replica=self.name, why=why, under_way=len(self.answers)))
        self.alive, self._lost = False, True
        for answer in list(self.answers.values()):
            answer.cut("lost")
