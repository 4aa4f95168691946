"""Hardware profiles: one JSON file each, named as the command lines name them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

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
    return parse(resources.files(__name__).joinpath(f"{name}.json").read_bytes())


def find(name: str) -> HardwareProfile:
    """A shipped profile by name, or one from a .json file. Raises ValueError, OSError when there is no such file."""
    return parse(Path(name).read_bytes()) if name.endswith(".json") else load(name)


def parse(text: bytes) -> HardwareProfile:
    """A profile's file. Raises ValueError for what is none, has a field that nobody knows or a value out of range."""
    profile = msgspec.json.decode(text, type=HardwareProfile)
    known = msgspec.to_builtins(profile)
    if misspelt := sorted(_beyond(msgspec.json.decode(text), known)):
        raise ValueError(f"unknown field {misspelt[0]!r}; accepted: {', '.join(known)}")
    if problem := profile.problem():
        raise ValueError(problem)
    return profile


def _beyond(given: Any, known: Any) -> set[str]:
    """Names of fields that the reader has passed over."""
    if isinstance(given, dict):
        found = {name for name in given if name not in known}
        return found.union(*(_beyond(value, known[name]) for name, value in given.items() if name in known))
    if isinstance(given, list):
        return set[str]().union(*(_beyond(one, other) for one, other in zip(given, known, strict=True)))
    return set()
