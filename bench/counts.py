"""What one rate gives: how many requests of a question attain there, what becomes of them, and the bound beside it.

Everything here is kept by content, so that the same question is simulated once.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from slosgate.bench import bound, cache, scenarios, tuning, virtual
from slosgate.bench.attainment import GUARANTEED, PAPER, attained, collect, wilson
from slosgate.bench.capacity import Count
from slosgate.bench.hardware import hardware_profile, is_file
from slosgate.bench.load import Load, offer
from slosgate.bench.questions import Question
from slosgate.bench.results import Row
from slosgate.bench.virtual import VirtualRun
from slosgate.engines.sim.systems import Settings
from slosgate.traces.sources import OWN_FILE

ACCEPTANCE = 0.7  # of drafted tokens, in every comparison with speculation
AT_ARRIVAL_S = 0.1  # what is told within it counts as promised at arrival
SURE_Z = 2.576  # an attainment whose 99 % interval leaves the target out needs no further seed
LOAD_MODULES = (
    "slosgate.bench.load",
    "slosgate.bench.scenarios",
    "slosgate.bench.attainment",
    "slosgate.engines.profiles",
    "slosgate.engines.sim.cluster",
)


def load_of(question: Question, rate_rps: float, seed: int) -> Load:
    later = seed if question.other_slices else 0
    return _load(question.scenario, question.hardware, rate_rps, seed, later, question.slices)


def source_of(question: Question) -> Row:
    """Where its requests come from, in a phrase, and how many of them outgrow the window."""
    load = load_of(question, float(question.replicas), 0)
    return {"trace_source": load.trace_source, **load.counted}


@lru_cache(maxsize=16)
def _load(scenario: str, hardware: str, rate_rps: float, seed: int, later: int, slices: int) -> Load:
    moved = scenarios.longer(scenarios.later(scenarios.load(scenario), later), slices)
    return offer(moved, hardware_profile(hardware), rate_rps, seed=seed)


@lru_cache(maxsize=256)
def seeds_of(question: Question) -> int:
    """Seeds that tell something new: a stretched slice of a real trace is the same for every one of them."""
    first, second = (load_of(question, 1.0, seed) for seed in (0, 1))
    return 1 if first.requests == second.requests else question.seeds


def count(question: Question, rate_rps: float, target: float, whole: bool = False) -> Count:
    """Pooled over the question's seeds, as many as it takes to tell on which side of `target` the attainment is.

    A run that can only end below it is abandoned: what is then counted as attained is what still could have been.
    Unless the figure itself is wanted: `whole`.
    """
    pooled, seeds = Count(0, 0), seeds_of(question)
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


def value(question: Question, rate_rps: float, seed: int, weights: tuple[float, ...]) -> Row:
    """What a virtual run attains of requests that are worth these weights, drawn by the seed; the system is told."""
    load = load_of(question, rate_rps, seed)
    worth = np.random.default_rng(seed).choice(weights, len(load.requests))

    def tell() -> Row:
        hits = attained(collect(_simulate(question, load, seed, worth=worth.tolist()).outcomes), PAPER)
        return {"attained_value": float(worth[hits].sum()), "offered_value": float(worth.sum())}

    return dict(_remembered({"told": "value", "weights": weights}, question, load, rate_rps, seed, tell))


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
    for name, usual in (("slices", 1), ("beside", "")):
        if asked[name] == usual:
            del asked[name]  # what was asked before they could be said is asked in the same words
    asked |= _files(question, load)
    return cache.remembered(
        asked, (*LOAD_MODULES, tuning.module(question.system)), tell, alone=("slosgate.bench.virtual",), enough=enough
    )


def _files(question: Question, load: Load) -> Row:
    """The text of a user's own scenario and hardware files, and the checksums of own traces, where there are any."""
    found = [Path(name).read_text(encoding="utf-8") for name in (question.scenario, question.hardware) if is_file(name)]
    found += [origin["detail"] for origin in load.record.get("provenance", ()) if origin["source"] == OWN_FILE]
    return {"files": found} if found else {}


def _simulate(
    question: Question, load: Load, seed: int, misses_allowed: int | None = None, worth: Sequence[float] = ()
) -> VirtualRun:
    profile, tuned = hardware_profile(question.hardware), dataclasses.asdict(question.tuning)
    others = (hardware_profile(question.beside),) * (question.replicas // 2) if question.beside else ()
    settings = Settings(profile, question.replicas, seed, others=others, **tuned)
    return virtual.simulate(
        load, question.system, settings, acceptance=_acceptance(question), misses_allowed=misses_allowed, worth=worth
    )


def _acceptance(question: Question) -> float:
    return ACCEPTANCE if tuning.speculates(question.system) else 0.0


def _told(run: VirtualRun, load: Load) -> Row:
    served = collect(run.outcomes)
    hits = attained(served, PAPER)
    guaranteed = np.array([word == GUARANTEED for word in served.admission])
    promised = np.array([outcome.told_after_s <= AT_ARRIVAL_S for outcome in run.outcomes])
    return {
        "offered": len(hits),
        "attained": int(hits.sum()),
        "guaranteed": int(guaranteed.sum()),
        "guarantees_kept": int(hits[guaranteed].sum()),
        "promised": int(promised.sum()),
        "promised_and_kept": int(hits[promised].sum()),
        "best_effort": int((~guaranteed).sum()),
        "best_effort_tokens_per_s": round(run.replicas["best_effort_tokens"] / load.seconds, 2),
    }


def bound_rps_per_gpu(question: Question, target: float) -> float:
    """The bound, as far as a question's system speculates."""
    acceptance = _acceptance(question)

    def compute() -> float:
        return bound.bound_rps_per_gpu(
            lambda rate: load_of(question, rate, 0),
            hardware_profile(question.hardware),
            target=target,
            replicas=question.replicas,
            acceptance=acceptance,
        )

    load = load_of(question, float(question.replicas), 0)
    asked = {
        "bound": question.scenario, "hardware": question.hardware, "replicas": question.replicas, "target": target,
        "acceptance": acceptance, "source": load.trace_source, **_files(question, load),
    }  # fmt: skip
    return float(
        cache.remembered(asked, ("slosgate.bench.bound", "slosgate.bench.load", "slosgate.engines.profiles"), compute)
    )
