"""Several processes of one gateway: they accept from one socket, and the ledger keeps their promises consistent.

The parent starts a worker again when it ends. On SIGTERM every worker finishes what it has accepted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from slosgate.engines.cancelling import ended
from slosgate.engines.fleet.listener import Listener
from slosgate.engines.fleet.member import Member
from slosgate.engines.fleet.places import Launch, ThisMachine
from slosgate.engines.fleet.sight import Sight
from slosgate.engines.folders import OwnFolder
from slosgate.engines.secrets import REDIS
from slosgate.gateway.config import ServerConfig
from slosgate.gateway.reports.pages import FOLDER


def serve(
    workers: int, config: ServerConfig, redis_url: str, options: Sequence[str], listening: Callable[[int], None]
) -> None:
    """Serve with so many workers, each `slosgate serve` with these options, until a signal comes; `listening` gets the
    port. Raises OSError when the address is taken."""
    listener = Listener()
    listener.open(config.host, config.port)
    listening(listener.port)
    with OwnFolder("workers") as folder:
        shared = ("--fd", str(listener.descriptor), "--pages", str(folder))
        launches = [
            Launch(
                f"worker {number + 1}", ("serve", *options, *shared), {REDIS: redis_url, FOLDER: str(folder)},
                drain_s=config.drain_s, listens=False, files=(listener.descriptor,),
            )
            for number in range(workers)
        ]  # fmt: skip
        asyncio.run(_run(launches, Sight(redis_url, folder), listener))


async def _run(launches: Sequence[Launch], sight: Sight, listener: Listener) -> None:
    async def is_up(member: Member) -> bool:
        return member.running is not None and await sight.ready(member.running.pid) is not None

    here, told = ThisMachine((), None), asyncio.Event()
    members = [Member("worker", None, launch, here, is_up) for launch in launches]
    tasks = [asyncio.create_task(member.run()) for member in members]

    def stop() -> None:
        """A second signal ends them at once."""
        if told.is_set():
            for task in tasks:
                task.cancel()
        told.set()

    def reload() -> None:
        for member in members:
            if member.running is not None:
                os.kill(member.running.pid, signal.SIGHUP)

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    await told.wait()
    listener.close()
    for member in members:
        member.stop()
    await asyncio.wait(tasks)
    await ended(tasks)
