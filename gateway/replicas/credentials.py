"""API keys that replicas ask for, from the environment: they stand in no file and in no Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from slosgate.gateway.config import Config


class Credentials:
    """The key for each replica's address: its own, else the one for all that register."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._for_all = environment.get(config.server.replica_api_key_env, "")
        named = ((r.url.rstrip("/"), environment.get(r.api_key_env, "")) for r in config.replicas if r.api_key_env)
        self._by_url = dict(named)

    def of(self, url: str) -> str:
        """Empty when the replica there asks for none."""
        return self._by_url.get(url.rstrip("/"), self._for_all)


def problems(config: Config, environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Variables that a configuration names and that are not set, as (path, message)."""
    named = [(("replicas", str(i), "api_key_env"), r.api_key_env) for i, r in enumerate(config.replicas)]
    for path, name in (*named, (("server", "replica_api_key_env"), config.server.replica_api_key_env)):
        if name and not environment.get(name):
            yield path, f"the environment variable {name} is not set; accepted: one that holds the replica's API key"
