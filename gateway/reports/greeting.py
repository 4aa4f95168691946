"""What `slosgate serve` says when it listens: where, and commands that work as they stand."""

from __future__ import annotations

from slosgate import __version__
from slosgate.engines.secrets import REDIS
from slosgate.engines.store import password_of, without_password
from slosgate.gateway.config import Config
from slosgate.gateway.reports.events import Started


def started(config: Config, redis_url: str, address: str, *, tls: bool) -> Started:
    """A command that would need a secret leaves it out: of Redis its environment variable, of API keys a word."""
    secret = bool(password_of(redis_url))
    key = " -H 'authorization: Bearer KEY'" if config.keys else ""
    return Started(
        version=__version__, address=address, redis=without_password(redis_url), classes=tuple(config.classes),
        keys=len(config.keys), replicas=len(config.replicas), tls=tls,
        add_replica="slosgate engine sim" if secret else f"slosgate engine sim --redis {redis_url}",
        add_replica_needs=REDIS if secret else "",
        ask=f'curl {address}/v1/completions{key} -H \'x-slo-ttft-ms: 400\' -d \'{{"prompt": "Hi", "max_tokens": 16}}\'',
    )  # fmt: skip


def greeting(event: Started) -> str:
    """For a person at a terminal."""
    where = f", with {event.add_replica_needs} set as here" if event.add_replica_needs else ""
    return (
        f"slosgate {event.version} serves {event.address}\n"
        f"Add a simulated replica{where}:\n    {event.add_replica}\n"
        f"Then ask it:\n    {event.ask}\n"
    )
