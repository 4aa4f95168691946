"""How drafts fared, counted until it is reported."""

from __future__ import annotations

from slosgate.engines.messages import DraftReport


class DraftTally:
    """Accepted and rejected drafts of each SLO class."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def add(self, report: DraftReport) -> None:
        accepted, rejected = self._counts.get(report.slo_class, (0, 0))
        self._counts[report.slo_class] = accepted + report.accepted, rejected + report.rejected

    def reports(self) -> tuple[DraftReport, ...]:
        return tuple(DraftReport(name, *counts) for name, counts in self._counts.items())

    def clear(self) -> None:
        """All of it has been reported."""
        self._counts.clear()
