"""The margin of the truth by depth of the language model: where an answer is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, SERIES, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["lens_margins"]


def lens_margins(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the logit lens of one task: mean margin per layer, a line a condition, with its interval.

    Parameters
    ----------
    rows : DataFrame
        Of one task of :attr:`vpanalysis.attribution.LensResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    sites = list(dict.fromkeys(rows["site"]))
    with theme():
        if ax is None:
            ax = new_axes(6.2, 3.4)[1]
        ax.axhline(0, color=GREY, lw=0.8, zorder=0)
        for number, (name, part) in enumerate(rows.groupby("condition", sort=False)):
            series = SERIES[number % len(SERIES)]
            part = part.set_index("site").reindex(sites)
            x = np.arange(len(sites))
            ax.plot(x, part["margin"], color=series.colour, marker=series.marker, ls=series.line, label=str(name))
            ax.fill_between(x, part["low"], part["high"], color=series.colour, alpha=0.15, lw=0)
        labels = ["emb" if site == "text.embed" else site.removeprefix("text[").removesuffix("]") for site in sites]
        step = max(1, len(sites) // 24)
        ax.set_xticks(np.arange(len(sites))[::step], labels[::step])
        ax.set_xlabel("layer of the language model, at the answer position")
        ax.set_ylabel("margin of the truth, in nats")
        task = short_task(str(rows["task"].iloc[0])) if len(rows) else ""
        ax.set_title(f"{task}: what each layer would answer")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax
