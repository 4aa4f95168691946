"""Reports through the front door: result files in, one page out."""

import json
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


RESULTS = Path(__file__).parents[2] / "bench" / "results"


def wide(page: str, label: str) -> list[str]:
    """The drawings of this label, as a wide page shows them."""
    return re.findall(rf'<svg class="wide"[^>]*aria-label="{label}[^"]*">.*?</svg>', page)


def test_what_harm_is_done_is_drawn_beside_the_share_that_decides(tmp_path: Path) -> None:
    found = results.read(RESULTS / "harm.json")
    found.rows[0] |= {"attainment": 0.85, "ci_low": 0.83, "ci_high": 0.87, "holds": False}
    results.write(found, tmp_path / "harm.json")
    page = draw(tmp_path / "harm.json", out=tmp_path / "report.html")
    panels = wide(page, "slosgate at the limit of the best baseline")
    assert len(panels) == len({(r["hardware"], r["attainment_target"]) for r in found.rows}) == 10
    dots = [sum(panel.count(f'class="fill-{colour}"') for panel in panels) for colour in ("ours", "ours2")]
    assert dots == [64, 63]  # with speculation and without
    assert sum(panel.count('class="fill-missed"') for panel in panels) == 1
    assert all(panel.count('class="slo"') == 1 for panel in panels)
    assert "falls short (1 of 128)" in page


def test_scaling_over_a_day_is_drawn_by_what_it_takes_and_attains(tmp_path: Path) -> None:
    page = draw(RESULTS / "autoscaling.json", out=tmp_path / "report.html")
    (drawing,) = wide(page, "Attainment over replica hours a day")
    counts = {colour: drawing.count(f'<circle class="fill-{colour}"') for colour in ("ours", "b0", "b2")}
    assert counts == {"ours": 1, "b0": 6, "b2": 3}
    assert re.findall(r'class="small"[^>]*>([^<]*)<', drawing) == ["16", "20", "24", "32", "40", "52", "4", "5", "6"]


def test_the_gain_is_drawn_and_each_bar_has_its_own_bound(tmp_path: Path) -> None:
    page = draw(RESULTS / "headline.json", out=tmp_path / "report.html")
    (gain,) = wide(page, "Gain of slosgate")
    assert gain.count('class="fill-ours"') == 7  # six scenarios and their mean
    assert "3.79 x" in gain
    panels = wide(page, "Capacity on")
    assert len(panels) == 6
    for panel in panels:
        names = re.findall(r'text-anchor="end"[^>]*>([^<]+)<', panel)
        assert len(names) == len(set(names)) == 7  # each system once
        assert panel.count('class="bound"') == 7
    (chatbot,) = [p for p in panels if "Capacity on chatbot" in p]
    bounds = set(re.findall(r'<line class="bound" x1="([\d.]+)"', chatbot))
    assert len(bounds) == 2  # slosgate, which drafts, could reach more than the others


def test_capacity_over_replicas_is_a_line_beside_the_linear_one(tmp_path: Path) -> None:
    page = draw(RESULTS / "scaling.json", out=tmp_path / "report.html")
    drawings = wide(page, "Capacity over replicas")
    assert len(drawings) == 2
    for drawing in drawings:
        for name in ("vllm", "slosgate"):
            assert f"<title>{name}</title>" in drawing
            assert f"<title>{name}, linear</title>" in drawing
    assert "29.5 x" in drawings[0]
    assert not wide(page, "Capacity on")  # drawn once


def test_a_limit_is_drawn_only_where_it_decides(measured: Path, tmp_path: Path) -> None:
    page = draw(measured, out=tmp_path / "report.html")
    for label, lines in (("TTFT / SLO", 1), ("pace at the judged tokens", 1), ("TTFT in seconds", 0), ("mean TPOT", 0)):
        (plot,) = wide(page, f"Cumulative share of stages by {label}")
        assert plot.count('class="slo"') == lines
    measured.write_bytes(measured.read_bytes().replace(b'"pace_share"', b'"untold"'))
    page = draw(measured, out=tmp_path / "report.html")
    assert "hence no line in its plot" in page
    (plot,) = wide(page, "Cumulative share of stages by mean TPOT / SLO")
    assert 'class="slo"' not in plot


def test_what_is_beyond_a_plot_is_marked_and_gaps_stay_gaps(measured: Path, tmp_path: Path) -> None:
    result = json.loads(measured.read_bytes())
    waits = [0.5, 0.6, None, 0.4, None, None, 80.0, 0.5] + [None] * 52
    result["rows"][0]["timeline"]["ttft_share_p99"] = waits
    measured.write_text(json.dumps(result))
    page = draw(measured, out=tmp_path / "report.html")
    (plot,) = wide(page, "p99 of TTFT")
    assert len(re.findall(r'<path class="curve line-b0"', plot)) == 3
    assert plot.count('<circle class="fill-b0"') == 1  # the lone one
    assert re.findall(r'<path class="fill-b0"[^>]*><title>([^<]+)', plot) == ["vllm, 1.08 s: 80 x SLO"]


def test_a_system_at_several_rates_is_one_line(measured: Path, tmp_path: Path) -> None:
    result = json.loads(measured.read_bytes())
    result["rows"] += [row | {"rate_rps": 4.0, "offered_rps": 4.0} for row in result["rows"]]
    measured.write_text(json.dumps(result))
    page = draw(measured, out=tmp_path / "report.html")
    (plot,) = wide(page, "Attainment over the rate")
    assert re.findall(r'<path class="curve[^>]*><title>([^<]+)', plot) == ["vllm", "slosgate-ar"]
    assert re.findall("<summary>([^<]+)", page) == ["coder at 2 req/s", "coder at 4 req/s"]


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
