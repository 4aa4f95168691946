"""What gateways write for each other: ledger entries, changes of a ledger, heartbeats."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from slosgate.engines.messages import Due, Moment, Share, Weight
from slosgate.gateway.state.skew import FURTHEST_S
from slosgate.planner.plans import Count, Name, Pace


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request on one replica, from admission until its answer has ended. Its gateway's clock, seconds."""

    request_id: Name
    gateway: Name
    slo_class: Name
    arrival_s: Moment
    has_slo: bool
    deadline_s: Due  # when the first token is due; without an SLO, when nobody may overtake it any more
    tpot_s: Pace
    weight: Weight
    prompt_tokens: Count
    output_tokens: Count  # planning value
    acceptance: Share
    guaranteed: bool
    dispatched_s: Moment
    decided_s: Moment  # when its gateway decided, and
    report_s: Annotated[float, Meta(le=1e11)]  # the newest report of the replica that it then knew (its `sent_at_s`)
    switch_at: Count = 0  # where the pace changes (`planner.pace`)
    next_tpot_s: Pace = math.inf
    cached_tokens: Count = 0  # of the prompt, that the replica has cached as far as is sure

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens to be computed; at least one is."""
        return max(min(1, self.prompt_tokens), self.prompt_tokens - self.cached_tokens)

    def later(self, seconds: float) -> LedgerEntry:
        """The entry as a clock that is so far ahead has it."""
        return msgspec.structs.replace(
            self,
            arrival_s=self.arrival_s + seconds,
            deadline_s=self.deadline_s + seconds,
            dispatched_s=self.dispatched_s + seconds,
            decided_s=self.decided_s + seconds,
        )


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one gateway did to one replica's ledger."""

    replica: Name
    gateway: Name
    entries: tuple[LedgerEntry, ...] = ()
    removed: tuple[Name, ...] = ()
    promote: bool = False  # the entries replace known ones


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's heartbeat."""

    ahead_s: Annotated[float, Meta(ge=-FURTHEST_S, le=FURTHEST_S)]  # its clock less Redis's
