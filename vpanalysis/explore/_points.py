"""Small pictures that are drawn at once, follow the notebook's theme, and whose places can be pointed at.

Why it exists. A picture that answers to every touch of a slider has a few milliseconds; a plotting library takes some
hundred. And a picture made elsewhere is white in a dark notebook.

The idea. A :class:`Canvas` writes SVG: lines, bands, marks, bars and text in data coordinates, coloured by the style
sheet's variables with plain colours behind them for readers that drop styles. The same text serves the live part and
its static twin. :class:`Points` shows such a picture in a notebook and says which of its places is under the pointer,
was clicked, or was walked to with the arrow keys.

All strings are escaped.

>>> canvas = Canvas(120, 60, x=(0, 1), y=(0, 1))
>>> canvas.line([0, 1], [0, 1], TRUTH)
>>> "<polyline" in canvas.svg("a line")
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import anywidget
import traitlets

from vpanalysis.explore._explorer import STATIC

__all__ = ["CLAIM", "DIM", "INK", "LINE", "TRUTH", "Bar", "Canvas", "Points", "bars", "places_html", "short"]

Colour = tuple[str, str]

TRUTH: Colour = ("--vp-truth", "#0072b2")
CLAIM: Colour = ("--vp-claim", "#c65300")
INK: Colour = ("--vp-ink", "#1a1a1a")
DIM: Colour = ("--vp-dim", "#555555")
LINE: Colour = ("--vp-line", "#bbbbbb")
GROUND: Colour = ("--vp-ground", "#ffffff")
"""Variables of the style sheet, and what stands in where there is none."""

Dashes = {"solid": "", "dashed": "5 3", "dotted": "1.5 3", "dash-dotted": "6 3 1.5 3"}

_CSS = """
.vp-points { width: fit-content; max-width: 100%; margin: 3px; }
.vp-points svg { max-width: 100%; height: auto; }
.vp-points [data-key] { cursor: pointer; fill: transparent; }
.vp-points [data-key]:hover { fill: var(--vp-line); fill-opacity: 0.3; }
.vp-points [data-key].vp-picked { fill: var(--vp-line); fill-opacity: 0.55; }
"""


def short(text: str, most: int = 48) -> str:
    """Return a text that is cut where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


