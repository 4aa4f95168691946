"""What replicas measured of themselves, kept in the user's cache folder for the next start of the same kind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slosgate.engines import profiles
from slosgate.planner.profile import HardwareProfile

FORMAT = 2  # goes up when what is measured, or how, makes older files useless
UNTOLD = ("_name_or_path", "transformers_version")  # in a model's config, and no part of its shape


def fingerprint(model_config: Mapping[str, Any], engine: Mapping[str, str]) -> str:
    """One key for all replicas that take the same time for the same work: a model's config, a device, a vLLM."""
    told = {name: value for name, value in model_config.items() if name not in UNTOLD}
    # Twice: some configs have keys that are numbers, which sort with others only once they are text.
    plain = json.loads(json.dumps([FORMAT, told, dict(engine)], default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """XDG_CACHE_HOME/slosgate/profiles, or the same under ~/.cache."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slosgate" / "profiles"


def find(key: str) -> HardwareProfile | None:
    """What was measured under this key; None when nothing was, or it can't be read."""
    try:
        return profiles.load(str(folder() / f"{key}.json"))
    except profiles.UnknownProfile:
        return None


def keep(key: str, profile: HardwareProfile) -> Path:
    """Keep what was measured. Raises OSError where the folder can't be written."""
    file = folder() / f"{key}.json"
    leave(profile, file)
    return file


def leave(profile: HardwareProfile, file: Path) -> None:
    """Write a profile so that it is never read by half."""
    written = file.with_name(f"{file.name}.{os.getpid()}")
    profiles.save(profile, written)
    written.replace(file)
