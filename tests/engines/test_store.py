"""Addresses of Redis, as users write them."""

from __future__ import annotations

import pytest

from slosgate.engines.store import password_of, url_problem, without_password


@pytest.mark.parametrize(
    "url", ["redis://10.0.0.5:6379/0", "rediss://:pw@h/1", "unix:///run/valkey.sock", "redis://[::1]:6379/0"]
)
def test_addresses_that_can_be_used(url: str) -> None:
    assert url_problem(url) == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://h:26379/mymaster", "Redis Sentinel is not spoken"),
        ("rediss+cluster://h:6379", "Redis Cluster is not spoken"),
        ("redis://a:6379,b:6379/0", "several servers are named"),
        ("redis://h:port/0", "no address of a Redis"),
        ("http://h:6379", "no address of a Redis"),
        ("localhost:6379", "no address of a Redis"),
        ("unix://", "names no socket"),
    ],
)
def test_others_are_refused_with_a_sentence(url: str, said: str) -> None:
    problem = url_problem(url)
    assert problem.startswith(said)
    assert "accepted: redis://" in problem


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@h:1/0", "redis://***@h:1/0"),
        ("rediss://user:s3cret@h/0", "rediss://***@h/0"),
        ("unix:///a/b.sock?password=s3cret", "unix:///a/b.sock"),
        ("redis://h:1/0", "redis://h:1/0"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert password_of(url) == ("s3cret" if "s3cret" in url else "")


def test_a_problem_is_told_without_the_password() -> None:
    assert "s3cret" not in url_problem("redis://:s3cret@h:port/0")
