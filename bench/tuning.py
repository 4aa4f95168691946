"""Which systems there are to compare, and what each baseline may be tuned by: every one runs at its best.

`NAME+sd` is the baseline NAME with speculative decoding at a fixed number of drafts.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import choose
from engines.sim import systems

BASELINES = ("vllm", "vllm-v0", "sarathi", "distserve")
OURS = ("slos-serve", "slos-serve-ar")
BUDGETS = {"sarathi": (1024, 512, 2048, 256, 4096)}  # tokens an iteration may take
DRAFTS = (4, 2, 1)
SPECULATING = "+sd"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a baseline is tuned by; None and 0 leave the system as it comes."""

    budget: int | None = None
    drafts: int = 0


def names() -> list[str]:
    """Every system that can be run, as command lines name them."""
    known = systems.names()
    return known + [name + SPECULATING for name in BASELINES if name in known and name + SPECULATING not in known]


def check(system: str) -> str:
    """Raises InputError for an unknown system."""
    return choose("system", system, names())


def base(system: str) -> str:
    """The system of the simulator behind a name."""
    return system if system in systems.names() else system.removesuffix(SPECULATING)


def speculates(system: str) -> bool:
    """Whether a system drafts tokens."""
    return system.endswith(SPECULATING) or system == "slos-serve"


def settings(system: str) -> list[Setting]:
    """Every setting to try, the likeliest first."""
    budgets = BUDGETS.get(system.removesuffix(SPECULATING), (None,))
    drafts = DRAFTS if system.endswith(SPECULATING) else (0,)
    return [Setting(budget, n) for n in drafts for budget in budgets]
