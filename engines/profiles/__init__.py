"""Hardware profiles: one JSON file each, named as the command lines name them."""

from __future__ import annotations

from importlib import resources

import msgspec

from slosgate.planner.profile import HardwareProfile


class UnknownProfile(ValueError):
    """No profile of that name; the message lists those there are."""


def names() -> list[str]:
    """Every profile that ships with slosgate, sorted."""
    return sorted(f.name.removesuffix(".json") for f in resources.files(__name__).iterdir() if f.name.endswith(".json"))


def load(name: str) -> HardwareProfile:
    """The profile called `name`. Raises UnknownProfile."""
    if name not in names():
        raise UnknownProfile(f"unknown hardware {name!r}: choose one of {', '.join(names())}")
    data = resources.files(__name__).joinpath(f"{name}.json").read_bytes()
    return msgspec.json.decode(data, type=HardwareProfile)
