"""Tables of a report: every plain value of the rows, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from slosgate.bench.report.svg import number
from slosgate.bench.results import Result, Row

RUN_COLUMNS = {
    "scenario": "scenario",
    "system": "system",
    "rate_rps": "req/s",
    "offered": "offered",
    "attainment": "attained",
    "attainment_strict": "strict",
    "goodput_rps": "goodput/s",
    "ttft_p50_s": "TTFT p50 s",
    "ttft_p99_s": "TTFT p99 s",
    "tpot_p50_s": "TPOT p50 s",
    "tpot_p99_s": "TPOT p99 s",
    "guaranteed": "guaranteed",
    "best_effort": "best effort",
    "rejected": "rejected",
    "unfinished": "unfinished",
}
SHARES = ("attainment", "attainment_strict", "attainment_target", "ci_low", "ci_high", "guaranteed_attainment")


def run_table(rows: Sequence[Row]) -> str:
    told = {k: title for k, title in RUN_COLUMNS.items() if any(r.get(k) for r in rows)}  # columns of zeros say little
    return _table(told, rows)


def plain_table(rows: Sequence[Row]) -> str:
    """Rows of any command: each key that holds a plain value becomes a column."""
    keys = dict.fromkeys(k for r in rows for k, v in r.items() if not isinstance(v, dict | list))
    return _table({k: k.replace("_", " ") for k in keys}, rows)


def origins(results: Sequence[tuple[str, Result]]) -> str:
    """What each result file says about itself."""
    rows = []
    for name, r in results:
        options = " ".join(f"{k}={v}" for k, v in r.config.items() if v is not None)
        sources = sorted({str(row["trace_source"]) for row in r.rows if "trace_source" in row})
        rows += [
            ("file", name),
            ("command", f"slosbench {r.command}"),
            ("options", options),
            ("hardware", r.hardware),
            ("seed", str(r.seed)),
            ("commit", r.commit),
            ("started", r.started_at),
            *(("trace", source) for source in sources),
        ]
    body = "".join(f"<tr><td>{escape(k)}</td><td class='wrap'>{escape(v)}</td></tr>" for k, v in rows)
    return f'<div class="scroll"><table>{body}</table></div>'


def _table(columns: dict[str, str], rows: Sequence[Row]) -> str:
    texts = {key for key in columns if any(isinstance(r.get(key), str) for r in rows)}
    head = "".join(f"<th{' class=left' if k in texts else ''}>{escape(title)}</th>" for k, title in columns.items())
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=left' if k in texts else ''}>{escape(_cell(k, r.get(k)))}</td>" for k in columns)
        + "</tr>"
        for r in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(key: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value * 100:.1f} %" if key in SHARES else number(value)
