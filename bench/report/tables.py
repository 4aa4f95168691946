"""Tables of a report: the plain values of the rows, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from slosgate.bench.report.html import folded
from slosgate.bench.report.series import system
from slosgate.bench.report.svg import number
from slosgate.bench.results import Result, Row

RUN_COLUMNS = {
    "scenario": "scenario",
    "system": "system",
    "hardware": "hardware",
    "replicas": "replicas",
    "mode": "mode",
    "seed": "seed",
    "file": "file",
    "commit": "commit",
    "offered_rps": "req/s",
    "concurrency": "users",
    "offered": "offered",
    "attainment": "attained",
    "interval": "95 % interval",
    "attainment_strict": "strict",
    "request_goodput": "goodput /s",
    "ttft": "TTFT s p50 / p99",
    "tpot": "TPOT ms p50 / p99",
    "guaranteed": "guar.",
    "best_effort": "best effort",
    "rejected": "refused",
    "unfinished": "un-finished",
    "failed": "failed",
    "dropped": "left out",
}
SHARES = (
    "attainment", "attainment_strict", "attainment_target", "ci_low", "ci_high", "guaranteed_attainment", "mape",
    "median_error", "exact", "share_of_bound", "share_of_full", "baseline_attainment", "within", "off",
)  # fmt: skip
NUMBERS = "interval", "ttft", "tpot"  # told as text, but numbers
COMMIT_SHOWN = 8
UNUSED = None, 0, 0.0, "", False  # what a setting is that isn't used
SETTINGS: dict[str, Callable[[object], str]] = {
    "budget": lambda v: f"budget {v}",
    "drafts": lambda v: f"{v} drafts",
    "defer_below": lambda v: f"defers below {v}",
    "prefill_replicas": lambda v: f"{v} for prefill",
}
ALSO_SAID = "ahead", "async_scheduling", "dropped_of"  # of no use to compare by
ENDS_OF_INTERVALS = "_ci_low", "_ci_high"  # of figures that stand beside another's


@dataclass(frozen=True)
class _Column:
    key: str
    title: str
    words: bool
    cells: list[str]


def run_table(rows: Sequence[Row]) -> str:
    """Figures of runs; what is the same in all of them is said above."""
    told = {k: title for k, title in RUN_COLUMNS.items() if any(_value(r, k) not in (None, 0, "") for r in rows)}
    return _table(told, rows)


def plain_table(rows: Sequence[Row]) -> str:
    """Rows of any command: each key that holds a plain value becomes a column."""
    keys = dict.fromkeys(k for r in rows for k, v in r.items() if not isinstance(v, dict | list))
    unsaid = *SETTINGS, *ALSO_SAID, "ci_low"
    told = {k: k.replace("_", " ") for k in keys if k not in unsaid and not k.endswith(ENDS_OF_INTERVALS)}
    if "gpus" in told:
        told.pop("replicas", None)  # the GPUs tell what a row takes
    if "dropped" in told:
        told["dropped"] = RUN_COLUMNS["dropped"]
    if "ci_high" in told:
        told["ci_high"] = "95 % interval"
    told = {("interval" if k == "ci_high" else k): title for k, title in told.items()}
    if any(_value(r, "settings") for r in rows):
        told["settings"] = "settings"
    return _table(told, rows)


def origins(results: Sequence[tuple[str, Result]]) -> str:
    """What each result file says about itself, folded where there are several."""
    if len(results) > 1:
        return "".join(folded(name, origins([(name, r)]), opened=False) for name, r in results)
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
    body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<table class="origins">{body}</table>'


def _table(told: dict[str, str], rows: Sequence[Row]) -> str:
    columns = [
        _Column(
            k, title, k not in NUMBERS and any(isinstance(_value(r, k), str) for r in rows), [_cell(k, r) for r in rows]
        )
        for k, title in told.items()
    ]
    same = [c for c in columns if len(rows) > 1 and len(set(c.cells)) == 1]
    shown = [c for c in columns if c not in same]
    above = ", ".join(f"{c.title} {c.cells[0]}" for c in same)
    said = f'<p class="note">In all rows: {escape(above)}.</p>' if same else ""
    head = "".join(f"<th{' class=left' if c.words else ''}>{escape(c.title)}</th>" for c in shown)
    body = "".join(f"<tr>{''.join(_td(c, n) for c in shown)}</tr>" for n in range(len(rows)))
    return f'{said}<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _td(column: _Column, n: int) -> str:
    """A cell; where a table has no room it stands below others, behind its column's title."""
    kind = ' class="left"' if column.words else ""
    title = escape(column.title.replace("-", "") if column.title in RUN_COLUMNS.values() else column.title, quote=True)
    return f'<td{kind} data-title="{title}">{escape(column.cells[n])}</td>'


def _value(row: Row, key: str) -> object:
    if key == "interval":
        return f"{row['ci_low'] * 100:.1f}–{row['ci_high'] * 100:.1f}" if "ci_low" in row else None
    if key == "settings":
        return ", ".join(say(row[k]) for k, say in SETTINGS.items() if row.get(k) not in UNUSED)
    if key in ("ttft", "tpot"):
        return _percentiles(row, key, 1.0 if key == "ttft" else 1e3)
    if key == "commit":
        return str(row.get(key, ""))[:COMMIT_SHOWN]
    return system(row) if key == "system" else row.get(key)


def _percentiles(row: Row, name: str, unit: float) -> str:
    values = (row.get(f"{name}_p{q}_s") for q in (50, 99))
    return " / ".join("–" if v is None else number(v * unit) for v in values)


def _cell(key: str, row: Row) -> str:
    value = _value(row, key)
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value * 100:.1f} %" if key in SHARES else number(value)
