"""slosbench capacity, through the front door."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.bench import tuning
from slosgate.bench.cli import app
from slosgate.engines import profiles


@pytest.fixture(autouse=True)
def generated_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")


def test_a_capacity_stays_below_the_bound_and_is_found_again_from_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "capacity.json"
    command = ["capacity", "--scenario", "coder", "--system", "vllm", "--seeds", "1", "--json", str(file)]
    rows = []
    for _ in range(2):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        rows.append(json.loads(file.read_bytes())["rows"])
    assert rows[0] == rows[1]
    row = rows[0][0]
    assert 0 < row["capacity_rps_per_gpu"] <= row["bound_rps_per_gpu"]
    assert row["attainment"] >= 0.9
    assert (row["scenario"], row["system"], row["hardware"], row["replicas"]) == ("coder", "vllm", "a100-opt-13b", 1)
    # A generator stood in for the trace: that is said on screen, in the row and on the page.
    assert "GENERATED TRACE" in done.output
    assert "generated" in row["trace_source"]
    page = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", str(file), "--out", str(page)]).exit_code == 0
    assert "GENERATED TRACE" in page.read_text()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--scenario", "coder,poetry", "unknown scenario 'poetry': choose one of"),
        ("--system", "vllm,orca", "unknown system 'orca': choose one of"),
        ("--hardware", "h300", "unknown hardware 'h300': choose one of"),
        ("--attainment", "90", "--attainment must be between 0 and 1, not 90"),
        ("--replicas", "0", "--replicas must be a number above 0, not 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(option: str, value: str, said: str) -> None:
    options = {"--scenario": "coder", "--system": "vllm"} | {option: value}
    done = CliRunner().invoke(app, ["capacity", *(part for pair in options.items() for part in pair)])
    assert done.exit_code == 2
    assert said in done.output


def test_a_baseline_is_tuned_by_what_it_has() -> None:
    assert [tuning.synchronous(s) for s in ("vllm", "sarathi+sd", "vllm-v0", "slosgate")] == [
        True,
        True,
        False,
        False,
    ]
    assert [len(tuning.settings(s)) for s in ("vllm", "vllm-v0", "slosgate")] == [1, 1, 1]
    assert {s.budget for _, s in tuning.settings("sarathi")} == {256, 512, 1024, 2048, 4096}
    assert {s.drafts for _, s in tuning.settings("vllm+sd")} == {1, 2, 4}
    assert {(n, s.prefill_replicas) for n, s in tuning.settings("distserve", 4)} == {(4, 1), (4, 2), (4, 3)}


def test_one_budget_of_sarathi_keeps_its_iterations_within_the_tight_tpot() -> None:
    assert tuning.budget_within(profiles.load("a100-opt-13b"), 0.05) == 256
    assert tuning.budget_within(profiles.load("h200-opt-13b"), 0.05) == 1024
    assert tuning.budget_within(profiles.load("a100-opt-13b"), 0.001) == 256
