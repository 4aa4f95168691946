"""What the launcher tells the scheduler, through environment variables.

vLLM hands the scheduler no options of its own but `--additional-config`, which is part of its compile cache's hash;
the environment reaches the engine's process and leaves the cache alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from slosgate.engines import profiles
from slosgate.engines.secrets import REDIS
from slosgate.planner.profile import HardwareProfile

PROFILE = "SLOSGATE_PROFILE"
REPLICA = "SLOSGATE_REPLICA"
URL = "SLOSGATE_URL"
ITERATION_LOG = "SLOSGATE_ITERATION_LOG"
MEASURING = "SLOSGATE_MEASURING"
AUTO = "auto"  # as a profile: the engine derives one and measures itself


class BadSettings(ValueError):
    """A setting that cannot be used; the message names it and says what is accepted."""


class ReplicaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's settings. Without `redis_url` it plans for itself and is not registered."""

    profile: str = AUTO  # or the name of a shipped profile, or a JSON file
    redis_url: str | None = None
    replica: str = "vllm"
    url: str = ""  # where gateways reach the replica; needed with Redis
    iteration_log: str | None = None  # a file that gets one JSON line per iteration
    measuring: str | None = None  # a folder that the launcher and the scheduler share while the engine measures itself

    def to_environment(self) -> dict[str, str]:
        values = {
            PROFILE: self.profile,
            REDIS: self.redis_url,
            REPLICA: self.replica,
            URL: self.url,
            ITERATION_LOG: self.iteration_log,
            MEASURING: self.measuring,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ReplicaSettings:
        """Raises BadSettings when a needed variable is missing."""
        settings = cls(
            profile=environment.get(PROFILE) or AUTO,
            redis_url=environment.get(REDIS),
            replica=environment.get(REPLICA, "vllm"),
            url=environment.get(URL, ""),
            iteration_log=environment.get(ITERATION_LOG),
            measuring=environment.get(MEASURING),
        )
        if settings.redis_url and not settings.url:
            raise BadSettings(f"{URL} is not set: gateways that find this replica in Redis need its address")
        return settings


def load_profile(name: str) -> HardwareProfile:
    """A shipped profile by name, or one from a JSON file. Raises BadSettings."""
    try:
        return profiles.load(name)
    except profiles.UnknownProfile as error:
        raise BadSettings(str(error)) from error
