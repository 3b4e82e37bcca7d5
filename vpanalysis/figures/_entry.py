"""What a figure or table of the gallery is: a tidy table of numbers, and a way to draw exactly that table.

Why it exists. A picture is checked by its numbers. If drawing could reach past its table to something else, the CSV
beside the picture would be a courtesy and not the evidence. So an entry has two halves: `data` turns Runs, the results
stored in them and published numbers into one DataFrame, and `draw` gets that DataFrame as it was read back from CSV,
and nothing else.

The idea. Columns say where a number is from. ``origin`` is ``"measured"`` for what a Run gave and the kind of source
(``"paper"``, ``"authors' page"``, ``"digest"``) for published numbers; ``planted`` marks numbers of the bundled
organism. An entry without a Run that has what it needs raises :class:`LackingError`, which names the command that
records it; nothing is drawn in its place.

>>> entry = Entry("demo", "Demo", "none", "A point.", data=lambda sources: pd.DataFrame({"x": [1.0]}),
...               draw=lambda data, figure: figure.subplots().plot(data["x"]), alt=lambda data: "a point")
>>> entry.kind, entry.module
('figure', 'vpanalysis.figures._entry')
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from vpanalysis._csv import csv_text
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["MEASURED", "WIDTHS", "Entry", "LackingError", "as_read"]

MEASURED = "measured"
"""What the column ``origin`` says of a number that a Run gave."""

WIDTHS = {"single": 3.25, "double": 6.75}
"""Widths of a column and of a page in ICML's style, in inches."""


class LackingError(RunError):
    """A figure cannot be drawn from the Runs at hand; the message says which command records what it needs."""

    def __init__(self, what: str, *, found: str, record: str) -> None:
        super().__init__(f"cannot draw {what!r}", found=found, fix=f"record it: {record}")
        self.what, self.record = what, record


@dataclass(frozen=True)
class Entry:
    """One figure or table.

    Attributes
    ----------
    id : str
        Also the stem of its files.
    title : str
    paper : str
        Which table or figure of the paper it stands beside; ``"none"`` for what the paper lacks.
    caption : str
        What is shown, and what it cannot show.
    data : callable
        Sources to a tidy DataFrame of strings, numbers and booleans; raises :class:`LackingError`.
    draw : callable
        The DataFrame, as read from CSV, and an empty Figure of the right size, on which it is drawn.
    alt : callable
        The DataFrame to one or two sentences for who cannot see the picture.
    kind : {"figure", "table"}
        A table is written as LaTeX too.
    width : {"single", "double"}
    height : float or callable
        In inches, or from the DataFrame.
    published : tuple of str
        Published tables (:func:`vpanalysis.figures.published`) that it shows.
    record : str
        Command that records what it needs.
    layout : callable, optional
        For a table: the DataFrame to what is printed, one cell a string.
    """

    id: str
    title: str
    paper: str
    caption: str
    data: Callable[[Sources], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Figure], Any]
    alt: Callable[[pd.DataFrame], str]
    kind: Literal["figure", "table"] = "figure"
    width: Literal["single", "double"] = "double"
    height: float | Callable[[pd.DataFrame], float] = 3.0
    published: tuple[str, ...] = ()
    record: str = "vpanalysis reproduce --full --out runs"
    layout: Callable[[pd.DataFrame], pd.DataFrame] | None = field(default=None)

    @property
    def module(self) -> str:
        """Name of the module that makes it."""
        return str(self.data.__module__ if self.data.__module__.startswith("vpanalysis.figures.") else __name__)

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return width and height in inches."""
        return WIDTHS[self.width], float(self.height(data) if callable(self.height) else self.height)


def as_read(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return a DataFrame as its CSV would be read, and the CSV.

    Parameters
    ----------
    data : DataFrame
        Columns of strings, numbers and booleans.

    Returns
    -------
    data : DataFrame
        Floats to 10 significant digits; empty strings stay empty strings, missing numbers NaN.
    text : str
        With an apostrophe before text that a spreadsheet would run (`vpanalysis._csv`); the picture shows it without.
    """
    text = data.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    numbers = {str(c): pd.api.types.is_numeric_dtype(data[c].dtype) for c in data.columns}
    booleans = {str(c): pd.api.types.is_bool_dtype(data[c].dtype) for c in data.columns}
    kinds = {c: "bool" if booleans[c] else float if number else str for c, number in numbers.items()}
    whole = {str(c) for c in data.columns if pd.api.types.is_integer_dtype(data[c].dtype)}
    kinds |= dict.fromkeys(whole - {c for c, b in booleans.items() if b}, "int64")
    texts = [c for c, kind in kinds.items() if kind is str]
    read = pd.read_csv(io.StringIO(text), lineterminator="\n", dtype=kinds, keep_default_na=False, na_values={
        c: ["", "nan", "NaN"] for c in kinds if c not in texts})  # fmt: skip
    return read, csv_text(data, float_format="%.10g")
