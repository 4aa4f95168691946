"""A system on this machine for a live run: simulated replicas and, for slosgate, Valkey and the gateway before them.

Everything started here is ended here, and nothing else is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from slosgate.bench import processes
from slosgate.bench.errors import InputError
from slosgate.bench.live import Target
from slosgate.gateway.state import valkey

MODEL = "simulated"
POLICIES = {"vllm": "vllm", "slosgate-ar": "slosgate"}  # systems that can run live, and their replicas' scheduler
WITH_GATEWAY = ("slosgate-ar",)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to start."""

    system: str
    hardware: str
    replicas: int
    classes: tuple[str, ...]  # the SLO classes that requests will name
    seed: int = 0


@contextlib.contextmanager
def start(deployment: Deployment) -> Iterator[Target]:
    """Start the system and wait until it can be sent requests.

    Raises InputError for a system that only exists in virtual time, RunError for one that does not come up.
    """
    if deployment.system not in POLICIES:
        raise InputError(f"--mode live can run {', '.join(POLICIES)}, not {deployment.system!r}")
    with contextlib.ExitStack() as ending:
        if deployment.system not in WITH_GATEWAY:
            yield Target(tuple(_replicas(deployment, (), ending)), MODEL)
            return
        server = valkey.start()
        ending.callback(server.stop)
        _replicas(deployment, ("--redis", server.url), ending)
        config = "".join(f'[classes."{name}"]\n' for name in deployment.classes)
        gateway = ending.enter_context(processes.gateway(server.url, config))
        gateway.wait_until_up("/ready", needs=[f'"replica-{n}"' for n in range(deployment.replicas)])
        yield Target((gateway.url,), MODEL)


def _replicas(deployment: Deployment, options: tuple[str, ...], ending: contextlib.ExitStack) -> list[str]:
    """Start them all at once; their addresses when all answer."""
    common = ["--policy", POLICIES[deployment.system], "--hardware", deployment.hardware, "--model", MODEL, *options]
    started = [
        ending.enter_context(
            processes.simulated_engine(*common, "--name", f"replica-{n}", "--seed", str(deployment.seed * 1000 + n))
        )
        for n in range(deployment.replicas)
    ]
    for process in started:
        process.wait_until_up()
    return [process.url for process in started]
