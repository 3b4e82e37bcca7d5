"""The picture of one control: curves over a level, or intervals in a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.plots.style import Series

__all__ = ["draw"]

_AXIS = {
    "accuracy": "probe accuracy", "selectivity": "accuracy less control accuracy", "gap": "probe less model accuracy",
    "difference": "difference of accuracy", "compression": "uniform code / code length", "code length": "nats",
    "saved": "nats saved over class frequencies", "half": "noise at half the accuracy, in spreads",
    "loss": "nats an item", "majority": "share of the commonest class",
}  # fmt: skip

_TITLE = {
    "majority": "Majority and chance", "selectivity": "Selectivity", "mel": "The spectrogram alone",
    "text": "The words alone", "random": "Less random weights", "mdl": "Description length", "noise": "Added noise",
    "gap": "Utilization gap", "boundary": "Lost and gained",
}  # fmt: skip


def draw(rows: pd.DataFrame, control: str, ax: Axes | None) -> Axes:
    """Draw the rows of one control and measure; rows without a number are left out, their labels stay."""
    from vpanalysis.plots.style import SERIES, new_axes, short_task, theme

    measure = str(rows["measure"].iloc[0]) if len(rows) else ""
    curves = bool(rows["at"].notna().any())
    with theme():
        if ax is None:
            ax = new_axes(5.5, 3.4 if curves else max(1.8, 0.8 + 0.24 * len(rows)))[1]
        if curves:
            _curves(ax, rows, SERIES, short_task)
            ax.set_xlabel("noise, in units of the site's spread" if control == "noise" else "training items")
            ax.set_ylabel(_AXIS.get(measure, measure))
            if len(rows):
                ax.legend(loc="best")
        else:
            names = [
                " · ".join(
                    str(x)
                    for x in (short_task(one["task"]), one["variant"] or one["site"], one["site"], one["condition"])
                    if x and x != "pooled"
                )
                for one in rows.to_dict("records")
            ]
            names = [" · ".join(dict.fromkeys(name.split(" · "))) for name in names]
            y = np.arange(len(rows))[::-1]
            value, low, high = (rows[c].to_numpy(dtype=float) for c in ("value", "low", "high"))
            low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
            ax.hlines(y, low, high, color=SERIES[0].colour)
            ax.plot(value, y, linestyle="", marker=SERIES[0].marker, color=SERIES[0].colour, gid=control)
            ax.set_yticks(y, names)
            ax.set_xlabel(_AXIS.get(measure, measure))
            if measure in ("selectivity", "gap", "difference", "saved"):
                ax.axvline(0.0, color="0.6", linewidth=0.8)
        ax.set_title(_TITLE.get(control, control))
    return ax


def _curves(ax: Axes, rows: pd.DataFrame, series: Sequence[Series], short: Callable[[str], str]) -> None:
    for number, ((task, site), part) in enumerate(rows.dropna(subset=["at"]).groupby(["task", "site"], sort=False)):
        style = series[number % len(series)]
        part = part.sort_values("at")
        x, y = part["at"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
        label = f"{short(str(task))} · {site}"
        ax.plot(x, y, color=style.colour, marker=style.marker, linestyle=style.line, label=label)
        low, high = part["low"].to_numpy(dtype=float), part["high"].to_numpy(dtype=float)
        if not np.isnan(low).all():
            ax.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
