"""Real processes for tests: Valkey, gateways and simulated replicas on free loopback ports, ended with the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx

from slosgate.bench import processes
from slosgate.bench.processes import Process, free_port
from slosgate.gateway.state import valkey

__all__ = [
    "Process",
    "answers",
    "free_port",
    "running_engine",
    "running_gateway",
    "running_valkey",
    "wait_for",
]

START_S = 120.0


@contextmanager
def running_valkey(port: int | None = None) -> Iterator[valkey.Valkey]:
    server = valkey.start(port)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_gateway(
    redis_url: str, config: str = "", *, options: Sequence[str] = (), wait: bool = True
) -> Iterator[Process]:
    """`slosgate serve`; without `wait` it may still be starting."""
    with processes.gateway(redis_url, config, options=options) as process:
        if wait:
            process.wait_until_up()
        yield process


@contextmanager
def running_engine(redis_url: str, name: str, *options: str, wait: bool = True) -> Iterator[Process]:
    """`slosgate engine sim`, which registers in Redis; without `wait` it may still be starting."""
    with processes.simulated_engine("--redis", redis_url, "--name", name, *options) as process:
        if wait:
            process.wait_until_up()
        yield process


def wait_for(condition: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Wait until `condition` holds. Fails the test when it never does."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
