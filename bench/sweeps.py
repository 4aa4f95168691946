"""Many virtual runs at once: capacity searches over scenarios and systems, on all cores, with results kept.

A baseline that has something to tune (its token budget, its number of drafts) runs at its best: each setting is
searched and the highest capacity counts.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from slosgate.bench import bound, cache, scenarios, tuning, virtual
from slosgate.bench.attainment import GUARANTEED, PAPER, attained, collect, wilson
from slosgate.bench.capacity import STRIDE, Capacity, Count, rate_of, search, step_of
from slosgate.bench.load import Load, offer
from slosgate.bench.results import Row
from slosgate.bench.virtual import VirtualRun
from slosgate.engines import profiles
from slosgate.engines.sim import systems

ACCEPTANCE = 0.7  # of drafted tokens, in every comparison with speculation
SEEDS = 3
NEAR = 8  # grid steps of the first look where the capacity can be guessed: about 1.2 x
SURE_Z = 2.576  # an attainment whose 99 % interval leaves the target out needs no further seed
LOAD_MODULES = (
    "slosgate.bench.load",
    "slosgate.bench.scenarios",
    "slosgate.bench.attainment",
    "slosgate.engines.profiles",
    "slosgate.engines.sim.cluster",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A system on a scenario, at no particular rate yet."""

    scenario: str
    system: str
    hardware: str
    replicas: int = 1
    budget: int | None = None
    drafts: int = 0
    prefill_replicas: int | None = None
    ahead: bool = True
    seeds: int = SEEDS

    def tuned(self) -> Row:
        """What a baseline may be tuned by, as rows show it and virtual runs take it."""
        return {
            "budget": self.budget,
            "drafts": self.drafts,
            "prefill_replicas": self.prefill_replicas,
            "ahead": self.ahead,
        }


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
class Answer(Best):
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
            **q.tuned(),
            "requests": count.offered,
        }


def load_of(question: Question, rate_rps: float, seed: int) -> Load:
    return _load(question.scenario, question.hardware, rate_rps, seed)


@lru_cache(maxsize=16)
def _load(scenario: str, hardware: str, rate_rps: float, seed: int) -> Load:
    return offer(scenarios.load(scenario), profiles.load(hardware), rate_rps, seed=seed)


@lru_cache
def seeds_of(scenario: str, hardware: str, at_most: int) -> int:
    """Seeds that tell something new: a stretched slice of a real trace is the same for every one of them."""
    first, second = (_load(scenario, hardware, 1.0, seed) for seed in (0, 1))
    return 1 if first.requests == second.requests else at_most


def count(question: Question, rate_rps: float, target: float, whole: bool = False) -> Count:
    """Pooled over the question's seeds, as many as it takes to tell on which side of `target` the attainment is.

    A run that can only end below it is abandoned: what is then counted as attained is what still could have been.
    Unless the figure itself is wanted: `whole`.
    """
    pooled, seeds = Count(0, 0), seeds_of(question.scenario, question.hardware, question.seeds)
    for seed in range(seeds):
        fails = partial(_fails, target=target, last=seed == seeds - 1)
        pooled = _counted(question, rate_rps, seed, _never if whole else fails, pooled)
        if fails(pooled) or wilson(pooled.attained, pooled.offered, SURE_Z)[0] > target:
            break
    return pooled


def _fails(pooled: Count, target: float, last: bool) -> bool:
    """Whether an attainment is below the target for good: `last` when no seed is to come."""
    return pooled.attainment < target if last else wilson(pooled.attained, pooled.offered, SURE_Z)[1] < target


def _never(pooled: Count) -> bool:
    return False


def _counted(question: Question, rate_rps: float, seed: int, gives_up: Callable[[Count], bool], before: Count) -> Count:
    """`before` and what one more run counts, which may be abandoned as soon as `gives_up` says so of the sum."""
    load = load_of(question, rate_rps, seed)
    offered = len(load.requests)
    # Once it gives up it does so with more misses, too.
    enough = bisect.bisect_left(range(offered + 1), True, key=lambda m: gives_up(before + Count(offered - m, offered)))

    def run() -> list[int | bool]:
        served = _simulate(question, load, seed, misses_allowed=enough - 1 if enough <= offered else None)
        if served.missed is not None:
            return [offered - served.missed, offered, False]
        return [int(attained(collect(served.outcomes), PAPER).sum()), offered, True]

    known = _remembered(
        {}, question, load, rate_rps, seed, run, lambda found: found[2] or gives_up(before + Count(*found[:2]))
    )
    return before + Count(*known[:2])


def fates(question: Question, rate_rps: float, seed: int) -> Row:
    """What became of the requests of one virtual run: attained, guarantees given and kept, best effort's throughput."""
    load = load_of(question, rate_rps, seed)
    told = _remembered(
        {"told": "fates"}, question, load, rate_rps, seed, lambda: _told(_simulate(question, load, seed), load)
    )
    return dict(told)


