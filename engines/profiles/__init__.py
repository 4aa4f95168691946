"""Hardware profiles: those that ship with slosgate, one JSON file each, and files of one's own."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

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
        profile = msgspec.json.decode(data, type=HardwareProfile)
    except msgspec.MsgspecError as error:
        raise UnknownProfile(f"profile {name_or_file}: {error}") from None
    problem = _problem(profile)
    if problem:
        raise UnknownProfile(f"profile {name_or_file}: {problem}")
    return profile


def save(profile: HardwareProfile, file: Path) -> None:
    """Write a profile where `load` finds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_json(profile))


def to_json(profile: HardwareProfile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"


def _problem(profile: HardwareProfile) -> str:
    """What makes a profile unusable; empty when nothing does."""
    for field in ("kv_blocks", "block_tokens", "max_model_tokens", "max_batched_tokens", "max_sequences", "gpus"):
        if getattr(profile, field) < 1:
            return f"{field} must be at least 1, not {getattr(profile, field)}"
    coefficients = [value for term in profile.perf.terms for value in msgspec.structs.astuple(term)]
    if not coefficients or any(value < 0 or not math.isfinite(value) for value in coefficients):
        return "perf.terms needs at least one term, and no number below 0"
    if not any(term.constant_s > 0 for term in profile.perf.terms):
        return "perf.terms needs a constant_s above 0: no iteration takes no time"
    return ""
