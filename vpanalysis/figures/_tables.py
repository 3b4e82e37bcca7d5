"""A table as a picture: rules above, below and under the head, none upright, numbers aligned on the right.

Why it exists. A published table is best compared as a table. The same cells that go into LaTeX are set here, so that
the picture of the gallery, the slide and the paper's table say the same.

The idea. Everything is measured in points at the width of an ICML page and scaled with the figure's width, so that the
lines break alike on paper, slides and web. Columns take what their longest cell needs; where that is too much the
widest columns of words are broken into lines. :func:`table_height` knows the height before anything is drawn.

A layout is a DataFrame of strings, its columns' names the heads. ``layout.attrs`` may hold ``notes`` (lines under the
table) and ``rules`` (numbers of the rows above which a thin rule parts groups).

>>> table_height(pd.DataFrame({"model": ["a", "b"], "Acc_GT": ["1.0", "20.0"]}), 3.25) < 1
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd

from vpanalysis.figures._entry import WIDTHS
from vpanalysis.figures._latex import is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

__all__ = ["Notes", "cell", "draw_table", "table_height"]

TYPE, SMALL = 7.5, 6.6
"""Points of cells and of notes at the width they were set for."""

_LEADING, _ROW, _GAP, _EDGE, _RULE = 1.22, 3.4, 10.0, 6.0, 4.0
_ASCENT = 0.82
"""From the upper edge of a line to its baseline, as a share of the type's size."""

_LEAST = 34.0
"""No column of words is made narrower than this, in points."""

_MARKS = ("†", "‡", "*", "††", "‡‡", "**", "†††", "‡‡‡")


class Notes:
    """Footnotes: the same text has the same mark, in the order of first use.

    >>> notes = Notes()
    >>> notes.mark("not printed"), notes.mark("flagged"), notes.mark("not printed")
    ('†', '‡', '†')
    >>> notes.lines
    ['† not printed', '‡ flagged']
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the sign of a note."""
        if text not in self._texts:
            self._texts.append(text)
        return self._sign(self._texts.index(text))

    @property
    def lines(self) -> list[str]:
        """All notes with their signs."""
        return [f"{self._sign(at)} {text}" for at, text in enumerate(self._texts)]

    @staticmethod
    def _sign(at: int) -> str:
        return _MARKS[at] if at < len(_MARKS) else f"({at + 1})"


def cell(value: float, low: float | None = None, high: float | None = None, *, digits: int = 1) -> str:
    """Return a number with its interval as a cell; nothing for a missing number.

    >>> cell(2.2, 1.29, 3.73), cell(float("nan")), cell(17.4, digits=2)
    ('2.2 [1.3, 3.7]', '', '17.40')
    """
    if math.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text if low is None or high is None or math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def table_height(layout: pd.DataFrame, width: float = WIDTHS["double"]) -> float:
    """Return the height in inches of a table of a width in inches."""
    return _set(layout, width).height / 72


def draw_table(layout: pd.DataFrame, figure: Figure, width: float = WIDTHS["double"]) -> None:
    """Draw a table that fills a figure.

    Parameters
    ----------
    layout : DataFrame
        One cell a string, with ``attrs`` as in the module's docstring.
    figure : Figure
        Empty; its width decides about the size of type.
    width : float
        The width in inches that the table was set for.
    """
    made = _set(layout, width)
    across, down = width * 72, made.height
    scale = float(figure.get_figwidth()) / width
    # A figure that somebody hands in may be too low for the type that its width asks for.
    scale = min(scale, float(figure.get_figheight()) * 72 / down)
    # Not managed by a layout engine: the cells are where they were measured to be.
    figure.set_layout_engine("none")
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(0, figure.get_figwidth() * 72 / scale)
    ax.set_ylim(figure.get_figheight() * 72 / scale, 0)
    ax.axis("off")
    for x, y, text, side, points, bold in made.texts:
        # Line by line on its baseline: a block is aligned by its highest letter, which differs from cell to cell.
        for number, line in enumerate(text.split("\n")):
            ax.text(x, y + points * (number * _LEADING + _ASCENT), line, ha=side, va="baseline",
                    fontsize=points * scale, fontweight="bold" if bold else "normal", parse_math=False)  # fmt: skip
    for y, heavy in made.rules:
        ax.plot([_EDGE, across - _EDGE], [y, y], color="black", lw=(0.9 if heavy else 0.45) * scale, clip_on=False)


@dataclass(frozen=True)
class _Table:
    """Where everything is, in points from the upper left corner."""

    height: float
    texts: tuple[tuple[float, float, str, str, float, bool], ...]
    rules: tuple[tuple[float, bool], ...]


