"""Sections for rows of `run` and `demo`: attainment, latency, and what happened over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from slosgate.bench.report.html import legend, percent, section
from slosgate.bench.report.series import Series
from slosgate.bench.report.svg import Drawing, Scale, frame, linear_ticks, log_ticks, number
from slosgate.bench.results import Row

Curve = Sequence[float | None]


def sections(series: Sequence[Series]) -> str:
    """All sections as HTML."""
    return (
        section(
            "Attainment",
            legend([("line", "95 % interval (Wilson)"), ("tick", "strict rule: every token, no tolerance")])
            + _attainment(series),
            "Share of all offered requests whose every stage kept its SLO (paper's rule: 5 % tolerance, every "
            "20th token and the last). Rejected, failed and unfinished requests are misses.",
        )
        + section(
            "Latency against the SLO",
            legend([*((s.colour, s.name) for s in series), ("slo", "SLO")]) + _latency(series),
            "Share of all stages that were at least this fast. Left of the dashed line is in time; a curve ending "
            "below 100 % leaves out stages that never got that far.",
        )
        + section(
            "Arrivals and admissions over time",
            _waits(series) + _timelines(series),
            "Above: the 99th percentile of TTFT over its SLO, of the guarantees where a system gives any. "
            "Below: requests by the second of their arrival. Upper strip: which of them kept their SLO in the end. "
            "Lower strip: how they were admitted, where the system decides that.",
        )
    )


def cards(series: Sequence[Series]) -> str:
    """The headline: one card per row."""
    return '<div class="cards">' + "".join(_card(s) for s in series) + "</div>"


def _card(s: Series) -> str:
    r = s.row
    return (
        f'<div class="card" style="--mark: var(--{s.colour})"><span>{escape(s.name)}</span>'
        f"<b>{percent(r['attainment'])}</b><span>{r['attained']:,} of {r['offered']:,} requests kept their SLO</span>"
        f"<span>goodput {number(r['goodput_rps'])} of {number(r['offered_rps'])} req/s offered</span></div>"
    )


def _attainment(series: Sequence[Series]) -> str:
    lines: list[tuple[str, Row, str]] = []
    for s in series:
        lines.append((s.name, s.row, s.colour))
        classes = s.row.get("classes", [])
        lines += [(f"    {c['slo_class']}", c, s.colour) for c in classes if len(classes) > 1]
    label_width = min(330.0, 24 + 7.0 * max(len(name) for name, _, _ in lines))
    drawing = Drawing(1040, 26.0 * len(lines) + 34, "Attainment by system, with 95 % intervals")
    left, right, bottom = label_width, drawing.width - 190, drawing.height - 24

    def x(share: float) -> float:
        return left + share * (right - left)

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line(x(tick), 4, x(tick), bottom, "grid")
        drawing.text(x(tick), bottom + 17, f"{tick:.0%}", "tick", "middle")
    for n, (name, row, colour) in enumerate(lines):
        _bar(drawing, 6 + 26.0 * n, x, name, row, colour)
    return f"<figure>{drawing.render()}</figure>"


def _bar(drawing: Drawing, top: float, x: Scale, name: str, row: Row, colour: str) -> None:
    minor = name.startswith(" ")
    height, middle = (10.0, top + 10) if minor else (16.0, top + 10)
    share, low, high = row["attainment"], row["ci_low"], row["ci_high"]
    said = f"{percent(share)} ({percent(low)} to {percent(high)}), strict {percent(row['attainment_strict'])}"
    drawing.text(x(0) - 10, middle + 4, name.strip(), "small" if minor else "", "end")
    drawing.rect(x(0), middle - height / 2, x(1) - x(0), height, "track", rx=2)
    drawing.rect(x(0), middle - height / 2, x(share) - x(0), height, f"fill-{colour}", f"{name.strip()}: {said}", rx=2)
    drawing.line(
        x(row["attainment_strict"]), middle - height / 2, x(row["attainment_strict"]), middle + height / 2, "strict"
    )
    drawing.line(x(low), middle, x(high), middle, "whisker")
    for end in (low, high):
        drawing.line(x(end), middle - 4, x(end), middle + 4, "whisker")
    drawing.text(x(1) + 12, middle + 4, percent(share), "value")
    drawing.text(x(1) + 66, middle + 4, f"{low * 100:.1f} to {high * 100:.1f} %", "small")


def _latency(series: Sequence[Series]) -> str:
    plots = [
        _cdf(series, "ttft_share", "", "TTFT / SLO", log=True),
        _cdf(series, "ttft_s", "ttft_slo_s", "TTFT in seconds", log=True),
        _cdf(series, "tpot_share", "", "TPOT / SLO", log=False),
        _cdf(series, "tpot_s", "tpot_slo_s", "TPOT in seconds", log=False),
    ]
    return '<div class="grid2">' + "".join(plots) + "</div>"


def _cdf(series: Sequence[Series], key: str, slo_key: str, title: str, log: bool) -> str:
    curves = [(s, s.row["curves"].get(key, [])) for s in series]
    slo_curves = [s.row["curves"].get(slo_key, []) for s in series] if slo_key else []
    domain = _domain([c for _, c in curves] + slo_curves, log, holds=None if slo_key else 1.0)
    drawing = Drawing(500, 270, f"Cumulative share of stages by {title}")
    plot = frame(drawing, domain, (0.0, 1.0), log_x=log)
    ticks = log_ticks(domain) if log else linear_ticks(domain[1])
    plot.y_axis([(v, f"{v:.0%}") for v in (0.0, 0.25, 0.5, 0.75, 1.0)], "share of stages")
    plot.x_axis([(v, number(v)) for v in ticks], title)
    if slo_key:
        for curve in {tuple(c): c for c in slo_curves}.values():
            plot.curve(_points(curve, domain), "slo", "SLO")
    else:
        drawing.line(plot.x(1.0), plot.top, plot.x(1.0), plot.bottom, "slo")
    for s, curve in curves:
        plot.curve(_points(curve, domain), f"curve line-{s.colour}", s.name)
    return f"<figure>{drawing.render()}</figure>"


def _points(curve: Curve, domain: tuple[float, float]) -> list[tuple[float, float]]:
    """The part of a quantile curve that lies inside the domain."""
    last = max(1, len(curve) - 1)
    points = [(value, n / last) for n, value in enumerate(curve) if value is not None and value <= domain[1] * 1.0001]
    return [(domain[0], points[0][1]), *points] if points and points[0][0] < domain[0] else points


def _domain(curves: Sequence[Curve], log: bool, holds: float | None) -> tuple[float, float]:
    """Where the curves live: without their outermost percent, rounded outwards, with `holds` well inside."""
    inner = [v for c in curves for v in c[2:-2] if v is not None and v > 0] or [1.0]
    low, high = min(inner), max(inner)
    if holds is not None:
        low, high = min(low, holds / 2), max(high, holds * 1.5)
    if not log:
        return 0.0, min(high, holds * 4 if holds else high) * 1.04
    return max(low, high / 1e4) / 1.1, high * 1.1


def _waits(series: Sequence[Series]) -> str:
    """One line per system over time; nothing for results that do not tell."""
    told = [(s, s.row["timeline"]["ttft_share_p99"]) for s in series if "ttft_share_p99" in s.row["timeline"]]
    if not told:
        return ""
    seconds = max(float(s.row["timeline"]["bin_s"]) * len(waits) for s, waits in told)
    high = min(5.0, 1.1 * max([1.5, *(w for _, waits in told for w in waits if w is not None)]))
    drawing = Drawing(1040, 260, "p99 of TTFT over its SLO, by time of arrival")
    plot = frame(drawing, (0.0, seconds), (0.0, high))
    plot.y_axis([(v, number(v)) for v in linear_ticks(high, 5)], "p99 TTFT / SLO")
    plot.x_axis([(v, number(v)) for v in linear_ticks(seconds, 10)], "seconds")
    drawing.line(plot.left, plot.y(1.0), plot.right, plot.y(1.0), "slo")
    for s, waits in told:
        bin_s = float(s.row["timeline"]["bin_s"])
        points = [((n + 0.5) * bin_s, w) for n, w in enumerate(waits) if w is not None]
        plot.curve(points, f"curve line-{s.colour}", s.name)
    key = legend([*((s.colour, s.name) for s, _ in told), ("slo", "SLO")])
    return f"{key}<figure>{drawing.render()}</figure>"


def _timelines(series: Sequence[Series]) -> str:
    high = max((n for s in series for n in s.row["timeline"]["offered"]), default=1) or 1
    key = legend(
        [
            ("good", "kept its SLO"),
            ("bad", "missed"),
            ("ours", "guaranteed"),
            ("warn", "best effort"),
            ("b2", "rejected"),
        ]
    )
    return key + "".join(_timeline(s, high) for s in series)


def _timeline(s: Series, high: int) -> str:
    line = s.row["timeline"]
    missed = [o - a for o, a in zip(line["offered"], line["attained"], strict=True)]
    strips: list[list[tuple[str, str, list[int]]]] = [[("good", "kept", line["attained"]), ("bad", "missed", missed)]]
    admissions = [
        ("ours", "guaranteed", line["guaranteed"]),
        ("warn", "best effort", line["best_effort"]),
        ("b2", "rejected", line["rejected"]),
    ]
    if any(sum(counts) for _, _, counts in admissions):
        strips.append(admissions)
    each = 92.0
    drawing = Drawing(1040, each * len(strips) + 40, f"Arrivals over time, {s.name}")
    seconds = float(line["bin_s"]) * len(line["offered"])
    left, right = 58.0, drawing.width - 14

    def x(t: float) -> float:
        return left + t / seconds * (right - left)

    for n, strip in enumerate(strips):
        _strip(drawing, strip, top=8 + each * n, height=each - 16, high=high, x=x, bin_s=line["bin_s"])
    bottom = 8 + each * len(strips) - 16
    for tick in linear_ticks(seconds, 10):
        drawing.text(x(tick), bottom + 16, number(tick), "tick", "middle")
    drawing.text((left + right) / 2, bottom + 34, "seconds", "title", "middle")
    return f"<figure><h3>{escape(s.name)}</h3>{drawing.render()}</figure>"


def _strip(
    drawing: Drawing,
    strip: list[tuple[str, str, list[int]]],
    top: float,
    height: float,
    high: int,
    x: Scale,
    bin_s: float,
) -> None:
    """Stacked columns of one strip, with a small y axis."""
    bottom = top + height
    for tick in (t for t in linear_ticks(high, 2) if t == math.floor(t)):
        at = bottom - tick / high * height
        drawing.line(x(0), at, drawing.width - 14, at, "grid")
        drawing.text(x(0) - 7, at + 4, number(tick), "tick", "end")
    for n in range(len(strip[0][2])):
        base = bottom
        for colour, name, counts in strip:
            tall = counts[n] / high * height
            if counts[n]:
                hint = f"{n * bin_s:.0f} s: {counts[n]} {name}"
                drawing.rect(x(n * bin_s) + 0.5, base - tall, x(bin_s) - x(0) - 1, tall, f"fill-{colour}", hint)
            base -= tall
    drawing.line(x(0), bottom, drawing.width - 14, bottom, "axis")
