"""What a comparison asks about: a system on a scenario and hardware, with the settings that it may be tuned by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from slosgate.bench import tuning
from slosgate.engines.sim.systems import AS_IT_COMES, Tuning

SEEDS = 3  # loads that each rate is measured with, where they differ


@dataclass(frozen=True, slots=True)
class Question:
    """A system on a scenario, at no particular rate yet."""

    scenario: str
    system: str
    hardware: str
    replicas: int = 1
    tuning: Tuning = AS_IT_COMES
    seeds: int = SEEDS
    other_slices: bool = False  # seed n is served the n-th slice after the scenario's own, where traces have slices
    slices: int = 1  # in one load
    beside: str = ""  # hardware of every second replica, where there are two kinds

    @property
    def tunable(self) -> bool:
        """Whether nothing that could be tuned is fixed."""
        return self.tuning == AS_IT_COMES


def settings_of(question: Question) -> list[Question]:
    """What there is to tune, the likeliest first."""
    if not question.tunable:
        return [question]
    tries = tuning.settings(question.system, question.replicas)
    return [dataclasses.replace(question, replicas=replicas, tuning=tuned) for replicas, tuned in tries]
