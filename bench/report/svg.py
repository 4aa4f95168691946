"""Small drawings in SVG: no scripts, colours from the page's CSS so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Scale = Callable[[float], float]

LETTER = 7.2  # a wide font's mean width of a character of 12 px


def text_width(text: str, size: float = 12.0) -> float:
    """How wide a text becomes at most, about."""
    return len(text) * LETTER * size / 12.0


@dataclass
class Drawing:
    """SVG elements on a canvas; y grows downwards."""

    width: float
    height: float
    label: str  # what a screen reader says
    parts: list[str] = field(default_factory=list)

    def rect(self, x: float, y: float, width: float, height: float, css: str, hint: str = "", rx: float = 0) -> None:
        self._add("rect", css, hint, x=x, y=y, width=max(0.0, width), height=max(0.0, height), rx=rx)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str, hint: str = "") -> None:
        self._add("line", css, hint, x1=x1, y1=y1, x2=x2, y2=y2)

    def dot(self, x: float, y: float, css: str, hint: str = "", r: float = 3.2) -> None:
        self._add("circle", css, hint, cx=x, cy=y, r=r)

    def path(self, points: Sequence[tuple[float, float]], css: str, hint: str = "") -> None:
        if points:
            self._add("path", css, hint, d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start", turn: bool = False) -> None:
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}"{turned}>{escape(text)}</text>'
        )

    def inside(self, x: float, y: float, text: str, css: str = "") -> None:
        """A text around `x`, moved as far as it takes to stay on the canvas."""
        half = text_width(text) / 2 + 3  # a percent sign is wide
        self.text(min(max(x, half), self.width - half), y, text, css, "middle")

    def render(self, css: str = "") -> str:
        kind = f' class="{css}"' if css else ""
        return (
            f'<svg{kind} viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" role="img" '
            f'aria-label="{escape(self.label, quote=True)}">{"".join(self.parts)}</svg>'
        )

    def _add(self, tag: str, css: str, hint: str = "", **attributes: float | str) -> None:
        shown = " ".join(
            f'{k}="{v:.1f}"' if isinstance(v, float | int) else f'{k}="{v}"' for k, v in attributes.items()
        )
        self.parts.append(
            f'<{tag} class="{css}" {shown}><title>{escape(hint)}</title></{tag}>'
            if hint
            else f'<{tag} class="{css}" {shown}/>'
        )


@dataclass
class Frame:
    """A plot area inside a drawing, with its axes."""

    drawing: Drawing
    left: float
    top: float
    right: float
    bottom: float
    x: Scale
    y: Scale

    def x_axis(self, ticks: Iterable[tuple[float, str]], title: str) -> None:
        taken = -math.inf
        for value, name in ticks:
            at, half = self.x(value), text_width(name) / 2
            self.drawing.line(at, self.top, at, self.bottom, "grid")
            if at - half > taken:
                self.drawing.inside(at, self.bottom + 16, name, "tick")
                taken = at + half + 4
        self.drawing.line(self.left, self.bottom, self.right, self.bottom, "axis")
        self.drawing.text((self.left + self.right) / 2, self.bottom + 34, title, "title", "middle")

    def y_axis(self, ticks: Iterable[tuple[float, str]], title: str) -> None:
        for value, name in ticks:
            at = self.y(value)
            self.drawing.line(self.left, at, self.right, at, "grid")
            self.drawing.text(self.left - 7, at + 4, name, "tick", "end")
        self.drawing.text(14, (self.top + self.bottom) / 2, title, "title", "middle", turn=True)

    def curve(self, points: Sequence[tuple[float, float]], css: str, hint: str = "") -> None:
        self.drawing.path([(self.x(x), self.y(y)) for x, y in points], css, hint)


def frame(
    drawing: Drawing,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    log_x: bool = False,
    left: float = 58.0,
    right: float = 14.0,
) -> Frame:
    """The plot area of a drawing that holds one plot: margins for a y title on the left, an x title below, and for
    what stands beside it on the right."""
    area = left, 12.0, drawing.width - right, drawing.height - 42
    make = log_scale if log_x else linear_scale
    return Frame(drawing, *area, make(x, (area[0], area[2])), linear_scale(y, (area[3], area[1])))


def linear_scale(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    (low, high), (start, end) = domain, span
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def log_scale(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    low, high = (math.log10(v) for v in domain)
    linear = linear_scale((low, high), span)
    return lambda value: linear(math.log10(value) if value > 0 else low)


def linear_ticks(high: float, about: int = 5) -> list[float]:
    """Round values from 0 to `high`, about so many."""
    if high <= 0:
        return [0.0]
    rough = high / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [n * step for n in range(int(high / step + 1e-9) + 1)]


def log_ticks(domain: tuple[float, float]) -> list[float]:
    """1, 2 and 5 times powers of ten inside the domain; powers of ten only when the domain is wide."""
    low, high = domain
    steps = (1, 2, 5) if math.log10(high / low) <= 2.4 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in steps if low * 0.999 <= m * 10.0**p <= high * 1.001]


def number(value: float) -> str:
    """A short plain number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
