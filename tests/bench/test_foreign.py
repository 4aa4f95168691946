"""Results of other load generators as input of `slosbench report`, in the forms in which their sources write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slosgate.bench.cli import app
from slosgate.bench.errors import InputError
from slosgate.bench.foreign import read
from slosgate.bench.goodput import Goodput, goodput

SLO = Goodput(0.4, 0.05)

# Four requests: one well, one with a late first token, one with a pause in the middle, one that failed.
VLLM: dict[str, Any] = {
    "model_id": "m", "duration": 10.0, "mean_ttft_ms": 300.0,
    "start_times": [5.0, 6.0, 7.0, 8.0], "ttfts": [0.2, 0.6, 0.3, 0.0],
    "itls": [[0.04] * 40, [0.04] * 40, [0.04] * 19 + [2.0] + [0.04] * 19, []],
    "errors": ["", "", "", "Traceback ...\nConnectionError: refused\n"],
}  # fmt: skip


def timed(start: float, first: float | None, last: float | None, tokens: int | None) -> dict[str, Any]:
    timings = {"request_start": start, "first_token_iteration": first, "last_token_iteration": last}
    return {"info": {"timings": timings}, "output_tokens": tokens}


GUIDELLM = {"benchmarks": [{"requests": {
    "successful": [timed(5.0, 5.2, 6.8, 41), timed(6.0, 6.6, 8.2, 41), timed(7.0, 7.3, 12.0, 41)],
    "errored": [timed(8.0, None, None, None)], "incomplete": [timed(9.0, None, None, None)],
}}]}  # fmt: skip


def exported(start_s: float, end_s: float, ttft_ms: float | None, error: object = None, **said: object) -> str:
    metrics = {} if ttft_ms is None else {
        "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
        "output_sequence_length": {"value": 41, "unit": "tokens"},
    }  # fmt: skip
    phase = {"benchmark_phase": "profiling", "was_cancelled": False} | said
    metadata = {"request_start_ns": int(start_s * 1e9), "request_end_ns": int(end_s * 1e9)} | phase
    return json.dumps({"metadata": metadata, "metrics": metrics, "error": error})


AIPERF = "\n".join([
    exported(5.0, 6.8, 200.0), exported(6.0, 8.2, 600.0), exported(7.0, 12.0, 300.0),
    exported(8.0, 8.1, None, {"code": 503}),
    exported(1.0, 2.0, 200.0, benchmark_phase="warmup"), exported(9.0, 9.5, None, was_cancelled=True),
])  # fmt: skip


def write(folder: Path) -> dict[str, Path]:
    files = {
        "vllm bench": folder / "vllm.json",
        "guidellm": folder / "benchmarks.json",
        "aiperf": folder / "export.jsonl",
    }
    files["vllm bench"].write_text(json.dumps(VLLM))
    files["guidellm"].write_text(json.dumps(GUIDELLM))
    files["aiperf"].write_text(AIPERF)
    return files


@pytest.mark.parametrize("tool", ["vllm bench", "guidellm", "aiperf"])
def test_each_request_is_judged_by_the_slo_that_is_said(tool: str, tmp_path: Path) -> None:
    (row,) = read(write(tmp_path)[tool], SLO).rows
    assert (row["offered"], row["attained"], row["failed"]) == (4, 1, 1)
    assert row["ttft_p50_s"] == pytest.approx(0.3)
    assert row["rate_rps"] == pytest.approx(4 / 3, abs=1e-3)
    (loose,) = read(write(tmp_path)[tool], Goodput(1.0, 10.0)).rows
    assert loose["attained"] == 3


def test_they_stand_on_one_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    files = [str(file) for file in write(tmp_path).values()]
    done = CliRunner().invoke(app, ["report", *files, "--out", str(page), "--goodput", "ttft:400,tpot:50"])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert all(tool in text for tool in ("vllm bench", "guidellm", "aiperf"))
    assert text.count("1 of 4 requests failed: 1 x failed") == 3
    assert "1 x failed: ConnectionError: refused<" in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    files = write(tmp_path)
    with pytest.raises(InputError, match="holds no SLO: say one with --goodput"):
        read(files["guidellm"], None)
    files["vllm bench"].write_text(json.dumps({name: VLLM[name] for name in ("duration", "mean_ttft_ms")}))
    with pytest.raises(InputError, match="--save-detailed"):
        read(files["vllm bench"], SLO)
    files["aiperf"].write_text("{}")
    with pytest.raises(InputError, match="no result that can be read"):
        read(files["aiperf"], SLO)


@pytest.mark.parametrize("text", ["ttft", "ttft:x", "itl:5", "ttft:-1", "tpot:inf"])
def test_a_goodput_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="accepted: ttft:MS, tpot:MS and e2el:MS"):
        goodput([text])
    assert goodput(["ttft:400", "tpot:50"]) == goodput(["ttft:400,tpot:50"]) == goodput(["ttft:400 tpot:50"]) == SLO


def test_each_of_several_benchmarks_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"benchmarks": [
        {**GUIDELLM["benchmarks"][0], "config": {"strategy": {"type_": "concurrent", "streams": 3}}},
        {"requests": {"successful": [timed(50.0, 50.2, 51.8, 41), timed(50.5, 50.7, 52.3, 41)]}},
    ]}))  # fmt: skip
    first, second = read(tmp_path / "sweep.json", SLO).rows
    assert (first["offered"], first["concurrency"]) == (4, 3)
    assert (second["offered"], second["attained"]) == (2, 2)


def test_events_that_hold_several_tokens_are_no_slower_pace(tmp_path: Path) -> None:
    drafted = VLLM | {"itls": [[0.08] * 20] * 3 + [[]], "output_lens": [41, 41, 41, 0]}
    (tmp_path / "vllm.json").write_text(json.dumps(drafted))
    (row,) = read(tmp_path / "vllm.json", SLO).rows
    assert row["tpot_p50_s"] == pytest.approx(0.04)
    assert row["attained"] == 2  # all but the late one and the one that failed


def test_goodput_counts_as_vllm_bench_does(tmp_path: Path) -> None:
    files = write(tmp_path)
    by_mean = Goodput(ttft=0.4, tpot=0.1)  # the pause of 2 s is but a mean of 90 ms
    (row,) = read(files["vllm bench"], by_mean).rows
    assert (row["good"], row["goodput_slo_ms"]) == (2, {"ttft": 400.0, "tpot": 100.0})
    assert row["request_goodput"] == pytest.approx(2 / (7.3 + 2.0 + 38 * 0.04 - 5.0), rel=1e-4)
    (row,) = read(files["vllm bench"], Goodput(e2el=2.0)).rows
    assert row["good"] == row["attained"] == 1
    (row,) = read(files["vllm bench"], Goodput(e2el=2.3)).rows
    assert row["good"] == row["attained"] == 2


def test_a_summary_without_requests_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps({"aiperf_version": "0.13.0"}))
    with pytest.raises(InputError, match="aiperf writes those into a"):
        read(tmp_path / "profile_export_aiperf.json", SLO)
