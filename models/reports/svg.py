"""Plots as SVG that stands inside a page: one frame with two axes, and what is drawn in it.

Own code, since what is needed is a handful of marks: a plotting library would be the largest dependency of the report,
brings its own fonts and colours, and its pictures do not turn dark with the page. Colours are the page's, by class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from models.reports.parts import Plot

Point = tuple[float, float]
_WIDTH, _ABOVE, _RIGHT, _BELOW = 380, 12, 16, 46
_RADIUS = 4.2


@dataclass(frozen=True)
class Axis:
    """From low to high. ticks: values and their words; label: what is on it."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def shares(label: str) -> Axis:
    """0 to 1."""
    return Axis(label, 0, 1, tuple((tick / 5, f"{tick / 5:g}") for tick in range(6)))


def numbers(label: str, values: Iterable[float]) -> Axis:
    """That holds all values, and 0; ticks at round numbers."""
    known = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(known), max(known)
    high = high if high > low else 1.0
    reach = high - low
    power = 10 ** math.floor(math.log10(reach / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= reach)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, tuple((n * step, f"{n * step:.6g}") for n in range(first, last + 1)))


def names(label: str, words: Sequence[str], longest: int = 24) -> Axis:
    """A place for each word: 0, 1, ... with half a place at both ends."""
    cut = [word if len(word) <= longest else word[: longest - 1] + "…" for word in words]
    return Axis(label, -0.5, len(words) - 0.5, tuple(enumerate(cut)))


@dataclass
class Frame:
    """Draw, then take `plot`. Rows of `names` on the y axis run from above."""

    x: Axis
    y: Axis
    height: int = 300
    rows: bool = False
    drawn: list[str] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Room for the ticks' words, about 6.2 px a letter."""
        return 40 + round(6.2 * max(len(words) for _, words in self.y.ticks))

    def across(self, x: float) -> float:
        return self.left + (x - self.x.low) / (self.x.high - self.x.low) * (_WIDTH - self.left - _RIGHT)

    def down(self, y: float) -> float:
        share = (y - self.y.low) / (self.y.high - self.y.low)
        return _ABOVE + (share if self.rows else 1 - share) * (self.height - _ABOVE - _BELOW)

    def line(self, points: Iterable[Point], kind: str) -> None:
        told = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        self.drawn.append(f'<polyline class="line {kind}" points="{told}"/>')

    def mark(self, x: float, y: float, kind: str, says: str = "") -> None:
        """A circle for "model", a square for "first", a triangle for "second", each told apart without colours."""
        a, b, r = self.across(x), self.down(y), _RADIUS
        shape = {
            "first": f'<rect class="mark first" x="{a - r:.1f}" y="{b - r:.1f}" width="{2 * r}" height="{2 * r}">',
            "second": f'<path class="mark second" d="M{a:.1f},{b - r:.1f} l{r},{2 * r} h{-2 * r} z">',
        }.get(kind, f'<circle class="mark {kind}" cx="{a:.1f}" cy="{b:.1f}" r="{r}">')
        name = shape[1:].split()[0]
        self.drawn.append(f"{shape}{f'<title>{escape(says)}</title>' if says else ''}</{name}>")

    def box(self, x: Point, y: Point, kind: str, opacity: float | None = None) -> None:
        """x, y: from, to. kind: "full" or "pale", where there is no opacity."""
        (a, b), (c, d) = sorted(map(self.across, x)), sorted(map(self.down, y))
        size = f'x="{a:.1f}" y="{c:.1f}" width="{b - a:.1f}" height="{d - c:.1f}"'
        seen = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
        self.drawn.append(f'<rect class="box {kind}" {size}{seen}/>')

    def words(self, x: float, y: float, told: str, kind: str = "middle") -> None:
        self.drawn.append(
            f'<text class="{kind}" x="{self.across(x):.1f}" y="{self.down(y) + 4:.1f}">{escape(told)}</text>'
        )

    def key(self, kind: str, told: str) -> None:
        """A line of the legend below."""
        self.keys.append((kind, told))

    def plot(self, title: str, says: str) -> Plot:
        whole = self.height + 20 * len(self.keys)
        body = "".join([*self._axes(), *self.drawn, *self._legend()])
        name = escape(f"{title}. {says}", quote=True)
        return Plot(
            title,
            says,
            f'<svg role="img" aria-label="{name}" viewBox="0 0 {_WIDTH} {whole}" width="{_WIDTH}" height="{whole}">'
            f"{body}</svg>",
        )

    def _axes(self) -> Iterable[str]:
        left, right, top, bottom = self.left, _WIDTH - _RIGHT, _ABOVE, self.height - _BELOW
        for value, words in self.x.ticks:
            at = self.across(value)
            yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>'
            yield f'<text class="tick middle" x="{at:.1f}" y="{bottom + 16}">{escape(words)}</text>'
        for value, words in self.y.ticks:
            at = self.down(value)
            yield f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            yield f'<text class="tick end" x="{left - 7}" y="{at + 4:.1f}">{escape(words)}</text>'
        yield f'<path class="axis" d="M{left},{top} V{bottom} H{right}"/>'
        middle = (left + right) / 2, (top + bottom) / 2
        yield f'<text class="label middle" x="{middle[0]:.1f}" y="{bottom + 36}">{escape(self.x.label)}</text>'
        yield (
            f'<text class="label middle" transform="translate(14 {middle[1]:.1f}) rotate(-90)">'
            f"{escape(self.y.label)}</text>"
        )

    def _legend(self) -> Iterable[str]:
        for number, (kind, told) in enumerate(self.keys):
            at = self.height + 20 * number + 2
            yield f'<g transform="translate({self.left} {at})">{_sample(kind)}<text class="tick" x="26" y="9">'
            yield f"{escape(told)}</text></g>"


def _sample(kind: str) -> str:
    if kind == "first":
        return '<rect class="mark first" x="6" y="1" width="8" height="8"/>'
    if kind == "second":
        return '<path class="mark second" d="M10,1 l4.2,8.4 h-8.4 z"/>'
    if kind.startswith("box "):
        return f'<rect class="{kind}" x="2" y="0" width="16" height="10"/>'
    if kind.startswith("line "):
        return f'<line class="{kind}" x1="0" x2="20" y1="5" y2="5"/>'
    return f'<circle class="mark {kind}" cx="10" cy="5" r="4.2"/>'
