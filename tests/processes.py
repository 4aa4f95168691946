"""Real processes for tests: Valkey, gateways and simulated replicas on free loopback ports, ended with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slosgate.gateway.state import valkey

START_S = 120.0


@dataclass
class Process:
    """A program under test. Its output is kept in `log`, for the message when it doesn't come up."""

    popen: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_until_up(self) -> None:
        wait_for(lambda: answers(f"{self.url}/health"), self)

    def kill(self) -> None:
        """SIGKILL: it has no time to say goodbye."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(10)
        if self.popen.poll() is None:
            self.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_valkey(port: int = 0) -> Iterator[valkey.Valkey]:
    server = valkey.start(port)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_gateway(
    redis_url: str, config: str = "", *, options: Sequence[str] = (), wait: bool = True
) -> Iterator[Process]:
    """`slosgate serve`; without `wait` it may still be starting."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slosgate.toml"
        file.write_text(config)
        port = free_port()
        command = ["serve", "--config", str(file), "--redis", redis_url, "--port", str(port)]
        with _running([*command, *options], port, Path(folder), wait=wait) as process:
            yield process


@contextmanager
def running_engine(redis_url: str, name: str, *options: str, wait: bool = True) -> Iterator[Process]:
    """`slosgate engine sim`, which registers in Redis; without `wait` it may still be starting."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = ["engine", "sim", "--redis", redis_url, "--name", name, "--port", str(port), *options]
        with _running(command, port, Path(folder), wait=wait) as process:
            yield process


@contextmanager
def _running(arguments: list[str], port: int, folder: Path, *, wait: bool) -> Iterator[Process]:
    log = folder / "log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "slosgate", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            preexec_fn=valkey.end_with_parent if sys.platform == "linux" else None,
        )
        process = Process(popen, f"http://127.0.0.1:{port}", log)
        try:
            if wait:
                process.wait_until_up()
            yield process
        finally:
            process.stop()


def wait_for(condition: Callable[[], bool], process: Process | None = None, timeout_s: float = START_S) -> None:
    """Wait until `condition` holds. Fails the test when it never does, or when `process` has ended."""
    end = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.popen.poll() is not None:
            raise AssertionError(f"the process has ended:\n{process.log.read_text()}")
        if time.monotonic() > end:
            raise AssertionError("waited in vain" + (f":\n{process.log.read_text()}" if process else ""))
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
