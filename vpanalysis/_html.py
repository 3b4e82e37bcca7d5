"""One way to print a table, in a terminal and in a notebook, with every string from data escaped.

Why it exists. Every result class prints well as text and as HTML. Option texts, ids and file names come from other
people's data; written into HTML as they are, ``<script>`` in an option would run in the reader's notebook. So there is
one helper, and it escapes everything, headers and titles included.

Worked example::

    html_table(frame, "Score of mini", note="95 % intervals")   # str, for _repr_html_
    text_table(frame, "Score of mini")                           # str, for __repr__
"""

from __future__ import annotations

import math
from html import escape
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["html_table", "text_table"]

_CSS = "border-collapse:collapse;font-variant-numeric:tabular-nums"


def _cell(value: Any, digits: int) -> str:
    """Format one value: floats to `digits` places, missing as an en dash, sequences joined by commas."""
    if value is None:
        return "–"
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        number = float(value)
        return "–" if math.isnan(number) else f"{number:.{digits}f}"
    if isinstance(value, (tuple, list)):
        return ", ".join(_cell(v, digits) for v in value)
    text = str(value)
    return "–" if text in ("nan", "<NA>", "NaT") else text


def _grid(frame: pd.DataFrame, digits: int, max_rows: int | None) -> tuple[list[str], list[list[str]], list[bool], int]:
    """Return headers, rows of strings, which columns are numbers, and how many rows were left out."""
    # An index that is only 0..n-1 says nothing; a named one is a column like the others.
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names: list[Any] = list(frame.columns)
    headers = [" ".join(str(p) for p in c if p != "") if isinstance(c, tuple) else str(c) for c in names]
    numeric = [
        all(isinstance(v, Real) and not isinstance(v, bool) for v in frame.iloc[:, i] if v is not None)
        for i in range(len(headers))
    ]
    shown = frame if max_rows is None else frame.head(max_rows)
    rows = [[_cell(v, digits) for v in row] for row in shown.itertuples(index=False, name=None)]
    return headers, rows, numeric, len(frame) - len(rows)


def html_table(
    df: pd.DataFrame, title: str, note: str | None = None, *, digits: int = 3, max_rows: int | None = None
) -> str:
    """Return `df` as a titled HTML table; every string is escaped.

    Parameters
    ----------
    df : pandas.DataFrame
        Any values; floats are rounded, missing values show as an en dash. A named index becomes columns.
    title : str
        Printed above the table.
    note : str, optional
        Printed below it, small.
    digits : int
        Decimal places of floats.
    max_rows : int, optional
        Show the first rows only, and say how many more there are.

    Returns
    -------
    str
        Self-contained HTML, without scripts and without anything fetched.
    """
    headers, rows, numeric, hidden = _grid(df, digits, max_rows)
    align = ["right" if n else "left" for n in numeric]
    head = "".join(
        f'<th style="text-align:{a};padding:2px 8px">{escape(h)}</th>' for h, a in zip(headers, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{a};padding:2px 8px{_kept_together(c)}">{escape(c)}</td>'
            for c, a in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    notes = [n for n in (f"{hidden} more rows" if hidden else None, note) if n]
    foot = "".join(f'<div style="font-size:smaller;opacity:.75">{escape(n)}</div>' for n in notes)
    return (
        f'<div class="vpanalysis"><div style="font-weight:600;margin:4px 0">{escape(title)}</div>'
        f'<table style="{_CSS}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}</div>'
    )


def _kept_together(cell: str) -> str:
    """Return the style that keeps a value and its interval on one line; sentences may be broken."""
    return ";white-space:nowrap" if len(cell) <= 24 else ""


def text_table(
    df: pd.DataFrame, title: str | None = None, note: str | None = None, *, digits: int = 3, max_rows: int | None = None
) -> str:
    """Return `df` as a plain text table: the terminal twin of `html_table`, with the same parameters.

    Control characters in data are replaced, so that a file name cannot move the cursor of a terminal.
    """
    headers, rows, numeric, hidden = _grid(df, digits, max_rows)
    plain = [[_printable(c) for c in row] for row in [headers, *rows]]
    widths = [max(len(row[i]) for row in plain) for i in range(len(headers))]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in plain
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    if title:
        lines.insert(0, _printable(title))
    if hidden:
        lines.append(f"... {hidden} more rows")
    if note:
        lines.append(_printable(note))
    return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
