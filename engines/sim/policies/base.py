"""What a scheduling policy is to a simulated replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from slosgate.engines.messages import DraftReport, IterationReport, Plan, RequestProgress
from slosgate.engines.sim.fast_forward import InFlight, TokenLog, Totals
from slosgate.engines.sim.state import EngineState, Slots
from slosgate.engines.sim.steps import SlotBatch
from slosgate.planner.perf_model import PerfModel


def slots(*values: int) -> Slots:
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an iteration did."""

    batch: SlotBatch
    slots: Slots  # the batch's decodes, then its prefills
    emitted: Slots  # output tokens of each of them; 0 for an unfinished prefill or a cancelled request
    done: Slots  # those that emitted their last token
    report: IterationReport
    end_s: float


class Policy(Protocol):
    """Chooses each iteration. The replica calls; the policy owns its queues and may preempt through the state.

    `schedule` must not name a slot twice, nor one that was removed; rows that find no KV block are dropped by the
    replica. `observe` comes once after each iteration, before the `remove` of those that finished in it.
    """

    supports_plans: bool

    def add(self, slot: int, now_s: float) -> None: ...

    def remove(self, slot: int) -> None: ...

    def schedule(self, now_s: float) -> SlotBatch: ...

    def chosen_s(self, flight: InFlight) -> float:
        """From when on to choose what follows an iteration that is in flight, where it is chosen ahead."""

    def awaits(self, start_s: float) -> bool:
        """Whether to choose what could start then only when the one in flight has ended: a request is on its way."""

    def announce(self, slot: int, submitted_s: float) -> None:
        """A request is on its way to the engine, which `add` says when it is there; may be said more than once."""

    def rests_until_s(self, now_s: float, start_s: float) -> float:
        """Until when to run nothing, of what could start at `start_s`, for the sake of a request on its way."""

    def observe(self, outcome: Outcome) -> None: ...

    def fast_forward(self, flight: InFlight, until_s: float, log: TokenLog) -> tuple[Totals, InFlight] | None:
        """Carry out the iteration in flight and what follows it, while it ends before `until_s`; None for none."""

    def apply(self, plan: Plan) -> None:
        """Take a plan; does nothing when the policy doesn't support plans."""

    @property
    def epoch(self) -> int:
        """Epoch of the newest plan taken, 0 before the first."""

    @property
    def recalibrated(self) -> PerfModel | None:
        """The performance model it has learned, None while the profile's is true enough."""

    def progress(self, in_flight: InFlight | None) -> tuple[RequestProgress, ...]:
        """Where every request on the replica will stand when the iteration in flight has ended."""

    def drafts(self) -> tuple[DraftReport, ...]:
        """How drafts have fared since the last call."""


PolicyFactory: TypeAlias = Callable[[EngineState], Policy]