def _set(layout: pd.DataFrame, width: float) -> _Table:
    heads = [str(name) for name in layout.columns]
    rows = [[str(value) for value in row] for row in layout.itertuples(index=False, name=None)]
    numbers = [is_number(row[i] for row in rows) for i in range(len(heads))]
    rows = [[_with_minus(text) if number else text for text, number in zip(row, numbers, strict=True)] for row in rows]
    columns = _broken([heads, *rows], numbers, width * 72 - 2 * _EDGE)
    needs = [max(_width(text, at == 0) for at, text in enumerate(column)) for column in columns]
    # What is left over goes between the columns, a little of it.
    spare = max(0.0, width * 72 - 2 * _EDGE - sum(needs) - _GAP * (len(needs) - 1))
    gap = _GAP + min(spare / max(1, len(needs) - 1), 2.5 * _GAP)
    texts: list[tuple[float, float, str, str, float, bool]] = []
    rules = [(_EDGE, True)]
    y = _EDGE + _RULE
    thin = {int(row) for row in layout.attrs.get("rules", ())}
    for at in range(len(rows) + 1):
        if at - 1 in thin and at > 1:
            rules.append((y + _RULE / 2, False))
            y += _RULE + 1
        x = _EDGE
        lines = max(column[at].count("\n") + 1 for column in columns)
        for column, need, number in zip(columns, needs, numbers, strict=True):
            place, side = (x + need, "right") if number else (x, "left")
            texts.append((place, y, column[at], side, TYPE, at == 0))
            x += need + gap
        y += lines * TYPE * _LEADING + _ROW
        if at == 0:
            rules.append((y + _RULE / 2 - 1, False))
            y += _RULE + 1
    rules.append((y + _RULE / 2 - 1, True))
    y += _RULE + 2
    for note in layout.attrs.get("notes", ()):
        text = _wrapped(str(note), width * 72 - 2 * _EDGE, SMALL)
        texts.append((_EDGE, y, text, "left", SMALL, False))
        y += (text.count("\n") + 1) * SMALL * _LEADING + 1.5
    return _Table(y + _EDGE / 2, tuple(texts), tuple(rules))


def _broken(rows: Sequence[Sequence[str]], numbers: Sequence[bool], room: float) -> list[list[str]]:
    """Return the columns; those of words are broken into lines, the widest first, until all have room."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    whole = [list(column) for column in columns]
    stuck: set[int] = set()
    for _ in range(200):
        needs = [max(_width(text, at == 0) for at, text in enumerate(column)) for column in columns]
        if sum(needs) + _GAP * (len(needs) - 1) <= room:
            break
        # Heads of columns of numbers can be broken too, to the width of the numbers.
        floor = [max(_LEAST, *(_width(text) for text in column[1:])) if number else _LEAST
                 for column, number in zip(columns, numbers, strict=True)]  # fmt: skip
        # The column whose breaking adds the fewest lines to the table; of several the widest.
        tried = {i: [_wrapped(text, need - 4, TYPE, bold=at == 0) for at, text in enumerate(whole[i])]
                 for i, need in enumerate(needs) if need > floor[i] + 1 and i not in stuck}  # fmt: skip
        if not tried:
            break
        best = min(tried, key=lambda i: (_lines([*columns[:i], tried[i], *columns[i + 1 :]]), -needs[i]))
        columns[best] = tried[best]
        if max(_width(text, at == 0) for at, text in enumerate(columns[best])) >= needs[best]:
            stuck.add(best)  # one long word: it cannot become narrower
    return columns


def _lines(columns: Sequence[Sequence[str]]) -> int:
    """Return how many lines the rows of a table have together."""
    return sum(max(text.count("\n") for text in row) + 1 for row in zip(*columns, strict=True))


def _wrapped(text: str, room: float, points: float, *, bold: bool = False) -> str:
    """Break a text into lines of `room` points; words stay whole."""
    if _width(text, bold, points) <= room:
        return text
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, bold, points) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _width(text: str, bold: bool = False, points: float = TYPE) -> float:
    return max((_line_width(line, bold) for line in text.split("\n")), default=0.0) * points / TYPE


@lru_cache(maxsize=4096)
def _line_width(text: str, bold: bool) -> float:
    from matplotlib.textpath import TextToPath

    # Never read as mathematics. Drawn text is hinted, hence a little wider than its outline.
    return 1.01 * float(TextToPath().get_text_width_height_descent(text, _font(bold), ismath=False)[0])


@lru_cache(maxsize=2)
def _font(bold: bool) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    from vpanalysis.plots import theme

    with theme():
        return FontProperties(size=TYPE, weight="bold" if bold else "normal")


def _with_minus(text: str) -> str:
    """Return a number as it is set: a hyphen before a digit is a minus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)
