"""How rivals spread requests over equal replicas: by turns, by work, or by tiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from slosgate.engines.sim.policies.deadlines import decodes, limits, speed_of
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.perf_model import pairs_of
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.starting import PLANNED_SHARE


class Candidate(NamedTuple):
    """A request that wants a replica."""

    prompt_tokens: int
    deadline_s: float  # of its first token, absolute
    tpot_s: float


class Router(Protocol):
    """Chooses the replica of a request's first stage."""

    def choose(
        self,
        request: Candidate,
        replicas: int,
        jobs_of: Callable[[int], JobTable],
        profile: HardwareProfile,
        now_s: float,
    ) -> int:
        """The number of one of the replicas; `jobs_of` says what is there."""


class RoundRobin:
    """They take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(
        self,
        request: Candidate,
        replicas: int,
        jobs_of: Callable[[int], JobTable],
        profile: HardwareProfile,
        now_s: float,
    ) -> int:
        turn, self._turn = self._turn, (self._turn + 1) % replicas
        return turn


class Standing(NamedTuple):
    """A replica as a router weighs it."""

    work_s: float  # until all prompts there and the request's own are computed
    feasible: bool  # the request's first token can be in time, its decode keep the pace, and its prompt fit
    tier_s: float  # the tightest TPOT SLO there; inf on an empty replica


class LeastWork:
    """The least work among the replicas on which the request can be in time, else among all."""

    def choose(
        self,
        request: Candidate,
        replicas: int,
        jobs_of: Callable[[int], JobTable],
        profile: HardwareProfile,
        now_s: float,
    ) -> int:
        seen = [standing(request, jobs_of(n).rows, profile, now_s) for n in range(replicas)]
        return least_work(seen)


class PolyServe:
    """PolyServe (arXiv 2507.17769): replicas belong to TPOT tiers, and the fullest one that can still serve is taken.

    A request is served by its own tier, else by a replica without one, else by a tighter tier's, else by a looser
    one's, which belongs to the request's from then on. Where none can serve it in time, it waits for the least work.
    """

    def choose(
        self,
        request: Candidate,
        replicas: int,
        jobs_of: Callable[[int], JobTable],
        profile: HardwareProfile,
        now_s: float,
    ) -> int:
        seen = [standing(request, jobs_of(n).rows, profile, now_s) for n in range(replicas)]
        feasible = [n for n in range(replicas) if seen[n].feasible]
        if not feasible:
            return least_work(seen)

        def rank(n: int) -> tuple[int, float]:
            tier_s = seen[n].tier_s
            if tier_s == request.tpot_s:
                return 0, -seen[n].work_s
            if tier_s == np.inf:
                return 1, 0.0
            return (2, -tier_s) if tier_s < request.tpot_s else (3, tier_s)

        return min(feasible, key=rank)


def least_work(seen: Sequence[Standing]) -> int:
    """The number of the feasible replica with the least work; where none is, of any."""
    return min(range(len(seen)), key=lambda n: (not seen[n].feasible, seen[n].work_s, n))


def standing(request: Candidate, jobs: Jobs, profile: HardwareProfile, now_s: float) -> Standing:
    """What a replica with these jobs is to a request."""
    at = limits(profile, 0, None, 0)
    rows, due_s = decodes(jobs, now_s)
    speed = speed_of(jobs, rows, due_s, at, now_s)
    left, first = jobs["prompt_left"], jobs["deadline_s"] <= request.deadline_s
    pairs, own = pairs_of(jobs["context"], left), pairs_of(0, request.prompt_tokens)
    before = int(left[first].sum()) + request.prompt_tokens
    before_s = before * speed.token_s + speed.pair_s * float(pairs[first].sum() + own)
    held = int((jobs["context"] + left).sum()) + request.prompt_tokens
    tier_s = float(jobs["tpot_s"].min()) if len(jobs) else np.inf
    step_s = profile.perf.iteration_s(len(jobs) + 1, held, len(jobs) + 1)  # once all of them decode
    feasible = (
        now_s + before_s <= request.deadline_s
        and step_s <= min(tier_s, request.tpot_s)
        and held <= PLANNED_SHARE * profile.kv_blocks * profile.block_tokens
    )
    work_s = (int(left.sum()) + request.prompt_tokens) * speed.token_s + speed.pair_s * float(pairs.sum() + own)
    return Standing(work_s, feasible, tier_s)
