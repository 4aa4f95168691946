"""What slosgate carries over what the best other system does, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from slosgate.bench.report.html import FULL, figure, legend, section
from slosgate.bench.report.series import system
from slosgate.bench.report.svg import Drawing, Frame, linear_scale, linear_ticks, number, text_width
from slosgate.bench.results import Result, Row

OURS = "slosgate"
STEP, BAR = 30.0, 16.0


@dataclass(frozen=True)
class _Gain:
    """Of one scenario, or the mean of all."""

    name: str
    gain: float
    also: float | None = None  # with further baselines among those compared


def section_of(results: Sequence[Result]) -> str:
    """A section for each result that compares slosgate with others."""
    return "".join(_section(r) for r in results)


def _section(result: Result) -> str:
    rows = [row for row in result.rows if "capacity_rps_per_gpu" in row]
    told = result.config if "gains_paper" in result.config else None
    found = _told(told) if told else _computed(rows)
    if not found:
        return ""
    paper = float(told["paper_gain"]) if told else None
    key = [("ours", "gain"), ("slo", "1: the same")]
    note = "Capacity per GPU of slosgate over that of the best other system, each on as many GPUs as that one takes. "
    if told:
        key += [("bound", "with Sarathi-Serve tuned among the others")]
        note += f"The paper reports a mean of {paper:g}, the geometric one here is {found[-1].gain:.2f}."
    return section("Gain", legend(key) + figure(partial(_drawn, found), FULL), note)


def _told(config: dict[str, Any]) -> list[_Gain]:
    """As `slosbench reproduce headline` has found them."""
    tuned = config.get("gains_tuned", {})
    each = [_Gain(name, gain, tuned.get(name)) for name, gain in config["gains_paper"].items()]
    mean = _Gain("geometric mean", config["geometric_mean_gain_paper"], config.get("geometric_mean_gain_tuned"))
    return [*each, mean]


def _computed(rows: Sequence[Row]) -> list[_Gain]:
    """Of any capacities: by scenario, hardware, replicas and target, over the best other system on as many GPUs."""
    found = []
    for load in dict.fromkeys(map(_load, rows)):
        some = [r for r in rows if _load(r) == load]
        ours = {r["gpus"]: r["capacity_rps_per_gpu"] for r in some if system(r) == OURS}
        others = [
            r["capacity_rps_per_gpu"] for r in some if not system(r).startswith(OURS) and r["gpus"] in ours
        ]  # the ablations of slosgate are no other systems
        if ours and any(others):
            found.append(_Gain(_said(some[0], rows), next(iter(ours.values())) / max(others)))
    return found


def _load(row: Row) -> tuple[object, ...]:
    return row["scenario"], row["hardware"], row["replicas"], row["attainment_target"]


def _said(row: Row, rows: Sequence[Row]) -> str:
    """The scenario, and of the rest what differs between the rows of that scenario."""
    same = [r for r in rows if r["scenario"] == row["scenario"]]
    parts = {
        "hardware": row["hardware"],
        "replicas": "one replica" if row["replicas"] == 1 else f"{row['replicas']} replicas",
        "attainment_target": f"{row['attainment_target']:.0%}",
    }
    return ", ".join([row["scenario"], *(said for key, said in parts.items() if len({r[key] for r in same}) > 1)])


def _drawn(found: Sequence[_Gain], width: float) -> Drawing:
    stacked = width < FULL
    step = STEP + 12 if stacked else STEP
    drawing = Drawing(width, step * len(found) + 48, "Gain of slosgate over the best other system")
    left = 4.0 if stacked else 18 + max(text_width(one.name) for one in found)
    right, bottom = width - 70, drawing.height - 40
    high = 1.05 * max([1.5, *(one.gain for one in found), *(one.also or 0.0 for one in found)])
    x = linear_scale((0.0, high), (left, right))
    axis = Frame(drawing, left, 2, right, bottom, x, lambda value: value)
    axis.x_axis([(v, number(v)) for v in linear_ticks(high, 4 if stacked else 8)], "times the best other system")
    for n, one in enumerate(found):
        top = step * n + (20 if stacked else 8)
        if stacked:
            drawing.text(left, top - 5, one.name)
        else:
            drawing.text(left - 10, top + BAR - 4, one.name, "", "end")
        drawing.rect(left, top, x(one.gain) - left, BAR, "fill-ours", f"{one.name}: {one.gain:.2f}", 2)
        if one.also is not None and one.also != one.gain:
            hint = f"with Sarathi-Serve tuned among the others: {one.also:.2f}"
            drawing.line(x(one.also), top - 3, x(one.also), top + BAR + 3, "bound", hint)
        drawing.text(right + 8, top + BAR - 4, f"{one.gain:.2f} x", "value")
        drawing.line(x(1.0), top - 3, x(1.0), top + BAR + 3, "slo")
    return drawing
