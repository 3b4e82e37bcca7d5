"""Heat maps that keep their numbers: a shade shows the pattern, the number in the cell says what it is.

:func:`layer_overview` puts a whole :class:`~vpanalysis.probes.ProbeResult` on one page, all tasks by all sites. Tasks
differ in their number of options, so the shade is rescaled (white at chance, dark at perfect) and the number is not.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.probes import ProbeResult

__all__ = ["draw_map", "layer_overview"]


def layer_overview(result: ProbeResult, *, note: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw all tasks and sites as one map: shade is accuracy rescaled to 0 at chance and 1 at perfect, number accuracy.

    Parameters
    ----------
    result : ProbeResult
        Of one target, or of two: each task has a row for either then. Numbers that do not exceed the band of the
        shuffled labels are grey.
    note : str, optional
        Caption under the picture.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    table, targets = result.table, list(dict.fromkeys(result.table["target"]))
    rows = [(task, target) for task in result.tasks for target in targets]
    cells = table.set_index(["task", "target", "site"])
    shape = (len(rows), len(result.sites))
    value, shade, lost = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for (i, row), (j, site) in itertools.product(enumerate(rows), enumerate(result.sites)):
        if (*row, site) in cells.index:
            cell = cells.loc[(*row, site)]
            value[i, j] = cell["accuracy"]
            shade[i, j] = max(0.0, (cell["accuracy"] - cell["chance"]) / (1 - cell["chance"]))
            lost[i, j] = cell["accuracy"] <= cell["shuffle_high"]
    text = pd.DataFrame(value).map(lambda v: "–" if pd.isna(v) else f"{v:.2f}")
    names = [short_task(task) + (f"  {target}" if len(targets) > 1 else "") for task, target in rows]
    with theme():
        if ax is None:
            ax = new_axes(1.9 + 0.42 * shape[1], 1.5 + 0.3 * shape[0])[1]
        draw_map(ax, shade, text, high=1.0, faint=lost)
        ax.set_xticks(range(shape[1]), result.sites, rotation=90)
        ax.set_yticks(range(shape[0]), names)
        for edge in range(len(targets), shape[0], len(targets)) if len(targets) > 1 else ():
            ax.axhline(edge - 0.5, color="#BBBBBB", lw=0.8)
        within = ", grey: within the shuffles" if table["shuffle_high"].notna().any() else ""
        what = " and ".join(targets)
        kind = "R²" if (table["metric"] == "R2").all() else "Probe accuracy"
        ax.set_title(f"{kind} for {what} (shade: 0 at chance, 1 at perfect{within})")
        add_note(ax, note)
    return ax


def draw_map(ax: Axes, shade: Any, text: pd.DataFrame, *, high: float, size: float = 7.5, faint: Any = None) -> None:
    """Draw a heat map from white (0) to dark (`high`) with a number in every cell, light on dark and dark on light.

    Numbers are grey where `faint`, of the shape of `shade`, is true.
    """
    ax.imshow(shade, cmap="Blues", vmin=0.0, vmax=high * 1.15, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(np.asarray(shade, dtype=float)):
        dark = bool(value > 0.62 * high)
        ax.text(
            column, row, str(text.iat[row, column]), ha="center", va="center", fontsize=size,
            color="white" if dark else GREY if faint is not None and faint[row, column] else "black",
        )  # fmt: skip
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
