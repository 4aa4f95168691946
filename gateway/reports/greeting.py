"""What `slosgate serve` says when it listens: where, and commands that work as they stand."""

from __future__ import annotations

from slosgate import __version__
from slosgate.engines.secrets import REDIS
from slosgate.engines.store import password_of, without_password
from slosgate.gateway.config import Config
from slosgate.gateway.reports.events import Started


def started(config: Config, redis_url: str, address: str, *, tls: bool) -> Started:
    return Started(
        version=__version__, address=address, redis=without_password(redis_url), classes=tuple(config.classes),
        keys=len(config.keys), replicas=len(config.replicas), tls=tls,
    )  # fmt: skip


def greeting(config: Config, redis_url: str, address: str) -> str:
    """For a person at a terminal. A command that would need a secret says which one, instead of showing it."""
    secret = bool(password_of(redis_url))
    engine = "slosgate engine sim" if secret else f"slosgate engine sim --redis {redis_url}"
    where = f", with {REDIS} set as here" if secret else ""
    key = " -H 'authorization: Bearer KEY'" if config.keys else ""
    ask = f'curl {address}/v1/completions{key} -H \'x-slo-ttft-ms: 400\' -d \'{{"prompt": "Hi", "max_tokens": 16}}\''
    return (
        f"slosgate {__version__} serves {address}\n"
        f"Add a simulated replica{where}:\n    {engine}\n"
        f"Then ask it:\n    {ask}\n"
    )
