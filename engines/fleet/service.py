"""The supervisor as a program: it listens to the command line and takes the fleet down when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from slosgate.engines.fleet import control
from slosgate.engines.fleet.places import Place, ThisMachine
from slosgate.engines.fleet.sight import Sight
from slosgate.engines.fleet.spec import FleetSpec
from slosgate.engines.fleet.status import Status
from slosgate.engines.fleet.supervisor import Supervisor


async def serve(spec: FleetSpec, folder: Path, redis_url: str, gpus: Sequence[str], place: Place | None = None) -> None:
    """Supervise a fleet until SIGTERM, SIGINT or `slosgate down`; its replicas run at `place`, or here.

    Raises OSError when its folder can't be used.
    """
    pages = folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)  # of gateways that have gone
    pages.mkdir(parents=True, mode=0o700)
    here = ThisMachine(gpus, folder)
    supervisor = Supervisor(spec, redis_url=redis_url, here=here, place=place or here, sight=Sight(redis_url, pages))
    down = asyncio.Event()

    def do(wish: control.Wish) -> Status:
        if isinstance(wish, control.Apply) and not down.is_set():
            supervisor.apply(wish.spec)
        elif isinstance(wish, control.Down):
            down.set()
        return supervisor.status()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, down.set)
    server = await control.listen(folder, do)
    running = asyncio.create_task(supervisor.run())
    ending = asyncio.create_task(down.wait())
    try:
        await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            await supervisor.down()
    finally:
        running.cancel()
        ending.cancel()
        await supervisor.kill()
        server.close()
        (folder / "control.sock").unlink(missing_ok=True)
        with contextlib.suppress(asyncio.CancelledError):
            await running
