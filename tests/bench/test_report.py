"""Reports through the front door: result files in, one page out."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.bench import results
from slosgate.bench.attainment import RequestOutcome, StageOutcome, collect
from slosgate.bench.cli import app
from slosgate.bench.summary import summarize


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    result = results.begin("run", {"scenario": "coder", "rate": 2.0}, seed=7, hardware="h200-opt-13b")
    for system, admission in (("vllm", ""), ("slosgate-ar", "guaranteed")):
        outcomes = [
            RequestOutcome(
                "coder <tight>", float(n), [StageOutcome(n, 1.0, 0.05, 3, [n + 0.5, n + 0.52, n + 0.54])], admission
            )
            for n in range(10)
        ]
        source = "azure-code-2023 (generated)"
        row = {"scenario": "coder", "system": system, "rate_rps": 2.0, "trace_source": source}
        result.rows.append(row | summarize(collect(outcomes), 10.0))
    results.write(result, tmp_path / "run.json")
    return tmp_path / "run.json"


def draw(*files: Path, out: Path) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, files), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_says_where_it_comes_from(measured: Path, tmp_path: Path) -> None:
    page = draw(measured, out=tmp_path / "deep" / "report.html")
    assert not re.search(r"<script|<link|src=|@import|url\(", page)
    for said in ("vllm", "slosgate-ar", "100.0 %", "h200-opt-13b", "azure-code-2023 (generated)", "run.json"):
        assert said in page
    drawings = 1 + 4 + 1 + 2  # attainment, four latency plots, waits, one timeline for each system
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == drawings


def test_names_from_a_file_cannot_write_html(measured: Path, tmp_path: Path) -> None:
    measured.write_bytes(measured.read_bytes().replace(b"h200-opt-13b", b"<b>h200"))
    assert "<b>h200" not in draw(measured, out=tmp_path / "report.html")


def test_rows_of_any_command_become_a_table(tmp_path: Path) -> None:
    result = results.begin("plan-bench", {}, seed=0, hardware="h200-opt-13b")
    result.rows.append({"running": 256, "new": 32, "p99_ms": 4.2})
    results.write(result, tmp_path / "plan.json")
    page = draw(tmp_path / "plan.json", out=tmp_path / "report.html")
    assert "p99 ms" in page
    assert "4.2" in page


@pytest.mark.parametrize(("content", "said"), [(None, "cannot read"), ("{}", "is no result file")])
def test_what_is_no_result_is_named(content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    done = CliRunner().invoke(app, ["report", str(file)])
    assert done.exit_code == 2
    assert said in done.output
    assert "x.json" in done.output


def test_an_unknown_reproduction_is_named() -> None:
    done = CliRunner().invoke(app, ["reproduce", "everything"])
    assert done.exit_code == 2
    assert "unknown reproduction 'everything': choose one of" in done.output
