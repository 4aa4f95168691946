"""One self-contained HTML page from result files: it opens offline, without scripts, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from slosgate.bench import failures
from slosgate.bench.load import GENERATED, dropped_said, is_generated
from slosgate.bench.report import capacities, harms, runs, scalings, tables
from slosgate.bench.report.html import section
from slosgate.bench.report.series import PALETTE, series_of, system
from slosgate.bench.report.svg import number
from slosgate.bench.results import Result, Row

MEASURED = "attainment", "ci_low", "offered", "rate_rps"  # what rows of runs hold


def build(results: Sequence[tuple[str, Result]], title: str = "slosbench report") -> str:
    """The page of (file name, result) pairs."""
    rows = [row if len(results) == 1 else {"file": name, **row} for name, r in results for row in r.rows]
    measured = [row for row in rows if all(key in row for key in MEASURED)]
    others = [row for row in rows if row not in measured]
    body = _warning(rows) + _failed(measured, results) + _left_out(rows)
    if measured:
        series = series_of(measured)
        body += runs.cards(series) + runs.sections(series) + section("Figures", tables.run_table(measured))
    body += capacities.sections([r for _, r in results]) + harms.section_of(rows) + scalings.section_of(rows)
    if others:
        body += section("Rows", tables.plain_table(others))
    body += section("Where this comes from", tables.origins(results))
    return _page(title, _lead(results), body)


def write(results: Sequence[tuple[str, Result]], title: str, out: Path) -> None:
    """Write the page; missing folders are made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(build(results, title), encoding="utf-8")


def _lead(results: Sequence[tuple[str, Result]]) -> str:
    hardware = ", ".join(dict.fromkeys(r.hardware for _, r in results if r.hardware))
    started = min(r.started_at for _, r in results).replace("T", " ").removesuffix("+00:00")
    commits = ", ".join(dict.fromkeys(r.commit for _, r in results))
    sources = ", ".join(
        dict.fromkeys(str(row["trace_source"]) for _, r in results for row in r.rows if "trace_source" in row)
    )
    return " · ".join(filter(None, [sources, hardware, f"{started} UTC", f"commit {commits}"]))


def _warning(rows: Sequence[Row]) -> str:
    """Said at the top wherever a generator stood in for a trace."""
    generated = any(is_generated(row.get("trace_source", "")) for row in rows)
    return f'<p class="warning"><b>{escape(GENERATED)}</b></p>' if generated else ""


def _failed(measured: Sequence[Row], results: Sequence[tuple[str, Result]]) -> str:
    """Said at the top of every row in which requests failed."""
    files = len(results) > 1
    said = {n: text for n, row in enumerate(measured) if (text := failures.said(row))}
    told = [_of(measured[n], text, files) if len(measured) > 1 else text for n, text in said.items()]
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in told)


def _of(row: Row, text: str, files: bool) -> str:
    """A sentence on one of several rows."""
    parts = system(row), str(row.get("scenario", "")), f"{number(row['rate_rps'])} req/s", row["file"] if files else ""
    return f"{', '.join(filter(None, parts))}: {text}"


def _left_out(rows: Sequence[Row]) -> str:
    """What the traces hold and was not offered."""
    said = dict.fromkeys(sentence for row in rows for sentence in (row.get("load") or {}).get("left_out", ()))
    counted = [row for row in rows if "load" not in row]
    return "".join(f'<p class="note">{escape(text)}</p>' for text in (*said, *filter(None, [dropped_said(counted)])))


def _page(title: str, lead: str, body: str) -> str:
    css = resources.files(__name__).joinpath("style.css").read_text(encoding="utf-8")
    css += "".join(f".fill-{c} {{ fill: var(--{c}); }} .line-{c} {{ stroke: var(--{c}); }}\n" for c in PALETTE)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{body}'
        "</main></body></html>\n"
    )
