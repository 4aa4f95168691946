"""The section about what happened over time: waits, arrivals and admissions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slosgate.bench.attainment import PAPER
from slosgate.bench.report.html import FULL, LEFT, figure, legend, section
from slosgate.bench.report.series import Series
from slosgate.bench.report.svg import Drawing, Frame, Scale, frame, linear_ticks, number

HIGHEST = 5.0  # times the SLO; what waits longer is drawn there, and marked
STRIP = 92.0
RIGHT = 16.0
RESULTS = ("kept", "attained"), ("missed", "missed")
ADMISSIONS = ("sure", "guaranteed"), ("maybe", "best effort"), ("never", "rejected")

Strip = list[tuple[str, str, list[int]]]  # colour, name, counts


def section_of(series: Sequence[Series]) -> str:
    """Waits by time of arrival above, then the requests of each system by what became of them."""
    bin_s = float(series[0].row["timeline"]["bin_s"])
    return section(
        "Over time",
        _waits(series) + _timelines(series),
        f"By time of arrival, in steps of {number(bin_s)} s. Above: the 99th percentile of TTFT over its SLO, of the "
        "guarantees where a system gives any; steps without a request have no point. Below: requests by whether they "
        "attained their SLOs, and by how they were admitted, where the system decides that.",
    )


def _waits(series: Sequence[Series]) -> str:
    """One line per system over time; nothing for results that do not tell."""
    told = [s for s in series if "ttft_share_p99" in s.row["timeline"]]
    if not told:
        return ""
    key = [*((s.mark, s.name) for s in told), ("slo", f"{PAPER.tolerance:g} x SLO")]
    return legend(key) + figure(partial(_waits_drawn, told), FULL)


def _waits_drawn(told: Sequence[Series], width: float) -> Drawing:
    waits = [(s, s.row["timeline"]["ttft_share_p99"], float(s.row["timeline"]["bin_s"])) for s in told]
    seconds = max(bin_s * len(line) for _, line, bin_s in waits)
    high = min(HIGHEST, 1.1 * max([1.5, *(w for _, line, _ in waits for w in line if w is not None)]))
    drawing = Drawing(width, 260, "p99 of TTFT over its SLO, by time of arrival")
    plot = frame(drawing, (0.0, seconds), (0.0, high), left=LEFT, right=RIGHT)
    plot.y_axis([(v, number(v)) for v in linear_ticks(high)], "p99 TTFT / SLO")
    plot.x_axis([(v, number(v)) for v in linear_ticks(seconds, 10)], "seconds")
    drawing.line(plot.left, plot.y(PAPER.tolerance), plot.right, plot.y(PAPER.tolerance), "slo")
    for s, line, bin_s in waits:
        _broken_line(plot, s, [((n + 0.5) * bin_s, w) for n, w in enumerate(line)], high)
    return drawing


def _broken_line(plot: Frame, s: Series, points: Sequence[tuple[float, float | None]], high: float) -> None:
    """A line that ends where nothing was measured; a lone point is a dot, one above the plot a triangle."""
    for known, group in itertools.groupby(points, key=lambda point: point[1] is not None):
        if not known:
            continue
        some = [(t, w) for t, w in group if w is not None]
        plot.curve(some, s.line, s.name)
        for t, w in some:
            x, hint = plot.x(t), f"{s.name}, {number(t)} s: {number(w)} x SLO"
            if w > high:
                top = plot.top
                triangle = [(x - 5, top + 8), (x, top), (x + 5, top + 8), (x - 5, top + 8)]
                plot.drawing.path(triangle, f"fill-{s.colour}", hint)
            elif len(some) == 1:
                plot.drawing.dot(x, plot.y(w), f"fill-{s.colour}", hint)


def _timelines(series: Sequence[Series]) -> str:
    high = max((n for s in series for n in s.row["timeline"]["offered"]), default=1) or 1
    return legend([*RESULTS, *ADMISSIONS]) + "".join(figure(partial(_timeline, s, high), FULL, s.name) for s in series)


def _timeline(s: Series, high: int, width: float) -> Drawing:
    line = s.row["timeline"]
    missed = [o - a for o, a in zip(line["offered"], line["attained"], strict=True)]
    strips: list[Strip] = [
        [(*named, counts) for named, counts in zip(RESULTS, (line["attained"], missed), strict=True)]
    ]
    counted = line["guaranteed"], line["best_effort"], line["rejected"]
    if any(sum(counts) for counts in counted):
        strips.append([(*named, counts) for named, counts in zip(ADMISSIONS, counted, strict=True)])
    drawing = Drawing(width, STRIP * len(strips) + 40, f"Arrivals over time, {s.name}")
    seconds = float(line["bin_s"]) * len(line["offered"])
    left, right = LEFT, drawing.width - RIGHT

    def x(t: float) -> float:
        return left + t / seconds * (right - left)

    for n, strip in enumerate(strips):
        _strip(drawing, strip, _Place(8 + STRIP * n, STRIP - 16, x, float(line["bin_s"]), high))
    bottom = 8 + STRIP * len(strips) - 16
    axis = Frame(drawing, left, 8, right, bottom, x, lambda value: value)
    axis.x_axis([(v, number(v)) for v in linear_ticks(seconds, 10)], "seconds")
    return drawing


@dataclass(frozen=True)
class _Place:
    """Where a strip stands, and how many requests make it full."""

    top: float
    height: float
    x: Scale
    bin_s: float
    high: int

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def tall(self, count: float) -> float:
        return count / self.high * self.height


def _strip(drawing: Drawing, strip: Strip, place: _Place) -> None:
    """Stacked columns of one strip, with a small y axis."""
    x, bin_s = place.x, place.bin_s
    column = max(1.0, x(bin_s) - x(0) - 1)
    for tick in (t for t in linear_ticks(place.high, 2) if t == math.floor(t)):
        at = place.bottom - place.tall(tick)
        drawing.line(x(0), at, drawing.width - RIGHT, at, "grid")
        drawing.text(x(0) - 7, at + 4, number(tick), "tick", "end")
    for n in range(len(strip[0][2])):
        base = place.bottom
        for colour, name, counts in strip:
            tall = place.tall(counts[n])
            if counts[n]:
                hint = f"{n * bin_s:.0f} s: {counts[n]} {name}"
                drawing.rect(x(n * bin_s) + 0.5, base - tall, column, tall, f"fill-{colour}", hint)
            base -= tall
    drawing.line(x(0), place.bottom, drawing.width - RIGHT, place.bottom, "axis")
