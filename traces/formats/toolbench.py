"""ToolBench: tasks solved by a loop of calls, each followed by a tool whose result enters the next prompt.

Loops as JSON lines: {"task", "stages": [{"prompt_tokens", "output_tokens", "tool_result_tokens"}]}, where
prompt_tokens is the whole prompt of a call. The original answers (one JSON file a task, `answer_generation` with
`train_messages` and `function`; a task that was given up may lack the messages) are read from a folder and counted by
the tokenizer given. What a call shares with the one before it (its prompt and output) is cached; at least one token
of every call is new. No arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from slosgate.traces.errors import TraceError, malformed
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import field, json_lines, tokens

Call = tuple[int, int]  # whole prompt, output; tokens


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage a call. Tasks without calls are left out."""
    loops = _from_answers(path, reading) if path.is_dir() else _from_lengths(path)
    for calls in loops:
        if not calls:
            reading.dropped["no calls"] += 1
            continue
        yield TraceRequest(arrival_s=0.0, stages=loop(calls))


def loop(calls: Sequence[Call]) -> tuple[Stage, ...]:
    """The stages of a loop from the whole prompt and the output of each call."""
    stages: list[Stage] = []
    before = 0  # tokens whose KV the calls so far left behind
    for prompt, output in calls:
        cached = min(before, prompt - 1)
        stages.append(Stage(prompt_tokens=prompt - cached, cached_tokens=cached, output_tokens=output))
        before = prompt + output
    return tuple(stages)


def _from_lengths(path: Path) -> Iterator[list[Call]]:
    for line, row in json_lines(path):
        stages = field(row, "stages", path, line)
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise malformed(path, line, "stages must be a list of objects")
        yield [_call(stage, path, line) for stage in stages]


def _call(stage: dict[str, Any], path: Path, line: int) -> Call:
    prompt, output = (
        tokens(field(stage, name, path, line), name, path, line) for name in ("prompt_tokens", "output_tokens")
    )
    if prompt == 0 or output == 0:
        raise malformed(path, line, "a call needs at least one prompt token and one output token")
    return prompt, output


def _from_answers(folder: Path, reading: Reading) -> Iterator[list[Call]]:
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise TraceError(f"{folder}: no ToolBench answers (*.json) in this folder")
    for file in files:
        try:
            answer = msgspec.json.decode(file.read_bytes())["answer_generation"]
            functions = msgspec.json.encode(answer["function"]).decode()
            yield [_count(call, functions, reading) for call in answer.get("train_messages", [])]
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            raise malformed(file, 1, f"not a ToolBench answer: {error}") from None


def _count(messages: Sequence[dict[str, Any]], functions: str, reading: Reading) -> Call:
    """A call's last message is the model's; the tool descriptions stand in every prompt."""
    *prompt, output = (f"{message.get('content') or ''}{message.get('function_call') or ''}" for message in messages)
    return reading.count_tokens(functions + "\n".join(prompt)), max(1, reading.count_tokens(output))


FORMAT = Format(
    name="toolbench",
    columns="stages[prompt_tokens, output_tokens, tool_result_tokens]",
    timed=False,
    licence="Apache-2.0",
    citation="Qin et al., ToolLLM: Facilitating large language models to master 16000+ real-world APIs, ICLR 2024",
    read=read,
)
DATASETS = (
    Dataset(
        name="toolbench",
        title="ToolBench loops: calls with tool results between them, 13 published example tasks",
        format=FORMAT,
        files=("toolbench_example15_loops.jsonl", "toolbench_answers"),
        home="the folder data_example/answer of the repository OpenBMB/ToolBench",
        generator="toolbench",
    ),
)
