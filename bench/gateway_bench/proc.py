"""Processes of a measurement: started for it, ended with it, and watched from outside through /proc."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from slosgate.bench.errors import RunError

START_S = 180.0


def file(text: str, suffix: str, ending: contextlib.ExitStack) -> str:
    path = Path(ending.enter_context(tempfile.TemporaryDirectory())) / f"config.{suffix}"
    path.write_text(text)
    return str(path)


def started(command: list[str], ending: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ending.callback(process.wait)
    ending.callback(process.terminate)
    return process


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    ended = f": it ended with code {process.returncode}" if process.poll() is not None else f" within {START_S:g} s"
    raise RunError(f"{url} did not come up{ended}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Processor time that a process and its children have used, from /proc; 0 where there is none."""
    total = 0.0
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(cpu_s(int(child)) for child in children.read_text().split())
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sockets(pid: int) -> int:
    """How many sockets a process holds open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += os.readlink(descriptor).startswith("socket:")
    return found
