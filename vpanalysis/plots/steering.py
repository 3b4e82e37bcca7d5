"""Dose and response: what grows with an intervention, beside as much of a random one.

A line for each set of items with its intervals, and a band of the same colour for random interventions of the same
size. What an intervention does that its band does not is what is special about it; a line inside its band shows the
size of a change and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, SERIES, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dose_response"]

_LABELS = {
    "margin": "margin of the truth, in nats",
    "accuracy": "share answered with the truth",
    "ala": "share answered with a claim",
    "towards": "share answered with the option pushed to",
}


def dose_response(
    rows: pd.DataFrame, ax: Axes | None = None, *, dose: str, still: float, title: str = "", x: str = "",
    note: str | None = None,
) -> Axes:  # fmt: skip
    """Draw one measure over the dose of an intervention.

    Parameters
    ----------
    rows : DataFrame
        Of one task, site and measure of :attr:`vpanalysis.attribution.SteerResult.table` or
        :attr:`vpanalysis.attribution.NeuronResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    dose : str
        Column of the dose.
    still : float
        The dose that changes nothing.
    title, x : str
        What was done, and the label of the dose.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        Filled marks are ``beyond`` random interventions of the same size.
    """
    measure = str(rows["measure"].iloc[0]) if len(rows) else "margin"
    sets = list(dict.fromkeys(rows["set"]))
    doses = np.unique(rows[dose].to_numpy(dtype=np.float64))
    gap = float(np.diff(doses).min()) if len(doses) > 1 else 1.0
    with theme():
        if ax is None:
            ax = new_axes(6.2, 3.8)[1]
        ax.axvline(still, color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=0)
        for number, (name, series) in enumerate(zip(sets, SERIES, strict=False)):
            part = rows[rows["set"] == name].sort_values(dose)
            at = part[dose].to_numpy(dtype=np.float64)
            value, low, high = (part[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
            bottom, top = (
                np.where(at == still, value, part[f"random_{end}"].to_numpy(dtype=np.float64))
                for end in ("low", "high")
            )
            ax.fill_between(at, bottom, top, color=series.colour, alpha=0.16, lw=0, zorder=1)
            # Lines that lie on each other are told apart by a small step to the side.
            aside = at + gap * 0.06 * (number - (len(sets) - 1) / 2)
            ax.plot(aside, value, color=series.colour, ls=series.line, lw=1.4, zorder=2)
            sure = part["beyond"].to_numpy(dtype=bool)
            count = int(part["n"].iloc[0])
            for mask, face in ((sure, series.colour), (~sure, "white")):
                ax.errorbar(
                    aside[mask], value[mask], yerr=[(value - low)[mask], (high - value)[mask]], fmt=series.marker, ms=5,
                    lw=1.1, color=series.colour, mfc=face, zorder=3,
                )  # fmt: skip
            ax.plot([], [], color=series.colour, ls=series.line, marker=series.marker, label=f"{name} (n = {count})")
        ax.set_xticks(doses, [f"{one:g}" for one in doses])
        ax.set_xlabel(f"{x or dose}\nwith intervals; filled: further than every random draw, and significantly")
        ax.set_ylabel(_LABELS.get(measure, measure))
        task = str(rows["task"].iloc[0]) if len(rows) else ""
        about = "all tasks" if task == "all" else short_task(task)
        ax.set_title(f"{about}, {title}" if title else about, fontsize=9, pad=22)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=max(len(sets), 1), borderaxespad=0.2)
        add_note(ax, note)
    return ax
