"""Hardware as command lines name it: a shipped profile, or a user's own file as `slosbench profile` writes it."""

from __future__ import annotations

from slosgate.bench.errors import InputError
from slosgate.engines import profiles
from slosgate.planner.profile import HardwareProfile


def is_file(name: str) -> bool:
    """Whether a name of hardware or of a scenario means a file."""
    return name.endswith((".json", ".toml"))


def hardware_profile(name: str) -> HardwareProfile:
    """A shipped profile by its name, or the one in a .json file. Raises InputError."""
    try:
        return profiles.load(name)
    except profiles.UnknownProfile as error:
        raise InputError(str(error)) from None
