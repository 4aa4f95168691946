"""A fleet that doesn't come up at its first `slosgate up` leaves nothing that `status` and `down` stumble over."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.engines.fleet.fleets import FleetUnderTest, alive
from tests.processes import free_port, wait_for


def test_a_first_up_that_fails_is_taken_down_again(tmp_path: Path) -> None:
    found = FleetUnderTest(tmp_path / "test.toml", tmp_path / "state", free_port())
    found.write('[models.chat]\nengine = "sim"\nreplicas = 0\n')
    with socket.socket() as other:
        other.bind(("127.0.0.1", found.port))
        other.listen()
        done = found.up()
    assert done.exit_code == 1
    assert "the file can't be brought about: [Errno 98]" in done.stderr
    assert "it is taken down again" in " ".join(done.stderr.split())
    wait_for(lambda: not alive(found.processes()), 10)
    assert "no fleet runs here" in found.command("status").stderr
    assert "the file can't be brought about" in found.logs()  # what it said stays
