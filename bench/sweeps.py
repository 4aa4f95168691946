"""Capacities of many systems at once, each at its best setting.

A baseline that has something to tune (its token budget, its number of drafts) is searched with every setting, and the
highest capacity counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from slosgate.bench import counts, tuning
from slosgate.bench.attainment import wilson
from slosgate.bench.capacity import STRIDE, Capacity, Count, rate_of, search, step_of
from slosgate.bench.errors import InputError
from slosgate.bench.questions import Question, settings_of
from slosgate.bench.results import Row
from slosgate.bench.workers import Workers

NEAR = 8  # grid steps of the first look where the capacity can be guessed: about 1.2 x


@dataclass(frozen=True, slots=True)
class Best:
    """The best setting's capacity."""

    asked: Question
    question: Question  # as tuned; a split may need more replicas than were asked for
    capacity: Capacity

    @property
    def per_gpu_rps(self) -> float:
        return self.capacity.rate_rps / self.question.replicas


@dataclass(frozen=True, slots=True)
class Searched(Best):
    """With the bound beside it."""

    bound_rps_per_gpu: float

    def row(self, target: float) -> Row:
        q, count = self.question, self.capacity.count
        low, high = wilson(count.attained, count.offered)
        return {
            "scenario": q.scenario,
            "system": q.system,
            "hardware": q.hardware,
            "replicas": self.asked.replicas,
            "gpus": q.replicas,
            "attainment_target": target,
            "capacity_rps_per_gpu": round(self.per_gpu_rps, 4),
            "attainment": round(count.attainment, 5),
            "ci_low": round(low, 5),
            "ci_high": round(high, 5),
            "bound_rps_per_gpu": round(self.bound_rps_per_gpu, 4),
            "share_of_bound": round(self.per_gpu_rps / self.bound_rps_per_gpu, 4) if self.bound_rps_per_gpu else None,
            **dataclasses.asdict(q.tuning),
            "requests": count.offered,
            **counts.source_of(q),
        }


def capacities(
    questions: Sequence[Question],
    target: float,
    workers: Workers,
    on_done: Callable[[Searched], None] = lambda _: None,
    guesses_rps: Mapping[Question, float] | None = None,
) -> list[Searched]:
    """The capacity of each question's system at its best setting, in the questions' order.

    `guesses_rps`: what to expect of some of them per GPU; the others' searches begin at half the bound. Raises
    InputError where a scenario has so few requests that they would be attained at any rate.
    """

    def answer(question: Question) -> Searched:
        limit_rps = workers.submit(counts.bound_rps_per_gpu, question, target).result()
        if math.isinf(limit_rps):
            offered = len(counts.load_of(question, float(question.replicas), 0).requests)
            few = f"{offered} requests of {question.scenario} are too few to find a capacity"
            raise InputError(f"{few}: they could be attained at any rate; give its classes a longer slice_s")
        guess_rps = (guesses_rps or {}).get(question, 0.0)
        start = (guess_rps, NEAR) if guess_rps else (limit_rps / 2, STRIDE)
        best = best_of([question], target, workers, *start)
        found = Searched(best.asked, best.question, best.capacity, limit_rps)
        on_done(found)
        return found

    with ThreadPoolExecutor(workers.searches) as threads:
        return list(threads.map(answer, questions))


def best_of(
    questions: Sequence[Question],
    target: float,
    workers: Workers,
    start_rps_per_gpu: float,
    stride: int = STRIDE,
    known: Best | None = None,
    likely: Question | None = None,
) -> Best:
    """The best setting of several systems, that of the first one when none has any capacity.

    Settings that cannot beat `known`, or one found before, cost one rate each; `likely` is tried first. The first
    search begins at `start_rps_per_gpu`. The best one is tried without asynchronous scheduling, too.
    """
    best = known or Best(questions[0], questions[0], Capacity(0.0, Count(0, 0)))
    first = _scheduling(likely, ahead=True) if likely else None
    tries = [(question, setting) for question in questions for setting in settings_of(question)]
    for question, setting in sorted(tries, key=lambda one: one[1] != first):
        best = _best(best, question, setting, target, workers, start_rps_per_gpu, stride)
    found = best is not known and best.capacity.rate_rps > 0
    if found and best.asked.tunable and tuning.synchronous(best.asked.system):
        plain = _scheduling(best.question, ahead=False)
        best = _best(best, best.asked, plain, target, workers, start_rps_per_gpu, stride)
    return best


def _scheduling(question: Question, *, ahead: bool) -> Question:
    """The same with asynchronous scheduling, or without it."""
    return dataclasses.replace(question, tuning=dataclasses.replace(question.tuning, async_scheduling=ahead))


def _best(
    best: Best,
    asked: Question,
    setting: Question,
    target: float,
    workers: Workers,
    start_rps_per_gpu: float,
    stride: int,
) -> Best:
    """The better of the best setting so far and one more."""
    measure = partial(workers.count, setting, target=target)
    known_rps = best.per_gpu_rps * setting.replicas
    if known_rps:
        found = _better(measure, target, known_rps)
    else:
        found = search(measure, target, start_rps_per_gpu * setting.replicas, stride)
    return Best(asked, setting, found) if found.rate_rps > known_rps else best


def _better(measure: Callable[[float], Count], target: float, known_rps: float) -> Capacity:
    """The capacity of a setting; none if it fails right above what another one is known to reach."""
    next_rps = rate_of(step_of(known_rps) + 1)
    if measure(next_rps).attainment < target:
        return Capacity(0.0, Count(0, 0))
    return search(measure, target, next_rps)
