"""One server as a gateway knows it: where it is, what it serves, what it is doing, and the answers under way there."""

from __future__ import annotations

import math
from typing import Protocol

from slosgate.engines.channel import ReplicaInfo
from slosgate.gateway.replicas.breaker import Breaker
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.replicas.prefixes import Prefixes
from slosgate.gateway.state.records import LedgerEntry
from slosgate.planner.jobs import JobTable
from slosgate.planner.profile import HardwareProfile

SILENT_S = 2.0  # a replica that reports, and hasn't for so long, may hang: several times its longest pause


class Answer(Protocol):
    """One answer under way, as far as its replica needs it."""

    prompt_tokens: int
    tokens: int

    @property
    def model(self) -> str: ...

    @property
    def movable(self) -> bool: ...

    def cut(self, reason: str) -> None: ...

    def promote(self) -> None: ...


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
        self.draining = False  # it finishes what it has, and takes nothing new
        self.breaker = breaker
        self.prefixes = Prefixes()
        self.own: dict[str, LedgerEntry] = {}  # what this gateway answers for
        self.answers: dict[str, Answer] = {}
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
        self.breaker, self.prefixes = known.breaker, known.prefixes

    def silent(self, now_s: float) -> bool:
        """Whether its reports have stopped, which shows sooner than the end of its heartbeat."""
        heard_s = self.mirror.heard_s if self.mirror else -math.inf
        return self.reports and math.isfinite(heard_s) and now_s - heard_s > SILENT_S

    def enter(self, entry: LedgerEntry) -> None:
        self.own[entry.request_id] = entry
        if self.mirror:
            self.mirror.add(entry)

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

    def observe(self) -> None:
        """For a server that reports nothing: tell from the answers that pass through how far its jobs are."""
        if self.reports or self.mirror is None:
            return
        for request_id, answer in self.answers.items():
            if answer.tokens and request_id in self.mirror.jobs:
                job = self.mirror.jobs[request_id]
                job["prompt_left"], job["generated"] = 0, answer.tokens
                job["context"] = answer.prompt_tokens + answer.tokens
        profile = self.mirror.profile
        used = sum(profile.blocks_for(int(context)) for context in self.mirror.jobs.rows["context"])
        self.mirror.free_blocks = max(0, profile.kv_blocks - used)

    def waiting(self) -> list[Answer]:
        """Answers that another replica could give as well: best effort of which there is no token yet."""
        jobs = self.mirror.jobs if self.mirror else JobTable()
        begun = {i for i in self.answers if i in jobs and jobs[i]["generated"]}
        return [answer for i, answer in self.answers.items() if answer.movable and i not in begun]

    def lose(self) -> None:
        """It is gone: nothing new goes there, and the answers under way are cut."""
        self.alive = False
        for answer in list(self.answers.values()):
            answer.cut("lost")
