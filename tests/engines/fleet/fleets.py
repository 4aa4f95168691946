"""Fleets for tests: a file on a free port, and the command line in an environment of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner, Result

from slosgate.bench.processes import SLOSGATE
from slosgate.engines.fleet import control
from slosgate.engines.fleet.status import MemberStatus, Status
from slosgate.gateway.cli import app
from tests.processes import free_port

UP_S = 110.0


@dataclass(frozen=True, slots=True)
class FleetUnderTest:
    """A fleet's file and the folder of its state."""

    file: Path
    state: Path
    port: int
    options: tuple[str, ...] = ()  # of `slosgate up`
    up_s: float = UP_S

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        return self.state / self.file.stem

    def write(self, text: str, *, gateways: int = 1) -> None:
        self.file.write_text(f"[gateways]\nport = {self.port}\ncount = {gateways}\n{text}", encoding="utf-8")

    def command(self, *arguments: str) -> Result:
        """`slosgate ARGUMENTS`, to its end."""
        return CliRunner().invoke(app, arguments, env={control.STATE: str(self.state), "COLUMNS": "80"})

    def start(self) -> None:
        """`slosgate up` where nothing runs yet. Fails the test when the fleet doesn't come up."""
        command = [*SLOSGATE, "up", str(self.file), *self.options]
        environment = {**os.environ, control.STATE: str(self.state)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=self.up_s, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()

    def up(self) -> Result:
        """`slosgate up` beside the supervisor that runs."""
        return self.command("up", str(self.file), "--wait-s", f"{self.up_s:g}", *self.options)

    def logs(self) -> str:
        found = self.folder.glob("*.log")
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in found)

    def status(self) -> Status:
        return control.ask(self.folder, control.Show())

    def members(self, group: str) -> list[MemberStatus]:
        return [member for found in self.status().groups if found.name == group for member in found.members]

    def processes(self) -> set[int]:
        """Everything that runs for this fleet: its state's folder is in their environment, or their parent's."""
        mark = f"{control.STATE}={self.state}".encode()
        marked = {int(found.name) for found in Path("/proc").glob("[0-9]*") if mark in _environment(found)}
        return marked | {int(found.name) for found in Path("/proc").glob("[0-9]*") if _parent(found) in marked}


def _environment(process: Path) -> list[bytes]:
    """Empty for one that has ended, or is another user's."""
    with suppress(OSError):
        return (process / "environ").read_bytes().split(b"\0")
    return []


def _parent(process: Path) -> int:
    with suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def alive(pids: set[int]) -> set[int]:
    """Those of them that still run; one that nobody waits for has ended all the same."""
    return {pid for pid in pids if _state(Path(f"/proc/{pid}")) not in ("", "Z")}


def _state(process: Path) -> str:
    with suppress(OSError):
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    return ""


@contextmanager
def fleet(
    folder: Path, text: str, *, gateways: int = 1, options: tuple[str, ...] = (), up_s: float = UP_S
) -> Iterator[FleetUnderTest]:
    """A fleet that is up; taken down with its block."""
    found = FleetUnderTest(folder / "test.toml", folder / "state", free_port(), options, up_s)
    found.write(text, gateways=gateways)
    try:
        found.start()
        yield found
    finally:
        found.command("down")
