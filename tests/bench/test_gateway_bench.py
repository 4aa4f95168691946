"""The gateway bench, small: a mock backend asked directly and through slosgate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slosgate.bench.errors import InputError
from slosgate.bench.gateway_bench.measure import Workload, run


def test_compares_slosgate_with_the_direct_way() -> None:
    small = Workload(rate_rps=20, seconds=0.5, concurrency=4, streams=8, tokens=5, token_s=0.01, many_replicas=3)
    rows = list(run(small))
    assert [(row["target"], row["mode"]) for row in rows] == [
        ("direct", "plain"),
        ("direct", "stream"),
        ("slosgate", "plain"),
        ("slosgate", "stream"),
        ("slosgate", "decision, 1 replicas"),
        ("slosgate", "decision, 3 replicas"),
        ("slosgate", "plain, 2 workers"),
        ("slosgate", "announced"),
    ]
    assert all(row.get("failed", 0) == 0 for row in rows)
    assert all(row["requests_per_s"] > 0 for row in (*rows[:4], rows[6]))
    assert rows[5]["ratio_to_one"] == pytest.approx(rows[5]["mean_ms"] / rows[4]["mean_ms"])
    assert {"added_p50_ms", "cpu_us_per_request"} <= set(rows[2])
    assert {"tokens_lost", "cpu_us_per_token"} <= set(rows[3])
    assert rows[7]["p50_ms"] <= rows[7]["p99_ms"]


def test_another_proxy_that_does_not_start_is_told_of_and_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "litellm"
    broken.write_text("#!/bin/sh\necho no module named backoff >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    small = Workload(
        ("litellm",), rate_rps=20, seconds=0.5, concurrency=4, streams=8, tokens=5, token_s=0.01, many_replicas=2
    )
    rows = {(row["target"], row["mode"]): row for row in run(small)}
    assert {("slosgate", "plain"), ("slosgate", "stream"), ("slosgate", "announced")} < rows.keys()
    why = rows["litellm", "not started"]["why"]
    assert "ended with exit code 3" in why
    assert "no module named backoff" in why


def test_refuses_a_proxy_it_does_not_know() -> None:
    with pytest.raises(InputError, match="--against can be vllm-router, litellm, not 'nginx'"):
        list(run(Workload(against=("nginx",))))
