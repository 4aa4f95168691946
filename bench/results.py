"""Result files: what was run, on what, and what came out. Every command writes this one form."""

from __future__ import annotations

import csv as tables
import datetime
import os
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from slosgate.bench.errors import InputError

Row = dict[str, Any]


class Result(msgspec.Struct, kw_only=True):
    """One run of one command. `config` holds every option by name; `rows` are the table, plain JSON values."""

    command: str
    config: dict[str, Any]
    seed: int
    commit: str
    hardware: str
    started_at: str  # UTC, ISO 8601
    rows: list[Row] = []


def begin(command: str, config: dict[str, Any], *, seed: int, hardware: str) -> Result:
    """A result without rows, stamped with the time and the code's version."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Result(command=command, config=config, seed=seed, commit=code_version(), hardware=hardware, started_at=now)


def check(*paths: Path | None) -> None:
    """Whether files can be written there, so that no run is in vain; missing folders are made. Raises InputError."""
    for path in filter(None, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
        if path.is_dir():
            raise InputError(f"cannot write {str(path)!r}: it is a folder")


def write(result: Result, path: Path) -> None:
    """Write the file whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=1)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as part:
        part.write(text + b"\n")
    os.chmod(part.name, 0o644)  # a temporary file is private; a result is not
    os.replace(part.name, path)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a table of their plain values; missing folders are made."""
    columns = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, dict | list))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = tables.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def keep(result: Result, console: Console, json: Path | None, csv: Path | None = None) -> None:
    """Write the files that were asked for, and say so."""
    if json is not None:
        write(result, json)
        console.print(f"wrote {json}")
    if csv is not None:
        write_csv(result.rows, csv)
        console.print(f"wrote {csv}")


def read(path: Path) -> Result:
    """Raises InputError when the file is missing or is no result."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as error:
        raise InputError(f"cannot read the result {str(path)!r}: {error.strerror}") from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"{str(path)!r} is no result file of slosbench: {error}") from None


def code_version() -> str:
    """The checkout's commit (`-dirty` with local changes), outside of one the installed version, else "unknown"."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or files that were copied without it
    try:
        return metadata.version("slosgate")
    except metadata.PackageNotFoundError:
        return "unknown"
