"""A trace of one's own, CSV or JSON lines.

CSV with the columns arrival_s, prompt_tokens, output_tokens, or only the last two when it gives lengths without
arrivals. JSON lines with the same fields, and optionally cached_tokens, or a list `stages` of objects with
prompt_tokens, output_tokens, cached_tokens and gap_s for requests of several stages. arrival_s counts from a start of
the file's own; Unix times, in seconds or smaller units, and dates start at the first row. Lengths may also have the
names that other tools give them, and a JSON line the prompt itself (`prompt` or `text`), whose tokens are estimated.

A column that looks like arrival times and isn't called so is refused: a load should not be measured without its times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import CountTokens, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import csv_header, csv_rows, first_character, json_lines, seconds, tokens
from slosgate.traces.times import Moments, SinceFirst, is_moment

LENGTHS = ("prompt_tokens", "output_tokens")
TIMED = ("arrival_s", *LENGTHS)
OPTIONAL = ("cached_tokens", "gap_s", "stages")
PROMPTS = ("prompt_tokens", "prompt_tokens_count", "input_tokens", "input_length", "prompt_len", "input_len")
OUTPUTS = (
    "output_tokens", "output_tokens_count", "completion_tokens", "output_length", "expected_output_len", "output_len",
)  # fmt: skip
TEXTS = ("prompt", "text", "text_input")
_LIKE_TIMES = ("arriv", "time", "stamp", "date", "delay")
# Parts between underscores: columns of times have short names.
_TIME_WORDS = frozenset({
    "arr", "at", "began", "begin", "clock", "created", "epoch", "micros", "millis", "ms", "ns", "offset", "s", "sec",
    "second", "seconds", "secs", "sent", "start", "started", "t", "tick", "ts", "unix", "us", "when",
})  # fmt: skip
_NO_TIMES = (
    "timeout",
    "latency",
    "update",
    "lifetime",
    "duration",
    "ttft",
    "tpot",
    "itl",
    "e2e",
    "gap",
    "think",
    "slo",
)
_LIKE = (("cached_tokens", ("cached", "prefix_tokens", "prefix_len")), ("gap_s", ("gap", "think_time")))
_ALIKE = 0.85


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests by arrival. A row that no request can have (no prompt, no output) is an error: it is one's own file."""
    return _read_json(path, reading) if first_character(path) == "{" else _read_csv(path)


