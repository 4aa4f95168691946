"""Closed loops, goodput and tables of single requests, through the front door: in virtual time and over HTTP."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from slosgate.bench.cli import app

USERS, THINK_S, SECONDS = 5, 0.5, 30.0


@pytest.fixture(autouse=True)
def generated_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")


def run(folder: Path, *options: str, scenario: str = "coder", system: str = "vllm") -> tuple[dict[str, Any], str]:
    """The result's row and what was said."""
    file = folder / "result.json"
    command = ["run", "--scenario", scenario, "--system", system, "--hardware", "h200-opt-13b", "--json", str(file)]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(file.read_bytes())["rows"]
    return row, " ".join(done.output.split())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def in_the_loop(calls: list[dict[str, str]]) -> tuple[int, int]:
    """The most requests at a time, and the most users: a user is busy until its think time is over."""
    begins = [(float(c["arrival_s"]), 1) for c in calls if c["call"] == "0"]
    lasts: dict[str, float] = {}
    for c in calls:
        lasts[c["request"]] = float(c["arrival_s"]) + float(c["e2e_s"])
    most = []
    for more_s in (0.0, THINK_S):
        events = sorted(begins + [(end_s + more_s - 1e-5, -1) for end_s in lasts.values()])
        at_once = [0]
        for _, change in events:
            at_once.append(at_once[-1] + change)
        most.append(max(at_once))
    return most[0], most[1]


@pytest.mark.parametrize(("system", "scenario"), [("vllm", "coder"), ("slosgate-ar", "tool-calling")])
def test_users_send_their_next_request_when_they_have_thought(system: str, scenario: str, tmp_path: Path) -> None:
    options = ["--concurrency", str(USERS), "--think-time", str(THINK_S), "--seconds", str(SECONDS), "--replicas", "2"]
    out = tmp_path / "requests.csv"
    row, said = run(tmp_path, *options, "--requests", str(out), scenario=scenario, system=system)
    calls = table(out)
    first = [float(c["arrival_s"]) for c in calls if c["call"] == "0"]
    assert len(first) == row["offered"] > USERS
    assert first[:USERS] == [n * THINK_S / USERS for n in range(USERS)]
    assert SECONDS - 10 < max(first) <= SECONDS
    assert in_the_loop(calls) == (USERS, USERS)
    for earlier, later in pairwise(calls):  # tools take no time in this trace, but the one call follows the other
        if later["call"] != "0":
            assert float(later["arrival_s"]) >= float(earlier["arrival_s"]) + float(earlier["e2e_s"]) - 1e-5
    assert (row["concurrency"], row["think_time_s"], row["rate_rps"]) == (USERS, THINK_S, row["offered_rps"])
    assert f"{USERS} users, for 30 s with 0.5 s between" in said
    assert {c["replica"] for c in calls} == {"replica-0", "replica-1"}


def test_without_a_time_each_request_is_sent_once(tmp_path: Path) -> None:
    open_loop, _ = run(tmp_path, "--rate", "4")
    closed, said = run(tmp_path, "--concurrency", "8")
    assert closed["load"]["achieved"]["requests"] == closed["offered"]
    assert f"8 users, {closed['offered']} requests, from azure-code-2023 (generated)" in said
    assert "GENERATED TRACE" in said
    assert closed["offered"] == pytest.approx(open_loop["offered"], rel=0.2)
    again, _ = run(tmp_path, "--concurrency", "8")
    assert again == closed


def test_live_users_wait_for_their_answers(tmp_path: Path) -> None:
    out = tmp_path / "requests.csv"
    options = ["--mode", "live", "--concurrency", "3", "--seconds", "4", "--requests", str(out)]
    row, _ = run(tmp_path, *options, system="slosgate-ar")
    calls = table(out)
    assert len(calls) == row["offered"] > 3
    assert row["errors"] == {}
    assert in_the_loop(calls)[0] == 3
    assert {c["replica"] for c in calls} == {"replica-0"}
    promised = [c for c in calls if c["promised"] == "True"]
    assert all(float(c["predicted_ttft_s"]) > 0 and c["admission"] == "guaranteed" for c in promised)
    assert len(promised) == row["guaranteed"] > 0


def test_goodput_is_spelled_as_vllm_bench_spells_it(tmp_path: Path) -> None:
    out = tmp_path / "requests.parquet"
    common = ["--rate", "6", "--seconds", "20", "--requests", str(out)]
    limits = {"ttft": 150.0, "tpot": 12.0, "e2el": 900.0}
    row, said = run(tmp_path, *common, "--goodput", "ttft:150", "tpot:12", "e2el:900")
    assert row["goodput_slo_ms"] == limits
    for spelled in (
        ["--goodput", "ttft:150,tpot:12,e2el:900"],
        ["--goodput=ttft:150", "--goodput", "tpot:12", "e2el:900"],
    ):
        assert run(tmp_path, *spelled, *common)[0] == row
    calls = parquet.read_table(out).to_pylist()
    within = [
        c for c in calls if c["ttft_s"] <= 0.15 and (c["tpot_s"] or 0.0) <= 0.012 and c["e2e_s"] <= 0.9
    ]  # fmt: skip
    assert [c for c in calls if c["good"]] == within
    assert 0 < len(within) == row["good"] < row["offered"] == len(calls)
    last_s = max(c["arrival_s"] + c["e2e_s"] for c in calls)
    seconds = last_s - min(c["arrival_s"] for c in calls)
    assert row["request_goodput"] == pytest.approx(len(within) / seconds, rel=1e-4)
    assert f"(ttft 150 ms, tpot 12 ms, e2el 900 ms): {row['request_goodput']:.3g} requests/s" in said


def test_a_table_of_requests_says_what_the_result_counts(tmp_path: Path) -> None:
    out = tmp_path / "requests.csv"
    row, _ = run(tmp_path, "--rate", "14", "--seconds", "30", "--requests", str(out), system="slosgate-ar")
    calls = table(out)
    assert sum(c["attained"] == "True" for c in calls) == row["attained"] < row["offered"] == len(calls)
    assert sum(c["attained_strict"] == "True" for c in calls) == round(row["attainment_strict"] * row["offered"])
    assert sum(c["admission"] == "guaranteed" for c in calls) == row["guaranteed"]
    assert sum(int(c["received_tokens"]) for c in calls) == row["output_tokens"]
    ttfts = sorted(float(c["ttft_s"]) for c in calls)
    assert ttfts[len(ttfts) // 2] == pytest.approx(row["ttft_p50_s"], rel=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give either --rate or --concurrency, not both and not neither"),
        (("--rate", "2", "--concurrency", "3"), "give either --rate or --concurrency"),
        (("--concurrency", "0"), "--concurrency must be a number above 0, not 0"),
        (("--rate", "2", "--think-time", "1"), "--think-time belongs to --concurrency"),
        (("--concurrency", "2", "--think-time", "-1"), "--think-time must be 0 or more seconds, not -1"),
        (("--rate", "2", "--goodput", "ttfb:3"), "--goodput does not take 'ttfb:3'; accepted: ttft:MS, tpot:MS"),
        (("--rate", "2", "--requests", "table.xlsx"), "--requests takes a file that ends in .csv or .parquet"),
        (("--rate", "2", "--url", "http://127.0.0.1:1"), "--url, --api-key-env and --slo-class belong to --mode live"),
        (("--rate", "2", "--acceptance", "2"), "--acceptance must be between 0 and 1, not 2"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(options: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["run", "--scenario", "coder", "--system", "vllm", *options])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
