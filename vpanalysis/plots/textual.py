"""The word effect that tells readers from inverters.

Zero is where words do nothing; right of it they are followed, left of it they are inverted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import CLAIM, GREY, SERIES, TRUTH, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["word_effects"]


def word_effects(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "", note: str | None = None) -> Axes:
    """Draw the word effect per task under every control that has words.

    Parameters
    ----------
    table : DataFrame
        :attr:`vpanalysis.attribution.TextControls.inversion`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    title : str
        Name of the model.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    tasks = [t for t in dict.fromkeys(table["task"]) if t != "all"]
    tasks += ["all"] if "all" in set(table["task"]) and len(tasks) != 1 else []
    names = list(dict.fromkeys(table["control"]))
    with theme():
        if ax is None:
            ax = new_axes(6.6, 1.7 + (0.2 + 0.16 * len(names)) * max(len(tasks), 2))[1]
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
        for number, name in enumerate(names):
            rows = table[table["control"] == name].set_index("task").reindex(tasks)
            value, low, high = (rows[key].to_numpy(dtype=np.float64) for key in ("effect", "low", "high"))
            shift = (number - (len(names) - 1) / 2) * 0.75 / max(len(names), 1)
            series = (CLAIM, TRUTH, *SERIES[2:])[number]
            ax.errorbar(
                value, np.arange(len(tasks)) + shift, xerr=[value - low, high - value], fmt=series.marker, ms=4.5,
                lw=1.1, color=series.colour, label=name, zorder=3,
            )  # fmt: skip
        ax.set_yticks(np.arange(len(tasks)), ["all tasks" if t == "all" else short_task(t) for t in tasks])
        ax.set_ylim(len(tasks) - 0.4, -0.6)
        ax.set_xlabel("word effect in nats: left inverted, right followed (95 % interval)")
        ax.set_title(f"{title}: what the words do" if title else "What the words do", pad=24)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(names), borderaxespad=0.2, fontsize=7.5,
                  handletextpad=0.2, columnspacing=0.9)  # fmt: skip
        add_note(ax, note)
    return ax
