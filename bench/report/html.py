"""Pieces of HTML that sections share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from slosgate.bench.report.svg import Drawing

MARKS = ("slo", "tick", "line", "dashed", "bound")  # drawn by their own CSS; anything else names a colour
FULL, HALF, NARROW = 1080.0, 520.0, 344.0  # widths of drawings: over the page, beside another one, on a telephone
LEFT = 62.0  # room for a plot's y axis and its title


def section(title: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def folded(title: str, body: str, *, opened: bool) -> str:
    """A part that opens when it is asked for."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{body}</details>"


def figure(draw: Callable[[float], Drawing], width: float, title: str = "") -> str:
    """A drawing in two widths, of which the page shows the one that fits it: text keeps its size on a telephone."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{head}{draw(width).render('wide')}{draw(NARROW).render('narrow')}</figure>"


def grid(figures: Sequence[str]) -> str:
    """Figures of half the page's width, two beside each other where there is room."""
    return f'<div class="grid2">{"".join(figures)}</div>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Entries are (colour or mark, text); a colour with `dashed` behind it is that of a dashed line."""

    def mark(kind: str) -> str:
        colour, _, dashed = kind.partition(" ")
        if colour in MARKS:
            return f'<i class="{colour}"></i>'
        return f'<i class="{dashed}" style="--mark: var(--{colour})"></i>'

    return '<div class="legend">' + "".join(f"<span>{mark(k)}{escape(text)}</span>" for k, text in entries) + "</div>"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"
