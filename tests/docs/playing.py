"""Plays a page: writes its files and runs its commands in order, on free ports, in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import httpx

from slosgate.bench.processes import Process, started
from tests.docs.blocks import SHELL, Block
from tests.processes import free_port, running_valkey, wait_for

REDIS_PORT, GATEWAY_PORT = "6379", "8000"  # as the pages have them
COMMAND_S = 100.0
CURL = "fail-with-body\nsilent\nshow-error\n"  # an answer that is an error ends curl with one
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}|(?<=--port )\d{4,5}")


class Player:
    """A terminal in which a page's blocks are typed. Servers stay until the end; each port has a free one instead.

    `programs` is a folder whose programs come first, by default this environment's.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._stack = ExitStack()
        self._programs = programs or Path(sys.executable).parent
        self.gateway: Process | None = None
        self.servers: list[Process] = []
        (folder / ".curlrc").write_text(CURL)
        self.environment = {
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}", "CURL_HOME": str(folder), "NO_PROXY": "*",
            "no_proxy": "*", "SLOSBENCH_OFFLINE": "1", "SLOSBENCH_CACHE": str(folder / "cache"),
        }  # fmt: skip
        if programs is not None:
            self.environment["PYTHONPATH"] = ""  # what is installed there, not what these tests import

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def play(self, blocks: Iterable[Block]) -> str:
        """Write what is a file and run what is a command, but for blocks that need more than this machine.

        Returns what the commands printed.
        """
        said = ""
        for block in blocks:
            if block.file:
                (self._folder / block.file).write_text(self._here(block.text), encoding="utf-8")
            elif block.language == SHELL and not block.needs:
                said += "".join(map(self.type, block.commands))
        return said

    def type(self, command: str) -> str:
        """Run a command of a page, on this machine's ports."""
        return self.run(self._here(command))

    def run(self, command: str) -> str:
        """Run a command and return what it prints; it must end well. A server is left running once it is up."""
        if re.match(r"slosgate (serve|engine) ", f"{command} "):
            self._serve(command)
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self._folder, env={**os.environ, **self.environment},
            capture_output=True, text=True, timeout=COMMAND_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        _, *words = shlex.split(command, comments=True)
        if words[0] == "serve" and "--port" not in words:
            words += ["--port", self._port(GATEWAY_PORT)]
        port = int(words[words.index("--port") + 1]) if "--port" in words else 0
        before = self.replicas()
        log = self._folder / f"{len(self.servers)}.log"
        process = self._stack.enter_context(
            started([f"{self._programs}/slosgate", *words], port, log=log, environment=self.environment,
                    folder=self._folder)
        )  # fmt: skip
        self.servers.append(process)
        if words[0] == "serve":
            process.wait_until_up()
            self.gateway = process
        elif self.gateway is not None:
            wait_for(lambda: len(self.replicas()) > len(before))

    def replicas(self) -> set[str]:
        """Those that the gateway has."""
        if self.gateway is None:
            return set()
        return set(httpx.get(f"{self.gateway.url}/ready", trust_env=False).json()["replicas"])

    def _here(self, text: str) -> str:
        """The same on this machine's free ports. The first word of a Redis starts one."""
        return _PORT.sub(lambda found: self._port(found[0]), text)

    def _port(self, port: str) -> str:
        if port not in self._ports:
            self._ports[port] = str(free_port())
            if port == REDIS_PORT:
                self._stack.enter_context(running_valkey(int(self._ports[port])))
        return self._ports[port]