def read_lengths(path: Path, columns: tuple[str, str], reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage, all at 0 s, from two columns of a CSV file; rows without output are left out."""
    for line, (prompt, output) in csv_rows(path, columns):
        prompt_tokens = tokens(prompt, columns[0], path, line)
        output_tokens = tokens(output, columns[1], path, line)
        yield from reading.single(0.0, prompt_tokens, output_tokens)


def _read_csv(path: Path) -> Iterator[TraceRequest]:
    header = csv_header(path)
    names = [name.casefold() for name in header]
    timed = ("arrival_s",) if "arrival_s" in names else ()
    if header:
        _no_misspelt(header, path, 1)
    lengths = tuple(next((name for name in accepted if name in names), accepted[0]) for accepted in (PROMPTS, OUTPUTS))
    optional = tuple(name for name in ("cached_tokens", "gap_s") if name in names)
    columns = (*timed, *lengths, *optional)
    arrivals = _Arrivals(path)
    for line, fields in csv_rows(path, columns):
        row = dict(zip(columns, fields, strict=True))
        yield TraceRequest(arrival_s=arrivals.of(row, line), stages=(_stage(row, path, line, None),))


def _read_json(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    arrivals = _Arrivals(path)
    for line, written in json_lines(path):
        row = _lower(written, path, line)
        _no_misspelt(row, path, line)
        stages = row.get("stages", [row])
        if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
            raise malformed(path, line, "stages must be a list of one or more objects")
        stages = [_lower(stage, path, line) for stage in stages]
        for stage in stages if "stages" in row else ():
            _no_misspelt(stage, path, line)
        arrival_s = arrivals.of(row, line)
        yield TraceRequest(
            arrival_s=arrival_s, stages=tuple(_stage(stage, path, line, reading.count_tokens) for stage in stages)
        )


def _lower(row: Mapping[str, Any], path: Path, line: int) -> dict[str, Any]:
    """The case of names means nothing, in JSON as in CSV. Raises TraceError where it alone tells two apart."""
    lower = {name.strip().casefold(): value for name, value in row.items()}
    if len(lower) < len(row):
        names = [name.strip().casefold() for name in row]
        twice = next(name for name in lower if names.count(name) > 1)
        raise malformed(path, line, f"the field {twice} stands there twice")
    return lower


class _Arrivals:
    """The arrival times of a file: in every row or in none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: SinceFirst | Moments | None = None
        self._timed: bool | None = None

    def of(self, row: Mapping[str, Any], line: int) -> float:
        timed = "arrival_s" in row
        if self._timed is None:
            self._timed = timed
        if timed != self._timed:
            rule = "is missing, but the first row has it" if self._timed else "stands here, but not in the first row"
            raise malformed(self._path, line, f"the field arrival_s {rule}")
        if not timed:
            return 0.0
        value = row["arrival_s"]
        if self._times is None:
            self._times = (Moments if is_moment(value) else SinceFirst)(self._path, "arrival_s")
        return self._times.arrival_s(value, line)


def _no_misspelt(names: Iterable[str], path: Path, line: int) -> None:
    """Raises TraceError for a name that looks like one that is read, but isn't."""
    known = (*TIMED, *OPTIONAL, *PROMPTS, *OUTPUTS)
    timed = False
    others = []
    for name in names:
        plain = name.casefold().replace(" ", "_").replace("-", "_")
        timed |= name.casefold() == "arrival_s"
        if name.casefold() not in known:
            others.append((name, plain))
    for name, plain in others:
        if not timed and _looks_like_times(plain):
            raise malformed(
                path,
                line,
                f"the field {name} looks like arrival times, but is not read; accepted: arrival_s, in seconds from a "
                f"start, as Unix time or as a date (without arrival times: leave {name} out)",
            )
        meant = [field for field, parts in _LIKE if any(plain.startswith(part) for part in parts)]
        meant = meant or get_close_matches(plain, known[1:] if timed else known, 1, _ALIKE)
        if meant:
            raise malformed(path, line, f"the field {name} is not known; did you mean {meant[0]}?")


def _looks_like_times(name: str) -> bool:
    if any(part in name for part in _NO_TIMES):
        return False
    return any(part in name for part in _LIKE_TIMES) or not _TIME_WORDS.isdisjoint(name.split("_"))


def _length(row: Mapping[str, Any], accepted: tuple[str, ...], path: Path, line: int) -> int:
    name = next((name for name in accepted if name in row), None)
    if name is None:
        raise malformed(path, line, f"the field {accepted[0]} is missing; found {', '.join(row) or 'none'}")
    return tokens(row[name], name, path, line)


def _prompt(row: Mapping[str, Any], path: Path, line: int, count_tokens: CountTokens | None) -> int:
    """As counted in the row, or by its text."""
    if count_tokens is not None and not any(name in row for name in PROMPTS):
        text = next((row[name] for name in TEXTS if name in row), None)
        if isinstance(text, str):
            return count_tokens(text)
    return _length(row, PROMPTS, path, line)


def _stage(row: Mapping[str, Any], path: Path, line: int, count_tokens: CountTokens | None) -> Stage:
    prompt_tokens = _prompt(row, path, line, count_tokens)
    output_tokens = _length(row, OUTPUTS, path, line)
    cached_tokens = tokens(row.get("cached_tokens", 0), "cached_tokens", path, line)
    gap_s = seconds(row.get("gap_s", 0.0), "gap_s", path, line)
    try:
        return Stage(prompt_tokens=prompt_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens, gap_s=gap_s)
    except ValueError as error:
        raise malformed(path, line, str(error)) from None


FORMAT = Format(name="plain", columns=", ".join(TIMED), timed=True, licence="", citation="", read=read)
