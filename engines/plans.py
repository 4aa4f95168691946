"""The planner's plan as the message that carries it."""

from __future__ import annotations

from slosgate.engines.messages import PlannedIteration
from slosgate.planner.controller import ReplicaPlan


def horizon_of(planned: ReplicaPlan) -> tuple[PlannedIteration, ...]:
    """The planned iterations, by request ids, next one first."""
    return tuple(
        PlannedIteration(
            token_budget=step.token_budget,
            duration_s=step.duration_s,
            speculation=step.speculation,
            prefill=step.prefill,
        )
        for step in planned.horizon
    )
