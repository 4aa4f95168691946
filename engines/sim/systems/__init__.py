"""Serving systems in virtual time: one file each, named as the command lines name them."""

from __future__ import annotations

from functools import partial

from slosgate.engines.sim.systems.base import (
    AS_IT_COMES,
    Call,
    Offered,
    Settings,
    StageJob,
    System,
    SystemFactory,
    Tuning,
)
from slosgate.engines.sim.systems.distserve import DistServe
from slosgate.engines.sim.systems.rivals import RIVALS
from slosgate.engines.sim.systems.sarathi import Sarathi
from slosgate.engines.sim.systems.slosgate import VARIANTS
from slosgate.engines.sim.systems.vllm import Vllm
from slosgate.engines.sim.systems.vllm_v0 import VllmV0

_SYSTEMS: dict[str, SystemFactory] = {
    "distserve": DistServe,
    **RIVALS,
    "sarathi": Sarathi,
    **VARIANTS,
    "vllm": Vllm,
    "vllm-v0": VllmV0,
}

__all__ = [
    "AS_IT_COMES",
    "Call",
    "Offered",
    "Settings",
    "StageJob",
    "System",
    "SystemFactory",
    "Tuning",
    "UnknownSystem",
    "canonical",
    "load",
    "module",
    "names",
]


class UnknownSystem(ValueError):
    """No system of that name; the message lists those there are."""


PAPERS_NAME = "slos-serve"  # under which our own system is accepted, too


def canonical(name: str) -> str:
    """A system's name as results show it."""
    return name.replace(PAPERS_NAME, "slosgate", 1) if name.startswith(PAPERS_NAME) else name


def names() -> list[str]:
    """Every system, sorted."""
    return sorted(_SYSTEMS)


def load(name: str) -> SystemFactory:
    """The system called `name`. Raises UnknownSystem."""
    factory = _SYSTEMS.get(canonical(name))
    if factory is None:
        raise UnknownSystem(f"unknown system {name!r}: choose one of {', '.join(names())}")
    return factory


def module(name: str) -> str:
    """The module that the code of a system begins in. Raises UnknownSystem."""
    factory = load(name)
    return (factory.func if isinstance(factory, partial) else factory).__module__
