"""Small charts as inline SVG: no library, no script, colours from the page's style sheet, the same bytes for the same data.

A chart is drawn in a box of WIDTH by its height, in which a text of 12 units stays readable on a phone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH = 440
HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 26, 44  # margins
LETTER = 6.4  # width of a letter, about

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Where values lie between the ends of an axis, and which of them it names."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    warp: Callable[[Floats], Floats] = np.asarray
    percent: bool = False  # ticks are shares, told in per cent

    def at(self, values: ArrayLike) -> Floats:
        """Places from 0 to 1; what lies beyond an end is put there."""
        ends = self.warp(np.array([self.low, self.high], np.float64))
        places: Floats = (self.warp(np.asarray(values, np.float64)) - ends[0]) / ((ends[1] - ends[0]) or 1.0)
        return places.clip(0, 1)

    def name(self, value: float) -> str:
        """The text of a tick."""
        return f"{short(100 * value)} %" if self.percent else short(value)


def linear(label: str, low: float, high: float, percent: bool = False) -> Axis:
    """An axis of even steps."""
    high = high if high > low else low + (abs(low) or 1.0)
    rough = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = float(unit * min((1, 2, 2.5, 5, 10), key=lambda factor: abs(factor * unit - rough)))
    ticks = step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)
    return Axis(label, low, high, ticks.tolist(), percent=percent)


def logarithmic(label: str, low: float, high: float, percent: bool = False) -> Axis:
    """An axis of even ratios."""
    return _spaced(Axis(label, low, high, (), np.log10, percent))


def adaptive(label: str, values: Floats) -> Axis:
    """An axis for all the values: of even steps, or squeezed at both ends (asinh) where a few lie far from most."""
    low, first, middle, third, high = (float(v) for v in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    spread = third - first
    if spread <= 0 or high - low < 12 * spread:
        return linear(label, low, high)
    return _spaced(Axis(label, low, high, (), lambda v: np.arcsinh((v - middle) / spread)))


def _spaced(axis: Axis) -> Axis:
    """The axis with ticks at round values, the roundest first, as long as they do not crowd."""
    decades = 10.0 ** np.arange(-6, 13)
    sizes = [np.concatenate([-k * decades, k * decades]) for k in (1, 5, 2)]
    sizes.append(np.concatenate([s * k * decades for s in (-1, 1) for k in (3, 4, 6, 7, 8, 9, 1.5, 2.5)]))
    taken: list[float] = []
    for value in np.concatenate([[0.0], *sizes]).tolist():
        if axis.low <= value <= axis.high and all(abs(axis.at(value) - axis.at(other)) > 0.16 for other in taken):
            taken.append(value)
    return Axis(axis.label, axis.low, axis.high, sorted(taken), axis.warp, axis.percent)


class Chart:
    """A plot between two axes; what is drawn later lies above. Classes of the style sheet give the colours."""

    def __init__(self, x: Axis, y: Axis, height: int = HEIGHT) -> None:
        """An empty plot with its grid."""
        self._x, self._y, self._height = x, y, height
        self._parts: list[str] = []
        for tick in y.ticks:
            v = float(self._down(tick))
            self._parts.append(f'<path class="grid" d="M{LEFT} {v:.1f}H{WIDTH - RIGHT}"/>')
            self._text(LEFT - 6, v + 4, y.name(tick), "end")
        for tick in x.ticks:
            u = float(self._across(tick))
            self._parts.append(f'<path class="grid" d="M{u:.1f} {TOP}V{height - BOTTOM}"/>')
            self._text(u, height - BOTTOM + 17, x.name(tick), "middle")
        self._text((LEFT + WIDTH - RIGHT) / 2, height - 6, x.label, "middle", "label")
        self._text(2, 12, y.label, "start", "label")  # lying, so that nobody has to turn the head

    def line(self, x: ArrayLike, y: ArrayLike, kind: str) -> None:
        """A line through points (P,)."""
        self._parts.append(f'<path class="line {kind}" d="M{self._points(x, y)}"/>')

    def area(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, kind: str) -> None:
        """The area between two lines."""
        back = self._points(np.asarray(x)[::-1], np.asarray(low)[::-1])
        self._parts.append(f'<path class="area {kind}" d="M{self._points(x, high)}L{back}Z"/>')

    def bars(self, edges: ArrayLike, heights: ArrayLike, kind: str) -> None:
        """A histogram: heights (B,) between edges (B + 1,)."""
        x, y = np.repeat(np.asarray(edges, np.float64), 2), np.repeat(np.asarray(heights, np.float64), 2)
        outline = self._points(x, np.concatenate([[self._y.low], y, [self._y.low]]))
        self._parts.append(f'<path class="area {kind}" d="M{outline}Z"/><path class="line {kind}" d="M{outline}"/>')

    def dots(self, x: ArrayLike, y: ArrayLike, kind: str) -> None:
        """Dots (P,), as one path of strokes without length, each ended by a round cap."""
        if np.size(x):
            path = "".join(f"M{u:.0f} {v:.0f}h0" for u, v in zip(2 * self._across(x), 2 * self._down(y), strict=True))
            self._parts.append(f'<path class="dot {kind}" transform="scale(.5)" d="{path}"/>')

    def ring(self, x: float, y: float, kind: str, note: str = "", lift: int = -18) -> None:
        """A ring around one point, with a note beside it, `lift` above its middle."""
        u, v = float(self._across(x)), float(self._down(y))
        self._parts.append(f'<circle class="ring {kind}" cx="{u:.1f}" cy="{v:.1f}" r="4.5"/>')
        if note:
            right = u + 9 + LETTER * len(note) < WIDTH - RIGHT
            height = min(max(v + 4 - lift, TOP + 12), self._height - BOTTOM - 6)
            self._text(u + (9 if right else -9), height, note, "start" if right else "end", "note")

    def vertical(self, x: float, note: str) -> None:
        """A line across the plot at x, with a note beside it, on the side with more room."""
        u = float(self._across(x))
        self._parts.append(f'<path class="mark" d="M{u:.1f} {TOP}V{self._height - BOTTOM}"/>')
        right = u + 6 + LETTER * len(note) < WIDTH - RIGHT
        self._text(u + (6 if right else -6), TOP + 11, note, "start" if right else "end", "note")

    def render(self, alt: str) -> str:
        """The SVG element; `alt` says in words what is to be seen."""
        return _svg(self._height, alt, self._parts)

    def _across(self, x: ArrayLike) -> Floats:
        return LEFT + (WIDTH - LEFT - RIGHT) * self._x.at(x)

    def _down(self, y: ArrayLike) -> Floats:
        return TOP + (self._height - BOTTOM - TOP) * (1 - self._y.at(y))

    def _points(self, x: ArrayLike, y: ArrayLike) -> str:
        return "L".join(f"{u:.1f} {v:.1f}" for u, v in zip(self._across(x), self._down(y), strict=True))

    def _text(self, u: float, v: float, text: str, anchor: str = "start", kind: str = "tick") -> None:
        self._parts.append(f'<text class="{kind}" text-anchor="{anchor}" x="{u:.1f}" y="{v:.1f}">{escape(text)}</text>')


def ranking(names: Sequence[str], values: Sequence[float], kind: str, alt: str) -> str:
    """Horizontal bars, one a name, from the top; values are at least 0."""
    row, start, end = 20, 150, WIDTH - 52
    largest = max([*values, 1e-300])
    parts = []
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        top = place * row
        width = (end - start) * value / largest
        parts.append(
            f"<g><title>{escape(name)}: {short(value)}</title>"
            f'<text class="tick" text-anchor="end" x="{start - 8}" y="{top + 14}">{escape(cut(name, 21))}</text>'
            f'<rect class="bar {kind}" x="{start}" y="{top + 3}" width="{width:.1f}" height="14" rx="2"/>'
            f'<text class="tick" x="{start + width + 6:.1f}" y="{top + 14}">{short(value)}</text></g>'
        )
    return _svg(max(row, row * len(names)), alt, parts)


def short(value: float) -> str:
    """A number in three digits or so."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.3g}" if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:,.0f}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "−")


def cut(text: str, letters: int) -> str:
    """The text, ended by … where it is longer."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def escape(text: str) -> str:
    """Text for HTML: nothing in it is markup, and no character is invisible or turns the direction of reading."""
    return html.escape("".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _svg(height: int, alt: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'
