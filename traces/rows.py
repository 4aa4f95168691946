"""Reading rows: plain or gzip text, CSV by column name, JSON lines. Every complaint names file, line and rule."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec

from slosgate.traces.errors import TraceError, malformed

MOST_TOKENS = 1_000_000_000
GZIP_MAGIC = b"\x1f\x8b"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what spreadsheets call Unicode text
OTHERS = (
    (b"PAR1", "Parquet"),
    (b"PK\x03\x04", "a zip archive or a workbook"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"(\xb5/\xfd", "Zstandard"),
    (b"SQLite format 3", "SQLite"),
)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as text, line by line; gzip is known by its first bytes, not by the name. Raises TraceError."""
    with unpacking(path):
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        opened = gzip.open if packed else open
        with opened(path, "rb") as file:
            encoding = _encoding(path, file.read(16))
        with opened(path, "rt", encoding=encoding, newline="") as text:
            yield text


def _encoding(path: Path, begin: bytes) -> str:
    """Of a text that begins so. Raises TraceError for what is no text."""
    for magic, name in OTHERS:
        if begin.startswith(magic):
            raise TraceError(f"{path}: is {name}; accepted: CSV or JSON lines, as text or gzip")
    return "utf-16" if begin.startswith(UTF_16) else "utf-8-sig"


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Names the file when it cannot be read, is truncated, damaged or no text. Raises TraceError."""
    try:
        yield
    except EOFError:
        raise TraceError(f"{path}: the gzip data ends in the middle: the download is incomplete") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: the gzip data is damaged: {error}") from None
    except csv.Error as error:
        raise TraceError(f"{path}: not CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file in UTF-8 or UTF-16: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None


def csv_header(path: Path) -> tuple[str, ...]:
    """The column names in the first line that is not blank."""
    with open_text(path) as text:
        return _header(csv.reader(text, strict=True))


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line, fields in the order of `columns`) for each row that is not blank; further columns are ignored, and so is
    the case of names.

    Reads lazily: what the caller does not ask for is not read.
    """
    with open_text(path) as text:
        reader = csv.reader(text, strict=True)  # else a quote that nothing closes swallows the rows behind it
        header = _header(reader)
        names = [name.casefold() for name in header]
        missing = [name for name in columns if name.casefold() not in names]
        if missing:
            raise malformed(
                path,
                max(1, reader.line_num),
                f"wrong columns: {', '.join(missing)} missing; found {', '.join(header) or 'none'}",
            )
        if twice := [name for name in columns if names.count(name.casefold()) > 1]:
            raise malformed(path, reader.line_num, f"the column {twice[0]} stands there twice")
        picked = [names.index(name.casefold()) for name in columns]
        for fields in reader:
            if not any(value.strip() for value in fields):
                continue
            if len(fields) != len(header):
                raise malformed(path, reader.line_num, f"expected {len(header)} fields, found {len(fields)}")
            yield reader.line_num, [fields[i].strip() for i in picked]


def _header(reader: Iterator[list[str]]) -> tuple[str, ...]:
    names = next((fields for fields in reader if any(name.strip() for name in fields)), [])
    if len(names) == 1 and (found := [mark for mark in (";", "\t", "|") if mark in names[0]]):
        raise csv.Error(f"its columns are separated by {found[0]!r}; accepted: commas")
    return tuple(name.strip() for name in names)


def first_character(path: Path) -> str:
    """The first that is not blank; empty for an empty file."""
    with open_text(path) as text:
        return next((line.strip()[0] for line in text if line.strip()), "")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) for each line that is not blank."""
    with open_text(path) as text:
        for line, row in enumerate(text, start=1):
            if not row.strip():
                continue
            try:
                value = msgspec.json.decode(row)
            except (msgspec.DecodeError, RecursionError) as error:
                raise malformed(path, line, f"not a JSON object: {error}") from None
            if not isinstance(value, dict):
                raise malformed(path, line, f"expected a JSON object, found {type(value).__name__}")
            yield line, value


def field(row: Mapping[str, Any], name: str, path: Path, line: int) -> Any:
    """`row[name]`. Raises TraceError when it is missing."""
    if name not in row:
        raise malformed(path, line, f"the field {name} is missing; found {', '.join(row) or 'none'}")
    return row[name]


def number(value: object) -> float:
    """The number that a field holds, also as text; not a number for anything else."""
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        return math.nan  # Python would read it, other tools wouldn't
    try:
        return float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def tokens(value: object, name: str, path: Path, line: int) -> int:
    """A token count: a whole number from 0, also one written as 12.0. Raises TraceError."""
    count = number(value)
    if not count.is_integer():
        raise malformed(path, line, f"{name} must be a whole number of tokens, not {value!r}")
    if count < 0:
        raise malformed(path, line, f"negative tokens: {name} is {count:.0f}; accepted: whole numbers from 0")
    if count > MOST_TOKENS:
        raise malformed(path, line, f"{name} is {count:g}; accepted: up to {MOST_TOKENS:,} tokens")
    return int(count)


def seconds(value: object, name: str, path: Path, line: int) -> float:
    """A time in seconds, finite and not negative. Raises TraceError."""
    time_s = number(value)
    if not 0 <= time_s < math.inf:
        raise malformed(path, line, f"{name} must be a time from 0 in seconds, not {value!r}")
    return time_s


class Clock:
    """Checks that times never fall from row to row; equal times are fine."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name, self._last = path, name, -math.inf

    def check(self, time_s: float, line: int) -> float:
        """`time_s`. Raises TraceError when it lies before the row above."""
        if time_s < self._last:
            rule = f"unsorted times: {self._name} lies {self._last - time_s:g} s before the row above"
            raise malformed(self._path, line, f"{rule}; sort the file by {self._name}")
        self._last = time_s
        return time_s
