"""What scaling over a day costs and attains, drawn: the fewer replica hours and the more attained, the better."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from slosgate.bench.report.html import FULL, LEFT, figure, legend, percent, section
from slosgate.bench.report.svg import Drawing, Frame, frame, linear_ticks, number
from slosgate.bench.results import Row

KEYS = "scaling", "replica_hours_a_day", "attainment"
COLOURS = {"slosgate": "ours", "threshold": "b0", "fixed": "b2"}
WORDS = {
    "slosgate": "slosgate's own scaling",
    "threshold": "a threshold on requests in flight, by its number",
    "fixed": "fixed fleets, by their replicas",
}
GRAIN = 0.05  # of the attainment axis, whose lower end is a multiple of it


def is_scaling(row: Row) -> bool:
    """Whether a row says what one way to scale took and attained."""
    return all(key in row for key in KEYS) and row["scaling"] in COLOURS


def section_of(rows: Sequence[Row]) -> str:
    """Nothing without such rows."""
    rows = [row for row in rows if is_scaling(row)]
    if not rows:
        return ""
    key = [(colour, WORDS[name]) for name, colour in COLOURS.items() if any(r["scaling"] == name for r in rows)]
    note = "Replica hours a day, and the share of all requests that attained their SLOs: left and above is better."
    return section("Scaling over a day", legend(key) + figure(partial(_drawn, rows), FULL), note)


def _drawn(rows: Sequence[Row], width: float) -> Drawing:
    drawing = Drawing(width, 320, "Attainment over replica hours a day")
    high = 1.12 * max(row["replica_hours_a_day"] for row in rows)
    low = max(0.0, (min(row.get("ci_low", row["attainment"]) for row in rows) - 0.005) // GRAIN * GRAIN)
    plot = frame(drawing, (0.0, high), (low, 1.0 + (1.0 - low) / 8), left=LEFT)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.25) if (1 - low) / s <= 6 or s == 0.25)
    plot.y_axis([(1 - n * step, f"{1 - n * step:.0%}") for n in range(int((1 - low) / step + 1e-9) + 1)], "attained")
    plot.x_axis([(v, number(v)) for v in linear_ticks(high)], "replica hours a day")
    for name, colour in COLOURS.items():
        for row in rows:
            if row["scaling"] == name:
                _point(plot, row, colour)
    return drawing


def _point(plot: Frame, row: Row, colour: str) -> None:
    """A dot with its interval; what tells it from others of its kind stands above it for fixed fleets, else below."""
    x, y = plot.x(row["replica_hours_a_day"]), plot.y(row["attainment"])
    if "ci_low" in row:
        plot.drawing.line(x, plot.y(row["ci_low"]), x, plot.y(row["ci_high"]), f"interval line-{colour}")
    hint = f"{row['scaling']}: {number(row['replica_hours_a_day'])} replica hours, {percent(row['attainment'])}"
    plot.drawing.dot(x, y, f"fill-{colour}", hint, 4.2)
    if row["scaling"] == "threshold":
        plot.drawing.text(x, y + 19, f"{row['in_flight']:g}", "small", "middle")
    elif row["scaling"] == "fixed":
        plot.drawing.text(x, y - 9, f"{row['most_replicas']}", "small", "middle")
