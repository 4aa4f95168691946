"""Mooncake (FAST'25): Kimi's requests of one hour, with the identity of their prefixes.

JSON lines with timestamp (milliseconds), input_length, output_length and hash_ids, one for each 512 tokens of the
prompt. Quirks: the recorded traces stand on a grid of 3 s (give or take 5 ms), so the requests of a step are spread
over it by a draw, in the file's order; the synthetic trace's times are exact and stay. The last block of a prompt may
be partly filled. The longest run of leading blocks that earlier requests had too becomes cached tokens: prefixes are
kept forever, the best that any cache could do. Other tools (aiperf) write the same form, some without hash_ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import field, json_lines, tokens
from slosgate.traces.times import SinceFirst

BLOCK_TOKENS = 512
STEP_MS = 3000
OFF_GRID_MS = 5
RECORDED_ROWS = 100  # shorter files are somebody's own, and mean the times that they give
REPOSITORY = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3b5a594133958449a1feaf1c9e0fc1b553e34a28/FAST25-release/traces"


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage with cached prefixes."""
    clock = SinceFirst(path, "timestamp", unit_s=1e-3)
    rows = (_checked(row, clock, path, line) for line, row in json_lines(path))
    first = list(islice(rows, RECORDED_ROWS))
    recorded = len(first) == RECORDED_ROWS
    spread_ms = STEP_MS if recorded and all(_off_grid_ms(time_ms) <= OFF_GRID_MS for time_ms, *_ in first) else 0
    known: set[int] = set()
    for step, together in groupby(chain(first, rows), key=lambda row: round(row[0] / STEP_MS) if spread_ms else row[0]):
        stages = [_stage(row, known, reading) for row in together]
        start_s = (step * STEP_MS if spread_ms else step) / 1000
        moved_s = sorted(reading.rng.random(len(stages)) * spread_ms / 1000)
        for stage, later_s in zip(stages, moved_s, strict=True):
            if stage is not None:
                yield TraceRequest(arrival_s=start_s + later_s, stages=(stage,))


def _off_grid_ms(time_ms: float) -> float:
    return abs(time_ms - round(time_ms / STEP_MS) * STEP_MS)


_Row = tuple[float, int, int, Sequence[int]]  # milliseconds, prompt and output tokens, block ids


def _checked(row: dict[str, Any], clock: SinceFirst, path: Path, line: int) -> _Row:
    time_ms = clock.arrival_s(field(row, "timestamp", path, line), line) * 1000
    prompt = tokens(field(row, "input_length", path, line), "input_length", path, line)
    output = tokens(field(row, "output_length", path, line), "output_length", path, line)
    blocks = row.get("hash_ids") or []  # other tools write the form without them
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise malformed(path, line, "hash_ids must be a list of whole numbers")
    if len(blocks) > -(-prompt // BLOCK_TOKENS):
        raise malformed(path, line, f"{len(blocks)} hash_ids are more than a prompt of {prompt} tokens has blocks")
    return time_ms, prompt, output, blocks


def _stage(row: _Row, known: set[int], reading: Reading) -> Stage | None:
    _, prompt, output, blocks = row
    hits = next((i for i, block in enumerate(blocks) if block not in known), len(blocks))
    known.update(blocks)
    if prompt == 0 or output == 0:
        reading.dropped["no prompt or no output tokens"] += 1
        return None
    cached = min(hits * BLOCK_TOKENS, prompt - 1)
    return Stage(
        prompt_tokens=prompt - cached, cached_tokens=cached, output_tokens=output,
        block_ids=tuple(blocks), id_tokens=BLOCK_TOKENS if blocks else 0,
    )  # fmt: skip


FORMAT = Format(
    name="mooncake",
    columns="timestamp, input_length, output_length, hash_ids",
    timed=True,
    licence="Apache-2.0",
    citation="Qin et al., Mooncake: Trading more storage for less computation, FAST 2025",
    read=read,
)
DATASETS = tuple(
    Dataset(
        name=f"mooncake-{workload}",
        title=f"Mooncake FAST'25, {title}",
        format=FORMAT,
        files=(f"{workload}_trace.jsonl", f"mooncake_{workload}_trace.jsonl"),
        url=f"{REPOSITORY}/{workload}_trace.jsonl",
        sha256=sha256,
        megabytes=megabytes,
    )
    for workload, title, sha256, megabytes in (
        (
            "conversation",
            "conversation, one hour, 12,031 requests",
            "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
            3,
        ),
        ("toolagent", "tools and agents, one hour, 23,608 requests", "", 5),
        (
            "synthetic",
            "from public data sets, Poisson arrivals, 3,993 requests",
            "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
            1.1,
        ),
    )
)
