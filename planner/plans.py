"""A replica's plan: its next iterations, by request ids. The iterations travel to the engine as they stand here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 31)]  # tokens, blocks, sequences: sums of thousands of them fit 64 bits
Duration = Annotated[float, Meta(ge=0, le=86_400)]
Pace = Annotated[float, Meta(ge=1e-6)]  # seconds per token; inf without an SLO
Name = Annotated[str, Meta(max_length=512)]


class PlannedIteration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One iteration of a plan's horizon.

    `speculation` holds (TPOT of the tier in seconds, draft tokens): a tier that is not named does not decode in
    this iteration; a length of 0 decodes without drafts. `prefill` holds (request id, prompt tokens).
    """

    token_budget: Count
    duration_s: Duration
    speculation: tuple[tuple[Pace, Count], ...] = ()
    prefill: tuple[tuple[Name, Count], ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What a replica is to do: its next iterations, and best effort that must give its memory back."""

    horizon: tuple[PlannedIteration, ...] = ()
    preempt: tuple[str, ...] = ()
