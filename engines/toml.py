"""TOML files become checked records: every problem is told with its line and with what is accepted."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

Path = tuple[str, ...]  # of a key: the tables that it stands in, and its name
Record = TypeVar("Record", bound=Struct)


class Problem(Struct, frozen=True):
    line: int  # 1-based; 0 when the key stands nowhere (a missing one in a missing table)
    key: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class Unusable(Exception):
    """A file that can't be used; `problems` says why, key by key."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Lines:
    """Where keys stand in a text that has been parsed as TOML."""

    def __init__(self, text: str) -> None:
        self._lines = dict(_key_lines(text))

    def problem(self, path: Path, message: str) -> Problem:
        """A problem with a key, at its line or that of the innermost table around it that stands in the text."""
        place = path
        while place and place not in self._lines:
            place = place[:-1]
        return Problem(self._lines.get(place, 0), ".".join(path), message)


def tables(text: str) -> dict[str, Any]:
    """A text as TOML. Raises Unusable."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"line (\d+)", str(error))
        said = f"not TOML: {str(error).split(' (at ')[0]}"
        raise Unusable([Problem(int(where[1]) if where else 0, "", said)]) from None


def read(text: str, kind: type[Record]) -> Record:
    """A text as a record, whose tables are records or named tables of records. Raises Unusable with every problem."""
    found, lines = tables(text), Lines(text)
    problems = [lines.problem(path, message) for path, message in _problems(found, kind, ())]
    if problems:
        raise Unusable(sorted(problems, key=lambda problem: problem.line))
    return msgspec.convert(found, kind)


def _problems(value: Any, kind: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What keeps a value from becoming a `kind`."""
    if _is_record(kind):
        yield from _of_table(value, kind, path)
    elif get_origin(kind) is dict and _is_record(get_args(kind)[1]):
        if not isinstance(value, dict):
            yield path, f"must be tables: [{'.'.join(path)}.NAME]"
            return
        for name, entry in value.items():
            yield from _problems(entry, get_args(kind)[1], (*path, name))
    elif problem := of_value(value, kind):
        yield path, problem


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _of_table(value: Any, kind: type[Struct], path: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, dict):
        yield path, "must be a table"
        return
    for field in msgspec.structs.fields(kind):
        if field.name in value:
            yield from _problems(value[field.name], field.type, (*path, field.name))
        elif field.required:
            yield (*path, field.name), "is missing"
    for name in value.keys() - set(kind.__struct_fields__):
        yield (*path, name), f"unknown key; accepted: {', '.join(kind.__struct_fields__)}"


def of_value(value: Any, kind: Any) -> str:
    """What keeps a value from being of that type; empty when nothing does."""
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if str(error).startswith("Invalid enum value"):
            return f"must be one of {', '.join(map(str, _words(kind)))}, not {value!r}"
        return f"{_expected(str(error).split(' - at ')[0], kind)}, not {value!r}"
    if isinstance(converted, float) and not math.isfinite(converted):
        return f"Expected a finite number, not {value!r}"
    return ""


def _words(kind: Any) -> Iterator[Any]:
    """The values of every choice within a type."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
        return
    for part in get_args(kind):
        yield from _words(part)


def _expected(complaint: str, kind: Any) -> str:
    """What a table may hold, where one would do and msgspec only says that it is an object."""
    fields = [", ".join(part.__struct_fields__) for part in get_args(kind) if _is_record(part)]
    return complaint.replace("object", f"a table of {' or '.join(fields)}") if fields else complaint


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_PART = re.compile(r"""\s*("[^"]*"|'[^']*'|[^.]+)""")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


def _key_lines(text: str) -> Iterator[tuple[Path, int]]:
    table: Path = ()
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _path(header[2])
            if header[1] == "[[":
                index = seen[header[2]] = seen.get(header[2], -1) + 1
                table = (*table, str(index))
            yield table, number
        elif key := _KEY.match(line):
            yield (*table, *_path(key[1])), number


def _path(dotted: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in _PART.findall(dotted))
