"""Which result rows are drawn, under which name and in which colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slosgate.bench.report.svg import number
from slosgate.bench.results import Row
from slosgate.engines.sim.systems import canonical

COLOURS = {
    "slosgate": "ours",
    "slosgate-ar": "ours2",
    "vllm": "b0",
    "vllm-v0": "b1",
    "sarathi": "b2",
    "distserve": "b3",
}
OTHERS = ("b4", "b5", "b6", "b7")
PALETTE = (*COLOURS.values(), *OTHERS, "kept", "missed", "sure", "maybe", "never")
LOAD = "scenario", "hardware", "replicas", "rate_rps", "concurrency", "think_time_s"
# What tells rows of one system and one load apart, in the order in which it is said.
APART: dict[str, Callable[[Row], str]] = {
    "mode": lambda r: str(r.get("mode", "")),
    "seed": lambda r: f"seed {r['seed']}" if "seed" in r else "",
    "file": lambda r: str(r.get("file", "")),
    "commit": lambda r: f"commit {str(r['commit'])[:8]}" if "commit" in r else "",
}


@dataclass(frozen=True)
class Series:
    """One row of one result, ready to be drawn."""

    row: Row
    name: str  # the same for one system at several rates
    colour: str
    dashed: bool = False  # a system's second measurement of one load has its colour

    @property
    def mark(self) -> str:
        """How a legend shows it."""
        return f"{self.colour} dashed" if self.dashed else self.colour

    @property
    def line(self) -> str:
        """The CSS classes of its curves."""
        return f"curve line-{self.colour}{' dashes' if self.dashed else ''}"


def series_of(rows: Sequence[Row]) -> list[Series]:
    """Rows with names that tell them apart within one load: the system, and whatever else differs there."""
    colours = colours_of(system(r) for r in rows)
    names = _names(rows)
    firsts: dict[str, str] = {}
    for row, name in zip(rows, names, strict=True):
        firsts.setdefault(system(row), name)
    return [
        Series(row, name, colours[system(row)], dashed=firsts[system(row)] != name)
        for row, name in zip(rows, names, strict=True)
    ]


def _names(rows: Sequence[Row]) -> list[str]:
    """A system's name, with what tells its rows of one load apart, where there are several."""
    apart: dict[str, list[str]] = {}
    for row in rows:
        same = [r for r in rows if system(r) == system(row) and load_of(r) == load_of(row)]
        known = apart.setdefault(system(row), [])
        for key in APART:
            if len({_said(r, [*known, key]) for r in same}) > len({_said(r, known) for r in same}):
                known.append(key)
    return [" · ".join(filter(None, (system(r), *_said(r, apart[system(r)])))) for r in rows]


def _said(row: Row, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(APART[key](row) for key in APART if key in keys)


def system(row: Row) -> str:
    """A row's system, as users know it."""
    return canonical(str(row.get("system", "")))


def load_of(row: Row) -> tuple[object, ...]:
    """What was offered, and on what: rows with the same may be compared."""
    return tuple(row.get(key) for key in LOAD)


def said_load(row: Row) -> str:
    """A load in words."""
    users = row.get("concurrency")
    how = f"{users} users" if users else f"{number(row['rate_rps'])} req/s" if "rate_rps" in row else ""
    return f"{row.get('scenario', '')} at {how}" if how else str(row.get("scenario", ""))


def said_place(row: Row) -> str:
    """What served it, in words."""
    replicas = row.get("replicas", 1)
    parts = [str(row.get("hardware", "")), f"{replicas} replicas" if replicas > 1 else ""]
    return ", ".join(filter(None, parts))


def colours_of(systems: Iterable[str]) -> dict[str, str]:
    """A name of the palette for each system: known ones keep theirs from page to page, the others share the rest."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(systems):
        base = name.removesuffix("+sd")
        free = [c for c in OTHERS if c not in found.values()] or OTHERS
        found[name] = COLOURS.get(base) or free[0]
    return found
