"""More audio tokens: every fusion beside its control, and the model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import CLAIM, GREY, TRUTH, add_note, new_axes, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["fused_settings"]

_LABEL = {
    "accuracy": "accuracy",
    "margin": "margin of the truth, in nats",
    "ala": "share answered with a claim",
}


def fused_settings(
    rows: pd.DataFrame, ax: Axes | None = None, *, name: str = "", level: float = 0.95, note: str | None = None
) -> Axes:
    """Draw one measure under every fusion and its control, with intervals; the unfused model as a band.

    Parameters
    ----------
    rows : DataFrame
        Of one measure of :attr:`vpanalysis.attribution.FusionResult.table`.
    ax : Axes, optional
    name : str
        Of the model, for the title.
    level : float
        Of the intervals, for the label.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        Filled markers differ from the unfused model (adjusted p below 0.05).
    """
    own = rows[rows["setting"] == "unfused"].iloc[0]
    fused = rows[rows["setting"] != "unfused"]
    keys = list(dict.fromkeys(zip(fused["layers"], fused["weight"], strict=True)))
    measure = str(rows["measure"].iloc[0])
    with theme():
        if ax is None:
            ax = new_axes(6.4, 1.9 + 0.42 * len(keys))[1]
        ax.axvspan(float(own["low"]), float(own["high"]), color=GREY, alpha=0.15, lw=0)
        ax.axvline(float(own["value"]), color=GREY, lw=1.0, ls=(0, (1, 2)))
        for source, series, shift in (("own", TRUTH, -0.13), ("other clip", CLAIM, 0.13)):
            part = fused[fused["source"] == source]
            if part.empty:
                continue
            y = np.array([keys.index(key) + shift for key in zip(part["layers"], part["weight"], strict=True)])
            value, low, high = (part[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
            ax.errorbar(value, y, xerr=[value - low, high - value], fmt="none", lw=1.1, ecolor=series.colour)
            moved = (part["p_adjusted"] < 0.05).to_numpy()
            for mask, face in ((moved, series.colour), (~moved, "white")):
                ax.plot(value[mask], y[mask], ls="", marker=series.marker, ms=5, color=series.colour, mfc=face)
            label = "this clip's tokens" if source == "own" else "another clip's (control)"
            ax.plot([], [], ls="", marker=series.marker, ms=5, color=series.colour, label=label)
        ax.set_yticks(range(len(keys)), [f"{layers.replace(' + ', ' +' + chr(10))}\nweight {weight}" if "+" in layers
                                         else f"{layers}, weight {weight}" for layers, weight in keys])  # fmt: skip
        ax.set_ylim(len(keys) - 0.4, -0.9)
        ax.set_xlabel(f"{_LABEL.get(measure, measure)}, with {100 * level:g} % intervals\n"
                      "(filled: differs from the unfused model, adjusted p < 0.05)")  # fmt: skip
        # On the side where there is room: the legend begins at the right edge.
        right = float(own["value"]) > float(np.mean(ax.get_xlim()))
        ax.annotate("unfused", (float(own["value"]), 1.0), xycoords=("data", "axes fraction"),
                    xytext=(-2 if right else 2, -1), textcoords="offset points", ha="right" if right else "left",
                    va="top", color=GREY, fontsize=8)  # fmt: skip
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        ax.set_title(f"{name}: encoder layers appended" if name else "Encoder layers appended")
        add_note(ax, note)
    return ax