class Canvas:
    """A picture in data coordinates, as SVG.

    Parameters
    ----------
    width, height : float
        In pixels.
    x, y : tuple of float
        What the left and right, and the lower and upper edge of the frame stand for.
    left, right, top, bottom : float
        Pixels around the frame.
    """

    def __init__(
        self, width: float, height: float, *, x: tuple[float, float], y: tuple[float, float], left: float = 8,
        right: float = 8, top: float = 8, bottom: float = 8,
    ) -> None:  # fmt: skip
        self.width, self.height = width, height
        self.left, self.top = left, top
        self.inner = (max(1.0, width - left - right), max(1.0, height - top - bottom))
        self._x, self._y = x, y
        self._places: list[str] = []
        self._back: list[str] = []
        self._front: list[str] = []

    def px(self, x: float) -> float:
        """Return the pixel column of a value."""
        low, high = self._x
        return self.left + (x - low) / ((high - low) or 1.0) * self.inner[0]

    def py(self, y: float) -> float:
        """Return the pixel row of a value."""
        low, high = self._y
        return self.top + (high - y) / ((high - low) or 1.0) * self.inner[1]

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: Colour, *, dash: str = "solid", width: float = 1.6
    ) -> None:
        """Draw a line; `dash` is one of solid, dashed, dotted, dash-dotted."""
        points = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in zip(xs, ys, strict=True) if _finite(x, y))
        self._front.append(
            f'<polyline points="{points}" {_paint(None, colour)} stroke-width="{width:g}" '
            f'stroke-dasharray="{Dashes[dash]}"/>'
        )

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: Colour, *,
        opacity: float = 0.18, dash: str | None = None,
    ) -> None:  # fmt: skip
        """Fill what is between two lines; with `dash` also draw its edges."""
        there = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if _finite(x, a, b)]
        if not there:
            return
        edge = [f"{self.px(x):.1f},{self.py(b):.1f}" for x, _, b in there]
        edge += [f"{self.px(x):.1f},{self.py(a):.1f}" for x, a, _ in reversed(there)]
        drawn = f'stroke-width="0.8" stroke-dasharray="{Dashes[dash]}"' if dash else ""
        paint = _paint(colour, colour if dash else None)
        self._back.append(f'<polygon points="{" ".join(edge)}" {paint} fill-opacity="{opacity:g}" {drawn}/>')

    def mark(self, x: float, y: float, colour: Colour, *, shape: str = "circle", filled: bool = True) -> None:
        """Draw a circle or a square at a point."""
        if not _finite(x, y):
            return
        style = f'{_paint(colour if filled else GROUND, colour)} stroke-width="1.4"'
        at = self.px(x), self.py(y)
        if shape == "circle":
            self._front.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.6" {style}/>')
        else:
            self._front.append(f'<rect x="{at[0] - 3.3:.1f}" y="{at[1] - 3.3:.1f}" width="6.6" height="6.6" {style}/>')

    def bar(self, x: float, y: float, colour: Colour, *, height: float = 12, dash: bool = False) -> None:
        """Draw a bar from 0 to `x`, `height` pixels high, around the row `y`; dashed ones are outlined."""
        left, right = self.px(0.0), self.px(x)
        wide, row = max(0.8, right - left), self.py(y) - height / 2
        edge = 'stroke-width="1.2" stroke-dasharray="4 2"' if dash else ""
        self._front.append(
            f'<rect x="{left:.1f}" y="{row:.1f}" width="{wide:.1f}" height="{height:g}" '
            f'{_paint(colour, colour if dash else None)} fill-opacity="{0.35 if dash else 0.9:g}" {edge}/>'
        )

    def text(
        self, px: float, py: float, text: str, *, anchor: str = "start", size: float = 12, colour: Colour = INK,
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Write at a pixel."""
        weight = ' font-weight="600"' if bold else ""
        self._front.append(
            f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}" dominant-baseline="central" font-size="{size:g}" '
            f"{_paint(colour)}{weight}>{escape(text)}</text>"
        )

    def place(self, key: int, box: tuple[float, float, float, float], title: str) -> None:
        """Make a rectangle of pixels (left, top, width, height) one that can be pointed at."""
        left, top, width, height = box
        self._places.append(
            f'<rect {_hidden(key)} x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="#bbbbbb" pointer-events="all">'
            f"<title>{escape(title)}</title></rect>"
        )

    def svg(self, alt: str) -> str:
        """Return the picture; `alt` is for who cannot see it."""
        # What is drawn lets the pointer through to the places behind it.
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" role="img" aria-label="{escape(alt, quote=True)}" '
            f'font-family="system-ui, sans-serif">{"".join(self._places)}'
            f'<g pointer-events="none">{"".join(self._back)}{"".join(self._front)}</g></svg>'
        )


def _hidden(key: int) -> str:
    return f'data-key="{key:d}" fill-opacity="0"'


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _paint(fill: Colour | None, stroke: Colour | None = None) -> str:
    """Return the attributes of a shape: plain colours, and a style with the theme's, which wins where it is kept."""
    named = [(name, colour) for name, colour in (("fill", fill), ("stroke", stroke)) if colour is not None]
    plain = " ".join(f'{name}="{colour[1]}"' for name, colour in named)
    style = ";".join(f"{name}:var({colour[0]},{colour[1]})" for name, colour in named)
    hollow = ' fill="none"' if fill is None else ""
    return f'{plain}{hollow} style="{style}"'


class Bar:
    """One bar: what it is, how long, and how it is drawn.

    Parameters
    ----------
    name : str
    value : float
        Between 0 and 1.
    colour : tuple of str
    dash : bool
        Outlined and dashed, so that it is told from others without colour.
    heading : str
        Written above it, where a group of bars begins.
    """

    def __init__(
        self, name: str, value: float, colour: Colour = TRUTH, *, dash: bool = False, heading: str = ""
    ) -> None:
        self.name, self.value, self.colour, self.dash, self.heading = name, value, colour, dash, heading


def bars(rows: Sequence[Bar], alt: str, *, width: float = 460, named: float = 130) -> str:
    """Return horizontal bars with their numbers, as SVG.

    Parameters
    ----------
    rows : sequence of Bar
    alt : str
        What the picture is of; the numbers are added.
    width : float
        In pixels.
    named : float
        Pixels for the names at the left.
    """
    step, head = 20.0, 22.0
    height = 8 + step * len(rows) + head * sum(bool(row.heading) for row in rows)
    canvas = Canvas(width, height, x=(0, 1), y=(height, 0), left=named, right=56, top=0, bottom=0)
    at = 4.0
    for row in rows:
        if row.heading:
            canvas.text(2, at + head / 2 + 2, short(row.heading, 60), bold=True)
            at += head
        canvas.text(
            named - 6, at + step / 2, short(row.name, 22), anchor="end", colour=INK if not row.dash else row.colour
        )
        canvas.bar(min(1.0, max(0.0, row.value)), at + step / 2, row.colour, dash=row.dash)
        canvas.text(canvas.px(min(1.0, max(0.0, row.value))) + 5, at + step / 2, f"{row.value:.3f}")
        at += step
    told = "; ".join(f"{row.heading + ': ' if row.heading else ''}{row.name} {row.value:.3f}" for row in rows)
    return canvas.svg(f"{alt}: {told}")


def places_html(svg: str, picked: int | None = None) -> str:
    """Return a picture for the static twin, one of its places marked."""
    if picked is not None:
        svg = svg.replace(_hidden(picked), f'data-key="{picked:d}" fill-opacity="0.4"')
    return f"<div style='max-width:100%;overflow-x:auto'>{svg}</div>"


class Points(anywidget.AnyWidget):
    """A picture in a notebook whose places can be hovered, clicked and walked through with the arrow keys.

    Attributes
    ----------
    svg : str
        From :meth:`Canvas.svg`, with places.
    label : str
        What it is, for screen readers.
    names : list of str
        The name of every place, by its number.
    selected, hovered : int
        The place that was chosen; the one under the pointer, or -1.
    """

    # As text: of a path, anywidget watches the file, and the watch would keep every widget that ever was.
    _esm = (STATIC / "points.js").read_text(encoding="utf-8")
    _css = _CSS
    svg = traitlets.Unicode("").tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    hovered = traitlets.Int(-1).tag(sync=True)
