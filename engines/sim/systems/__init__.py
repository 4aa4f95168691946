"""Serving systems in virtual time: one file each, named as the command lines name them."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings, SimRequest, SimStage, StageJob, System, SystemFactory
from slosgate.engines.sim.systems.distserve import DistServe
from slosgate.engines.sim.systems.sarathi import Sarathi
from slosgate.engines.sim.systems.slos_serve import SlosServe
from slosgate.engines.sim.systems.slos_serve_ar import SlosServeAr
from slosgate.engines.sim.systems.slos_serve_greedy import SlosServeGreedy
from slosgate.engines.sim.systems.slos_serve_no_burst import SlosServeNoBurst
from slosgate.engines.sim.systems.slos_serve_no_promotion import SlosServeNoPromotion
from slosgate.engines.sim.systems.slos_serve_no_routing import SlosServeNoRouting
from slosgate.engines.sim.systems.vllm import Vllm
from slosgate.engines.sim.systems.vllm_v0 import VllmV0

_SYSTEMS: dict[str, SystemFactory] = {
    "distserve": DistServe,
    "sarathi": Sarathi,
    "slos-serve": SlosServe,
    "slos-serve-ar": SlosServeAr,
    "slos-serve-greedy": SlosServeGreedy,
    "slos-serve-no-burst": SlosServeNoBurst,
    "slos-serve-no-promotion": SlosServeNoPromotion,
    "slos-serve-no-routing": SlosServeNoRouting,
    "vllm": Vllm,
    "vllm-v0": VllmV0,
}

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
