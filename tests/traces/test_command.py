"""slosbench traces, as typed."""

import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from slosgate.bench import results
from slosgate.bench.cli import app
from tests.traces.real import real_places


@pytest.fixture
def typed(tmp_path: Path) -> "Typed":
    return Typed(tmp_path)


class Typed:
    """A terminal on a machine with an empty cache, without traces and without a network."""

    def __init__(self, home: Path) -> None:
        self.cache = home / "cache"
        self.env = {
            "SLOSBENCH_CACHE": str(self.cache),
            "SLOSBENCH_TRACES": "",
            "SLOSBENCH_OFFLINE": "1",
            "COLUMNS": "200",
        }

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["traces", *words], env=self.env)


def test_list_says_where_each_trace_would_come_from(typed: Typed) -> None:
    shown = typed("list").output
    assert "azure-code-2023" in shown
    assert "CC-BY-4.0" in shown
    assert "else generated" in shown
    assert "--from only" in shown


def test_stats_draw_lengths_and_arrivals(typed: Typed, tmp_path: Path) -> None:
    out, json = tmp_path / "code.png", tmp_path / "code.json"
    done = typed("stats", "azure-code-2023", "--generated", "--out", str(out), "--json", str(json))
    assert done.exit_code == 0, done.output
    assert "source generated" in done.output
    assert "The fit's check, mean over 20 seeds" in done.output
    assert any(bar in done.output for bar in "▅▆▇█")
    assert out.read_bytes().startswith(b"\x89PNG")
    trace, *check = results.read(json).rows
    assert trace["trace_source"] == "generated"
    assert sum(trace["arrivals"]["counts"]) == trace["requests"]
    assert [lengths["name"] for lengths in trace["lengths"]] == ["prompt", "output"]
    assert len(trace["lengths"][0]["quantiles"]) == len(trace["lengths"][0]["quantile_percents"])
    assert {row["figure"] for row in check} >= {"rate_rps", "iat_cv", "peak_10s", "idc_10s"}


def test_stats_of_a_scenario_print_the_papers_slice(typed: Typed, tmp_path: Path) -> None:
    typed.env["SLOSBENCH_TRACES"] = str(real_places(tmp_path).folder)
    shown = " ".join(typed("stats", "--scenario", "chatbot").output.split())
    assert "1,391 requests, source $SLOSBENCH_TRACES" in shown
    assert "prompt 1,391 763.2 424 1005 1177 1592" in shown
    assert "output 1,391 267.4 161 217 429 620" in shown


def test_stats_of_ones_own_file(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,12,3\n4,40,8\n", encoding="utf-8")
    done = typed("stats", str(path))
    assert "2 requests, source file" in done.output
    assert "2 arrivals in 4 s" in done.output


def test_fetch_from_a_folder_fills_the_cache(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    (folder / "azure_code_2023.csv.gz").write_bytes(gzip.compress(b"arrival_s,prompt_tokens,output_tokens\n0,12,3\n"))
    done = typed("fetch", "azure-code-2023", "--from", str(folder))
    assert done.exit_code == 0, done.output
    assert "CC-BY-4.0" in done.output
    assert "Splitwise" in done.output
    assert "1 requests, source cache" in typed("stats", "azure-code-2023").output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("stats", "azure-code"), "unknown trace 'azure-code': choose one of agentic-coding, arxiv-summarization"),
        (("stats",), "give either a trace or --scenario"),
        (("stats", "--scenario", "chat"), "unknown scenario 'chat'"),
        (("stats", "no/such.csv"), "no/such.csv: no such file"),
        (("stats", "s1k", "--start", "9", "--end", "3"), "--start must be at least 0 and below --end"),
        (("stats", "s1k", "--out", "x.nope"), "cannot draw x.nope"),
        (("stats", "burstgpt-1"), "no generator is fitted"),
        (("fetch", "servegen-m-small"), "get the folder data/language/m-small of the repository alibaba/ServeGen"),
        (("fetch", "s1k", "--from", "."), "s1k: none of s1k_reasoning_lengths.csv, s1K.jsonl"),
    ],
)
def test_bad_input_exits_with_2_and_a_sentence(words: tuple[str, ...], complaint: str, typed: Typed) -> None:
    done = typed(*words)
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_a_malformed_file_exits_with_2_and_leaves_the_cache_alone(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    (folder / "azure_code_2023.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,-1,3\n", encoding="utf-8")
    done = typed("fetch", "azure-code-2023", "--from", str(folder))
    assert done.exit_code == 2
    assert "line 2: negative tokens: prompt_tokens is -1" in done.output
    assert list(typed.cache.iterdir()) == []
