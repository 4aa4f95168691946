"""Scheduling policies of a simulated replica: one file each, named as the command line names them."""

from __future__ import annotations

from slosgate.engines.sim.policies import sarathi, slosgate, vllm, vllm_v0
from slosgate.engines.sim.policies.base import Policy, PolicyFactory
from slosgate.engines.sim.steps import SlotBatch

_POLICIES: dict[str, PolicyFactory] = {
    "sarathi": sarathi.SarathiPolicy,
    "slosgate": slosgate.SlosgatePolicy,
    "vllm": vllm.VllmPolicy,
    "vllm-v0": vllm_v0.VllmV0Policy,
}

__all__ = ["Policy", "PolicyFactory", "SlotBatch", "UnknownPolicy", "load", "names"]


class UnknownPolicy(ValueError):
    """No policy of that name; the message lists those there are."""


def names() -> list[str]:
    """Every policy, sorted."""
    return sorted(_POLICIES)


def load(name: str) -> PolicyFactory:
    """The policy called `name`. Raises UnknownPolicy."""
    if name not in _POLICIES:
        raise UnknownPolicy(f"unknown policy {name!r}: choose one of {', '.join(names())}")
    return _POLICIES[name]
