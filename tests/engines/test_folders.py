"""What killed processes leave in the system's temporary folder goes, and nothing that is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from slosgate.engines.folders import OwnFolder
from slosgate.gateway.state import valkey

PRIVATE = """
import sys
from slosgate.gateway.state import valkey
print(valkey.start().url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(place: Path) -> list[str]:
    return sorted(found.name for found in place.iterdir())


def folder_of(url: str) -> Path:
    return Path(url.removeprefix("unix://")).parent


def test_a_private_valkeys_folder_outlives_its_killed_owner_only_until_the_next_start(place: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(place)}
    command = [sys.executable, "-c", PRIVATE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        folder = folder_of(owner.stdout.readline().decode().strip())
        assert folder.parent == place
        valkey.start().stop()
        assert left(place) == [folder.name]  # its owner lives
        owner.kill()
    assert folder.exists()
    server = valkey.start()
    assert left(place) == [folder_of(server.url).name]
    server.stop()
    assert left(place) == []


def test_what_is_not_marked_or_is_a_link_stays(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with OwnFolder("workers") as lent:
        (elsewhere / ".in-use").touch()
        (place / "slosgate-mine").mkdir()
        (place / "slosgate-link").symlink_to(elsewhere)
        with OwnFolder("vllm") as other:
            assert left(place) == sorted(["slosgate-mine", "slosgate-link", lent.name, other.name])
    assert left(place) == ["slosgate-link", "slosgate-mine"]
    assert elsewhere.exists()
