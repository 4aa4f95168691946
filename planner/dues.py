"""What an SLO asks of a job: when its tokens are due, which of them are late, and what can still be won.

Token k after the first is due k TPOT after the base: the first token, or its deadline, if it came before that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import token_due_s

TOLERANCE = 0.05  # an SLO counts as kept within 5 % of it
# By which a replica sees a deadline later than its gateway: it counts from when the request has come there, and rounds.
ON_THE_WAY_S = 0.005
# A first token is planned for so long before its SLO, but at most this share of it: for what a plan can't see, which is
# the way to the replica and back and the steps of both event loops. A promise is given only if it is there by then.
HEADROOM_S, HEADROOM_SHARE = 0.015, 1 / 4
WAY_SHARE = 1 / 3  # of the headroom, at most, that is left for the way where a deadline is out of reach


@compiled
def due_base_s(deadline_s: float, first_token_s: float) -> float:
    """What the due times of later tokens count from, given when the first one came."""
    return first_token_s if deadline_s == np.inf else max(deadline_s, first_token_s)


@compiled
def gain(job: Any, computed: int, prompt: int, emitted: int, end_s: float) -> None:
    """An iteration that ended at `end_s` has computed so many tokens of a job, some of its prompt, and emitted some."""
    job.context += computed
    job.prompt_left -= prompt
    if emitted > 0 and job.generated == 0:
        job.due_base_s = due_base_s(job.deadline_s, end_s)
    job.generated += emitted


@compiled
def latest_s(job: Any) -> float:
    """Until when a first token that is past its deadline still counts, less what the way back takes.

    Up to its SLO; up to its tolerance where nothing was promised.
    """
    if job.arrival_s == -np.inf:
        return float(job.deadline_s)
    given_s = job.deadline_s - job.arrival_s
    headroom_s = min(HEADROOM_S, given_s * HEADROOM_SHARE / (1 - HEADROOM_SHARE))
    until_s = job.deadline_s + headroom_s - min(ON_THE_WAY_S, WAY_SHARE * headroom_s)
    return float(until_s if job.guaranteed else until_s + TOLERANCE * (given_s + headroom_s))


@compiled
def just_missed(job: Any, now_s: float) -> bool:
    """Whether a first token is late by no more than the time that it had."""
    late_s = now_s - job.deadline_s
    return bool(job.has_slo and 0.0 < late_s <= job.deadline_s - job.arrival_s)


@compiled
def first_token_open(job: Any, now_s: float) -> bool:
    """Whether a first token that is to come can still be in time."""
    return bool(now_s < latest_s(job) < np.inf)


@compiled
def in_time(job: Any) -> bool:
    """Whether a first token that has come was in time, or none was asked for by a certain time."""
    return bool(job.due_base_s <= latest_s(job) + ON_THE_WAY_S)


@compiled
def as_planned(job: Any) -> bool:
    """Whether a first token that has come did so by its deadline: then the SLO holds for the client, too."""
    return bool(job.due_base_s <= job.deadline_s + ON_THE_WAY_S)


@compiled
def first_due_s(job: Any, end_s: float) -> float:
    """When a first token that can't come before `end_s` is due: its deadline, or, past that, the last that counts."""
    return float(job.deadline_s if end_s <= job.deadline_s else latest_s(job))


@compiled
def next_late_s(job: Any) -> float:
    """Beyond when the next token breaks the SLO of a job that decodes."""
    return token_due_s(job, job.generated) + TOLERANCE * job.generated * job.tpot_s  # type: ignore[no-any-return]


@compiled
def next_due_s(job: Any, now_s: float) -> float:
    """When a decode's next token is due; inf when nothing can be won any more, or nothing was asked for.

    Best effort has lost once its first token was late. Any job has lost once it is behind by a token and the tolerance.
    """
    if not job.guaranteed and not in_time(job):
        return np.inf
    if now_s > next_late_s(job) + job.tpot_s:
        return np.inf
    return token_due_s(job, job.generated)
