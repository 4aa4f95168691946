"""s1K: reasoning problems with the thinking and the answer of a reasoning model, 1,000 rows.

Lengths as prompt_tokens, think_tokens, answer_tokens (DeepSeek's tokenizer), or the original rows (JSON lines with
question, thinking_trajectories, attempt) counted by the tokenizer given. A request has two stages, think and
respond. The second has no new prompt: the model goes on in the same call, under another SLO. No arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import csv_rows, field, json_lines, open_text, tokens

COLUMNS = ("prompt_tokens", "think_tokens", "answer_tokens")


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of two stages, think and respond; rows that lack either are left out."""
    with open_text(path) as text:
        looks_like_json = text.read(1) == "{"
    for prompt, think, answer in _from_text(path, reading) if looks_like_json else _from_lengths(path):
        if 0 in (prompt, think, answer):
            reading.dropped["no prompt, thinking or answer"] += 1
            continue
        yield TraceRequest(arrival_s=0.0, stages=think_then_respond(prompt, think, answer))


def think_then_respond(prompt: int, think: int, answer: int) -> tuple[Stage, Stage]:
    """The two stages of a reasoning request, in tokens."""
    thinking = Stage(prompt_tokens=prompt, output_tokens=think)
    return thinking, Stage(prompt_tokens=0, cached_tokens=prompt + think, output_tokens=answer)


def _from_lengths(path: Path) -> Iterator[tuple[int, int, int]]:
    for line, fields in csv_rows(path, COLUMNS):
        prompt, think, answer = (tokens(text, name, path, line) for text, name in zip(fields, COLUMNS, strict=True))
        yield prompt, think, answer


def _from_text(path: Path, reading: Reading) -> Iterator[tuple[int, int, int]]:
    for line, row in json_lines(path):
        yield (
            reading.count_tokens(str(field(row, "question", path, line))),
            reading.count_tokens(_joined(row, "thinking_trajectories", path, line)),
            reading.count_tokens(str(field(row, "attempt", path, line))),
        )


def _joined(row: dict[str, Any], name: str, path: Path, line: int) -> str:
    """s1K keeps the thinking as a list of texts."""
    value = field(row, name, path, line)
    if not isinstance(value, str | list):
        raise malformed(path, line, f"{name} must be a text or a list of texts")
    return value if isinstance(value, str) else "\n".join(map(str, value))


FORMAT = Format(
    name="s1k",
    columns=", ".join(COLUMNS),
    timed=False,
    licence="Apache-2.0",
    citation="Muennighoff et al., s1: Simple test-time scaling, 2025",
    read=read,
)
DATASETS = (
    Dataset(
        name="s1k",
        title="s1K reasoning: prompt, thinking and answer lengths, 1,000 problems",
        format=FORMAT,
        files=("s1k_reasoning_lengths.csv", "s1K.jsonl"),
        home="the rows of simplescaling/s1K on Hugging Face, saved as JSON lines",
        generator="s1k",
    ),
)
