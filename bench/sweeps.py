"""Many virtual runs at once: capacity searches over scenarios and systems, on all cores, with results kept.

A baseline that has something to tune (its token budget, its number of drafts) runs at its best: each setting is
searched and the highest capacity counts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any

import numpy as np

from bench import bound, cache, scenarios, tuning, virtual
from bench.attainment import GUARANTEED, PAPER, attained, collect, wilson
from bench.capacity import Capacity, Count, rate_of, search, step_of
from bench.load import Load, offer
from bench.results import Row
from bench.virtual import VirtualRun
from engines import profiles
from engines.sim import systems

ACCEPTANCE = 0.7  # of drafted tokens, in every comparison with speculation
SEEDS = 3
SURE_Z = 2.576  # an attainment whose 99 % interval leaves the target out needs no further seed
LOAD_MODULES = ("bench.load", "bench.scenarios", "bench.attainment", "engines.profiles", "engines.sim.cluster")


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
class Answer:
    """The best setting's capacity."""

    asked: Question
    question: Question  # as tuned; a split may need more replicas than were asked for
    capacity: Capacity
    bound_rps: float  # over all replicas

    @property
    def per_gpu_rps(self) -> float:
        return self.capacity.rate_rps / self.question.replicas

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
            "capacity_rps_per_gpu": round(self.capacity.rate_rps / q.replicas, 4),
            "attainment": round(count.attainment, 5),
            "ci_low": round(low, 5),
            "ci_high": round(high, 5),
            "bound_rps_per_gpu": round(self.bound_rps / q.replicas, 4),
            "share_of_bound": round(self.capacity.rate_rps / self.bound_rps, 4) if self.bound_rps else None,
            **q.tuned(),
            "requests": count.offered,
        }


def load_of(question: Question, rate_rps: float, seed: int) -> Load:
    return offer(scenarios.load(question.scenario), profiles.load(question.hardware), rate_rps, seed=seed)


def count(question: Question, rate_rps: float, seed: int) -> Count:
    """One virtual run. A seed whose load is that of seed 0 over again counts nothing: it would tell nothing new."""
    load = load_of(question, rate_rps, seed)
    if seed and load.requests == load_of(question, rate_rps, 0).requests:
        return Count(0, 0)
    return Count(*_remembered({}, question, load, rate_rps, seed, _counted))


def fates(question: Question, rate_rps: float, seed: int) -> Row:
    """What became of the requests of one virtual run: attained, guarantees given and kept, best effort's throughput."""
    load = load_of(question, rate_rps, seed)
    return dict(_remembered({"told": "fates"}, question, load, rate_rps, seed, _told))


def _remembered(
    more: dict[str, Any],
    question: Question,
    load: Load,
    rate_rps: float,
    seed: int,
    tell: Callable[[VirtualRun, Load], Any],
) -> Any:
    asked = {**more, **dataclasses.asdict(question), "rate_rps": rate_rps, "seed": seed, "source": load.trace_source}
    module = systems.load(tuning.base(question.system)).__module__
    return cache.remembered(
        asked,
        (*LOAD_MODULES, module),
        lambda: tell(_simulate(question, load, seed), load),
        alone=("bench.virtual",),
    )


def _simulate(question: Question, load: Load, seed: int) -> VirtualRun:
    return virtual.simulate(
        load,
        question.system,
        profiles.load(question.hardware),
        replicas=question.replicas,
        seed=seed,
        acceptance=ACCEPTANCE if tuning.speculates(question.system) else 0.0,
        **question.tuned(),
    )


def _counted(run: VirtualRun, load: Load) -> list[int]:
    hits = attained(collect(run.outcomes), PAPER)
    return [int(hits.sum()), len(hits)]


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


def bound_rps(question: Question, target: float) -> float:
    """The bound over all replicas."""
    acceptance = ACCEPTANCE if tuning.speculates(question.system) else 0.0

    def compute() -> float:
        return question.replicas * bound.bound_rps_per_gpu(
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
    return float(cache.remembered(asked, ("bench.bound", "bench.load", "engines.profiles"), compute))


class Workers:
    """Processes that run simulations, one per core. Searches run in threads here and wait for them.

    `seeds` may hold every question to fewer loads per rate than it asks for.
    """

    def __init__(self, processes: int | None = None, seeds: int | None = None) -> None:
        self._size = processes or os.cpu_count() or 1
        self._seeds = seeds
        # Spawned, not forked: the parent has threads.
        self._pool = ProcessPoolExecutor(self._size, mp_context=get_context("spawn"))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        return self._pool.submit(function, *arguments)

    def count(self, question: Question, rate_rps: float, target: float) -> Count:
        """Pooled over the question's seeds, as many as it takes to tell on which side of `target` it is."""
        pooled = Count(0, 0)
        for seed in range(min(question.seeds, self._seeds or question.seeds)):
            one = self.submit(count, question, rate_rps, seed).result()
            pooled = Count(pooled.attained + one.attained, pooled.offered + one.offered)
            low, high = wilson(pooled.attained, pooled.offered, SURE_Z)
            if not low <= target <= high:
                break
        return pooled


def capacities(
    questions: Sequence[Question],
    target: float,
    workers: Workers,
    on_done: Callable[[Answer], None] = lambda _: None,
) -> list[Answer]:
    """The capacity of each question's system at its best setting, in the questions' order."""

    def answer(question: Question) -> Answer:
        best = best_of([question], target, workers)
        on_done(best)
        return best

    with ThreadPoolExecutor(max(1, len(questions))) as threads:
        return list(threads.map(answer, questions))


def best_of(questions: Sequence[Question], target: float, workers: Workers, known: Answer | None = None) -> Answer:
    """The best setting of several systems, that of the first one when none has any capacity.

    Settings that cannot beat `known`, or one found before, cost one rate each.
    """
    best = known
    for question in questions:
        per_gpu = workers.submit(bound_rps, question, target).result() / question.replicas
        best = best or Answer(question, question, Capacity(0.0, Count(0, 0)), per_gpu * question.replicas)
        for setting in settings_of(question):
            limit = per_gpu * setting.replicas
            found = _better(setting, target, limit, best.per_gpu_rps * setting.replicas, workers)
            if found is not None:
                best = Answer(question, setting, found, limit)
    if best is None:
        raise ValueError("there is no system to choose from")
    return best


def _better(question: Question, target: float, limit: float, known_rps: float, workers: Workers) -> Capacity | None:
    """The capacity of a setting, if it is above what another one is known to reach."""
    if known_rps:
        next_rps = rate_of(step_of(known_rps) + 1)
        if workers.count(question, next_rps, target).attainment < target:
            return None
    found = search(lambda rate: workers.count(question, rate, target), target, known_rps or limit / 2)
    return found if found.rate_rps > known_rps else None


def settings_of(question: Question) -> list[Question]:
    """What there is to tune, the likeliest first."""
    if question.budget is not None or question.drafts or question.prefill_replicas or not question.ahead:
        return [question]
    return [
        dataclasses.replace(
            question,
            budget=t.budget,
            drafts=t.drafts,
            replicas=t.replicas or question.replicas,
            prefill_replicas=t.prefill_replicas,
            ahead=t.ahead,
        )
        for t in tuning.settings(question.system, question.replicas)
    ]
