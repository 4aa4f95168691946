"""How often drafted tokens are accepted, per model and SLO class, as the replicas report it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from slosgate.engines.messages import DraftReport
from slosgate.gateway.replicas.fleet import Replica
from slosgate.planner.lengths import Acceptance

UNKNOWN = Acceptance()


class Drafts:
    """`classes` are those that are counted: a client that talks to replicas itself may name any."""

    def __init__(self, classes: Container[str]) -> None:
        self.classes = classes
        self._known: dict[tuple[str, str], Acceptance] = {}

    def learn(self, replica: Replica, reports: Iterable[DraftReport]) -> None:
        """Take what a replica has seen since its last report."""
        for report in reports:
            if report.slo_class in self.classes:
                name = (replica.model, report.slo_class)
                self._known[name] = self._known.get(name, UNKNOWN).observe(report.accepted, report.rejected)

    def planning_value(self, replicas: Sequence[Replica], model: str, slo_class: str) -> float:
        """The chance to plan with: 0 where no replica drafts as it is told."""
        drafting = any(r.follows_plans and r.mirror is not None and r.mirror.profile.max_drafts for r in replicas)
        base = next((r.model for r in replicas if model in r.models), model)  # it may have been asked for by an alias
        return self._known.get((base, slo_class), UNKNOWN).rate if drafting else 0.0

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """(model, class, chance) of those that were seen."""
        return ((*name, acceptance.rate) for name, acceptance in self._known.items())
