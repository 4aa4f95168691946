"""Servers that a run or a test starts as processes: each writes a log, is waited for, and ends with its block.

with gateway(redis_url) as process:
    process.wait_until_up("/ready")
    ...  # talk to process.url
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from slosgate.bench.errors import RunError
from slosgate.engines.children import end_with_parent

START_S = 180.0  # compiling the planner on a cold cache takes most of it; `slosgate warm-up` does it ahead
STOP_S = 10.0
POLL_S = 0.05
ANSWER_S = 2.0
LOG_TAIL = 4000  # characters of a log that an error shows
SLOSGATE = (sys.executable, "-m", "slosgate")  # `slosgate` of this environment


@dataclass(frozen=True, slots=True)
class Process:
    """A server and where it listens. Its output goes to `log`."""

    popen: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_until_up(self, path: str = "/health", needs: Sequence[str] = (), timeout_s: float = START_S) -> None:
        """Wait until a GET of `path` gives 200 and names all of `needs`. Raises RunError with the log's end."""
        end_s = time.monotonic() + timeout_s
        with httpx.Client(timeout=ANSWER_S, trust_env=False) as client:
            while time.monotonic() < end_s and self.popen.poll() is None:
                answer = get(client, self.url + path)
                if answer is not None and all(name in answer for name in needs):
                    return
                time.sleep(POLL_S)
        ended = self.popen.poll()
        why = f"did not answer within {timeout_s:g} s" if ended is None else f"ended with exit code {ended}"
        said = self.log.read_text(errors="replace")[-LOG_TAIL:]
        raise RunError(f"{Path(self.log).stem} at {self.url}{path} {why}:\n{said}")

    def kill(self) -> None:
        """Kill it with SIGKILL, so that it has no time to say goodbye."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End it, suspended or not, and whatever it has started and left behind."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str],
    port: int,
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop_s: float = STOP_S,
) -> Iterator[Process]:
    """Run a server that listens on a loopback port, in a process group of its own; without `log` its output is kept
    only as long as it runs."""
    with contextlib.ExitStack() as ending:
        if log is None:
            log = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="slosbench-"))) / "server.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                cwd=folder,
                start_new_session=True,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        process = Process(popen, f"http://127.0.0.1:{port}", log)
        ending.callback(process.stop, stop_s)
        yield process


@contextlib.contextmanager
def gateway(
    redis_url: str, config: str = "", *, port: int = 0, log: Path | None = None, options: Sequence[str] = ()
) -> Iterator[Process]:
    """Run `slosgate serve` with the text of a configuration. It may still be starting."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="slosbench-") as folder:
        file = Path(folder) / "slosgate.toml"
        file.write_text(config, encoding="utf-8")
        command = [*SLOSGATE, "serve", "--config", str(file), "--redis", redis_url, "--port", str(port)]
        with started([*command, *options], port, log=log) as process:
            yield process


@contextlib.contextmanager
def simulated_engine(*options: str, log: Path | None = None) -> Iterator[Process]:
    """Run `slosgate engine sim` with these options. It may still be starting."""
    port = free_port()
    with started([*SLOSGATE, "engine", "sim", "--port", str(port), *options], port, log=log) as process:
        yield process


def get(client: httpx.Client, url: str) -> str | None:
    """What a GET of `url` answers with 200; None for anything else."""
    try:
        answer = client.get(url)
    except httpx.TransportError:
        return None
    return answer.text if answer.status_code == 200 else None


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
