"""Where gateways reach a replica."""

from __future__ import annotations

import pytest

from slosgate.engines.addresses import Unreachable, default_name, reach_problem, reachable_url


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
