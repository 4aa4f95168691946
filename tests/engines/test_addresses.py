"""Where a server listens, and where gateways reach a replica."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.engines.addresses import Unreachable, default_name, free_port, reach_problem, reachable_url
from slosgate.gateway.cli import app


@pytest.mark.parametrize(
    ("host", "redis", "url"),
    [
        ("10.1.2.3", None, "http://10.1.2.3:8000"),
        ("::1", None, "http://[::1]:8000"),
        ("0.0.0.0", "redis://127.0.0.1:6379/0", "http://127.0.0.1:8000"),
        ("0.0.0.0", "unix:///tmp/valkey.sock", "http://127.0.0.1:8000"),
        ("::", "redis://localhost:6379/0", "http://[::1]:8000"),
    ],
)
def test_a_replica_registers_an_address_that_can_be_reached(host: str, redis: str | None, url: str) -> None:
    assert reachable_url(host, 8000, redis) == url


def test_a_replica_that_knows_no_way_to_redis_says_what_is_missing() -> None:
    with pytest.raises(Unreachable, match="--url is missing"):
        reachable_url("0.0.0.0", 8000, "redis://no-such-host.invalid:6379/0")


def test_loopback_beside_a_redis_elsewhere_is_warned_of() -> None:
    assert "give --url" in reach_problem("http://127.0.0.1:8000", "redis://10.0.0.5:6379/0")
    assert reach_problem("http://127.0.0.1:8000", "redis://127.0.0.1:6379/0") == ""
    assert reach_problem("http://10.0.0.7:8000", "redis://10.0.0.5:6379/0") == ""


def test_default_names_hold_the_machine() -> None:
    assert default_name(8000).endswith(":8000")
    assert default_name(8000) not in ("127.0.0.1:8000", "0.0.0.0:8000")


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "command", [["serve"], ["serve", "--workers", "2"], ["engine", "sim"], ["engine", "vllm", "--model", "m"]]
)
def test_a_port_that_is_taken_is_told_with_what_to_do(taken: int, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--port", str(taken)])
    assert (done.exit_code, done.stderr) == (2, f"Error: port {taken} is taken by another process; use --port\n")


@pytest.mark.parametrize("command", [["serve"], ["engine", "sim"]])
@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_told(command: list[str], host: str) -> None:
    done = CliRunner().invoke(app, [*command, "--host", host])
    assert (done.exit_code, done.stderr) == (2, f"Error: {host!r} is no address of this machine; use --host\n")


def test_a_taken_address_for_operators_is_told(taken: int, tmp_path: Path) -> None:
    file = tmp_path / "slosgate.toml"
    file.write_text(f'[admin]\naddress = "127.0.0.1:{taken}"\n')
    done = CliRunner().invoke(app, ["serve", "--config", str(file), "--port", "0"])
    said = f"Error: port {taken} is taken by another process; change [admin] address\n"
    assert (done.exit_code, done.stderr) == (2, said)


def test_a_port_is_free_again_once_nobody_listens() -> None:
    """Also while connections to the one before are still closing, as after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, before.accept()[0] as accepted:
            accepted.close()  # the server's side waits out its time
            assert client.recv(1) == b""
    assert free_port("127.0.0.1", port) == port
