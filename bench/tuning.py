"""Which systems there are to compare, and what each baseline may be tuned by: every one runs at its best.

`NAME+sd` is the baseline NAME with speculative decoding at a fixed number of drafts; `module:Name` a user's own policy.
"""

from __future__ import annotations

from slosgate.bench import own
from slosgate.bench.errors import choose
from slosgate.engines.sim import systems
from slosgate.engines.sim.systems import SystemFactory, Tuning
from slosgate.planner.profile import HardwareProfile

BASELINES = ("vllm", "vllm-v0", "sarathi", "distserve")
RIVALS = ("edf", "qoserve", "scorpio", "jitserve")  # they know SLOs, too
ROUTED_RIVALS = ("edf-least-work", "polyserve")  # the same as edf on one replica
RIVAL_BUDGETS = (768, 384, 2048)
DEFERRING = ("edf", "jitserve", *ROUTED_RIVALS)
BUDGETS = {
    "sarathi": (1024, 512, 2048, 256, 4096),  # tokens an iteration may take
    "sarathi+sd": (2048, 1024, 512),  # a decode takes several, and a verification's context more than its tokens
}
DRAFTS = (4, 2, 1)
RIVAL_DRAFTS = (2, 1)
ASYNCHRONOUS = ("vllm", "sarathi", "distserve")  # they may choose an iteration while the one before runs, or not
SPLITS = {1: ((2, 1), (3, 1), (3, 2))}  # one GPU can't be split: pools of two and three, counted per GPU
SPECULATING = "+sd"


def names() -> list[str]:
    """Every system that can be run, as command lines name them."""
    known = systems.names()
    return known + [
        name + SPECULATING
        for name in (*BASELINES, *RIVALS, *ROUTED_RIVALS)
        if name in known and name + SPECULATING not in known
    ]


def check(system: str) -> str:
    """The system's name as results show it. Raises InputError for an unknown one."""
    if own.is_own(system):
        own.load(system)
        return system
    return choose("system", systems.canonical(system), names())


def factory(system: str) -> SystemFactory:
    """What builds the system of the simulator behind a name. Raises systems.UnknownSystem, InputError."""
    return own.load(system) if own.is_own(system) else systems.load(_base(system))


def module(system: str) -> str:
    """The module that the code of a system begins in."""
    return own.module(system) if own.is_own(system) else systems.module(_base(system))


def _base(system: str) -> str:
    return system if system in systems.names() else system.removesuffix(SPECULATING)


def speculates(system: str) -> bool:
    """Whether a system drafts tokens."""
    if own.is_own(system):
        return False
    return system.endswith(SPECULATING) or (system.startswith("slosgate") and not system.startswith("slosgate-ar"))


def budget_within(profile: HardwareProfile, tpot_s: float) -> int:
    """Sarathi-Serve's one budget: the largest of those to tune by whose iteration lasts no longer than a TPOT SLO."""
    budgets = sorted(BUDGETS["sarathi"])
    meeting = [n for n in budgets if profile.perf.chunk_s(n) <= tpot_s]
    return meeting[-1] if meeting else budgets[0]


def settings(system: str, replicas: int = 1) -> list[tuple[int, Tuning]]:
    """Every setting to try, the likeliest first, with the replicas that it takes: more than were asked for only where
    a split needs them. Of the best one also its `synchronous` form."""
    name = system.removesuffix(SPECULATING)
    rival = name in (*RIVALS, *ROUTED_RIVALS)
    drafts = (0,) if not system.endswith(SPECULATING) else RIVAL_DRAFTS if rival else DRAFTS
    splits: tuple[tuple[int, int | None], ...] = ((replicas, None),)
    if name == "distserve":
        splits = SPLITS.get(replicas) or tuple((replicas, n) for n in range(1, replicas))
    budgets = RIVAL_BUDGETS if rival else BUDGETS.get(system, (None,))
    defers = (0.5, 0.0, 1.0) if name in DEFERRING else (0.0,)
    return [
        (needed, Tuning(budget=budget, drafts=n, defer_below=defer, prefill_replicas=prefills))
        for n in drafts
        for budget in budgets
        for defer in defers
        for needed, prefills in splits
    ]


def synchronous(system: str) -> bool:
    """Whether a system could also choose each iteration only when the one before has ended."""
    return system.removesuffix(SPECULATING) in ASYNCHRONOUS
