"""Listening and reading side by side: what voice and words each add to the margin of the truth.

Two marks a task on one axis in nats. On conflict items a listener's voice mark is far right and its word mark at zero;
a reader's word mark is far left. Hollow marks have an interval that holds zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import CLAIM, GREY, TRUTH, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["listen_read"]


def listen_read(rows: pd.DataFrame, ax: Axes | None = None, *, name: str = "") -> Axes:
    """Draw Shapley values of voice and words per task.

    Parameters
    ----------
    rows : DataFrame
        Of one family of :attr:`vpanalysis.attribution.ListenRead.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    name : str
        Of the model, for the title.

    Returns
    -------
    Axes
    """
    rows = pd.concat([rows[rows["task"] != "all"], rows[rows["task"] == "all"]], ignore_index=True)
    with theme():
        if ax is None:
            ax = new_axes(6.6, 1.6 + 0.36 * max(len(rows), 2))[1]
        y = np.arange(len(rows), dtype=np.float64)
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
        for series, key, label, shift in ((TRUTH, "listen", "voice", -0.14), (CLAIM, "read", "words", 0.14)):
            value, low, high = (rows[f"{key}{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
            sure = (low > 0) | (high < 0)
            for number, mask in enumerate((sure, ~sure & np.isfinite(value))):
                ax.errorbar(
                    value[mask], y[mask] + shift, xerr=[(value - low)[mask], (high - value)[mask]], fmt=series.marker,
                    ms=5, lw=1.1, color=series.colour, mfc="white" if number else series.colour, zorder=3,
                    label=None if number else label,
                )  # fmt: skip
        if len(rows) > 1 and rows["task"].iloc[-1] == "all":
            ax.axhline(len(rows) - 1.5, color="#DDDDDD", lw=0.8, zorder=0)
        ax.set_yticks(y, ["all tasks" if task == "all" else short_task(str(task)) for task in rows["task"]])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel("what it adds to the margin of the truth, in nats (95 % interval)")
        family = str(rows["family"].iloc[0]) if len(rows) else ""
        ax.set_title(f"{name}: voice and words by {family}" if name else f"Voice and words by {family}", pad=22)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, borderaxespad=0.2)
    return ax
