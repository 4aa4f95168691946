"""Hardware profiles: those that ship with slosgate, one JSON file each, and files of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from slosgate.planner.profile import HardwareProfile


class UnknownProfile(ValueError):
    """No usable profile of that name; the message says what is wrong with the file, or which names there are."""


def names() -> list[str]:
    """Every profile that ships with slosgate, sorted."""
    return sorted(f.name.removesuffix(".json") for f in resources.files(__name__).iterdir() if f.name.endswith(".json"))


def load(name_or_file: str) -> HardwareProfile:
    """The shipped profile of that name, or the one in a JSON file. Raises UnknownProfile."""
    if name_or_file in names():
        data = resources.files(__name__).joinpath(f"{name_or_file}.json").read_bytes()
    elif name_or_file.endswith(".json") or "/" in name_or_file:
        try:
            data = Path(name_or_file).read_bytes()
        except OSError as error:
            raise UnknownProfile(f"profile {name_or_file}: {error.strerror or error}") from None
    else:
        raise UnknownProfile(
            f"unknown hardware {name_or_file!r}: choose one of {', '.join(names())}, or name a JSON file that "
            f"`slosgate profile derive` or `slosbench profile` wrote"
        )
    try:
        return parse(data)
    except ValueError as error:
        raise UnknownProfile(f"profile {name_or_file}: {error}") from None


def save(profile: HardwareProfile, file: Path) -> None:
    """Write a profile where `load` finds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_json(profile))


def to_json(profile: HardwareProfile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"


def parse(text: bytes) -> HardwareProfile:
    """A profile's file. Raises ValueError for what is none, has an unknown field or a value out of range."""
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
