"""What a serving system is to the virtual cluster, and what it is given to serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slosgate.engines.sim.blocks import Parts
from slosgate.engines.sim.policies.base import PolicyFactory
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.controller import WhenFull
from slosgate.planner.profile import HardwareProfile

GUARANTEED, BEST_EFFORT, REFUSED = "guaranteed", "best-effort", "refused"


@dataclass(frozen=True, slots=True)
class Delays:
    """What lies between a gateway and its replicas, in seconds.

    The defaults are medians of `python -m slosgate.bench.gateway_bench.delays` on a machine of two cores with other
    work on it: on an idle one they are shorter.
    """

    http_s: float = 0.005  # of a request to its replica, and of its first token back
    report_s: float = 0.0014  # from when an iteration begins until the gateway knows
    plan_s: float = 0.0025  # from when a plan is made until the replica can follow it


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the model. SLOs are in seconds, inf without one.

    With `switch_at` above 0 the model thinks for so many output tokens at the pace of `tpot_slo_s`, then responds at
    that of `next_tpot_slo_s`.
    """

    prompt_tokens: int  # new ones
    output_tokens: int
    ttft_slo_s: float = math.inf  # from the call's arrival
    tpot_slo_s: float = math.inf
    cached_tokens: int = 0  # left behind by earlier calls; they stand before the new ones
    gap_s: float = 0.0  # from the end of this call to the arrival of the next
    switch_at: int = 0
    next_tpot_slo_s: float = math.inf
    block_ids: tuple[int, ...] = ()  # identities of the prompt's blocks, where a trace tells them
    id_tokens: int = 0  # of each of those


@dataclass(frozen=True, slots=True)
class Offered:
    """One request; its calls run one after the other. `arrival_s` counts from the start of the run."""

    arrival_s: float
    calls: tuple[Call, ...]
    slo_class: str = ""
    id: str = ""
    weight: float = 1.0
    acceptance: float = 0.0  # chance that a drafted token is accepted
    when_full: WhenFull = "best-effort"  # what becomes of it when its SLO can't be guaranteed


@dataclass(slots=True)
class StageJob:
    """One call on its way through the system, and afterwards the record of it."""

    request: Offered
    index: int  # which call
    arrival_s: float = math.nan  # nan: never reached
    admission: str = ""  # GUARANTEED, BEST_EFFORT, REFUSED, or "" where the system makes no promises
    promoted_s: float = math.nan  # when best effort became a guarantee
    replica: int = -1  # the replica that served it (the last one, if several did)
    finished: bool = False
    emitted: int = 0
    token_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # times of the tokens emitted
    first: int = 0  # where its token times begin among those of the run
    cached_tokens: int = 0  # of its prompt, that the replica had
    parts: Parts = ()  # what its context holds

    @property
    def stage(self) -> Call:
        return self.request.calls[self.index]

    @property
    def id(self) -> str:
        return f"{self.request.id}/{self.index}" if len(self.request.calls) > 1 else self.request.id

    @property
    def last(self) -> bool:
        """Whether it is the request's last call."""
        return self.index == len(self.request.calls) - 1

    def engine_request(self) -> EngineRequest:
        """The stage as an engine without SLOs receives it."""
        stage = self.stage
        return EngineRequest(
            id=self.id,
            prompt_tokens=stage.cached_tokens + stage.prompt_tokens,
            output_tokens=stage.output_tokens,
            thinking_tokens=stage.switch_at,
            parts=self.parts,
            acceptance=self.request.acceptance,
        )


class Fleet(Protocol):
    """What a system may do with the cluster that runs it."""

    def submit(self, job: StageJob, replica: int, request: EngineRequest, now_s: float) -> None:
        """Send a job to a replica."""

    def at(self, time_s: float, event: Callable[[float], None]) -> None:
        """Do something later."""

    def wake(self, replica: int, now_s: float) -> None:
        """Have an idle replica look for work: something there has changed."""


class System(Protocol):
    """Replicas and the front end before them."""

    @property
    def replicas(self) -> Sequence[SimReplica]:
        """All of them, in the order that numbers them."""

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        """A stage has arrived: submit it somewhere, now or later."""

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        """A replica has finished what was submitted for the job. True when the stage is complete with that."""

    def passes_on(self, job: StageJob, replica: int) -> bool:
        """Whether the end of what was submitted to a replica may bring something to another one.

        Where it can't, replicas need not wait for each other in virtual time.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What a baseline may be tuned by, where it has it. The defaults leave a system as it comes."""

    budget: int | None = None  # tokens an iteration may take
    drafts: int = 0
    defer_below: float = 0.0  # decodes wait for urgent prefills while less of the KV memory is in use: a share of it
    prefill_replicas: int | None = None  # of all, where prefill and decode are apart; None: half of them
    async_scheduling: bool = True  # iterations are chosen while the one before runs, vLLM's default on GPUs


AS_IT_COMES = Tuning()


@dataclass(frozen=True, slots=True)
class Settings(Tuning):
    """What every system is built from."""

    profile: HardwareProfile
    replicas: int = 1
    seed: int = 0
    noise: float = 0.0
    slowdown: float = 1.0  # iterations take so many times what the profile says
    delays: Delays = Delays()  # of systems with a gateway
    others: tuple[HardwareProfile, ...] = ()  # of replicas that differ, which come last
    # Between two replicas: NVLink of an A100, one way (an H100's or H200's is 450e9, PCIe 4.0 x16 32e9).
    link_bytes_per_s: float = 300e9

    def __post_init__(self) -> None:
        if self.drafts > self.profile.max_drafts:
            raise ValueError(
                f"{self.profile.name} verifies {self.profile.max_drafts} drafts at most, not {self.drafts}"
            )

    def profile_of(self, number: int) -> HardwareProfile:
        """The profile of the replica of that number."""
        alike = self.replicas - len(self.others)
        return self.profile if number < alike else self.others[number - alike]


SystemFactory: TypeAlias = Callable[[Settings], System]


def equal_replicas(settings: Settings, policy: PolicyFactory, way_s: float = 0.0) -> list[SimReplica]:
    """Replicas with one policy, each with a seed of its own; a request is `way_s` on its way to one."""
    return [
        one_replica(settings, policy, n, overhead_s=settings.profile_of(n).request_overhead_s + way_s)
        for n in range(settings.replicas)
    ]


def one_replica(settings: Settings, policy: PolicyFactory, number: int, *, overhead_s: float) -> SimReplica:
    """The replica of that number; a request can run `overhead_s` after it was submitted."""
    return SimReplica(
        settings.profile_of(number),
        policy,
        seed=settings.seed * 1_000 + number,
        noise=settings.noise,
        async_scheduling=settings.async_scheduling,
        overhead_s=overhead_s,
        slowdown=settings.slowdown,
    )
