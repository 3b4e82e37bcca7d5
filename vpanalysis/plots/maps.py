"""Heat maps that keep their numbers: a shade shows the pattern, the number in the cell says what it is.

:func:`layer_overview` puts a whole :class:`~vpanalysis.probes.ProbeResult` on one page, all tasks by all sites. Tasks
differ in their number of options, so the shade is rescaled (white at chance, dark at perfect) and the number is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.plots.style import add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.probes import ProbeResult

__all__ = ["draw_map", "layer_overview"]


def layer_overview(result: ProbeResult, *, note: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw all tasks and sites as one map: shade is accuracy rescaled to 0 at chance and 1 at perfect, number accuracy.

    Parameters
    ----------
    result : ProbeResult
    note : str, optional
        Caption under the picture.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    wide = result.pivot().T
    chance = result.table.groupby("task")["chance"].first().reindex(wide.index)
    shade = wide.sub(chance, axis=0).div(1 - chance, axis=0).clip(lower=0)
    with theme():
        if ax is None:
            ax = new_axes(1.9 + 0.42 * wide.shape[1], 1.3 + 0.3 * wide.shape[0])[1]
        draw_map(ax, shade.to_numpy(dtype=float), wide.map(lambda v: "–" if pd.isna(v) else f"{v:.2f}"), high=1.0)
        ax.set_xticks(range(wide.shape[1]), list(wide.columns), rotation=90)
        ax.set_yticks(range(len(wide)), [short_task(t) for t in wide.index])
        ax.set_title(f"Probe accuracy for {result.target} (shade: 0 at chance, 1 at perfect)")
        add_note(ax, note)
    return ax


def draw_map(ax: Axes, shade: Any, text: pd.DataFrame, *, high: float, size: float = 7.5) -> None:
    """Draw a heat map from white (0) to dark (`high`) with a number in every cell, light on dark and dark on light."""
    ax.imshow(shade, cmap="Blues", vmin=0.0, vmax=high * 1.15, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(np.asarray(shade, dtype=float)):
        dark = bool(value > 0.62 * high)
        ax.text(
            column, row, str(text.iat[row, column]), ha="center", va="center", fontsize=size,
            color="white" if dark else "black",
        )  # fmt: skip
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
