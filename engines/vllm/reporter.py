"""Telemetry of one engine: gathers what iterations did and decides when a report is due."""

from __future__ import annotations

from collections import deque

from slosgate.engines.channel import TELEMETRY_MIN_GAP_S
from slosgate.engines.drafts import DraftTally
from slosgate.engines.follower import PlanFollower, progress_of
from slosgate.engines.messages import DraftReport, IterationReport, PrefixReport, Telemetry
from slosgate.engines.vllm.link import Link

KEPT_ITERATIONS = 512  # while reports do not get through, older iterations are forgotten
KEPT_PREFIXES = 1024


class Reporter:
    """Sends reports over a link; without one it does nothing."""

    def __init__(self, link: Link | None, follower: PlanFollower, replica: str) -> None:
        self._link = link
        self._follower = follower
        self._replica = replica
        self._iterations: deque[IterationReport] = deque(maxlen=KEPT_ITERATIONS)
        self._drafts = DraftTally()
        self._prefixes: deque[PrefixReport] = deque(maxlen=KEPT_PREFIXES)
        self._sent_at_s = 0.0

    def landed(self, report: IterationReport) -> None:
        """An iteration ended."""
        if self._link is not None:
            self._iterations.append(report)

    def verified(self, drafts: DraftReport) -> None:
        """A request's drafts were verified."""
        if self._link is not None:
            self._drafts.add(drafts)

    def took_in(self, prefix: PrefixReport) -> None:
        """A request came, of whose prompt so much was cached."""
        if self._link is not None:
            self._prefixes.append(prefix)

    def send(self, now_s: float, busy_for_s: float, free_blocks: int, *, urgent: bool) -> None:
        """Send a report if one is due, or at once when it is urgent (a request ended)."""
        if self._link is None or not (urgent or now_s - self._sent_at_s >= TELEMETRY_MIN_GAP_S):
            return
        report = Telemetry(
            replica=self._replica,
            sent_at_s=now_s,
            epoch=self._follower.epoch,
            busy_for_s=busy_for_s,
            kv_blocks_total=self._follower.profile.kv_blocks,
            kv_blocks_free=free_blocks,
            iterations=tuple(self._iterations),
            progress=progress_of(self._follower.table),
            drafts=self._drafts.reports(),
            prefixes=tuple(self._prefixes),
            perf=self._follower.recalibrated,
            launches=self._follower.profile.launches,
            request_overhead_s=self._follower.profile.request_overhead_s,
        )
        self._sent_at_s = now_s
        if self._link.send(report, urgent=urgent):
            self._iterations.clear()
            self._drafts.clear()
            self._prefixes.clear()
