"""The map of a patching experiment: which place hands on how much of the difference between two clips."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.maps import draw_map
from vpanalysis.plots.style import add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["patch_map"]

_ORDER = ("audio", "question", "options", "answer", "last", "all")


def patch_map(rows: pd.DataFrame, ax: Axes | None = None, *, title: str = "", note: str | None = None) -> Axes:
    """Draw the recovered share, a row a span and a column a site, from waveform to answer.

    Parameters
    ----------
    rows : DataFrame
        Of one task of :attr:`vpanalysis.attribution.PatchResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    title : str
        What was patched into what.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        Shade from 0 to 1, the number in the cell; grey where the interval holds 0, a dash where there was nothing to
        recover, blank where a site has no such span.
    """
    sites = list(dict.fromkeys(rows["site"]))
    have = set(rows["span"])
    spans = [span for span in _ORDER if span in have]
    cells = rows.set_index(["span", "site"])
    share = np.full((len(spans), len(sites)), np.nan)
    faint = np.zeros(share.shape, dtype=bool)
    text = pd.DataFrame("", index=range(len(spans)), columns=range(len(sites)))
    for i, span in enumerate(spans):
        for j, site in enumerate(sites):
            if (span, site) not in cells.index:
                continue
            cell = cells.loc[(span, site)]
            share[i, j] = cell["recovered"]
            # A NaN comparison is false: a share without an interval is drawn as it is.
            faint[i, j] = bool(cell["low"] <= 0 <= cell["high"])
            text.iat[i, j] = "–" if pd.isna(cell["recovered"]) else f"{cell['recovered']:.2f}".replace("-0.00", "0.00")
    with theme():
        if ax is None:
            ax = new_axes(2.2 + 0.45 * len(sites), 1.6 + 0.32 * len(spans))[1]
        draw_map(ax, np.clip(share, 0.0, 1.0), text, high=1.0, faint=faint)
        labels = [re.sub(r"^text\.embed$", "text.emb", site) for site in sites]
        ax.set_xticks(range(len(sites)), labels, rotation=90)
        ax.set_yticks(range(len(spans)), spans)
        task = str(rows["task"].iloc[0]) if len(rows) else ""
        about = "all tasks" if task == "all" else short_task(task)
        what = "share of the margin that follows"
        ax.set_title(f"{title}\n{about}: {what}" if title else f"{about}: {what}", fontsize=9)
        add_note(ax, note)
    return ax
