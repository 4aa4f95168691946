"""`--redis`: addresses that can't be used, and passwords."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from tests.processes import free_port, wait_for

PASSWORD = "s3cret"


@pytest.mark.parametrize("command", [["serve"], ["engine", "sim"]])
def test_sentinel_is_refused_with_a_sentence(command: list[str]) -> None:
    found = CliRunner().invoke(app, [*command, "--redis", "redis+sentinel://h:26379/main"])
    assert found.exit_code == 2
    assert "Redis Sentinel is not spoken" in " ".join(found.output.replace("│", " ").split())


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "slosgate", *arguments], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("option", [["--redis", "{}"], ["--redis={}"]])
@pytest.mark.parametrize(
    ("command", "said"),
    [(["serve"], "Redis is away"), (["engine", "sim", "--name", "r"], "replica r can't reach Redis")],
)
def test_a_password_is_neither_printed_nor_in_the_list_of_processes(
    tmp_path: Path, command: list[str], said: str, option: list[str]
) -> None:
    url, log = f"redis://:{PASSWORD}@127.0.0.1:1/0", tmp_path / "log"
    arguments = [*command, *(part.format(url) for part in option), "--port", str(free_port())]
    with running(arguments, log) as process:
        wait_for(lambda: said in log.read_text())  # and so it says why nobody sees it
        listed = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
    assert PASSWORD not in listed
    assert PASSWORD not in log.read_text()
