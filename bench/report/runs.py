"""Sections for rows of `run` and its like: attainment, latency, and what happened over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from slosgate.bench.attainment import PAPER
from slosgate.bench.report import timeline
from slosgate.bench.report.html import FULL, HALF, LEFT, figure, folded, grid, legend, percent, section
from slosgate.bench.report.series import Series, load_of, said_load, said_place
from slosgate.bench.report.svg import Drawing, Frame, Scale, frame, linear_ticks, log_ticks, number, text_width
from slosgate.bench.results import Row

Curve = Sequence[float | None]

MOST_CARDS = 6
CAPACITY = 0.9  # the attainment that a rate must have to count as sustained
JUDGED = f"{PAPER.tolerance:g} x SLO"
RULE = (
    f"A request attains its SLOs when every stage does: TTFT at most {JUDGED}, and at every {PAPER.every}th token and "
    f"the last no later than {PAPER.tolerance:g} x the TPOT SLO for each token since the first was due, or came. "
)


def sections(series: Sequence[Series]) -> str:
    """All sections as HTML."""
    loads: dict[tuple[object, ...], list[Series]] = {}
    for one in sorted(series, key=lambda s: (str(s.row.get("scenario", "")), float(s.row["rate_rps"]))):
        if "curves" in one.row:
            loads.setdefault(load_of(one.row), []).append(one)
    parts = [_over_time_and_latency(some) for some in loads.values()]
    if len(parts) == 1:
        return _attainment(series) + parts[0]
    named = zip(loads.values(), parts, strict=True)
    return _attainment(series) + "".join(
        folded(said_load(some[0].row), part, opened=n == 0) for n, (some, part) in enumerate(named)
    )


def cards(series: Sequence[Series]) -> str:
    """The headline: one card per row, where there are few."""
    if len(series) > MOST_CARDS:
        return ""
    several = len({load_of(s.row) for s in series}) > 1
    return '<div class="cards">' + "".join(_card(s, several) for s in series) + "</div>"


def _card(s: Series, several: bool) -> str:
    r = s.row
    name = f"{s.name}, {said_load(r)}" if several else s.name
    asked = r.get("request_goodput")
    judged = f"<span>{escape(_goodput_said(r))}</span>" if asked is not None else ""
    return (
        f'<div class="card" style="--mark: var(--{s.colour})"><span>{escape(name)}</span>'
        f"<b>{percent(r['attainment'])}</b><span>{r['attained']:,} of {r['offered']:,} requests attained their SLOs"
        f"</span><span>{number(r['goodput_rps'])} of {number(r['offered_rps'])} req/s offered</span>{judged}</div>"
    )


def _goodput_said(row: Row) -> str:
    """What `--goodput` asked for and gave, in words."""
    limits = ", ".join(f"{name} {number(value)} ms" for name, value in row["goodput_slo_ms"].items())
    return f"goodput ({limits}): {number(row['request_goodput'])} req/s"


def _attainment(series: Sequence[Series]) -> str:
    """A panel for each scenario and place: over the rate where there are several, else a bar for each system."""
    panels: dict[tuple[object, ...], list[Series]] = {}
    for s in series:
        panels.setdefault(tuple(s.row.get(k) for k in ("scenario", "hardware", "replicas")), []).append(s)
    curves = [some for some in panels.values() if len({s.row.get("offered_rps") for s in some}) > 1]
    bars = [some for some in panels.values() if some not in curves]
    body = ""
    if bars:
        body += legend([("line", "95 % interval (Wilson)"), ("tick", "strict rule: every token, no tolerance")])
        body += "".join(figure(partial(_bars, some), FULL, _said(some, panels)) for some in bars)
    if curves:
        body += legend([*_key([s for some in curves for s in some]), ("slo", f"{CAPACITY:.0%}")])
        width = HALF if len(curves) > 1 else FULL
        body += grid([figure(partial(_over_rate, some), width, _said(some, panels)) for some in curves])
    return section("Attainment", body, f"Share of all offered requests, with its 95 % interval. {RULE}")


def _said(some: Sequence[Series], panels: dict[tuple[object, ...], list[Series]]) -> str:
    return f"{some[0].row.get('scenario', '')}, {said_place(some[0].row)}" if len(panels) > 1 else ""


def _key(series: Sequence[Series]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.mark, s.name) for s in series))


def _over_rate(series: Sequence[Series], width: float) -> Drawing:
    """A line for each system, a dot with its interval for each rate."""
    drawing = Drawing(width, 280, "Attainment over the rate, by system")
    high = max(s.row["offered_rps"] for s in series)
    plot = frame(drawing, (0.0, high * 1.04), (0.0, 1.0), left=LEFT)
    plot.y_axis([(v, f"{v:.0%}") for v in (0.0, 0.25, 0.5, 0.75, 1.0)], "attained")
    plot.x_axis([(v, number(v)) for v in linear_ticks(high * 1.04)], "requests per second offered")
    drawing.line(plot.left, plot.y(CAPACITY), plot.right, plot.y(CAPACITY), "slo")
    for name in dict.fromkeys(s.name for s in series):
        line = sorted((s for s in series if s.name == name), key=lambda s: float(s.row["offered_rps"]))
        plot.curve([(s.row["offered_rps"], s.row["attainment"]) for s in line], line[0].line, name)
        for s in line:
            x, r = plot.x(s.row["offered_rps"]), s.row
            drawing.line(x, plot.y(r["ci_low"]), x, plot.y(r["ci_high"]), f"interval line-{s.colour}")
            hint = f"{name} at {number(r['offered_rps'])} req/s: {percent(r['attainment'])} of {r['offered']:,}"
            drawing.dot(x, plot.y(r["attainment"]), f"fill-{s.colour}", hint)
    return drawing


def _bars(series: Sequence[Series], width: float) -> Drawing:
    """A bar for each system, and thin ones for the classes of those that have several."""
    lines: list[tuple[str, Row, str]] = []
    for s in series:
        lines.append((s.name, s.row, s.colour))
        classes = s.row.get("classes", [])
        lines += [(f"    {c['slo_class']}", c, s.colour) for c in classes if len(classes) > 1]
    stacked = width < FULL  # the name goes above its bar where there is no room beside it
    step = 42.0 if stacked else 26.0
    drawing = Drawing(width, step * len(lines) + 34, "Attainment by system, with 95 % intervals")
    left = 4.0 if stacked else 18 + max(text_width(name.strip()) for name, _, _ in lines)
    right, bottom = width - (76 if stacked else 190), drawing.height - 24

    def x(share: float) -> float:
        return left + share * (right - left)

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line(x(tick), 4, x(tick), bottom, "grid")
        drawing.inside(x(tick), bottom + 17, f"{tick:.0%}", "tick")
    for n, (name, row, colour) in enumerate(lines):
        _bar(drawing, step * n + (22 if stacked else 6), x, name, row, colour, stacked)
    return drawing


def _bar(drawing: Drawing, top: float, x: Scale, name: str, row: Row, colour: str, stacked: bool) -> None:
    minor = name.startswith(" ")
    height, middle = (10.0, top + 10) if minor else (16.0, top + 10)
    share, low, high = row["attainment"], row["ci_low"], row["ci_high"]
    said = f"{percent(share)} ({percent(low)} to {percent(high)}), strict {percent(row['attainment_strict'])}"
    css = "small" if minor else ""
    if stacked:
        drawing.text(x(0), middle - 13, f"{name.strip()}, {low * 100:.1f} to {high * 100:.1f} %", css)
    else:
        drawing.text(x(0) - 10, middle + 4, name.strip(), css, "end")
        drawing.text(x(1) + 70, middle + 4, f"{low * 100:.1f} to {high * 100:.1f} %", "small")
    drawing.rect(x(0), middle - height / 2, x(1) - x(0), height, "track", rx=2)
    drawing.rect(x(0), middle - height / 2, x(share) - x(0), height, f"fill-{colour}", f"{name.strip()}: {said}", rx=2)
    strict = x(row["attainment_strict"])
    drawing.line(strict, middle - height / 2, strict, middle + height / 2, "strict")
    drawing.line(x(low), middle, x(high), middle, "whisker")
    for end in (low, high):
        drawing.line(x(end), middle - 4, x(end), middle + 4, "whisker")
    drawing.text(x(1) + 10, middle + 4, percent(share), "value")


def _over_time_and_latency(series: Sequence[Series]) -> str:
    judged = all("pace_share" in s.row["curves"] for s in series)
    said = (
        ("Both upper plots show what is judged: in time is what lies left of the dashed line. ")
        if judged
        else (
            "These results hold no pace at the tokens that are judged, only the mean TPOT of a stage, by which none is "
            "judged: hence no line in its plot. "
        )
    )
    said += "A curve that ends below 100 % leaves out stages that never got that far; ▸ says how many lie beyond."
    latency = section(
        "Latency", legend([*((s.mark, s.name) for s in series), ("slo", JUDGED)]) + _latency(series, judged), said
    )
    return latency + timeline.section_of(series)


def _latency(series: Sequence[Series], judged: bool) -> str:
    plots = [
        _cdf(series, "ttft_share", "TTFT / SLO", log=True, limit=PAPER.tolerance),
        _cdf(series, "pace_share", "pace at the judged tokens / TPOT SLO", log=False, limit=PAPER.tolerance)
        if judged
        else _cdf(series, "tpot_share", "mean TPOT / SLO", log=False),
        _cdf(series, "ttft_s", "TTFT in seconds", log=True),
        _cdf(series, "tpot_s", "mean TPOT in seconds", log=False),
    ]
    return grid([figure(plot, HALF) for plot in plots])


def _cdf(
    series: Sequence[Series], key: str, title: str, *, log: bool, limit: float | None = None
) -> Callable[[float], Drawing]:
    """The share of stages below each value, and a line at the limit that decides, where one does."""
    curves = [(s, s.row["curves"].get(key, [])) for s in series]
    domain = _domain([c for _, c in curves], log, holds=limit)

    def draw(width: float) -> Drawing:
        drawing = Drawing(width, 270, f"Cumulative share of stages by {title}")
        plot = frame(drawing, domain, (0.0, 1.0), log_x=log, left=LEFT, right=52.0)
        plot.y_axis([(v, f"{v:.0%}") for v in (0.0, 0.25, 0.5, 0.75, 1.0)], "share of stages")
        plot.x_axis([(v, number(v)) for v in (log_ticks(domain) if log else linear_ticks(domain[1]))], title)
        if limit is not None:
            drawing.line(plot.x(limit), plot.top, plot.x(limit), plot.bottom, "slo")
        for s, curve in curves:
            plot.curve(_points(curve, domain), s.line, s.name)
        _beyond(plot, [c for _, c in curves], domain)
        return drawing

    return draw


def _points(curve: Curve, domain: tuple[float, float]) -> list[tuple[float, float]]:
    """The part of a quantile curve that lies inside the domain."""
    last = max(1, len(curve) - 1)
    points = [(value, n / last) for n, value in enumerate(curve) if value is not None and value <= domain[1] * 1.0001]
    return [(domain[0], points[0][1]), *points] if points and points[0][0] < domain[0] else points


def _beyond(plot: Frame, curves: Sequence[Curve], domain: tuple[float, float]) -> None:
    """Say beside the plot how much of the curves lies right of it."""
    shares = [sum(v is not None and v > domain[1] * 1.0001 for v in c) / max(1, len(c) - 1) for c in curves]
    if max(shares, default=0.0) > 0:
        plot.drawing.text(plot.right + 4, plot.top + 8, f"▸ {max(shares):.1%}", "small")


def _domain(curves: Sequence[Curve], log: bool, holds: float | None) -> tuple[float, float]:
    """Where the curves live: without their outermost percent, rounded outwards, with `holds` well inside."""
    inner = [v for c in curves for v in c[2:-2] if v is not None and v > 0] or [1.0]
    low, high = min(inner), max(inner)
    if holds is not None:
        low, high = min(low, holds / 2), max(high, holds * 1.5)
    if not log:
        return 0.0, min(high, holds * 4 if holds else high) * 1.04
    return max(low, high / 1e4) / 1.1, high * 1.1
