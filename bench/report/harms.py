"""What slosgate attains of the highest loads that the best-tuned baselines sustain, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from slosgate.bench.report.html import HALF, figure, grid, legend, percent, section
from slosgate.bench.report.series import colours_of, system
from slosgate.bench.report.svg import Drawing, Frame, Scale, linear_scale, number, text_width
from slosgate.bench.results import Row

STEP, STACKED = 21.0, 36.0
GRAIN = 0.05  # of the attainment axis, whose lower end is a multiple of it

KEYS = "baseline", "baseline_rps_per_gpu", "baseline_attainment", "attainment", "attainment_target", "holds"


def is_harm(row: Row) -> bool:
    """Whether a row compares slosgate with a baseline at the baseline's capacity."""
    return all(key in row for key in KEYS)


def section_of(rows: Sequence[Row]) -> str:
    """A panel for each hardware and target; nothing without such rows."""
    rows = [row for row in rows if is_harm(row)]
    if not rows:
        return ""
    panels: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        panels.setdefault((row["hardware"], row["attainment_target"]), []).append(row)
    colours = colours_of(map(system, rows))
    names = dict.fromkeys(map(system, rows))
    key = [*((colours[name], f"{name}, with its 95 % interval") for name in names)]
    key += [("bound", "the baseline"), ("slo", "must be attained")]
    if short := [row for row in rows if not row["holds"]]:
        key.append(("missed", f"falls short ({len(short)} of {len(rows)})"))
    note = (
        "Each row is the highest load that a baseline at its best setting sustains: what slosgate attains of it, on as "
        "many GPUs, and what the baseline does. slosgate does no harm where it is not left of the dashed line."
    )
    figures = [figure(partial(_panel, some, colours), HALF, _title(*place, some)) for place, some in panels.items()]
    return section("At the best baseline's limit", legend(key) + grid(figures), note)


def _title(hardware: str, target: float, rows: Sequence[Row]) -> str:
    return f"{hardware} at {target:.0%}: holds {sum(row['holds'] for row in rows)} of {len(rows)}"


def _panel(rows: Sequence[Row], colours: dict[str, str], width: float) -> Drawing:
    names = [_name(row) for row in rows]
    stacked = width < HALF
    step = STACKED if stacked else STEP
    label = f"slosgate at the limit of the best baseline on {rows[0]['hardware']}"
    drawing = Drawing(width, step * len(rows) + 46, label)
    left = 12.0 if stacked else 14 + max(map(text_width, names))
    right, bottom = width - 62, drawing.height - 38
    low = min(min(r["attainment"], r["ci_low"], r["baseline_attainment"], r["attainment_target"]) for r in rows)
    low = max(0.0, (low - 0.005) // GRAIN * GRAIN)
    x = linear_scale((low, 1.0), (left, right))
    axis = Frame(drawing, left, 2, right, bottom, x, lambda value: value)
    axis.x_axis([(v, f"{v:.0%}") for v in _ticks(low)], "attained of the load")
    target = x(rows[0]["attainment_target"])
    if not stacked:
        drawing.line(target, 2, target, bottom, "slo")
    for n, (row, name) in enumerate(zip(rows, names, strict=True)):
        middle = step * n + (27 if stacked else 12)
        if stacked:
            drawing.text(left, middle - 10, name)
            drawing.line(target, middle - 7, target, middle + 7, "slo")  # not through the names
        else:
            drawing.text(left - 8, middle + 4, name, "", "end")
        _row(drawing, row, x, middle, colours[system(row)] if row["holds"] else "missed")
        drawing.text(right + 8, middle + 4, percent(row["attainment"]), "value")
    return drawing


def _row(drawing: Drawing, row: Row, x: Scale, middle: float, colour: str) -> None:
    theirs = x(row["baseline_attainment"])
    drawing.line(x(row["ci_low"]), middle, x(row["ci_high"]), middle, f"interval line-{colour}")
    drawing.line(theirs, middle - 6, theirs, middle + 6, "bound", f"{row['baseline']}: {_attains(row, 'baseline_')}")
    hint = f"{system(row)}: {_attains(row)} of {number(row['baseline_rps_per_gpu'])} req/s per GPU"
    drawing.dot(x(row["attainment"]), middle, f"fill-{colour}", hint, 4.2)


def _attains(row: Row, whose: str = "") -> str:
    return percent(row[f"{whose}attainment"])


def _name(row: Row) -> str:
    """The scenario and the baseline, and its GPUs where it needs several."""
    gpus = f", {row['gpus']} GPUs" if row["gpus"] > 1 else ""
    return f"{row['scenario']}, {row['baseline']}{gpus}"


def _ticks(low: float) -> list[float]:
    """Up to six round shares from `low` to all."""
    step = next(s for s in (0.05, 0.1, 0.2, 0.25) if (1 - low) / s <= 5.001 or s == 0.25)
    count = int((1 - low) / step + 1e-9)
    return [round(1 - n * step, 4) for n in range(count, -1, -1)]
