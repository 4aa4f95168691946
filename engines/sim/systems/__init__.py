"""Serving systems in virtual time: one file each, named as the command lines name them."""

from __future__ import annotations

from engines.sim.systems.base import Settings, SimRequest, SimStage, StageJob, System, SystemFactory
from engines.sim.systems.slos_serve_ar import SlosServe
from engines.sim.systems.vllm import Vllm

_SYSTEMS: dict[str, SystemFactory] = {"slos-serve-ar": SlosServe, "vllm": Vllm}

__all__ = [
    "Settings",
    "SimRequest",
    "SimStage",
    "StageJob",
    "System",
    "SystemFactory",
    "UnknownSystem",
    "load",
    "names",
]


class UnknownSystem(ValueError):
    """No system of that name; the message lists those there are."""


def names() -> list[str]:
    """Every system, sorted."""
    return sorted(_SYSTEMS)


def load(name: str) -> SystemFactory:
    """The system called `name`. Raises UnknownSystem."""
    if name not in _SYSTEMS:
        raise UnknownSystem(f"unknown system {name!r}: choose one of {', '.join(names())}")
    return _SYSTEMS[name]
