"""Files of one's own and of other tools at any path: what is read, and what is refused with a sentence."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from slosgate.traces import sources
from slosgate.traces.errors import TraceError
from slosgate.traces.sources import Places

OWN = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def read(tmp_path: Path, content: str | bytes, name: str = "own.csv") -> list[tuple[float, int, int]]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    trace = sources.load(str(path), Places(folder=None, cache=tmp_path, offline=True))
    return [(r.arrival_s, r.stages[0].prompt_tokens, r.stages[0].output_tokens) for r in trace.requests]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + OWN.encode() + b"0,12,3\n1.5,40,8\n", id="byte order mark"),
        pytest.param((OWN + "0,12,3\n1.5,40,8\n").encode("utf-16"), id="UTF-16, as spreadsheets write it"),
        pytest.param(gzip.compress(("\ufeff" + OWN + "0,12,3\n1.5,40,8\n").encode("utf-16-be")), id="the same, packed"),
        pytest.param(OWN.replace("\n", "\r\n") + "0,12,3\r\n1.5,40,8\r\n", id="CRLF"),
        pytest.param(OWN.replace("\n", "\r") + "0,12,3\r1.5,40,8\r", id="CR"),
        pytest.param("\n\n" + OWN + "\n0,12,3\n  \n,,\n1.5,40,8\n\n", id="blank lines and rows"),
        pytest.param("Arrival_S, Prompt_Tokens , OUTPUT_TOKENS\n0,12,3\n1.5,40,8\n", id="case and spaces"),
        pytest.param(OWN + "0,12.0,3.0\n1.5,4e1,8\n", id="counts as floats"),
        pytest.param(OWN + "1700158623.5,12,3\n1700158625,40,8\n", id="Unix time"),
        pytest.param(OWN + "1700158623500,12,3\n1700158625000,40,8\n", id="in ms"),
        pytest.param(OWN + "1700158623500000,12,3\n1700158625000000,40,8\n", id="in us"),
        pytest.param(OWN + "2023-11-16T18:17:03.5Z,12,3\n2023-11-16T18:17:05Z,40,8\n", id="dates"),
        pytest.param(AZURE + "2023-11-16 18:17:03.5,12,3\n2023-11-16 18:17:05,40,8\n", id="Azure"),
        pytest.param(
            AZURE + "2023-10-29 02:59:59.5+02:00,12,3\n2023-10-29 02:00:01+01:00,40,8\n", id="the end of summer time"
        ),
        pytest.param("Timestamp,Request tokens,Response tokens\n5,12,3\n6.5,40,8\n", id="BurstGPT"),
        pytest.param(
            '\ufeff\n{"arrival_s":0,"prompt_tokens":12.0,"output_tokens":3}\r\n\r\n'
            '{"Arrival_s":1.5,"prompt_tokens":40,"output_tokens":8}\r\n',
            id="JSON lines",
        ),
        pytest.param(
            '{"timestamp":0,"input_length":12,"output_length":3,"hash_ids":[1]}\n'
            '{"timestamp":1500,"input_length":40,"output_length":8,"hash_ids":[2]}\n',
            id="Mooncake",
        ),
        pytest.param(
            '{"timestamp":1700158623500,"input_length":12,"output_length":3,"session_id":"a"}\n'
            '{"timestamp":1700158625000,"input_length":40,"output_length":8,"session_id":"b"}\n',
            id="aiperf",
        ),
    ],
)
def test_the_same_two_requests(content: str | bytes, tmp_path: Path) -> None:
    assert read(tmp_path, content, "own") == [(0.0, 12, 3), (1.5, 40, 8)]


@pytest.mark.parametrize(
    ("row", "lengths"),
    [
        ('{"prompt":"say it in twenty letters","prompt_tokens_count":5,"output_tokens_count":7}', (5, 7)),  # guidellm
        ('{"prompt":"say it in twenty letters","output_tokens":7}', (6, 7)),  # vllm bench serve, custom
        ('{"text":"say it in twenty letters","output_length":7}', (6, 7)),  # aiperf, single turn
    ],
)
def test_lengths_of_other_tools(row: str, lengths: tuple[int, int], tmp_path: Path) -> None:
    assert read(tmp_path, row, "own.jsonl") == [(0.0, *lengths)]


@pytest.mark.parametrize(
    ("content", "line", "rule"),
    [
        ("arrivals,prompt_tokens,output_tokens\n0,1,1\n", 1, "the field arrivals looks like arrival times"),
        ("start time,prompt_tokens,output_tokens\n0,1,1\n", 1, "the field start time looks like arrival times"),
        (
            "arrival_s,promt_tokens,output_tokens\n0,1,1\n",
            1,
            "the field promt_tokens is not known; did you mean pro",
        ),
        (
            OWN.replace("\n", ",cached_token\n") + "0,1,1,9\n",
            1,
            "the field cached_token is not known; did you mean",
        ),
        *(
            (f"{name},prompt_tokens,output_tokens\n0,1,1\n", 1, f"the field {name} looks like arrival times")
            for name in ("ts", "t", "start", "start_s", "offset_ms", "created_at", "epoch", "sec", "when", "sent at")
        ),
        *(
            (OWN.replace("\n", f",{name}\n") + "0,1,1,9\n", 1, f"the field {name} is not known; did you mean {meant}")
            for name, meant in (("cached", "cached_tokens"), ("prefix_tokens", "cached_tokens"), ("gap", "gap_s"))
        ),
        (OWN + "0,1_000,1\n", 2, "prompt_tokens must be a whole number of tokens, not '1_000'"),
        (OWN + "0,1e300,1\n", 2, "prompt_tokens is 1e+300; accepted: up to 1,000,000,000 tokens"),
        (OWN + "2026-11-30 10:00:00+99:99,1,1\n", 2, "arrival_s must be a time"),
        ('{"prompt_tokens":1,"output_tokens":1,"x":' + "[" * 20_000 + "\n", 1, "not a JSON object"),
        ('{"arrival":5,"prompt_tokens":1,"output_tokens":1}\n', 1, "the field arrival looks like arrival times"),
        ('{"prompt":"a","output_tokens":1,"timestamp":4}\n', 1, "the field timestamp looks like arrival times"),
        (
            '{"arrival_s":5,"prompt_tokens":1,"output_tokens":1}\n{"prompt_tokens":1,"output_tokens":1}\n',
            2,
            "the field arrival_s is missing, but the first row has it",
        ),
        ('{"prompt":"a prompt of vllm bench"}\n', 1, "the field output_tokens is missing; found prompt"),
        ('{"input_length":5,"output_length":1,"delay":50}\n', 1, "the field delay looks like arrival times"),
        ('{"chat_id":1,"timestamp":6.1,"input_length":5,"output_length":1}\n', 1, "timestamp is in seconds"),
        ('[{"prompt_tokens":1,"output_tokens":1}]\n', 1, "a JSON array; accepted: one JSON object a line, or CSV"),
        (OWN + "0,1,1\n1700158623,1,1\n", 3, "arrival_s lies 1.70016e+09 s after the first row's; accepted: up to 400"),
        (OWN + "0,1,1.5\n", 2, "output_tokens must be a whole number of tokens, not '1.5'"),
        (OWN + "0,1,inf\n", 2, "output_tokens must be a whole number of tokens, not 'inf'"),
        ('{"prompt_tokens":true,"output_tokens":1}\n', 1, "prompt_tokens must be a whole number of tokens, not True"),
        (
            '{"arrival_s":0,"Arrival_S":5,"prompt_tokens":1,"output_tokens":1}\n',
            1,
            "the field arrival_s stands there twice",
        ),
        (
            '{"timestamp":0,"input_length":5,"output_length":1,"hash_ids":[true]}\n',
            1,
            "hash_ids must be a list of whole",
        ),
        ('{"startTimeUnixNano":1,"attributes":[5]}\n', 1, "not a span of OpenTelemetry: Expected `object`, got `int`"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":"a"}]}]}\n', 1, "not a span of OpenTelemetry: Expected `array"),
        ("arrival_s,arrival_s,prompt_tokens,output_tokens\n0,5,1,1\n", 1, "the column arrival_s stands there twice"),
        (AZURE + "2023-11-16 18:17:03Z,1,1\n2023-11-16 18:17:04,1,1\n", 3, "TIMESTAMP has no offset from UTC, unlike"),
        (AZURE + "2023-10-29 02:59:59,1,1\n2023-10-29 02:00:01,1,1\n", 3, "unsorted times: TIMESTAMP lies 3598 s befo"),
    ],
)
def test_what_is_refused(content: str, line: int, rule: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError) as error:
        read(tmp_path, content, "own")
    assert str(error.value).startswith(f"{tmp_path / 'own'}, line {line}: {rule}")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (OWN.replace("\n", ",note\n") + '0,1,1,"a\n1,1,1,b\n', "not CSV: unexpected end of data"),  # it hides a row
        (b"PAR1" + bytes(40), "is Parquet; accepted: CSV or JSON lines"),
        (b"PK\x03\x04" + bytes(40), "is a zip archive or a workbook; accepted: CSV"),
        (bz2.compress(OWN.encode()), "is bzip2; accepted: CSV"),
        (OWN, "has no requests"),
        ("Timestamp,Request tokens,Response tokens\n5,0,3\n", "has no requests; 1 row left out: failed"),
    ],
    ids=["an open quote", "Parquet", "a workbook", "bzip2", "no rows", "only failed rows"],
)
def test_files_that_are_refused_whole(content: str | bytes, rule: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError) as error:
        read(tmp_path, content, "own")
    assert str(error.value).startswith(f"{tmp_path / 'own'}: {rule}")


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_that_no_comma_separates_are_told(mark: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="its columns are separated by"):
        read(tmp_path, OWN.replace(",", mark) + "0;1;1\n", "own")
