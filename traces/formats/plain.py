"""A trace of one's own, CSV or JSON lines.

CSV with the columns arrival_s, prompt_tokens, output_tokens, or only the last two when it gives lengths without
arrivals. JSON lines with the same fields, and optionally cached_tokens, or a list `stages` of objects with
prompt_tokens, output_tokens, cached_tokens and gap_s for requests of several stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import Clock, csv_header, csv_rows, field, json_lines, open_text, seconds, tokens

LENGTHS = ("prompt_tokens", "output_tokens")
TIMED = ("arrival_s", *LENGTHS)


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests by arrival. A row that no request can have (no prompt, no output) is an error: it is one's own file."""
    with open_text(path) as text:
        looks_like_json = text.read(1) == "{"
    return _read_json(path) if looks_like_json else _read_csv(path)


def read_lengths(path: Path, columns: tuple[str, str], reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage, all at 0 s, from two columns of a CSV file; rows without output are left out."""
    for line, (prompt, output) in csv_rows(path, columns):
        prompt_tokens = tokens(prompt, columns[0], path, line)
        output_tokens = tokens(output, columns[1], path, line)
        if prompt_tokens == 0 or output_tokens == 0:
            reading.dropped["no prompt or no output tokens"] += 1
            continue
        yield TraceRequest(arrival_s=0.0, stages=(Stage(prompt_tokens=prompt_tokens, output_tokens=output_tokens),))


def _read_csv(path: Path) -> Iterator[TraceRequest]:
    columns = TIMED if "arrival_s" in csv_header(path) else LENGTHS
    clock = Clock(path, "arrival_s")
    for line, fields in csv_rows(path, columns):
        row = dict(zip(columns, fields, strict=True))
        yield _request(row, [row], clock, path, line)


def _read_json(path: Path) -> Iterator[TraceRequest]:
    clock = Clock(path, "arrival_s")
    for line, row in json_lines(path):
        stages = row.get("stages", [row])
        if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
            raise malformed(path, line, "stages must be a list of one or more objects")
        yield _request(row, stages, clock, path, line)


def _request(
    row: Mapping[str, Any], stages: list[Mapping[str, Any]], clock: Clock, path: Path, line: int
) -> TraceRequest:
    arrival_s = clock.check(seconds(row.get("arrival_s", 0.0), "arrival_s", path, line), line)
    return TraceRequest(arrival_s=arrival_s, stages=tuple(_stage(stage, path, line) for stage in stages))


def _stage(row: Mapping[str, Any], path: Path, line: int) -> Stage:
    try:
        return Stage(
            prompt_tokens=tokens(field(row, "prompt_tokens", path, line), "prompt_tokens", path, line),
            output_tokens=tokens(field(row, "output_tokens", path, line), "output_tokens", path, line),
            cached_tokens=tokens(row.get("cached_tokens", 0), "cached_tokens", path, line),
            gap_s=seconds(row.get("gap_s", 0.0), "gap_s", path, line),
        )
    except ValueError as error:
        raise error if str(path) in str(error) else malformed(path, line, str(error)) from None


FORMAT = Format(name="plain", columns=", ".join(TIMED), timed=True, licence="", citation="", read=read)
