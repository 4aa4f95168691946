"""The gateway bench, small: a mock backend asked directly and through slosgate."""

from __future__ import annotations

import pytest

from slosgate.bench.errors import InputError
from slosgate.bench.gateway_bench.measure import Workload, run


def test_compares_slosgate_with_the_direct_way() -> None:
    rows = list(run(Workload(rate_rps=20, seconds=0.5, concurrency=4, streams=8, tokens=5, token_s=0.01)))
    assert [(row["target"], row["mode"]) for row in rows] == [
        ("direct", "plain"),
        ("direct", "stream"),
        ("slosgate", "plain"),
        ("slosgate", "stream"),
        ("slosgate", "announced"),
    ]
    assert all(row["failed"] == 0 for row in rows)
    assert all(row["requests_per_s"] > 0 for row in rows[:4])
    assert {"added_p50_ms", "cpu_us_per_request"} <= set(rows[2])
    assert {"tokens_lost", "cpu_us_per_token"} <= set(rows[3])
    assert rows[4]["p50_ms"] <= rows[4]["p99_ms"]


def test_refuses_a_proxy_it_does_not_know() -> None:
    with pytest.raises(InputError, match="--against can be litellm, not 'nginx'"):
        list(run(Workload(against=("nginx",))))
