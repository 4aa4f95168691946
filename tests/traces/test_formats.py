"""Each format from a few lines as its publishers write them."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slosgate.traces import sources
from slosgate.traces.formats import (
    agentic,
    arxiv,
    azure_2023,
    azure_2024,
    burstgpt,
    humaneval,
    mooncake,
    own,
    plain,
    reasoning,
    servegen,
    sharegpt,
    toolbench,
)
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.windows import arrival_times
from tests.traces.real import real_places


def rows(form: Format, path: Path, text: str = "") -> tuple[list[TraceRequest], Counter[str]]:
    if text:
        path.write_text(text, encoding="utf-8")
    reading = Reading(rng=np.random.default_rng(0), count_tokens=lambda words: len(words.split()), end_s=1200.0)
    return list(form.read(path, reading)), reading.dropped


def written(folder: Path, text: str) -> Path:
    file = folder / "trace.jsonl"
    file.write_text(text, encoding="utf-8")
    return file


def one_stage(requests: list[TraceRequest]) -> list[tuple[float, int, int]]:
    return [(r.arrival_s, r.stages[0].prompt_tokens, r.stages[0].output_tokens) for r in requests]


def test_azure_2023_counts_from_its_first_row_to_the_tick(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:17:59.9799600,4808,10\r\n"
        "2023-11-16 18:18:00.0319601,3180,8\r\n"
        "2023-11-16 18:18:01.0000000,7,0\r\n"
        "2023-11-16 18:18:02.4799600,110,27"
    )
    found, dropped = rows(azure_2023.FORMAT, tmp_path / "code.csv", text)
    assert one_stage(found) == [(0.0, 4808, 10), (0.0520001, 3180, 8), (2.5, 110, 27)]
    assert dropped == {"no prompt or no output tokens": 1}


def test_azure_2023_reads_the_derived_form_and_gzip_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "azure_code_2023.csv"
    path.write_bytes(gzip.compress(b"arrival_s,prompt_tokens,output_tokens\n0,4808,10\n0.052,3180,8\n"))
    assert one_stage(rows(azure_2023.FORMAT, path)[0]) == [(0.0, 4808, 10), (0.052, 3180, 8)]


def test_azure_2024_takes_offsets_and_whole_seconds(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01+00:00,2399,6\n"
    )
    assert one_stage(rows(azure_2024.FORMAT, tmp_path / "week.csv", text)[0]) == [(0.0, 2162, 5), (0.99007, 2399, 6)]


def test_both_forms_of_the_real_azure_traces_agree(tmp_path: Path) -> None:
    folder = real_places(tmp_path).folder
    assert folder is not None
    for service, count in (("code", 8819), ("conv", 19366)):
        original, _ = rows(azure_2023.FORMAT, folder / f"AzureLLMInferenceTrace_{service}_2023.csv.gz")
        derived, _ = rows(azure_2023.FORMAT, folder / f"azure_{service}_2023.csv.gz")
        assert len(original) == len(derived) == count
        assert [r.stages for r in original] == [r.stages for r in derived]
        assert np.abs(arrival_times(original) - arrival_times(derived)).max() < 2e-6


@pytest.mark.parametrize(
    ("name", "count"),
    [("sharegpt", 30731), ("sharegpt-first-turn", 58787), ("arxiv-summarization", 28257), ("s1k", 1000)],
)
def test_real_lengths_come_whole(name: str, count: int, tmp_path: Path) -> None:
    trace = sources.load(name, real_places(tmp_path))
    assert len(trace.requests) == count
    assert trace.provenance.source == "$SLOSBENCH_TRACES"


def test_sharegpt_prompts_an_answer_with_all_turns_before_it(tmp_path: Path) -> None:
    turns = [("human", "one two three"), ("gpt", "four five"), ("human", "six"), ("gpt", "seven"), ("gpt", "")]
    talk = {"id": "x", "conversations": [{"from": speaker, "value": text} for speaker, text in turns]}
    opened_by_model = {"conversations": [{"from": "gpt", "value": "hello"}]}
    found, dropped = rows(sharegpt.FORMAT, tmp_path / "talks.json", json.dumps([talk, opened_by_model]))
    assert one_stage(found) == [(0.0, 3, 2), (0.0, 6, 1)]
    assert dropped.total() == 2


@pytest.mark.parametrize("form", [sharegpt.FORMAT, arxiv.FORMAT])
def test_tables_of_prefill_and_decode_lengths(form: Format, tmp_path: Path) -> None:
    text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.9\n5,0,5,0\n"
    found, dropped = rows(form, tmp_path / "lengths.csv", text)
    assert one_stage(found) == [(0.0, 3772, 54)]
    assert dropped.total() == 1


def test_texts_are_counted_by_the_tokenizer_given(tmp_path: Path) -> None:
    article = json.dumps({"article": "a b c d", "abstract": "e f"})
    assert one_stage(rows(arxiv.FORMAT, tmp_path / "arxiv.jsonl", article)[0]) == [(0.0, 4, 2)]
    problem = json.dumps({"task_id": "HumanEval/0", "prompt": "def f ( x ) :", "canonical_solution": "return x"})
    assert one_stage(rows(humaneval.FORMAT, tmp_path / "problems.jsonl", problem)[0]) == [(0.0, 6, 2)]
    thought = json.dumps({"question": "why ?", "thinking_trajectories": ["let me", "think"], "attempt": "42"})
    (request,), _ = rows(reasoning.FORMAT, tmp_path / "s1k.jsonl", thought)
    assert [(s.prompt_tokens, s.output_tokens) for s in request.stages] == [(2, 3), (0, 1)]


def test_reasoning_goes_on_in_the_same_call(tmp_path: Path) -> None:
    text = "prompt_tokens,think_tokens,answer_tokens\n123,5965,1586\n48,0,9\n"
    (request,), dropped = rows(reasoning.FORMAT, tmp_path / "s1k.csv", text)
    think = Stage(prompt_tokens=123, output_tokens=5965)
    respond = Stage(prompt_tokens=0, cached_tokens=123 + 5965, output_tokens=1586)
    assert request.stages == (think, respond)
    assert dropped.total() == 1


def test_a_tool_loop_caches_what_the_call_before_had(tmp_path: Path) -> None:
    calls = [(762, 8, 405), (1175, 31, 0), (1206, 80, 0)]
    stages = [{"prompt_tokens": p, "output_tokens": o, "tool_result_tokens": t} for p, o, t in calls]
    (request,), _ = rows(toolbench.FORMAT, tmp_path / "loops.jsonl", json.dumps({"task": "G1", "stages": stages}))
    assert [(s.prompt_tokens, s.cached_tokens, s.output_tokens) for s in request.stages] == [
        (762, 0, 8),
        (405, 770, 31),
        (1, 1205, 80),  # nothing new: the last token is computed again
    ]


def test_toolbench_answers_are_counted_with_their_functions(tmp_path: Path) -> None:
    first = [{"role": "user", "content": "find it"}, {"role": "assistant", "content": None, "function_call": "go"}]
    then = [*first, {"role": "function", "content": "a b c"}, {"role": "assistant", "content": "it is here"}]
    answer = {"answer_generation": {"train_messages": [first, then], "function": ["f"]}}
    (tmp_path / "G1.json").write_text(json.dumps(answer), encoding="utf-8")
    given_up: dict[str, object] = {"answer_generation": {"function": []}}
    (tmp_path / "G2.json").write_text(json.dumps(given_up), encoding="utf-8")
    (request,), dropped = rows(toolbench.FORMAT, tmp_path)
    assert dropped == {"no calls": 1}
    assert [s.output_tokens for s in request.stages] == [1, 3]
    assert request.stages[1].cached_tokens > 0


def test_burstgpt_leaves_failures_out_and_works_without_sessions(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,Conversation log\n"
        "118.5,GPT-4,417,276,693,API log\n"
    )
    found, dropped = rows(burstgpt.FORMAT, tmp_path / "BurstGPT_1.csv", text)
    assert one_stage(found) == [(0.0, 472, 18), (113.5, 417, 276)]
    assert dropped.total() == 1


def test_agentic_sessions_are_loops_with_pauses(tmp_path: Path) -> None:
    calls = [[0.0, 100, 0, 9, 0, None], [5.0, 150, 96, 8, 0, 3.5], [9.0, 40, 40, 7, 1, None], [11.0, 160, 1, 0, 0, 1.0]]
    file = written(tmp_path, json.dumps({"session": "a", "calls": calls}) + '\n{"session": "b", "calls": []}\n')
    reading = Reading(rng=np.random.default_rng(0))
    (session,) = agentic.read(file, reading)
    assert session.stages == (
        Stage(prompt_tokens=100, output_tokens=9, gap_s=3.5),
        Stage(prompt_tokens=54, cached_tokens=96, output_tokens=8),
        Stage(prompt_tokens=1, cached_tokens=39, output_tokens=7, gap_s=1.0),
    )
    assert sum(reading.dropped.values()) == 2
    assert list(own.read(file, Reading(rng=np.random.default_rng(0)))) == [session]


def test_weka_sessions_keep_the_identity_of_their_blocks(tmp_path: Path) -> None:
    rows = [
        {"t": 0.0, "type": "s", "in": 130, "out": 9, "hash_ids": [1, 2]},
        {"t": 1.0, "type": "n", "in": 130, "out": 9, "hash_ids": [1, 2]},
        {"t": 8.0, "type": "s", "requests": [{"t": 4.0, "in": 200, "out": 3, "hash_ids": [1, 2, 5]}]},
        {"t": 9.0, "type": "s", "in": 129, "out": 5, "hash_ids": [1, 7]},
    ]
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps({"id": name, "block_size": 64, "requests": rows}, indent=1))
    first, second = own.read(tmp_path, Reading(rng=np.random.default_rng(0)))
    assert [(s.prompt_tokens, s.cached_tokens, s.output_tokens, s.gap_s) for s in first.stages] == [
        (130, 0, 9, 4.0),
        (72, 128, 3, 5.0),
        (65, 64, 5, 0.0),
    ]
    assert first.stages[0].block_ids == first.stages[1].block_ids[:2] != second.stages[0].block_ids
    assert list(own.read(tmp_path / "a.json", Reading(rng=np.random.default_rng(0)))) == [first]


def test_spans_of_an_instrumented_agent_become_sessions(tmp_path: Path) -> None:
    def span(session: str, start_s: float, end_s: float, **usage: int) -> dict[str, Any]:
        told = {f"gen_ai.usage.{name}": {"intValue": str(count)} for name, count in usage.items()}
        told["gen_ai.conversation.id"] = {"stringValue": session}
        return {
            "traceId": "t", "startTimeUnixNano": str(int(start_s * 1e9)), "endTimeUnixNano": str(int(end_s * 1e9)),
            "attributes": [{"key": key, "value": value} for key, value in told.items()],
        }  # fmt: skip

    spans = [
        span("a", 100.0, 101.0, input_tokens=50, output_tokens=5),
        span("b", 100.5, 101.0, input_tokens=10, output_tokens=1),
        span("a", 103.0, 104.0, input_tokens=80, output_tokens=6),
        span("a", 104.0, 104.5),
    ]
    export = {"resourceSpans": [{"scopeSpans": [{"spans": spans[:2]}]}]}
    file = written(tmp_path, "\n".join(json.dumps(row) for row in (export, *spans[2:])))
    first, second = own.read(file, Reading(rng=np.random.default_rng(0)))
    assert (first.arrival_s, second.arrival_s) == (0.0, 0.5)
    assert first.stages == (
        Stage(prompt_tokens=50, output_tokens=5, gap_s=2.0),
        Stage(prompt_tokens=30, cached_tokens=50, output_tokens=6),
    )


def test_mooncake_prefixes_become_cached_tokens_and_steps_are_spread(tmp_path: Path) -> None:
    blocks = [(0, 1000, [0, 1]), (0, 1500, [0, 1, 2]), (2999, 1024, [0, 1]), (6000, 600, [7, 1])]
    blocks += [(9000, 512, [100 + number]) for number in range(96)]  # as long as something recorded
    text = "\n".join(
        json.dumps({"timestamp": t, "input_length": n, "output_length": 5, "hash_ids": ids}) for t, n, ids in blocks
    )
    found, _ = rows(mooncake.FORMAT, tmp_path / "mooncake.jsonl", text)
    assert [(r.stages[0].prompt_tokens, r.stages[0].cached_tokens) for r in found[:4]] == [
        (1000, 0),
        (1500 - 1024, 1024),
        (1, 1023),  # all known: one token is still computed
        (600, 0),  # a known block behind an unknown one is no prefix
    ]
    times = arrival_times(found)
    assert 0 < times[0] < times[1] < 3 < times[2] < 6 < times[3] < 9


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ((0, 40, 277), [0.0, 0.04, 0.277]),
        ((0, 0, 3000), [0.0, 0.0, 3.0]),  # a burst of one's own, though it stands on the grid
        ((1_700_000_000, 1_700_000_001, 1_700_000_002.5), [0.0, 1.0, 2.5]),
        ((1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_500), [0.0, 1.0, 2.5]),
    ],
)
def test_mooncake_times_of_other_tools_stay(tmp_path: Path, told: tuple[float, ...], meant: list[float]) -> None:
    text = "\n".join(
        json.dumps({"timestamp": t, "input_length": 5, "output_length": 5, "hash_ids": [n]}) for n, t in enumerate(told)
    )
    assert arrival_times(rows(mooncake.FORMAT, tmp_path / "synthetic.jsonl", text)[0]).tolist() == meant


def test_servegen_puts_its_clients_together(tmp_path: Path) -> None:
    clients = [("Gamma", 2.0, "{100: 0.5, 300: 0.5}", "{10: 1.0}"), ("Weibull", 0.5, "{7: 1}", "{}")]
    for i, (pattern, rate, prompts, outputs) in enumerate(clients):
        trace = f"0,0,0,,0,0\n600,{rate},1.0,{pattern},1.0,0.4\n1200,9,1,Gamma,1,1\n"
        (tmp_path / f"chunk-{i}-trace.csv").write_text(trace, encoding="utf-8")
        lengths = {"0": {"input_tokens": prompts, "output_tokens": outputs}}
        lengths["600"] = {"input_tokens": prompts, "output_tokens": "{10: 1.0}", "reason_ratio": "{0.0: 0.5, 0.4: 0.5}"}
        (tmp_path / f"chunk-{i}-dataset.json").write_text(json.dumps(lengths), encoding="utf-8")
    found, _ = rows(servegen.FORMAT, tmp_path)
    times = arrival_times(found)
    assert (np.diff(times) >= 0).all()
    assert times.min() >= 600
    assert times.max() < 1200
    counts = Counter(r.stages[0].prompt_tokens for r in found)
    assert set(counts) == {7, 100, 300}
    assert counts[100] + counts[300] == pytest.approx(1200, rel=0.15)
    assert counts[7] == pytest.approx(300, rel=0.3)
    assert Counter(len(r.stages) for r in found)[2] == pytest.approx(len(found) / 2, rel=0.15)
    assert {tuple(s.output_tokens for s in r.stages) for r in found} == {(10,), (4, 6)}


def test_ones_own_trace_as_csv_or_json_lines(tmp_path: Path) -> None:
    csv = "arrival_s,prompt_tokens,output_tokens,tenant\n0,12,3,a\n1.5,40,8,b\n"
    assert one_stage(rows(plain.FORMAT, tmp_path / "own.csv", csv)[0]) == [(0.0, 12, 3), (1.5, 40, 8)]
    lengths = "prompt_tokens,output_tokens\n12,3\n"
    assert one_stage(rows(plain.FORMAT, tmp_path / "lengths.csv", lengths)[0]) == [(0.0, 12, 3)]
    stages = [
        {"prompt_tokens": 9, "output_tokens": 2},
        {"prompt_tokens": 4, "cached_tokens": 11, "output_tokens": 1, "gap_s": 2},
    ]
    (loop,), _ = rows(plain.FORMAT, tmp_path / "own.jsonl", json.dumps({"arrival_s": 3, "stages": stages}))
    assert loop.arrival_s == 3
    assert loop.stages[1] == Stage(prompt_tokens=4, cached_tokens=11, output_tokens=1, gap_s=2.0)
