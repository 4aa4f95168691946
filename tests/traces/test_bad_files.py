"""Bad data gets a sentence that names the file, the line and the rule."""

import gzip
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from slosgate.traces import manifest, sources
from slosgate.traces.errors import TraceError
from slosgate.traces.formats import (
    azure_2023,
    burstgpt,
    humaneval,
    mooncake,
    plain,
    reasoning,
    servegen,
    sharegpt,
    toolbench,
)
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.sources import Places

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
OWN = "arrival_s,prompt_tokens,output_tokens\n1,5,5\n"


def complaint(form: Format, path: Path) -> str:
    with pytest.raises(TraceError) as error:
        deque(form.read(path, Reading(rng=np.random.default_rng(0))), maxlen=0)
    return str(error.value)


@pytest.mark.parametrize(
    ("form", "text", "line", "rule"),
    [
        (azure_2023.FORMAT, "", 1, "wrong columns: TIMESTAMP, ContextTokens, GeneratedTokens missing; found none"),
        (azure_2023.FORMAT, "time,ContextTokens,Generated\n", 1, "wrong columns: TIMESTAMP, GeneratedTokens missing"),
        (azure_2023.FORMAT, AZURE + "2023-11-16 18:17:04.1,5\n", 3, "expected 3 fields, found 2"),
        (azure_2023.FORMAT, AZURE + "2023-11-16 18:17:04.1,-5,1\n", 3, "negative tokens: ContextTokens is -5"),
        (azure_2023.FORMAT, AZURE + "2023-11-16 18:17:04.1,5,1.5\n", 3, "GeneratedTokens must be a whole number"),
        (azure_2023.FORMAT, AZURE + "16/11/2023 18:17,5,1\n", 3, "TIMESTAMP must read like 2023-11-16 18:17:03.97"),
        (azure_2023.FORMAT, AZURE + "2023-11-16 18:17:04.x,5,1\n", 3, "TIMESTAMP must read like"),
        (
            azure_2023.FORMAT,
            AZURE + "2023-11-16 18:17:02.9799600,5,1\n",
            3,
            "unsorted times: TIMESTAMP lies 1 s before",
        ),
        (plain.FORMAT, OWN + "0.5,5,5\n", 3, "unsorted times: arrival_s lies 0.5 s before the row above"),
        (plain.FORMAT, OWN + "-2,5,5\n", 3, "arrival_s must be a time from 0"),
        (plain.FORMAT, OWN + "nan,5,5\n", 3, "arrival_s must be a time from 0"),
        (plain.FORMAT, OWN + "2,0,5\n", 3, "a stage needs a prompt"),
        (plain.FORMAT, OWN + "2,5,0\n", 3, "a stage needs at least one output token"),
        (plain.FORMAT, '{"prompt_tokens": 3}\n', 1, "the field output_tokens is missing; found prompt_tokens"),
        (plain.FORMAT, '{"stages": []}\n', 1, "stages must be a list of one or more objects"),
        (plain.FORMAT, '{"prompt_tokens": 3, "output_tokens": 4}\n{oops\n', 2, "not a JSON object"),
        (plain.FORMAT, '{"prompt_tokens": 3, "output_tokens": 4}\n[1]\n', 2, "expected a JSON object, found list"),
        (burstgpt.FORMAT, "Timestamp,Request tokens\n", 1, "wrong columns: Response tokens missing"),
        (reasoning.FORMAT, "prompt_tokens,think_tokens\n", 1, "wrong columns: answer_tokens missing"),
        (
            reasoning.FORMAT,
            '{"question": "", "thinking_trajectories": 3, "attempt": ""}',
            1,
            "must be a text or a list",
        ),
        (sharegpt.FORMAT, '[{"talk": 1}]', 1, "not a JSON array of ShareGPT conversations"),
        (humaneval.FORMAT, '{"task_id": "HumanEval/0"}', 1, "the field prompt is missing"),
        (toolbench.FORMAT, '{"stages": [{"prompt_tokens": 0, "output_tokens": 1}]}', 1, "a call needs at least one"),
        (
            mooncake.FORMAT,
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1, 2]}',
            1,
            "2 hash_ids are more than a prompt of 5 tokens has blocks",
        ),
    ],
)
def test_a_bad_row_is_named(form: Format, text: str, line: int, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    message = complaint(form, path)
    assert message.startswith(f"{path}, line {line}: ")
    assert rule in message


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (
            gzip.compress((AZURE + AZURE.splitlines()[1]).encode())[:-20],
            "the gzip data ends in the middle: the download is incomplete",
        ),
        (gzip.compress(AZURE.encode())[:-8] + b"wrong!!!", "the gzip data is damaged"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
    ],
)
def test_a_file_that_is_no_text_is_named(content: bytes, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    assert complaint(azure_2023.FORMAT, path).startswith(f"{path}: {rule}")


def test_servegen_names_the_clients_file(tmp_path: Path) -> None:
    assert "no ServeGen clients" in complaint(servegen.FORMAT, tmp_path)
    (tmp_path / "chunk-0-dataset.json").write_text('{"0": {"input_tokens": "{}"}}', encoding="utf-8")
    (tmp_path / "chunk-0-trace.csv").write_text("0,1,1,Pareto,1,1\n", encoding="utf-8")
    assert "chunk-0-trace.csv, line 1: the pattern must be Gamma or Weibull" in complaint(servegen.FORMAT, tmp_path)
    (tmp_path / "chunk-0-trace.csv").write_text("0,1,1,Gamma,1,1\n", encoding="utf-8")
    assert "chunk-0-dataset.json, line 1: no window has lengths" in complaint(servegen.FORMAT, tmp_path)


def test_a_bad_file_in_the_folder_is_not_replaced_by_a_generated_trace(tmp_path: Path) -> None:
    (tmp_path / "azure_code_2023.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,-1,5\n", encoding="utf-8")
    with pytest.raises(TraceError, match=r"azure_code_2023\.csv, line 2: negative tokens"):
        sources.load("azure-code-2023", Places(folder=tmp_path, cache=tmp_path / "cache", offline=True))


def test_a_folder_variable_that_names_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"\$SLOSBENCH_TRACES is '.*nowhere', which is not a folder"):
        Places.from_env({"SLOSBENCH_TRACES": str(tmp_path / "nowhere"), "HOME": str(tmp_path)})


def test_what_cannot_be_generated_says_how_to_get_it(tmp_path: Path) -> None:
    places = Places(folder=None, cache=tmp_path, offline=True)
    with pytest.raises(TraceError, match=r"burstgpt-1: not in .*traces fetch burstgpt-1.*no generator is fitted"):
        sources.load("burstgpt-1", places)


def test_every_data_set_says_what_its_publisher_asks_for() -> None:
    for known in manifest.DATASETS.values():
        assert known.format.licence, known.name
        assert known.format.citation, known.name
        assert known.url or known.home, known.name
