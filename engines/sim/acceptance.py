"""How often drafted tokens are accepted, learnt from what iterations did: one rate per SLO class.

A draft is judged up to its first rejected token, so a draft of d tokens of which k were accepted is k hits in
min(k + 1, d) trials.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slosgate.engines.messages import DraftReport
from slosgate.engines.sim.state import Slots
from slosgate.planner.compiling import compiled
from slosgate.planner.lengths import PRIOR, PRIOR_TRIALS

CLASSES = 64  # further ones share the last rate


class AcceptanceRates:
    """The rates of all classes, on all replicas of a system."""

    def __init__(self, prior: float = PRIOR, prior_trials: int = PRIOR_TRIALS) -> None:
        self._number: dict[str, int] = {}
        self.counts = np.full((CLASSES, 2), (prior * prior_trials, prior_trials), dtype=np.float64)  # hits, trials
        self._reported = self.counts.copy()

    def number(self, slo_class: str) -> int:
        """The class's row, which `learn` wants."""
        return self._number.setdefault(slo_class, min(len(self._number), CLASSES - 1))

    def of(self, slo_class: str) -> float:
        """The class's rate, as far as it is known."""
        hits, trials = self.counts[self.number(slo_class)]
        return float(hits / trials)

    def news(self) -> tuple[DraftReport, ...]:
        """What was counted since the last call, class by class."""
        new = (self.counts - self._reported).astype(np.int64)
        self._reported = self.counts.copy()
        names = {number: name for name, number in self._number.items()}
        counted = ((name, *new[number].tolist()) for number, name in names.items())
        return tuple(DraftReport(name, hits, trials - hits) for name, hits, trials in counted if trials)

    def learn(self, class_of_slot: Slots, decode: Slots, drafts: Slots, emitted: Slots, done: Slots) -> None:
        """Count an iteration's decodes: `emitted` begins with theirs."""
        count(self.counts, class_of_slot, decode, drafts, emitted, done)


@compiled
def count(
    counts: NDArray[np.float64], class_of_slot: Slots, decode: Slots, drafts: Slots, emitted: Slots, done: Slots
) -> None:
    """Add hits and trials. One that ended or was cancelled tells nothing: its last draft may have been cut short."""
    for i in range(len(decode)):
        if drafts[i] == 0 or emitted[i] == 0 or (done == decode[i]).any():
            continue
        row = class_of_slot[decode[i]]
        counts[row, 0] += emitted[i] - 1
        counts[row, 1] += min(emitted[i], drafts[i])
