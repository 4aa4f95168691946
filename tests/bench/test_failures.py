"""Against a server of one's own: requests that fail are told, and a run of nothing but failures is no success."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slosgate.bench import stack
from slosgate.bench.cli import app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway whose one class is not the scenario's."""
    deployment = stack.Deployment(system="slosgate-ar", hardware="h200-opt-13b", replicas=1, classes=("interactive",))
    with stack.start(deployment) as target:
        yield target.urls[0]


@pytest.fixture(autouse=True)
def generated_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")


def run(tmp_path: Path, *options: str, scenario: str = "coder") -> tuple[Result, str, dict[str, Any]]:
    file = tmp_path / "result.json"
    asked = ["run", "--scenario", scenario, "--system", "mine", "--rate", "5", "--seconds", "1", "--mode", "live"]
    done = CliRunner().invoke(app, [*asked, "--json", str(file), *options])
    said = " ".join(done.output.split())
    rows: list[dict[str, Any]] = json.loads(file.read_bytes())["rows"] if file.exists() else [{}]
    return done, said, rows[0]


def test_a_run_that_nothing_came_of_fails_and_says_what_to_do(url: str, tmp_path: Path) -> None:
    done, said, row = run(tmp_path, "--url", url)
    why = "x-slo-class must be one of interactive, default, not 'coder'"
    assert done.exit_code == 1
    assert f"no request was served: http 400: {why}. Ask for one of the server's classes with --slo-class" in said
    assert row["failed"] == row["offered"] > 0
    assert row["failures"] == [{"error": "http 400", "requests": row["offered"], "message": why}]


@pytest.mark.parametrize("asked", ["interactive", "none"])
def test_a_class_of_the_servers_may_be_asked_for_instead(asked: str, url: str, tmp_path: Path) -> None:
    done, said, row = run(tmp_path, "--url", url, "--slo-class", asked)
    assert (done.exit_code, row["errors"]) == (0, {})
    assert "failed" not in said
    assert row["guaranteed"] + row["best_effort"] == row["offered"]


def test_some_failures_are_counted_on_screen_and_in_the_report(url: str, tmp_path: Path) -> None:
    options = ("--url", url, "--slo-class", "coder=interactive,summarizer=none")
    done, said, row = run(tmp_path, *options, scenario="mixed")
    assert done.exit_code == 0
    assert 0 < row["failed"] < row["offered"]
    told = (
        f"{row['failed']} of {row['offered']} requests failed: {row['failed']} x http 400: x-slo-class must be one of"
    )
    assert told in said
    page = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", str(tmp_path / "result.json"), "--out", str(page)]).exit_code == 0
    assert told in page.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--slo-class", "chatbot=a"), "--slo-class names 'chatbot', and the scenario's classes are coder"),
        (("--slo-class", "coder="), "--slo-class takes NAME, none, or CLASS=NAME separated by commas, not 'coder='"),
    ],
)
def test_bad_classes_are_told_in_a_sentence(options: tuple[str, ...], said: str, url: str, tmp_path: Path) -> None:
    done, told, _ = run(tmp_path, "--url", url, *options)
    assert done.exit_code == 2
    assert said in told


def test_a_class_is_asked_for_where_there_are_others_than_the_scenarios(tmp_path: Path) -> None:
    done, told, _ = run(tmp_path, "--slo-class", "interactive")
    assert done.exit_code == 2
    assert "--slo-class belongs to --url" in told
