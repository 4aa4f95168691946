"""What a fleet shows of itself: the replicas that are registered, and the pages of its gateways.

Each gateway serves its pages on a socket in one folder, called by its process id, which only the fleet's user may
open.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import msgspec

from slosgate.engines.channel import ReplicaInfo, registered
from slosgate.engines.door import Door
from slosgate.engines.store import STORE_ERRORS, connect, why

POLL_S = 0.25
PAGE_S = 2.0

_log = logging.getLogger("slosgate.fleet")


class Ready(msgspec.Struct, frozen=True):
    """A gateway's page of that name, as far as it is needed."""

    state_available: bool
    draining: bool
    replicas: dict[str, Any]


class Sight:
    def __init__(self, redis_url: str, pages: Path) -> None:
        self.replicas: dict[str, ReplicaInfo] = {}
        self.pages = pages
        self._redis_url = redis_url
        self._door = Door()

    async def run(self) -> None:
        """Keep `replicas` up to date until cancelled; what was last seen stands while Redis is away."""
        trouble = ""
        while True:
            try:
                async with connect(self._redis_url) as redis:
                    while True:
                        found = await registered(redis, self._door)
                        self.replicas, trouble = {info.name: info for info in found.infos}, ""
                        await asyncio.sleep(POLL_S)
            except STORE_ERRORS as error:
                if why(error) != trouble:
                    _log.warning("Redis is away: %s", why(error))
                trouble = why(error)
            await asyncio.sleep(POLL_S)

    async def ready(self, pid: int) -> Ready | None:
        """What a gateway says of itself; None while it says nothing."""
        said = await self._page(pid, "/ready")
        try:
            return msgspec.json.decode(said, type=Ready) if said else None
        except msgspec.MsgspecError:
            return None

    async def metrics(self, pid: int) -> str:
        """A gateway's metrics; empty while it gives none."""
        return await self._page(pid, "/metrics")

    async def _page(self, pid: int, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.pages / f"{pid}.sock"), verify=False)  # no TLS there
        try:
            async with httpx.AsyncClient(transport=transport, timeout=PAGE_S, base_url="http://gateway") as client:
                return (await client.get(path)).text
        except httpx.HTTPError:
            return ""
