"""All that keeps a gateway's fleet up to date, as one task."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from slosgate.gateway.background import kept_up
from slosgate.gateway.config import Config
from slosgate.gateway.replicas.books import Books
from slosgate.gateway.replicas.credentials import Credentials
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.replicas.probing import Prober
from slosgate.gateway.replicas.registry import Registry
from slosgate.gateway.replicas.servers import Servers
from slosgate.gateway.replicas.telemetry import Reports
from slosgate.gateway.replicas.upstream import Upstream
from slosgate.gateway.state.ledger import Ledger


class Upkeep:
    def __init__(
        self, fleet: Fleet, ledger: Ledger, upstream: Upstream, config: Config, *, clock: Callable[[], float]
    ) -> None:
        prober, credentials = Prober(upstream), Credentials(config, os.environ)
        self._ledger = ledger
        self.books = Books(fleet, ledger, clock=clock)
        self._registry = Registry(fleet, self.books, ledger, prober, credentials)
        self._reports = Reports(fleet, ledger, clock=clock)
        self._servers = Servers(fleet, prober, credentials, config.replicas)

    async def run(self) -> None:
        """Until cancelled."""
        parts = (
            self._ledger.run, self._registry.run, self._registry.follow_names, self._reports.run, self.books.run,
            self._servers.run,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            for work in parts:
                tasks.create_task(kept_up(work))
