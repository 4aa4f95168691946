"""The sections for rows of `capacity` and of the reproductions built on it: bars, and lines over replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from slosgate.bench.report import gains
from slosgate.bench.report.html import HALF, LEFT, figure, grid, legend, section
from slosgate.bench.report.series import colours_of, system
from slosgate.bench.report.svg import Drawing, Frame, frame, linear_scale, linear_ticks, number, text_width
from slosgate.bench.results import Result, Row

BAR, GAP = 15.0, 7.0
LINES = 3  # so many counts of replicas make a line

Key = Callable[[Row], tuple[object, ...]]


def sections(results: Sequence[Result]) -> str:
    """The gain over other systems, lines over replicas where there are several, and bars for all else."""
    rows = [row for r in results for row in r.rows if "capacity_rps_per_gpu" in row]
    if not rows:
        return ""
    colours = colours_of(map(system, rows))
    scaled = [some for some in _grouped(rows, _of_load) if len({r["replicas"] for r in some}) >= LINES]
    barred = [r for some in _grouped(rows, _of_load) if some not in scaled for r in some if not _only_compared(r, some)]
    body = gains.section_of(results)
    if scaled:
        body += _scaling(scaled, colours)
    return body + "".join(
        _bars_of(some, colours) for some in _grouped(barred, lambda r: (r["attainment_target"], r["replicas"]))
    )


def _of_load(row: Row) -> tuple[object, ...]:
    return row["scenario"], row["hardware"], row["attainment_target"]


def _grouped(rows: Sequence[Row], key: Key) -> list[list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.values())


def _only_compared(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row stands alone on its replicas, its system being drawn on fewer: it is there for a gain."""
    alone = sum(r["replicas"] == row["replicas"] for r in rows) == 1
    return alone and any(system(r) == system(row) and r["replicas"] < row["replicas"] for r in rows)


def _bars_of(rows: Sequence[Row], colours: dict[str, str]) -> str:
    first = rows[0]
    replicas = "one replica" if first["replicas"] == 1 else f"{first['replicas']} replicas"
    several = len({r["hardware"] for r in rows}) > 1
    place = "" if several else f" of {first['hardware']}"
    title = f"Capacity on {replicas}{place} at {first['attainment_target']:.0%}"
    note = (
        "Highest request rate per GPU at which that share of all offered requests attained their SLOs. The mark behind "
        "each bar is what no scheduler of its kind, with drafted tokens or without, can exceed on this hardware."
    )
    panels = [
        figure(
            partial(_panel, some, colours),
            HALF,
            f"{some[0]['scenario']} on {some[0]['hardware']}" if several else some[0]["scenario"],
        )
        for some in _grouped(rows, lambda r: (r["scenario"], r["hardware"]))
    ]
    return section(title, legend([("bound", "bound")]) + grid(panels), note)


def _panel(rows: Sequence[Row], colours: dict[str, str], width: float) -> Drawing:
    high = max([r["capacity_rps_per_gpu"] for r in rows] + [r.get("bound_rps_per_gpu") or 0.0 for r in rows]) or 1.0
    drawing = Drawing(width, (BAR + GAP) * len(rows) + 48, f"Capacity on {rows[0]['scenario']}")
    left = 14.0 + max(text_width(_bar_name(r)) for r in rows)
    right, bottom = drawing.width - 54, drawing.height - 40
    x = linear_scale((0.0, high * 1.02), (left, right))
    axis = Frame(drawing, left, 2, right, bottom, x, lambda value: value)
    axis.x_axis([(v, number(v)) for v in linear_ticks(high * 1.02, 4)], "requests per second and GPU")
    for n, r in enumerate(rows):
        top, rate, bound = 4 + n * (BAR + GAP), r["capacity_rps_per_gpu"], r.get("bound_rps_per_gpu")
        share = f", {rate / bound:.0%} of the bound {number(bound)}" if bound else ""
        hint = f"{system(r)}: {number(rate)} req/s per GPU, attainment there {r['attainment']:.1%}{share}"
        css = f"fill-{colours[system(r)]}{' drafts' if system(r).endswith('+sd') else ''}"
        drawing.text(left - 8, top + BAR - 3, _bar_name(r), "", "end")
        drawing.rect(left, top, x(rate) - left, BAR, css, hint, 2)
        if bound:
            drawing.line(x(bound), top - 2, x(bound), top + BAR + 2, "bound", f"bound {number(bound)}")
        drawing.text(right + 8, top + BAR - 3, number(rate), "value")
    return drawing


def _bar_name(row: Row) -> str:
    """The system, and on how many GPUs it is where that isn't the replicas that were asked for."""
    gpus = row.get("gpus", row["replicas"])
    return f"{system(row)}, {gpus} GPUs" if gpus != row["replicas"] else system(row)


def _scaling(groups: Sequence[list[Row]], colours: dict[str, str]) -> str:
    systems = dict.fromkeys(system(r) for some in groups for r in some)
    key = [*((colours[name], name) for name in systems), ("dashed", "linear: as many times the capacity of one")]
    several = len({r["attainment_target"] for some in groups for r in some}) > 1
    panels = [
        figure(
            partial(_lines, some, colours),
            HALF,
            f"{some[0]['scenario']} on {some[0]['hardware']}"
            + (f" at {some[0]['attainment_target']:.0%}" if several else ""),
        )
        for some in groups
    ]
    note = (
        "Highest request rate of all replicas together at which the asked share of requests attained their SLOs. Above "
        "the linear line where a fleet shares bursts that one replica has to take alone."
    )
    return section("Capacity over replicas", legend(key) + grid(panels), note)


def _lines(rows: Sequence[Row], colours: dict[str, str], width: float) -> Drawing:
    """Total capacity over replicas, beside what as many single replicas would have."""
    totals: dict[str, list[tuple[int, float]]] = {}
    for r in sorted(rows, key=lambda r: int(r["replicas"])):
        totals.setdefault(system(r), []).append((r["replicas"], r["capacity_rps_per_gpu"] * r["gpus"]))
    most = max(n for line in totals.values() for n, _ in line)
    linear = {name: line[0][1] / line[0][0] for name, line in totals.items()}
    high = 1.05 * max([t for line in totals.values() for _, t in line] + [each * most for each in linear.values()])
    drawing = Drawing(width, 300, f"Capacity over replicas on {rows[0]['scenario']}")
    plot = frame(drawing, (0.0, most * 1.02), (0.0, high or 1.0), left=LEFT, right=64.0)
    plot.y_axis([(v, number(v)) for v in linear_ticks(high)], "requests per second")
    plot.x_axis([(n, str(n)) for n in sorted({n for line in totals.values() for n, _ in line})], "replicas")
    taken: list[float] = []
    for name, line in totals.items():
        plot.curve([(0.0, 0.0), (most, linear[name] * most)], f"dashes line-{colours[name]} thin", f"{name}, linear")
        plot.curve(line, f"curve line-{colours[name]}", name)
        for n, total in line:
            hint = f"{name} on {n}: {number(total)} req/s, {total / (linear[name] or 1.0):.2f} x one"
            drawing.dot(plot.x(n), plot.y(total), f"fill-{colours[name]}", hint)
        last, total = line[-1]
        at = plot.y(total) + 4
        if linear[name] and all(abs(at - other) > 14 for other in taken):
            drawing.text(plot.x(last) + 8, at, f"{total / linear[name]:.1f} x", "value")
            taken.append(at)
    return drawing