def _remembered(
    more: dict[str, Any],
    question: Question,
    load: Load,
    rate_rps: float,
    seed: int,
    tell: Callable[[], Any],
    enough: Callable[[Any], bool] = lambda _: True,
) -> Any:
    asked = {**more, **dataclasses.asdict(question), "rate_rps": rate_rps, "seed": seed, "source": load.trace_source}
    del asked["seeds"]  # how many runs are pooled changes none of them
    module = systems.module(tuning.base(question.system))
    return cache.remembered(asked, (*LOAD_MODULES, module), tell, alone=("slosgate.bench.virtual",), enough=enough)


def _simulate(question: Question, load: Load, seed: int, misses_allowed: int | None = None) -> VirtualRun:
    return virtual.simulate(
        load,
        question.system,
        profiles.load(question.hardware),
        replicas=question.replicas,
        seed=seed,
        acceptance=ACCEPTANCE if tuning.speculates(question.system) else 0.0,
        misses_allowed=misses_allowed,
        **question.tuned(),
    )


def _told(run: VirtualRun, load: Load) -> Row:
    served = collect(run.outcomes)
    hits = attained(served, PAPER)
    guaranteed = np.array([word == GUARANTEED for word in served.admission])
    return {
        "offered": len(hits),
        "attained": int(hits.sum()),
        "guaranteed": int(guaranteed.sum()),
        "guarantees_kept": int(hits[guaranteed].sum()),
        "best_effort": int((~guaranteed).sum()),
        "best_effort_tokens_per_s": round(run.replicas["best_effort_tokens"] / load.seconds, 2),
    }


def bound_rps_per_gpu(question: Question, target: float) -> float:
    """The bound, as far as a question's system speculates."""
    acceptance = ACCEPTANCE if tuning.speculates(question.system) else 0.0

    def compute() -> float:
        return bound.bound_rps_per_gpu(
            lambda rate: load_of(question, rate, 0),
            profiles.load(question.hardware),
            target=target,
            replicas=question.replicas,
            acceptance=acceptance,
        )

    source = load_of(question, float(question.replicas), 0).trace_source
    asked = {
        "bound": question.scenario, "hardware": question.hardware, "replicas": question.replicas, "target": target,
        "acceptance": acceptance, "source": source,
    }  # fmt: skip
    return float(
        cache.remembered(asked, ("slosgate.bench.bound", "slosgate.bench.load", "slosgate.engines.profiles"), compute)
    )


class Workers:
    """Processes that run simulations, one per core. Searches run in threads here and wait for them."""

    def __init__(self, processes: int | None = None) -> None:
        self._size = processes or os.cpu_count() or 1
        self.searches = 2 * self._size  # to have under way: enough that no process waits, few enough that some end
        # Spawned, not forked: the parent has threads.
        self._pool = ProcessPoolExecutor(self._size, mp_context=get_context("spawn"))
        self._asked: dict[tuple[Any, ...], Future[Any]] = {}
        self._one_asks = Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: Hashable) -> Future[Any]:
        """Have a process call the function; the same call is made once."""
        with self._one_asks:
            asked = (function, *arguments)
            if asked not in self._asked:
                self._asked[asked] = self._pool.submit(function, *arguments)
            return self._asked[asked]

    def count(self, question: Question, rate_rps: float, target: float) -> Count:
        """Attained and offered, as far as it takes to tell on which side of `target` that is."""
        counted: Count = self.submit(count, question, rate_rps, target).result()
        return counted


def capacities(
    questions: Sequence[Question],
    target: float,
    workers: Workers,
    on_done: Callable[[Answer], None] = lambda _: None,
    guesses_rps: Mapping[Question, float] | None = None,
) -> list[Answer]:
    """The capacity of each question's system at its best setting, in the questions' order.

    `guesses_rps`: what to expect of some of them per GPU; the others' searches begin at half the bound.
    """

    def answer(question: Question) -> Answer:
        limit_rps = workers.submit(bound_rps_per_gpu, question, target).result()
        guess_rps = (guesses_rps or {}).get(question, 0.0)
        start = (guess_rps, NEAR) if guess_rps else (limit_rps / 2, STRIDE)
        best = best_of([question], target, workers, *start)
        found = Answer(best.asked, best.question, best.capacity, limit_rps)
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
    first = dataclasses.replace(likely, ahead=True) if likely else None
    tries = [(question, setting) for question in questions for setting in settings_of(question)]
    for question, setting in sorted(tries, key=lambda one: one[1] != first):
        best = _best(best, question, setting, target, workers, start_rps_per_gpu, stride)
    found = best is not known and best.capacity.rate_rps > 0
    if found and _tunable(best.asked) and tuning.synchronous(best.asked.system):
        plain = dataclasses.replace(best.question, ahead=False)
        best = _best(best, best.asked, plain, target, workers, start_rps_per_gpu, stride)
    return best


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


def settings_of(question: Question) -> list[Question]:
    """What there is to tune, the likeliest first."""
    if not _tunable(question):
        return [question]
    return [
        dataclasses.replace(
            question,
            budget=t.budget,
            drafts=t.drafts,
            replicas=t.replicas or question.replicas,
            prefill_replicas=t.prefill_replicas,
        )
        for t in tuning.settings(question.system, question.replicas)
    ]


def _tunable(question: Question) -> bool:
    """Whether nothing that could be tuned is fixed."""
    return question.budget is None and not question.drafts and not question.prefill_replicas and question.ahead
