"""How the command line talks to a fleet's supervisor: a line of JSON each way, over a socket in the fleet's folder.

$SLOSGATE_STATE/NAME/     or $XDG_STATE_HOME/slosgate/NAME, or ~/.local/state/slosgate/NAME
    control.sock          the supervisor answers here as long as it lives
    supervisor.log        and NAME-gateway-1.log ...: what the fleet's processes say
    pages/                sockets and counts of the gateways
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from slosgate.engines.fleet.spec import FleetSpec
from slosgate.engines.fleet.status import Status

STATE = "SLOSGATE_STATE"
ANSWER_S = 10.0
LONGEST_LINE = 8 * 1024 * 1024


class Apply(msgspec.Struct, tag=True, frozen=True):
    spec: FleetSpec


class Show(msgspec.Struct, tag=True, frozen=True):
    pass


class Down(msgspec.Struct, tag=True, frozen=True):
    pass


Wish = Apply | Show | Down


class NotRunning(Exception):
    """No supervisor answers; the message names the fleet."""


def root(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of all fleets of this user."""
    if chosen := environment.get(STATE):
        return Path(chosen)
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "slosgate"


def names(folder: Path) -> list[str]:
    """The fleets that run, sorted."""
    found = sorted(path.parent.name for path in folder.glob("*/control.sock"))
    return [name for name in found if answers(folder / name)]


def answers(fleet: Path) -> bool:
    """Whether the supervisor of the fleet in this folder lives."""
    with contextlib.suppress(NotRunning):
        ask(fleet, Show())
        return True
    return False


def ask(fleet: Path, wish: Wish) -> Status:
    """Tell a supervisor what is wanted; how its fleet stands. Raises NotRunning."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(fleet / "control.sock"))
            connection.sendall(msgspec.json.encode(wish) + b"\n")
            with connection.makefile("rb") as answer:
                return msgspec.json.decode(answer.readline(LONGEST_LINE), type=Status)
    except (OSError, msgspec.MsgspecError) as error:
        raise NotRunning(f"no fleet called {fleet.name!r} runs here ({error})") from None


async def listen(fleet: Path, do: Callable[[Wish], Status]) -> asyncio.Server:
    """Answer what comes over the socket in the fleet's folder. Raises OSError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError, msgspec.MsgspecError):
            async with asyncio.timeout(ANSWER_S):
                wish = msgspec.json.decode(await reader.readline(), type=Wish)
                writer.write(msgspec.json.encode(do(wish)) + b"\n")
                await writer.drain()
        writer.close()

    place = fleet / "control.sock"
    place.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, place, limit=LONGEST_LINE)
    place.chmod(0o600)
    return server
