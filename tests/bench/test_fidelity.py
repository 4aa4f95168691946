"""slosbench reproduce fidelity, through the front door."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.bench.cli import app


def test_simulated_vllm_answers_when_idle_as_the_real_one_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")
    file = tmp_path / "fidelity.json"
    done = CliRunner().invoke(app, ["reproduce", "fidelity", "--json", str(file)])
    assert done.exit_code == 0, done.output
    rows = {row["figure"]: row for row in json.loads(file.read_bytes())["rows"]}
    idle = [row for figure, row in rows.items() if "zero-load" in figure]
    assert len(idle) == 6
    assert all(abs(row["simulated"] / row["measured"] - 1) <= 0.05 and row["holds"] for row in idle)
    # Load is generated here, so its attained shares are not those that were measured; more load attains less.
    assert rows["attained, coder at 4 requests/s"]["simulated"] < rows["attained, coder at 2.5 requests/s"]["simulated"]
