"""The pace that an SLO asks for: when the first token is due, and each later one, before and after thinking ends.

Nobody knows when a model ends to think before its engine sees it: until then the pace of thinking holds, and room is
kept for the tighter of the two (`JobFields.switch_at` is `NOT_YET`). Two SLOs are about more than one token, and become
paces with the lengths that are planned for:

    the first token of the answer is due   thinking is as fast as it must be for that, from a first token that comes in
                                           time for it
    the whole call is due                  the same, to its last token
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

NOT_YET = 1 << 30  # output tokens: more than any call has, and no more than messages may hold (`plans.Count`)
FIRST_SHARE = 0.5  # of the time until a later token is due, that its prompt may take
INF = math.inf


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call's contract says, in seconds; inf where it says nothing."""

    ttft_s: float = INF
    tpot_s: float = INF
    think_tpot_s: float = INF  # while the model thinks; inf: as in the answer
    ttft_of_answer: bool = False  # the TTFT SLO is the first answer token's
    e2e_s: float = INF  # of the whole call
    thinks: bool = True  # False: it is sure that this call does not


@dataclass(frozen=True, slots=True)
class Pace:
    """Durations from the call's arrival, and per token."""

    ttft_s: float
    tpot_s: float
    switch_at: int = 0  # 0: never; NOT_YET: once thinking ends
    next_tpot_s: float = INF


def pace_of(asked: Asked, thinking_tokens: int, output_tokens: int) -> Pace:
    """The pace to promise, for outputs as long as is planned for, of which so many tokens are thinking."""
    thinking = thinking_tokens if asked.thinks else 0
    pace = Pace(asked.ttft_s, asked.tpot_s)
    if asked.ttft_of_answer and thinking and asked.ttft_s < INF:
        pace = _reaching(replace(pace, tpot_s=min(asked.think_tpot_s, asked.tpot_s)), thinking, asked.ttft_s)
        pace = replace(pace, switch_at=NOT_YET, next_tpot_s=asked.tpot_s)
    elif asked.thinks and asked.think_tpot_s < INF and asked.think_tpot_s != asked.tpot_s:
        pace = replace(pace, tpot_s=asked.think_tpot_s, switch_at=NOT_YET, next_tpot_s=asked.tpot_s)
    if asked.e2e_s == INF:
        return pace
    whole = _reaching(pace, max(0, output_tokens - 1), asked.e2e_s)
    if pace.switch_at:
        return replace(whole, next_tpot_s=min(pace.next_tpot_s, whole.tpot_s))
    return whole


def _reaching(pace: Pace, tokens: int, due_s: float) -> Pace:
    """The pace at which the token after so many is there in time, no looser than the one given."""
    if not tokens:
        return replace(pace, ttft_s=min(pace.ttft_s, due_s))
    tpot_s = min(pace.tpot_s, due_s * (1 - FIRST_SHARE) / tokens)
    return replace(pace, ttft_s=min(pace.ttft_s, due_s - tokens * tpot_s), tpot_s=tpot_s)


def thought(job: Any, tokens: int) -> None:
    """The engine has seen that a job's thinking ended with its output token of that number; 0: it didn't think."""
    if job["switch_at"] != NOT_YET:
        return
    if tokens > 1:
        job["switch_at"] = tokens - 1  # later tokens are counted after the first
    else:
        job["tpot_s"], job["switch_at"] = job["next_tpot_s"], 0
