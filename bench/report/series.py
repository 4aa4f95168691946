"""Which result rows are drawn, under which name and in which colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slosgate.bench.report.svg import number
from slosgate.bench.results import Row

OTHERS = ("b4", "b5", "b2", "b3")
COLOURS = {
    "slosgate": "ours",
    "slosgate-ar": "ours2",
    "vllm": "b0",
    "vllm-v0": "b1",
    "sarathi": "b2",
    "distserve": "b3",
}
PALETTE = ("ours", "ours2", "b0", "b1", "b2", "b3", "b4", "b5", "good", "bad", "warn")


@dataclass(frozen=True)
class Series:
    """One row of one result, ready to be drawn."""

    row: Row
    name: str
    colour: str


def series_of(rows: Sequence[Row]) -> list[Series]:
    """Rows with names that tell them apart: the system, and whatever else differs between them."""
    parts: dict[str, Callable[[Row], str]] = {
        "scenario": lambda r: str(r.get("scenario", "")),
        "rate_rps": lambda r: f"{number(r['rate_rps'])} req/s" if "rate_rps" in r else "",
        "hardware": lambda r: str(r.get("hardware", "")),
        "replicas": lambda r: f"{r['replicas']} replicas" if "replicas" in r else "",
        "mode": lambda r: str(r.get("mode", "")),
        "seed": lambda r: f"seed {r['seed']}" if "seed" in r else "",
    }
    differing = [say for key, say in parts.items() if len({str(r.get(key)) for r in rows}) > 1]
    return [Series(r, " · ".join([r["system"], *filter(None, (say(r) for say in differing))]), colour(r)) for r in rows]


def colour(row: Row) -> str:
    """A name of the palette; a system keeps its colour from page to page."""
    system = str(row["system"]).removesuffix("+sd")
    return COLOURS.get(system) or OTHERS[sum(system.encode()) % len(OTHERS)]
