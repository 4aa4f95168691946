"""HumanEval: lengths of 164 Python problems.

Lengths as CSV with task_id and prompt/output tokens by tokenizer (DeepSeek's are used); the original JSON lines have
task_id, prompt, canonical_solution, test and entry_point, and are counted by the tokenizer given. No arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.formats.text import read_pairs
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import open_text

LENGTHS = ("prompt_tokens_deepseek", "output_tokens_deepseek")


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage: the problem is the prompt, the reference solution the output."""
    with open_text(path) as text:
        if text.read(1) == "{":
            return read_pairs(path, "prompt", "canonical_solution", reading)
    return plain.read_lengths(path, LENGTHS, reading)


FORMAT = Format(
    name="humaneval",
    columns="task_id, prompt, canonical_solution",
    timed=False,
    licence="MIT",
    citation="Chen et al., Evaluating large language models trained on code, 2021",
    read=read,
)
DATASETS = (
    Dataset(
        name="humaneval",
        title="HumanEval, 164 Python problems with their texts",
        format=FORMAT,
        files=("HumanEval.jsonl", "humaneval_lengths.csv"),
        url="https://raw.githubusercontent.com/openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data/"
        "HumanEval.jsonl.gz",
        sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        megabytes=0.05,
        automatic=True,
        generator="humaneval",
    ),
)
