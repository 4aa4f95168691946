"""slosbench run, through the front door: bad input, virtual time, and live over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slosgate.bench.cli import app

ROW_KEYS = {
    "scenario", "system", "rate_rps", "offered", "attainment", "attainment_strict", "ci_low", "ci_high", "ttft_p50_s",
    "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "goodput_rps", "trace_source",
}  # fmt: skip


@pytest.fixture(autouse=True)
def generated_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOSBENCH_TRACES", raising=False)
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLOSBENCH_OFFLINE", "1")


def run(tmp_path: Path, *options: str, scenario: str = "coder", system: str = "vllm") -> tuple[dict[str, Any], str]:
    file = tmp_path / "result.json"
    command = ["run", "--scenario", scenario, "--system", system, "--rate", "4", "--json", str(file), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return json.loads(file.read_bytes()), done.output


@pytest.mark.parametrize("system", ["vllm", "slosgate-ar"])
def test_the_same_seed_gives_the_same_result(system: str, tmp_path: Path) -> None:
    first, said = run(tmp_path, "--seconds", "20", "--seed", "3", system=system)
    second, _ = run(tmp_path, "--seconds", "20", "--seed", "3", system=system)
    assert first["rows"] == second["rows"]
    assert first["rows"][0].keys() >= ROW_KEYS
    assert (first["command"], first["seed"], first["hardware"]) == ("run", 3, "a100-opt-13b")
    assert "GENERATED TRACE" in said
    other, _ = run(tmp_path, "--seconds", "20", "--seed", "4", system=system)
    assert other["rows"] != first["rows"]


def test_mixed_classes_are_reported_each(tmp_path: Path) -> None:
    result, said = run(tmp_path, "--seconds", "20", scenario="mixed")
    assert [c["slo_class"] for c in result["rows"][0]["classes"]] == ["chatbot", "coder", "summarizer"]
    assert "summarizer" in said


def test_the_rate_that_is_offered_is_said_when_it_is_not_the_one_asked_for(tmp_path: Path) -> None:
    short, said = run(tmp_path, "--seconds", "10", "--rate", "0.45")  # no whole number of requests makes that rate
    offered_rps = short["rows"][0]["offered_rps"]
    assert f"{offered_rps:.3g} requests/s arrive instead of 0.45" in " ".join(said.split())
    _, said = run(tmp_path)
    assert "instead of" not in said


@pytest.mark.parametrize("system", ["vllm", "slosgate-ar"])
def test_live_starts_what_it_needs_and_serves_every_request(system: str, tmp_path: Path) -> None:
    options = ["--mode", "live", "--seconds", "2", "--replicas", "2", "--hardware", "h200-opt-13b", "--rate", "5"]
    result, said = run(tmp_path, *options, system=system)
    row = result["rows"][0]
    assert row["errors"] == {}
    assert row["unfinished"] == row["rejected"] == 0
    assert (row["guaranteed"] + row["best_effort"] > 0) == (system == "slosgate-ar")
    assert "schedule delay p50" in said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--scenario", "poetry", "unknown scenario 'poetry': choose one of chatbot, coder"),
        ("--scenario", "codr", "agentic; did you mean 'coder'?"),
        ("--system", "orca", "unknown system 'orca': choose one of"),
        ("--hardware", "h300", "unknown hardware 'h300': choose one of a100-opt-13b"),
        ("--mode", "dry", "unknown mode 'dry': choose one of sim, live"),
        ("--scaling", "squash", "unknown scaling 'squash': choose one of stretch"),
        ("--rate", "-1", "--rate must be a number above 0, not -1"),
        ("--rate", "nan", "--rate must be a number above 0, not nan"),
        ("--replicas", "0", "--replicas must be a number above 0, not 0"),
        ("--seconds", "0", "--seconds must be a number above 0, not 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(option: str, value: str, said: str) -> None:
    options = {"--scenario": "coder", "--system": "vllm", "--rate": "2"} | {option: value}
    done = CliRunner().invoke(app, ["run", *(part for pair in options.items() for part in pair)])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_an_address_where_nothing_serves_is_bad_input() -> None:
    options = ["--scenario", "coder", "--system", "mine", "--rate", "2", "--mode", "live", "--seconds", "5"]
    done = CliRunner().invoke(app, ["run", *options, "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "--url 'http://127.0.0.1:1' must be the base address of an OpenAI-compatible server" in done.output


class NoModels(BaseHTTPRequestHandler):
    """A gateway that no replica has joined."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": []}')

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_without_models_is_said_to_have_none() -> None:
    with HTTPServer(("127.0.0.1", 0), NoModels) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        options = ["--scenario", "coder", "--system", "mine", "--rate", "2", "--mode", "live", "--seconds", "5"]
        done = CliRunner().invoke(app, ["run", *options, "--url", url])
    assert done.exit_code == 2
    assert "lists no model: has a replica joined?" in done.output
