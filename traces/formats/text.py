"""Data sets that are text: prompts and answers, counted by the tokenizer that the reader is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slosgate.traces.formats.base import Reading
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import field, json_lines


def read_pairs(path: Path, prompt: str, output: str, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage, all at 0 s, from two text fields of JSON lines; rows with an empty text are left out."""
    for line, row in json_lines(path):
        texts = [str(field(row, name, path, line)) for name in (prompt, output)]
        prompt_tokens, output_tokens = (reading.count_tokens(text) if text else 0 for text in texts)
        yield from reading.single(0.0, prompt_tokens, output_tokens, "an empty text")
