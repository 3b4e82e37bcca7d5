"""Pictures of the further views: similarity of sites, rank and isotropy, erasure, and directions.

Each takes a result of :mod:`vpanalysis.probes.views` and an Axes, and gives the Axes back. Matrices carry their numbers
up to fourteen sites a side; beyond that a colour bar does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis.plots.style import SERIES, add_note, new_axes, theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vpanalysis.probes.views import Directions, Erasure, Geometry, Similarity

__all__ = ["direction_map", "erasure_curves", "geometry_curve", "similarity_map"]

_NUMBERED = 14
_MEASURE = {
    "effective_rank": "Effective rank",
    "isoscore": "IsoScore (0 to 1)",
    "mean_cosine": "Mean cosine of two items",
}


def similarity_map(result: Similarity, *, note: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw CKA of every pair of sites.

    Parameters
    ----------
    result : Similarity
    note : str, optional
        Caption under the picture.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    wide = result.pivot()
    made = result.settings
    with theme():
        ax = _matrix(ax, wide.to_numpy(dtype=float), list(wide.index), list(wide.columns), low=0.0, label="CKA")
        ax.set_title("Debiased CKA" if made.get("debiased") else "Linear CKA")
        if made.get("other"):
            ax.set_ylabel(str(made.get("run") or "first"))
            ax.set_xlabel(str(made["other"]))
        add_note(ax, note)
    return ax


def geometry_curve(
    result: Geometry, *, measure: str = "effective_rank", note: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one measure along the sites, with its band; parameters as in :func:`similarity_map`.

    Parameters
    ----------
    result : Geometry
    measure : {"effective_rank", "isoscore", "mean_cosine"}
    note : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    rows = result.table[result.table["measure"] == measure].sort_values("site_order")
    with theme():
        if ax is None:
            ax = new_axes(max(3.6, 1.4 + 0.28 * len(rows)), 3.0)[1]
        _line(ax, np.arange(len(rows)), rows, "value", 0, None)
        _name_sites(ax, list(rows["site"]))
        ax.set_ylabel(_MEASURE[measure])
        ax.set_title(f"{_MEASURE[measure].split(' (')[0]}, {int(rows['n'].max())} items")
        if measure != "mean_cosine":
            ax.set_ylim(bottom=0)
        add_note(ax, note)
    return ax


def erasure_curves(result: Erasure, *, role: str = "other", note: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of one label before and after erasure along the sites.

    Parameters
    ----------
    result : Erasure
    role : {"other", "erased"}
        Which label: the one that is measured, or the one that is taken out.
    note : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    table = result.table[result.table["role"] == role]
    gone, shown = str(result.settings["erase"]), str(table["label"].iloc[0])
    names = {"none": "as they are", "label": f"{gone} erased", "shuffled": f"{gone} shuffled, erased"}
    sites = list(dict.fromkeys(table.sort_values("site_order")["site"]))
    with theme():
        if ax is None:
            ax = new_axes(max(4.2, 1.6 + 0.4 * len(sites)), 3.3)[1]
        for number, (erased, name) in enumerate(names.items()):
            rows = table[table["erased"] == erased].sort_values("site_order")
            # Side by side, or the bands hide each other.
            _line(ax, np.arange(len(rows)) + 0.12 * (number - 1), rows, "accuracy", number, name, bars=True)
        ax.axhline(float(table["chance"].iloc[0]), color="#6B6B6B", lw=0.9, ls=(0, (1, 2)), label="chance")
        _name_sites(ax, sites)
        ax.set_ylim(0, 1.02)
        ax.set_ylabel(f"Probe accuracy for {shown}")
        ax.set_title(f"{shown} after erasing {gone}")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        add_note(ax, note)
    return ax


def direction_map(
    result: Directions,
    *,
    label: str | None = None,
    method: str = "means",
    note: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the cosine of a label's direction at every pair of sites of equal width; unlike widths stay empty.

    Parameters
    ----------
    result : Directions
    label : str, optional
        Default: the first.
    method : {"means", "probe"}
    note : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    label = str(result.table["label"].iloc[0]) if label is None else label
    vectors = [result.vector(site, label, method) for site in result.sites]
    cosine = np.array([[float(a @ b) if len(a) == len(b) else np.nan for b in vectors] for a in vectors])
    with theme():
        ax = _matrix(ax, cosine, result.sites, result.sites, low=-1.0, label="cosine")
        ax.set_title(f"Towards {label} ({method})")
        add_note(ax, note)
    return ax


def _matrix(
    ax: Axes | None, values: Any, rows: Sequence[str], columns: Sequence[str], *, low: float, label: str
) -> Axes:
    """Draw a matrix: blue from 0 to 1, red below zero where `low` is negative; grey where there is no number."""
    import matplotlib as mpl

    size = [max(3.4, 1.5 + (0.42 if max(values.shape) <= _NUMBERED else 0.16) * k) for k in values.shape]
    if ax is None:
        ax = new_axes(size[1], size[0] * 0.92)[1]
    colours = mpl.colormaps["RdBu" if low < 0 else "Blues"].with_extremes(bad="#EEEEEE")
    image = ax.imshow(values, cmap=colours, vmin=low, vmax=1.0, aspect="auto", interpolation="nearest")
    if max(values.shape) <= _NUMBERED:
        for (row, column), value in np.ndenumerate(values):
            text = "–" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")
            dark = bool(abs(value) > 0.62)
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    else:
        ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    _name_sites(ax, columns)
    step = max(1, -(-len(rows) // 34))
    ax.set_yticks(range(0, len(rows), step), list(rows)[::step])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _line(ax: Axes, x: Any, rows: Any, column: str, number: int, name: str | None, *, bars: bool = False) -> None:
    series, y = SERIES[number], rows[column].to_numpy(dtype=float)
    low, high = rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float)
    ax.plot(x, y, color=series.colour, marker=series.marker, ls=series.line, label=name, zorder=3)
    if bars:
        ax.vlines(x, low, high, color=series.colour, lw=0.9, alpha=0.8)
    else:
        ax.fill_between(x, low, high, color=series.colour, alpha=0.18, lw=0)


def _name_sites(ax: Axes, sites: Sequence[str]) -> None:
    step = max(1, -(-len(sites) // 34))
    ax.set_xticks(range(0, len(sites), step), list(sites)[::step], rotation=90)
