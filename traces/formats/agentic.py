"""Sessions of coding agents: loops of calls on one growing context, with the tools' and the person's time between them.

A session as one JSON line:

    {"session", "calls": [[start_s, prompt_tokens, cached_tokens, output_tokens, depth, think_s]]}

cached_tokens of the prompt stand in an earlier prompt of the session (in blocks of 64 tokens), a depth above 0 is a
subagent's, and think_s passed before the call (null: not told). At least one token of every call is new. Calls that ran
side by side follow each other here. No arrivals: each session begins at 0 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import field, json_lines, seconds, tokens

FIELDS = ("start_s", "prompt_tokens", "cached_tokens", "output_tokens", "depth", "think_s")


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage a call. Sessions without calls are left out."""
    for line, row in json_lines(path):
        calls = field(row, "calls", path, line)
        if not isinstance(calls, list) or not all(isinstance(c, list) and len(c) == len(FIELDS) for c in calls):
            raise malformed(path, line, f"calls must be a list of lists of {', '.join(FIELDS)}")
        stages = tuple(_stages(calls, path, line, reading))
        if stages:
            yield TraceRequest(arrival_s=0.0, stages=stages)
        else:
            reading.dropped["no calls"] += 1


def _stages(calls: Sequence[Sequence[Any]], path: Path, line: int, reading: Reading) -> Iterator[Stage]:
    """Each with the time that passes before the next; calls without an output (cut off, say) are left out."""
    pauses_s = [0.0 if call[5] is None else seconds(call[5], "think_s", path, line) for call in calls[1:]]
    for call, pause_s in zip(calls, [*pauses_s, 0.0], strict=False):
        prompt, cached, output = (tokens(call[at], FIELDS[at], path, line) for at in (1, 2, 3))
        if prompt == 0 or output == 0:
            reading.dropped["calls without a prompt or an output"] += 1
            continue
        cached = min(cached, prompt - 1)
        yield Stage(prompt_tokens=prompt - cached, cached_tokens=cached, output_tokens=output, gap_s=pause_s)


FORMAT = Format(
    name="agentic",
    columns=f"session, calls[{', '.join(FIELDS)}]",
    timed=False,
    licence="Apache-2.0",
    citation="callanjfox/kv-cache-tester: sessions of a coding agent, 2026",
    read=read,
)
DATASETS = (
    Dataset(
        name="agentic-coding",
        title="sessions of a coding agent on a window of 128k, 112 sessions, 5,245 calls",
        format=FORMAT,
        files=("agentic_coding_sessions_128k.jsonl",),
        home="the folder traces of the repository callanjfox/kv-cache-tester (its own files can be named by path)",
        generator="agentic-coding",
    ),
)
