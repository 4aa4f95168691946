"""Results kept by content: an answer is reused while the question and the code that answered it are unchanged.

The code counts by what it imports: the fingerprint of a system covers its own file and, transitively, every module of
this project that it imports, so that a change of the planner leaves the plain baselines' results alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

PACKAGE = "slosgate"


def folder() -> Path:
    """Where results are kept: $SLOSBENCH_CACHE, else the user's cache folder."""
    chosen = os.environ.get("SLOSBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "slosgate"


def remembered(
    question: dict[str, Any],
    modules: Iterable[str],
    answer: Callable[[], Any],
    *,
    alone: Iterable[str] = (),
    enough: Callable[[Any], bool] = lambda _: True,
) -> Any:
    """`answer()`, a JSON value, or what it was when the same question was asked of the same code.

    `modules` count with all they import, those in `alone` by themselves. An answer that is not `enough`, because it
    was broken off sooner than is wanted now, is replaced.
    """
    code = fingerprint(tuple(sorted(modules)), tuple(sorted(alone)))
    text = msgspec.json.encode([question, code], order="sorted")
    place = folder() / "runs" / f"{hashlib.sha256(text).hexdigest()}.json"
    try:
        known = msgspec.json.decode(place.read_bytes())
        if enough(known):
            return known
    except (OSError, msgspec.DecodeError):
        pass  # never asked, or written in part by a run that was killed
    value = answer()
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{os.getpid()}")
    part.write_bytes(msgspec.json.encode(value))
    os.replace(part, place)
    return value


@cache
def fingerprint(modules: tuple[str, ...], alone: tuple[str, ...] = ()) -> str:
    """Hash of these modules, of every module of this project that they import, and of the data files beside them.

    A module may be a user's own, too: it counts with what it imports of its own package and of this project.
    """
    digest = hashlib.sha256()
    ours = frozenset({PACKAGE, *(name.partition(".")[0] for name in modules)})
    paths = _files(modules, ours) | {path for name in alone if (path := _source(name, ours)) is not None}
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(modules: Iterable[str], ours: frozenset[str]) -> set[Path]:
    seen: set[str] = set()
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        source = _source(name, ours)
        if source is None or name in seen:
            continue
        seen.add(name)
        files.add(source)
        if name.partition(".")[0] == PACKAGE:
            files.update(p for p in source.parent.iterdir() if p.suffix in (".json", ".toml"))
        waiting += _imports(source)
    return files


def _source(name: str, ours: frozenset[str]) -> Path | None:
    """The file of a module of one of our packages; None for anything else."""
    if name.partition(".")[0] not in ours:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _imports(source: Path) -> list[str]:
    """Every module that may be meant: `from a import b` may mean a and a.b.

    The packages that a module stands in are left out: they would draw in all of its siblings.
    """
    found: list[str] = []
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
