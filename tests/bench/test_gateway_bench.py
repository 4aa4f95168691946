"""The gateway bench, small: a mock backend asked directly and through slosgate."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import pytest

from slosgate.bench.errors import InputError
from slosgate.bench.gateway_bench.measure import Workload, run

Rows: TypeAlias = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """One small run, with a rival that doesn't start."""
    folder = tmp_path_factory.mktemp("rivals")
    broken = folder / "litellm"
    broken.write_text("#!/bin/sh\necho no module named backoff >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    small = Workload(
        ("litellm",), rate_rps=20, seconds=0.5, concurrency=4, streams=8, tokens=5, token_s=0.01, many_replicas=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        return {(row["target"], row["mode"]): row for row in run(small)}


def test_compares_slosgate_with_the_direct_way(rows: Rows) -> None:
    plain, stream, two_workers = (rows["slosgate", mode] for mode in ("plain", "stream", "plain, 2 workers"))
    one, many = rows["slosgate", "decision, 1 replicas"], rows["slosgate", "decision, 3 replicas"]
    assert [key for key in rows if key[0] != "litellm"] == [
        ("direct", "plain"),
        ("direct", "stream"),
        ("slosgate", "plain"),
        ("slosgate", "stream"),
        ("slosgate", "decision, 1 replicas"),
        ("slosgate", "decision, 3 replicas"),
        ("slosgate", "plain, 2 workers"),
        ("slosgate", "announced"),
    ]
    assert all(row.get("failed", 0) == 0 for row in rows.values())
    for row in (rows["direct", "plain"], rows["direct", "stream"], plain, stream, two_workers):
        assert row["requests_per_s"] > 0
    assert many["ratio_to_one"] == pytest.approx(many["mean_ms"] / one["mean_ms"])
    assert {"added_p50_ms", "cpu_us_per_request"} <= set(plain)
    assert {"tokens_lost", "cpu_us_per_token"} <= set(stream)
    assert rows["slosgate", "announced"]["p50_ms"] <= rows["slosgate", "announced"]["p99_ms"]


def test_a_rival_that_does_not_start_is_told_of_and_costs_no_result(rows: Rows) -> None:
    why = rows["litellm", "not started"]["why"]
    assert "ended with exit code 3" in why
    assert "no module named backoff" in why


def test_refuses_a_proxy_it_does_not_know() -> None:
    with pytest.raises(InputError, match="--against can be vllm-router, litellm, not 'nginx'"):
        list(run(Workload(against=("nginx",))))
