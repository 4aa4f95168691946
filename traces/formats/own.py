"""A file at a path: of one's own (plain.py), or in the form of a public trace, which its first row shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from slosgate.traces.errors import TraceError, malformed
from slosgate.traces.formats import agentic, azure_2023, burstgpt, mooncake, otel, plain, weka
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import csv_header, first_character, json_lines, open_text


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests by arrival. Raises TraceError for a form that nothing here reads, naming line and field."""
    if path.is_dir():
        return weka.read(path, reading)
    first = first_character(path)
    if first == "[":
        raise malformed(path, 1, "a JSON array; accepted: one JSON object a line, or CSV")
    if first != "{":
        header = {name.casefold() for name in csv_header(path)}
        for form, columns in ((azure_2023.FORMAT, azure_2023.COLUMNS), (burstgpt.FORMAT, burstgpt.COLUMNS)):
            if header.issuperset(name.casefold() for name in columns):
                return form.read(path, reading)
        return plain.read(path, reading)
    line, row = _first_object(path)
    if weka.is_session(row):
        return weka.read(path, reading)
    if otel.is_span(row):
        return otel.read(path, reading)
    if "calls" in row and "session" in row:
        return agentic.read(path, reading)
    if _is_mooncake(row, path, line):
        return mooncake.read(path, reading)
    return plain.read(path, reading)


def _first_object(path: Path) -> tuple[int, dict[str, Any]]:
    """The first line's; a file that is one object over many lines shows its own names."""
    try:
        return next(json_lines(path))
    except TraceError:
        with open_text(path) as text, suppress(msgspec.DecodeError, RecursionError):
            found = msgspec.json.decode(text.read())
            if isinstance(found, dict):
                return 1, found
        raise


def _is_mooncake(row: dict[str, Any], path: Path, line: int) -> bool:
    """Mooncake's names with times in milliseconds; Bailian's traces have the same names, and seconds."""
    if not ("timestamp" in row and "input_length" in row):
        return False
    if "chat_id" in row:
        rule = "timestamp is in seconds where there is a chat_id (Bailian); accepted: call it arrival_s"
        raise malformed(path, line, rule)
    return True


FORMAT = Format(name="plain", columns=plain.FORMAT.columns, timed=True, licence="", citation="", read=read)
