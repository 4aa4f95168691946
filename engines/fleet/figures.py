"""How a fleet fares, told by its gateways: load of replicas, headroom, attained and kept of the last minutes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from prometheus_client.parser import text_string_to_metric_families

from slosgate.engines.fleet.sight import Sight

LOOK_S = 2.0
WINDOW_S = 300.0


class GroupFigures(TypedDict):
    model: str
    headroom: int | None
    needed: int | None
    offered: int
    attained: float | None
    kept: float | None


@dataclass(slots=True)
class Counts:
    """Of one model, since its gateways began."""

    offered: float = 0.0
    attained: float = 0.0
    promised: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """What one gateway's metrics say."""

    counts: dict[str, Counts] = field(default_factory=dict)
    headroom: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)  # replicas
    load: dict[str, int] = field(default_factory=dict)


class Figures:
    """All gateways of an address count together, so any of them tells the counts of all."""

    def __init__(self, sight: Sight, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._sight = sight
        self._monotonic = monotonic
        self._latest = Page()
        # When, and what had been counted then; gateways begin with nothing.
        self._counts: deque[tuple[float, dict[str, Counts]]] = deque([(monotonic(), {})])

    async def run(self, gateways: Callable[[], list[int]]) -> None:
        """Look at the pages of the gateways with these process ids every LOOK_S, until cancelled."""
        while True:
            pages = [read(text) for pid in gateways() if (text := await self._sight.metrics(pid))]
            if pages:
                self._take(pages)
            await asyncio.sleep(LOOK_S)

    def _take(self, pages: list[Page]) -> None:
        now_s = self._monotonic()
        headroom: dict[str, int] = {}
        wanted: dict[str, int] = {}
        for page in pages:  # each tells it of what it was asked for itself
            for model, replicas in page.wanted.items():
                wanted[model] = max(replicas, wanted.get(model, 0))
            for model, requests in page.headroom.items():
                headroom[model] = min(requests, headroom.get(model, requests))
        self._latest = Page(pages[0].counts, headroom, wanted, pages[0].load)
        self._counts.append((now_s, pages[0].counts))
        while now_s - self._counts[0][0] > WINDOW_S:
            self._counts.popleft()

    def load(self, replica: str) -> int | None:
        """Requests on a replica; None when no gateway speaks of it."""
        return self._latest.load.get(replica)

    def wanted(self, model: str) -> int | None:
        """Replicas on which what was asked for of late could be promised; None when no gateway speaks of it."""
        return self._latest.wanted.get(model)

    def of(self, model: str) -> GroupFigures:
        now = self._latest.counts.get(model, Counts())
        before = self._counts[0][1].get(model, Counts())
        offered, promised = now.offered - before.offered, now.promised - before.promised
        return GroupFigures(
            model=model,
            headroom=self._latest.headroom.get(model),
            needed=self.wanted(model),
            offered=int(offered),
            attained=(now.attained - before.attained) / offered if offered else None,
            kept=(now.kept - before.kept) / promised if promised else None,
        )


def read(text: str) -> Page:
    """The figures in a gateway's metrics."""
    page = Page()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "slosgate_headroom_requests":
                page.headroom[labels["model_name"]] = int(sample.value)
            elif sample.name == "slosgate_replicas_wanted":
                page.wanted[labels["model_name"]] = int(sample.value)
            elif sample.name == "slosgate_requests_in_flight":
                page.load[labels["replica"]] = int(sample.value)
            elif sample.name in ("slosgate_slo_offered_total", "slosgate_slo_attained_total"):
                counts = page.counts.setdefault(labels["model_name"], Counts())
                _count(counts, sample.name, sample.value, guaranteed=labels["admission"] == "guaranteed")
    return page


def _count(counts: Counts, name: str, value: float, *, guaranteed: bool) -> None:
    if name == "slosgate_slo_offered_total":
        counts.offered += value
        counts.promised += value if guaranteed else 0.0
    else:
        counts.attained += value
        counts.kept += value if guaranteed else 0.0
