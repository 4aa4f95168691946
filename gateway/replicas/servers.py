"""Servers from the configuration, without the plug-in: asked for their health and names; what they are doing is told
from the answers that pass through this gateway."""

from __future__ import annotations

import asyncio

import msgspec

from slosgate.engines import profiles
from slosgate.gateway.background import kept_up
from slosgate.gateway.config import ReplicaConfig
from slosgate.gateway.replicas.credentials import Credentials
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.replicas.probing import Prober, Seen
from slosgate.gateway.replicas.replica import Replica
from slosgate.gateway.reports import events
from slosgate.planner.profile import HardwareProfile

PROBE_S = 1.0
PROBE_FAILURES = 2  # so many in a row and a server is down


class Servers:
    def __init__(
        self, fleet: Fleet, prober: Prober, credentials: Credentials, configured: tuple[ReplicaConfig, ...]
    ) -> None:
        self._fleet = fleet
        self._prober = prober
        self._credentials = credentials
        self._configured = configured

    async def run(self) -> None:
        """Watch them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for configured in self._configured:
                tasks.create_task(kept_up(_Watch(self, configured).run))

    def registered(self, url: str) -> bool:
        """Whether the server there has registered by itself, which says more about it."""
        return any(replica.reports and replica.url == url for replica in self._fleet.living())

    async def look(self, replica: ReplicaConfig) -> tuple[str, Seen | None]:
        """(why it is not well, what it lists)."""
        url, api_key = replica.url.rstrip("/"), self._credentials.of(replica.url)
        seen = await self._prober.seen(url, f"Bearer {api_key}" if api_key else "")
        return await self._prober.healthy(url), seen

    def enter(self, configured: ReplicaConfig, profile: HardwareProfile | None, seen: Seen) -> Replica:
        if profile is not None and seen.max_model_tokens is not None:
            profile = msgspec.structs.replace(profile, max_model_tokens=seen.max_model_tokens)
        model = configured.model or next(iter(seen.names), "")
        replica = Replica(
            configured.label, configured.url, model, self._fleet.breaker(),
            profile=profile, api_key=self._credentials.of(configured.url),
        )  # fmt: skip
        self._fleet.replicas[replica.name] = replica
        events.say(replica.joined)
        return replica


class _Watch:
    """One of them."""

    def __init__(self, servers: Servers, configured: ReplicaConfig) -> None:
        self._servers = servers
        self._configured = configured
        self._profile = profiles.load(configured.profile) if configured.profile else None
        self._replica: Replica | None = None
        self._failures = 0
        self._said: events.Event | None = None

    async def run(self) -> None:
        while True:
            if self._servers.registered(self._configured.url.rstrip("/")):
                self._hand_over()
            else:
                problem, seen = await self._servers.look(self._configured)
                self._take(problem, seen or Seen())
            await asyncio.sleep(PROBE_S)

    def _take(self, problem: str, seen: Seen) -> None:
        """It keeps the names it is known by while it lists none: a busy server is slow to."""
        if self._replica is None and not (problem or self._configured.model or seen.names or seen.hidden):
            problem = "/v1/models names no model; give model = in the configuration"
        self._failures = self._failures + 1 if problem else 0
        name = self._configured.label
        if self._failures >= PROBE_FAILURES:
            if self._replica is None:
                self._say(events.ReplicaRefused(replica=name, why=f"{self._configured.url}: {problem}"))
            self._leave(problem)
        elif not problem:
            if self._replica is None:
                self._replica = self._servers.enter(self._configured, self._profile, seen)
            if seen.names:
                self._replica.call(seen.names)
            hides = seen.hidden and not self._configured.model
            self._say(events.ReplicaHidden(replica=name) if hides else None)

    def _leave(self, problem: str) -> None:
        if self._replica is not None:
            self._replica.fall_ill(problem)
            self._replica = None

    def _hand_over(self) -> None:
        """It has registered: what it answers here it may finish."""
        if self._replica is not None:
            self._replica.leave("it has registered by itself")
            self._replica = None

    def _say(self, event: events.Event | None) -> None:
        if event is not None and event != self._said:
            events.say(event)
        self._said = event
