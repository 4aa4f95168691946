"""Starts replicas on a Ray cluster: one actor in one placement group each.

Ray says where there is room, and starts the actor there. When a node dies, the actors on it end, and the supervisor
asks for new ones. Requests never pass through Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from slosgate.engines.fleet.places import Launch, NoRoom
from slosgate.engines.fleet.ray.actor import Keeper

PLACING_S = 5.0  # within which Ray finds room where there is some
AGAIN_S = 0.5
CPUS = 1.0  # of each replica, as Ray counts them


class RayProcess:
    """A replica that an actor started."""

    def __init__(self, actor: Any, group: PlacementGroup, where: tuple[str, int, tuple[str, ...]]) -> None:
        self.url, self.pid, self.gpus = where
        self._actor = actor
        self._group = group

    async def ended(self) -> str:
        try:
            return await self._ended()
        finally:
            await asyncio.to_thread(_remove, self._actor, self._group)

    async def _ended(self) -> str:
        while True:
            try:
                return str(await self._actor.ended.remote())
            except ActorUnavailableError:  # its node may be dead, or slow
                await asyncio.sleep(AGAIN_S)
            except RayError as error:
                return f"its actor is gone ({type(error).__name__})"

    def stop(self) -> None:
        self._actor.stop.remote()

    def kill(self) -> None:
        ray.kill(self._actor)


class RayCluster:
    """A place for replicas; this process must be connected to the cluster (`connect`)."""

    def has_room(self, gpus: int) -> bool:
        """Whether so many GPUs are free, if not perhaps on one node: then the new replica waits."""
        return float(ray.available_resources().get("GPU", 0.0)) >= gpus

    async def start(self, launch: Launch) -> RayProcess:
        gpus = {"GPU": float(launch.gpus)} if launch.gpus else {}
        group = await asyncio.to_thread(_place, {"CPU": CPUS, **gpus}, launch.name)
        strategy = PlacementGroupSchedulingStrategy(group)
        actor = (
            ray.remote(Keeper)
            .options(num_cpus=CPUS, num_gpus=launch.gpus, scheduling_strategy=strategy, max_restarts=0)
            .remote()
        )
        try:
            return RayProcess(actor, group, await actor.start.remote(launch))
        except BaseException as error:
            await asyncio.to_thread(_remove, actor, group)
            if isinstance(error, RayError):
                raise OSError(f"its actor can't start it: {error}") from error
            raise


def connect(address: str) -> list[str]:
    """Join a cluster ("auto": the one of this machine); the addresses of its nodes. Raises ConnectionError."""
    ray.init(address=address, log_to_driver=False, logging_level="warning")
    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]


def _place(bundle: dict[str, float], name: str) -> PlacementGroup:
    """Raises NoRoom."""
    group = placement_group([bundle], strategy="STRICT_PACK", name=name)
    try:
        ray.get(group.ready(), timeout=PLACING_S)
    except GetTimeoutError:
        remove_placement_group(group)
        raise NoRoom(f"no node of the cluster has {bundle.get('GPU', 0):g} GPUs free") from None
    return group


def _remove(actor: Any, group: PlacementGroup) -> None:
    with contextlib.suppress(RayError):
        ray.kill(actor)
    with contextlib.suppress(RayError):
        remove_placement_group(group)
