"""Which prompts to compute first, so that the fewest first tokens are late.

Moore and Hodgson's choice (1968): in deadline order, drop the longest best-effort prompt whenever the set is late.
Guarantees are forced. What is not chosen takes what is left. Once a deadline is out of reach, a first token is worth
having up to the tolerance (`planner.dues`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.dues import first_due_s, first_token_open, latest_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, Ints, Load, iteration_s, load_s, pairs_of, token_budget, with_chunk
from slosgate.planner.pacing import LONGEST, rate_share, rated_s

SURE = 1.1  # so much more time than it should take is kept free for guaranteed prompts


class Pace(NamedTuple):
    """How fast prompts get on beside the decodes."""

    slack_s: float  # so long the decodes can wait
    step_s: float  # a decode step
    stretch: float  # wall time per second of prefill work once the decodes take their share
    cap_s: float  # how long to prefill without a break


@compiled
def stretch_of(coef: Floats, period: float, step: Load) -> float:
    """Wall time per second of prefill work when every period carries one decode step."""
    if step.sequences == 0 or period == np.inf:
        return 1.0
    tokens = token_budget(coef, period, step.new, step.context, step.sequences, 0.0)
    # With a token's pairs, as an iteration that prefills nothing may be another matter.
    empty_s = iteration_s(coef, 0.0, 0.0, 0.0, 0.0, pairs_of(0.0, 1.0))
    work_s = iteration_s(coef, tokens, tokens, 1.0, 0.0, pairs_of(0.0, tokens)) - empty_s
    return period / work_s if tokens > 0.0 and work_s > 0.0 else np.inf


@compiled
def with_prompt(load: Load, job: Any, sign: int) -> Load:
    """The load with a job's whole remaining prompt added (sign 1) or taken out again (-1)."""
    own = with_chunk(Load(0, 0, 0, 0, 0.0), job.context, job.prompt_left)
    return Load(
        load.new + sign * own.new, load.context + sign * own.context, load.sequences + sign, load.drafts,
        load.pairs + sign * own.pairs,
    )  # fmt: skip


@compiled
def urgent(jobs: Jobs, prefill: Ints, coef: Floats, now_s: float, pace: Pace) -> Bools:
    """Which of `prefill`, which stand by deadline, to serve in time."""
    nothing = Load(0, 0, 0, 0, 0.0)
    cost = np.empty(len(prefill))
    chosen = np.zeros(len(prefill), np.bool_)
    work = nothing
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if job.deadline_s == np.inf:
            break
        cost[i] = load_s(coef, with_prompt(nothing, job, 1))
        due_s = first_due_s(job, now_s + cost[i]) if job.guaranteed else latest_s(job)
        if not job.guaranteed and now_s + cost[i] > due_s:
            continue
        chosen[i] = True
        work = with_prompt(work, job, 1)
        sure = SURE if job.guaranteed else 1.0
        while now_s + finish_s(sure * broken_up_s(coef, pace.cap_s, work), pace) > due_s:
            longest = costliest(jobs, prefill, cost, chosen, i)
            if longest < 0:
                break
            chosen[longest] = False
            work = with_prompt(work, jobs[prefill[longest]], -1)
    return chosen


@compiled
def costliest(jobs: Jobs, prefill: Ints, cost: Floats, chosen: Bools, last: int) -> int:
    """The chosen best effort, up to `last`, that costs most time per unit of weight; -1 for none."""
    longest = -1
    for j in range(last + 1):
        if not chosen[j] or jobs[prefill[j]].guaranteed:
            continue
        if longest < 0 or cost[j] * jobs[prefill[longest]].weight > cost[longest] * jobs[prefill[j]].weight:
            longest = j
    return longest


@compiled
def most_in_time(jobs: Jobs, prefill: Ints, coef: Floats, now_s: float, pace: Pace) -> tuple[Bools, float]:
    """What to serve in time, and how long to prefill without a break: longer than the pace's if that serves more."""
    chosen = urgent(jobs, prefill, coef, now_s, pace)
    longest_s = rated_s(coef, LONGEST)
    hopeful = 0
    for i in range(len(prefill)):
        hopeful += first_token_open(jobs[prefill[i]], now_s)
    if pace.cap_s < longest_s and chosen.sum() < hopeful:
        longer = Pace(pace.slack_s, pace.step_s, pace.stretch, longest_s)
        more = urgent(jobs, prefill, coef, now_s, longer)
        if more.sum() > chosen.sum():
            return more, longest_s
    return chosen, pace.cap_s


@compiled
def finish_s(work_s: float, pace: Pace) -> float:
    """Wall time until so much prefill work is done.

    Work W ends after W while the decodes have slack, and after slack + (W - slack) * stretch later on.
    """
    if work_s <= pace.slack_s:
        return work_s
    waits_s = max(0.0, pace.slack_s)
    return max(work_s + pace.step_s, waits_s + (work_s - waits_s) * pace.stretch)


@compiled
def prompts_s(jobs: Jobs, prefill: Ints, coef: Floats, cap_s: float) -> float:
    """How long all of these prompts take in iterations of `cap_s`."""
    work = Load(0, 0, 0, 0, 0.0)
    for i in range(len(prefill)):
        work = with_prompt(work, jobs[prefill[i]], 1)
    return broken_up_s(coef, cap_s, work)


@compiled
def broken_up_s(coef: Floats, cap_s: float, work: Load) -> float:
    """How long prefill work takes in iterations of `cap_s`."""
    whole_s = load_s(coef, work)
    return whole_s if whole_s <= cap_s else whole_s / rate_share(coef, cap_s, work.pairs / work.new)
