"""Hardware as command lines name it: a shipped profile, or a user's own file as `slosbench profile` writes it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from slosgate.bench.errors import InputError, choose
from slosgate.engines import profiles
from slosgate.planner.profile import HardwareProfile


def is_file(name: str) -> bool:
    """Whether a name of hardware or of a scenario means a file."""
    return name.endswith((".json", ".toml"))


def hardware_profile(name: str) -> HardwareProfile:
    """A shipped profile by its name, or the one in a .json file. Raises InputError."""
    if not is_file(name):
        return profiles.load(choose("hardware", name, profiles.names()))
    try:
        return msgspec.json.decode(Path(name).read_bytes(), type=HardwareProfile)
    except OSError as error:
        raise InputError(f"cannot read the hardware profile {name!r}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InputError(f"{name!r} is no hardware profile: {error}") from None
