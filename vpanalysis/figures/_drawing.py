"""How a figure of the gallery is drawn: three styles, and a greyscale that still tells series apart.

Why it exists. The same numbers go into a column of a paper, onto a slide and onto a web page; what changes is the size
of type and line, never the data.

The idea. A style is a set of rcParams over the house style (:func:`vpanalysis.plots.theme`), and a factor on the size
of the page; fonts are embedded as TrueType, and ids inside an SVG come from a fixed salt, so that two builds are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vpanalysis.figures._entry import Entry

__all__ = ["STYLES", "drawn", "styled"]

_FIXED: Mapping[str, Any] = {
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "vpanalysis", "savefig.dpi": 300,
    "text.usetex": False, "figure.dpi": 100,
}  # fmt: skip

STYLES: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "paper": (1.0, {"font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8.5, "xtick.labelsize": 7,
                    "ytick.labelsize": 7, "legend.fontsize": 7, "lines.linewidth": 1.2, "lines.markersize": 3.5}),
    "slides": (1.6, {"font.size": 14, "axes.labelsize": 14, "axes.titlesize": 15, "xtick.labelsize": 12,
                     "ytick.labelsize": 12, "legend.fontsize": 12, "lines.linewidth": 2.2, "lines.markersize": 7}),
    "web": (1.3, {"font.size": 10.5, "axes.labelsize": 10.5, "axes.titlesize": 11.5, "xtick.labelsize": 9.5,
                  "ytick.labelsize": 9.5, "legend.fontsize": 9.5, "lines.linewidth": 1.6, "lines.markersize": 5}),
}  # fmt: skip
"""Factor on the size in inches, and rcParams, by name."""


@contextmanager
def styled(style: str) -> Iterator[float]:
    """Draw in a style; yields the factor on the size. :class:`RunError` for an unknown one."""
    import matplotlib as mpl

    from vpanalysis.plots import theme

    if style not in STYLES:
        raise RunError("cannot draw", found=f"the style {style!r}", allowed=list(STYLES), word=style)
    factor, own = STYLES[style]
    settings: Any = {**own, **_FIXED}
    with theme(), mpl.rc_context(settings):
        yield factor


def drawn(entry: Entry, data: pd.DataFrame, figure: Figure | None = None, style: str = "paper") -> Figure:
    """Return a figure with an entry drawn on it.

    Parameters
    ----------
    entry : Entry
    data : DataFrame
        As read from its CSV.
    figure : Figure, optional
        Cleared first; by default a new one that no window knows of.
    style : str
    """
    from matplotlib.figure import Figure as NewFigure

    with styled(style) as factor:
        width, height = entry.size(data)
        whole = figure
        if whole is None:
            whole = NewFigure(figsize=(width * factor, height * factor), layout="constrained")
        else:
            whole.clear()
        entry.draw(data, whole)
    return whole
