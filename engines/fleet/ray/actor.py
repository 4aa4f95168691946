"""What runs on a node of a Ray cluster: an actor that starts one replica there and watches over it."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import ray

from slosgate.engines.addresses import free_port, local_url
from slosgate.engines.fleet.gpus import Gpus
from slosgate.engines.fleet.places import Launch, LocalProcess, spawn


class Keeper:
    """The replica is a child of the actor, and is killed with it: its GPUs are another's from then on."""

    async def start(self, launch: Launch) -> tuple[str, int, tuple[str, ...]]:
        """Start the replica at an address that other nodes reach: where it is, its process id, its GPUs."""
        host = ray.util.get_node_ip_address()
        port = free_port(host)
        gpus = tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get("GPU", ())))
        log = _logs() / f"{launch.name}.log"
        process = await spawn(launch, host, port, log, gpus, at_death=signal.SIGKILL)
        self._replica = LocalProcess(process, local_url(host, port), gpus, Gpus(()), log)
        return self._replica.url, self._replica.pid, gpus

    async def ended(self) -> str:
        """Wait until the replica has ended; why."""
        return await self._replica.ended()

    async def stop(self) -> None:
        self._replica.stop()


def _logs() -> Path:
    """A folder of this node for what replicas say, that only this user may open."""
    folder = Path(tempfile.gettempdir()) / f"slosgate-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder
