"""What the GPU measurements share with any machine: how clients ask and count, launches by kind, the load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from slosgate.bench import results, virtual
from slosgate.bench.attainment import collect
from slosgate.bench.errors import InputError
from slosgate.bench.gpu import beside, launches
from slosgate.bench.gpu.asking import Capped
from slosgate.bench.gpu.dummy_model import FIRST_WORD, THINKING_ENDS, WORD_CHARACTERS, word_ids, write_model
from slosgate.bench.gpu.hits import Expectations
from slosgate.bench.gpu.lengths import told, told_thinking
from slosgate.bench.gpu.loads import Offering, equal_parts, read
from slosgate.bench.gpu.measure import SCENARIO
from slosgate.bench.summary import summarize
from slosgate.engines import profiles
from slosgate.engines.sim.systems import Call, Offered, Settings

CALL = Call(prompt_tokens=3, output_tokens=40, ttft_slo_s=0.4, tpot_slo_s=0.05)
REQUEST = Offered(0.0, (CALL,), "coder")


def event(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode()


def test_a_capped_request_tells_its_length_to_nobody_but_the_engine() -> None:
    body = Capped(2048).body(REQUEST, CALL, [7, 8, 9])
    assert body == {"prompt": [7, 8, told(40)], "max_tokens": 2048, "stream_options": {"include_usage": True}}


def test_a_thought_is_told_where_nothing_that_others_may_share_is_overwritten() -> None:
    thinks = dataclasses.replace(CALL, switch_at=30)
    assert Capped(2048).body(REQUEST, thinks, [7, 8, 9])["prompt"] == [7, told_thinking(30), told(40)]
    assert told_thinking(30) > 20_000 > told(4096)  # an ordinary token says that nothing is thought


def test_the_words_of_an_answer_are_the_tokens_that_the_next_call_goes_on_with() -> None:
    assert Capped(2048).token_ids(event(text="baaaabaa", finish_reason=None)) == [FIRST_WORD + 1, FIRST_WORD + 26]
    assert Capped(2048).token_ids(event(text="", finish_reason="stop")) == []


def test_several_loads_can_be_offered_to_servers_that_are_started_once() -> None:
    assert read("coder=2,4", 60.0) == Offering("coder", (2.0, 4.0), 60.0)
    assert read("out/mine.toml=0.5@30", None) == Offering("out/mine.toml", (0.5,), 30.0)
    with pytest.raises(InputError, match="SCENARIO=RATE,RATE@SECONDS, not 'coder'"):
        read("coder", 60.0)


def test_answers_are_cut_to_what_clients_allow() -> None:
    load = equal_parts(Offering(SCENARIO, (12.0,)), profiles.load("h200-llama-3.1-8b"), 12.0, seed=0, cap=50)
    assert max(call.output_tokens for request in load.requests for call in request.calls) == 50


def test_what_a_gateway_expected_to_be_cached_is_read_from_its_log_since_the_measurement_began(tmp_path: Path) -> None:
    def line(cached: int | None) -> str:
        tokens = {"prompt_tokens": 100, "likely_cached_tokens": 90, "expected_cached_tokens": 80}
        return json.dumps({"request_id": "r", **tokens, "cached_tokens": cached}, separators=(",", ":")) + "\n"

    log = tmp_path / "gateway.log"
    log.write_text(line(1))
    expected = Expectations(log)
    log.write_text(line(1) + "INFO a replica joined\n" + line(85) + line(None))
    assert expected.row() == {
        "told_calls": 1, "told_prompt_tokens": 100, "told_cached_tokens": 85, "likely_cached_tokens": 90,
        "expected_cached_tokens": 80,
    }  # fmt: skip


def test_tokens_are_counted_by_their_letters_and_the_last_by_how_it_ends() -> None:
    asking, tokens = Capped(2048), 0
    for each in (
        event(text="abcd", finish_reason=None),
        event(text="abcd" * 3, finish_reason=None),  # a server that fell behind sends several at once
        event(text="", finish_reason="stop"),
        b'data: {"choices": [], "usage": {"completion_tokens": 5}}',
    ):
        tokens = asking.tokens_so_far(each, tokens)
    assert tokens == 5


def test_every_token_of_the_word_tokenizer_is_a_word(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_model("tiny-llama", tmp_path, words=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 32000
    ids = [FIRST_WORD, 1000, 31999]
    texts = [tokenizer.decode([i]) for i in ids]
    assert {len(text) for text in texts} == {WORD_CHARACTERS}
    assert tokenizer.decode(ids) == "".join(texts)
    assert word_ids("".join(texts)) == ids
    assert tokenizer.token_to_id("</think>") == THINKING_ENDS


def test_launches_are_told_apart_by_what_was_launched(tmp_path: Path) -> None:
    log = tmp_path / "iterations.jsonl"
    rows = [(8, 8, 2.0), (8, 8, 2.2), (1024, 3, 9.0), (1025, 3, 26.0)]
    lines = [
        {"new_tokens": new, "sequences": n, "draft_steps": 0, "ms": 30.0, "expected_ms": 29.0, "launch_ms": launch}
        for new, n, launch in rows
    ]
    log.write_text("\n".join(map(json.dumps, lines)))
    found = {row["kind"]: (row["iterations"], row["launch_p50_ms"]) for row in launches.summary(log, 1024)}
    assert found == {"decodes": (2, 2.1), "prefill, captured": (1, 9.0), "prefill, beyond": (1, 26.0)}


def test_classes_share_a_rate_equally() -> None:
    offering = Offering(SCENARIO, (12.0,))
    load = equal_parts(offering, profiles.load("h200-llama-3.1-8b"), 12.0, seed=0, cap=2048)
    assert [part["asked_rps"] for part in load.record["parts"]] == [6.0, 6.0]
    assert {request.slo_class for request in load.requests} == {"coder", "chatbot"}
    arrivals_s = [request.arrival_s for request in load.requests]
    assert arrivals_s == sorted(arrivals_s)
    assert arrivals_s[-1] < load.seconds


def measured(tmp_path: Path, **told: object) -> Path:
    """A result file as a measurement writes it, of a replica that is just as it is simulated."""
    offering = Offering(SCENARIO, (4.0,), seconds=15.0)
    profile = msgspec.structs.replace(profiles.load("h200-llama-3.1-8b"), max_model_tokens=16384)
    load = equal_parts(offering, msgspec.structs.replace(profile, max_model_tokens=16384 - 2048), 4.0, seed=0, cap=2048)
    run = virtual.simulate(load, "slosgate-ar", Settings(profile))
    row = {
        "system": "slosgate", "scenario": "coder-chatbot", "rate_rps": 4.0, "replicas": 1, "load": load.record,
        "trace_source": load.trace_source, "profile": msgspec.to_builtins(profile), "window": 16384, "cap": 2048,
        **summarize(collect(run.outcomes), load.seconds), **told,
    }  # fmt: skip
    result = results.begin("gpu-measure", {}, seed=0, hardware=profile.name)
    result.rows = [row, {**row, "system": "vllm-best"}]
    results.write(result, tmp_path / "measured.json")
    return tmp_path / "measured.json"


def test_a_measurement_is_simulated_again_and_the_difference_told(tmp_path: Path) -> None:
    def compared(**told: object) -> tuple[int, dict[str, dict[str, Any]], str]:
        out = tmp_path / "beside.json"
        done = CliRunner().invoke(beside.app, [str(measured(tmp_path, **told)), "--json", str(out)])
        return done.exit_code, {row["figure"]: row for row in json.loads(out.read_bytes())["rows"]}, done.output

    code, figures, said = compared()
    assert (code, {name: row["off"] for name, row in figures.items()}) == (0, dict.fromkeys(beside.FIGURES, 0.0))
    assert "left out: vllm-best, coder-chatbot at 4: vllm-best is not simulated; accepted: slosgate, vllm" in said
    code, figures, _ = compared(ttft_p50_s=1.2 * figures["ttft_p50"]["measured"])
    assert code == 1
    assert [name for name, row in figures.items() if not row["holds"]] == ["ttft_p50"]
    assert figures["ttft_p50"]["off"] == pytest.approx(1 / 1.2 - 1, abs=1e-3)


def test_what_can_not_be_simulated_is_left_out_with_the_reason(tmp_path: Path) -> None:
    done = CliRunner().invoke(beside.app, [str(measured(tmp_path, offered=7))])
    assert done.exit_code == 2
    assert "not the 7 that were offered" in " ".join(done.output.split())
    done = CliRunner().invoke(beside.app, [str(measured(tmp_path)), "--profile", "abacus"])
    assert done.exit_code == 2
    assert "unknown hardware 'abacus'" in done.output
