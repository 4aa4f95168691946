"""What a comparison asks about: a system on a scenario and hardware, with the settings that it may be tuned by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from slosgate.bench import tuning
from slosgate.bench.results import Row

SEEDS = 3  # loads that each rate is measured with, where they differ


@dataclass(frozen=True, slots=True)
class Question:
    """A system on a scenario, at no particular rate yet."""

    scenario: str
    system: str
    hardware: str
    replicas: int = 1
    budget: int | None = None
    drafts: int = 0
    defer_below: float = 0.0
    prefill_replicas: int | None = None
    ahead: bool = True
    seeds: int = SEEDS
    other_slices: bool = False  # seed n is served the n-th slice after the scenario's own, where traces have slices

    def tuned(self) -> Row:
        """What a baseline may be tuned by, as rows show it and virtual runs take it."""
        return {
            "budget": self.budget,
            "drafts": self.drafts,
            "defer_below": self.defer_below,
            "prefill_replicas": self.prefill_replicas,
            "ahead": self.ahead,
        }


def settings_of(question: Question) -> list[Question]:
    """What there is to tune, the likeliest first."""
    if not tunable(question):
        return [question]
    return [
        dataclasses.replace(
            question,
            budget=t.budget,
            drafts=t.drafts,
            defer_below=t.defer_below,
            replicas=t.replicas or question.replicas,
            prefill_replicas=t.prefill_replicas,
        )
        for t in tuning.settings(question.system, question.replicas)
    ]


def tunable(question: Question) -> bool:
    """Whether nothing that could be tuned is fixed."""
    return (
        question.budget is None
        and not question.drafts
        and not question.defer_below
        and not question.prefill_replicas
        and question.ahead
    )
