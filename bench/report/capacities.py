"""The section for rows of `capacity` and of the reproductions built on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from slosgate.bench.report.html import legend, section
from slosgate.bench.report.series import colour
from slosgate.bench.report.svg import Drawing, linear_scale, linear_ticks, number
from slosgate.bench.results import Row

BAR, GAP = 15.0, 7.0


def sections(rows: Sequence[Row]) -> str:
    """One section for each hardware, replica count and attainment target; a panel for each scenario in it."""
    groups = list(dict.fromkeys((r["hardware"], r["replicas"], r["attainment_target"]) for r in rows))
    return "".join(
        _section([r for r in rows if (r["hardware"], r["replicas"], r["attainment_target"]) == g]) for g in groups
    )


def _section(rows: Sequence[Row]) -> str:
    first = rows[0]
    replicas = "one replica" if first["replicas"] == 1 else f"{first['replicas']} replicas"
    title = f"Capacity on {first['hardware']}, {replicas}, at {first['attainment_target']:.0%} attainment"
    note = (
        "Highest request rate per GPU at which that share of all offered requests kept every SLO. The dashed line is a "
        "rate that no scheduler can exceed on this hardware."
    )
    panels = "".join(
        _panel(s, [r for r in rows if r["scenario"] == s]) for s in dict.fromkeys(r["scenario"] for r in rows)
    )
    return section(title, legend([("slo", "bound")]) + f'<div class="grid2">{panels}</div>', note)


def _panel(scenario: str, rows: Sequence[Row]) -> str:
    bounds = [r["bound_rps_per_gpu"] for r in rows if r.get("bound_rps_per_gpu")]
    high = max([r["capacity_rps_per_gpu"] for r in rows] + bounds) * 1.02 or 1.0
    drawing = Drawing(500, (BAR + GAP) * len(rows) + 44, f"Capacity on {scenario}")
    left, right, bottom = 128.0, drawing.width - 62, drawing.height - 36
    x = linear_scale((0.0, high), (left, right))
    for tick in linear_ticks(high, 4):
        drawing.line(x(tick), 2, x(tick), bottom, "grid")
        drawing.text(x(tick), bottom + 15, number(tick), "tick", "middle")
    for n, r in enumerate(rows):
        top, rate = 4 + n * (BAR + GAP), r["capacity_rps_per_gpu"]
        hint = f"{r['system']}: {number(rate)} req/s per GPU, attainment there {r['attainment']:.1%}"
        drawing.text(left - 8, top + BAR - 3, r["system"], "", "end")
        drawing.rect(
            left, top, x(rate) - left, BAR, f"fill-{colour(r)}{' drafts' if '+sd' in r['system'] else ''}", hint, 2
        )
        drawing.text(right + 8, top + BAR - 3, number(rate), "value")
    if bounds:
        drawing.line(x(max(bounds)), 2, x(max(bounds)), bottom, "slo")
    drawing.line(left, bottom, right, bottom, "axis")
    drawing.text((left + right) / 2, bottom + 31, "requests per second and GPU", "title", "middle")
    return f"<figure><h3>{escape(scenario)}</h3>{drawing.render()}</figure>"
