"""Pieces of HTML that sections share."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MARKS = ("slo", "tick", "line")  # drawn by their own CSS; anything else names a colour


def section(title: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Entries are (colour or mark, text)."""

    def mark(kind: str) -> str:
        return f'<i class="{kind}"></i>' if kind in MARKS else f'<i style="--mark: var(--{kind})"></i>'

    return '<div class="legend">' + "".join(f"<span>{mark(k)}{escape(text)}</span>" for k, text in entries) + "</div>"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"
