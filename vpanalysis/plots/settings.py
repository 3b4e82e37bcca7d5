"""A model under other settings: the gate's weights set by somebody else, the question in other words, controls.

Description is in ``gates.py``; here is what changes when something is changed. Every estimate has its interval, filled
marks differ from the reference after adjusting over the settings, and a line or band shows where the reference is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.maps import draw_map
from vpanalysis.plots.style import GREY, TRUTH, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gate_grid", "gate_settings", "gate_shares", "gate_trade", "gate_wordings"]

_LABEL = {
    "accuracy": "accuracy",
    "margin": "margin of the truth, in nats",
    "ala": "share answered with a claim",
}


def gate_settings(
    rows: pd.DataFrame,
    ax: Axes | None = None,
    *,
    name: str = "",
    reference: str = "own",
    title: str = "the gate set to other weights",
    level: float = 0.95,
    note: str | None = None,
) -> Axes:
    """Draw one measure of a model under its own and under other gate weights, or other settings.

    Parameters
    ----------
    rows : DataFrame
        Of one measure of :attr:`vpanalysis.attribution.GateResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    name : str
        Of the model, for the title.
    reference : str
        The setting that others are compared with.
    title : str
        What differs between the settings.
    level : float
        Of the intervals, for the label.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    measure = str(rows["measure"].iloc[0])
    with theme():
        if ax is None:
            ax = new_axes(6.2, 1.4 + 0.3 * len(rows))[1]
        y = np.arange(len(rows), dtype=np.float64)
        value, low, high = (rows[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
        own = (rows["setting"] == reference).to_numpy()
        ax.axvline(float(value[own][0]), color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=0)
        moved = own | (rows["p_adjusted"] < 0.05).to_numpy()
        for mask, face in ((moved, TRUTH.colour), (~moved, "white")):
            ax.errorbar(
                value[mask], y[mask], xerr=[(value - low)[mask], (high - value)[mask]], fmt=TRUTH.marker, ms=5, lw=1.1,
                color=TRUTH.colour, mfc=face, zorder=3,
            )  # fmt: skip
        ax.set_yticks(y, list(rows["setting"]))
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(
            f"{_LABEL.get(measure, measure)}, with {100 * level:g} % interval\n"
            f"(filled: differs from {reference}, adjusted p < 0.05)"
        )
        ax.set_title(f"{name}: {title}" if name else title[:1].upper() + title[1:])
        add_note(ax, note)
    return ax


def gate_trade(
    rows: pd.DataFrame,
    streams: Sequence[str],
    ax: Axes | None = None,
    *,
    name: str = "",
    level: float = 0.95,
    note: str | None = None,
) -> Axes:
    """Draw one measure while two streams trade their weights, with its interval; the gate's own as a band.

    Parameters
    ----------
    rows : DataFrame
        Of one measure of :attr:`vpanalysis.attribution.SweepResult.table`.
    streams : sequence of str
        The two.
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
    """
    own, line = rows[rows["setting"] == "own"].iloc[0], rows[rows["setting"] != "own"].sort_values("first")
    measure = str(rows["measure"].iloc[0])
    with theme():
        if ax is None:
            ax = new_axes(5.6, 3.4)[1]
        x = line["first"].to_numpy(dtype=np.float64)
        value, low, high = (line[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
        ax.axhspan(float(own["low"]), float(own["high"]), color=GREY, alpha=0.15, lw=0)
        ax.axhline(float(own["value"]), color=GREY, lw=1.0, ls=(0, (1, 2)))
        # Where the line is far from it.
        left = abs(value[0] - float(own["value"])) > abs(value[-1] - float(own["value"]))
        ax.annotate("own weights", (0.01 if left else 0.99, float(own["value"])), xycoords=("axes fraction", "data"),
                    ha="left" if left else "right", va="bottom", color=GREY, fontsize=8)  # fmt: skip
        ax.fill_between(x, low, high, color=TRUTH.colour, alpha=0.18, lw=0)
        ax.plot(x, value, color=TRUTH.colour, marker=TRUTH.marker)
        total = float((line["first"] + line["second"]).mean())
        ax.set_xlabel(
            f"weight of {streams[0]}; {streams[1]} has the rest of {total:.2f} (bands: {100 * level:g} % intervals)"
        )
        ax.set_ylabel(_LABEL.get(measure, measure))
        ax.set_title(f"{name}: {streams[0]} against {streams[1]}" if name else f"{streams[0]} against {streams[1]}")
        add_note(ax, note)
    return ax


def gate_grid(
    rows: pd.DataFrame, streams: Sequence[str], ax: Axes | None = None, *, name: str = "", note: str | None = None
) -> Axes:
    """Draw one measure over two weights as a map; the other streams share what these leave.

    Parameters
    ----------
    rows : DataFrame
        Of one measure of :attr:`vpanalysis.attribution.SweepResult.table`.
    streams : sequence of str
        The two.
    ax : Axes, optional
    name : str
        Of the model, for the title.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        The number in a cell is the value; in brackets where it does not differ from the gate's own (adjusted p).
    """
    points = rows[rows["setting"] != "own"]
    own = rows[rows["setting"] == "own"].iloc[0]
    firsts, seconds = (np.unique(points[key].round(6)) for key in ("first", "second"))
    shape = (len(seconds), len(firsts))
    value = np.full(shape, np.nan)
    text = pd.DataFrame("", index=range(shape[0]), columns=range(shape[1]))
    first, second, values, p = (points[key].to_numpy(dtype=np.float64) for key in ("first", "second", "value",
                                                                                   "p_adjusted"))  # fmt: skip
    for x, y, v, chance in zip(first, second, values, p, strict=True):
        i, j = int(np.abs(seconds - y).argmin()), int(np.abs(firsts - x).argmin())
        value[i, j] = v
        text.iat[i, j] = f"({v:.2f})" if chance >= 0.05 else f"{v:.2f}"
    measure = str(rows["measure"].iloc[0])
    low = min(0.0, float(np.nanmin(value)))
    with theme():
        if ax is None:
            ax = new_axes(2.2 + 0.6 * shape[1], 1.9 + 0.4 * shape[0])[1]
        draw_map(ax, value - low, text, high=max(1e-9, float(np.nanmax(value)) - low))
        ax.set_xticks(range(shape[1]), [f"{v:.2f}" for v in firsts])
        ax.set_yticks(range(shape[0]), [f"{v:.2f}" for v in seconds])
        ax.invert_yaxis()
        ax.set_xlabel(f"weight of {streams[0]}")
        ax.set_ylabel(f"weight of {streams[1]}")
        about = f"own weights {float(own['value']):.2f} (in brackets: not told apart)"
        ax.set_title(f"{name}: {_LABEL.get(measure, measure)}\n{about}", fontsize=9)
        add_note(ax, note)
    return ax


def gate_shares(
    rows: pd.DataFrame, ax: Axes | None = None, *, name: str = "", level: float = 0.95, note: str | None = None
) -> Axes:
    """Draw what each stream adds to the mixed tokens, a row a task and a column a stream.

    Parameters
    ----------
    rows : DataFrame
        Of one quantity of :attr:`vpanalysis.attribution.ContributionResult.table`.
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
    """
    tasks, streams = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["stream"]))
    cells = rows.set_index(["task", "stream"])
    value = np.array([[float(cells.loc[(task, stream), "value"]) for stream in streams] for task in tasks])
    half = np.array(
        [[float(cells.loc[(t, s), "high"] - cells.loc[(t, s), "low"]) / 2 for s in streams] for t in tasks]
    )  # fmt: skip
    # One item has no interval.
    spread = pd.DataFrame(half).map(lambda h: f" ±{h:.2f}" if np.isfinite(h) else "")
    text = pd.DataFrame(value).map(lambda v: f"{v:.2f}") + spread
    title = {
        "weight": "gate weights", "share": "share of the mixed tokens", "moving": "share of what changes over the clip",
        "size": "length of the term over the mixture's",
    }  # fmt: skip
    quantity = str(rows["quantity"].iloc[0])
    with theme():
        if ax is None:
            ax = new_axes(2.2 + 0.95 * len(streams), 1.5 + 0.32 * len(tasks))[1]
        draw_map(ax, np.clip(value, 0.0, None), text, high=max(0.5, float(np.nanmax(value))), size=8)
        ax.set_xticks(range(len(streams)), streams)
        ax.set_yticks(range(len(tasks)), ["all tasks" if task == "all" else short_task(task) for task in tasks])
        ax.set_xlabel(f"stream (mean ± half the {100 * level:g} % interval)")
        ax.set_title(f"{name}: {title.get(quantity, quantity)}" if name else title.get(quantity, quantity))
        add_note(ax, note)
    return ax


def gate_wordings(
    mixtures: pd.DataFrame, ax: Axes | None = None, *, name: str = "", level: float = 0.95, note: str | None = None
) -> Axes:
    """Draw how far each wording moves the mixture, beside how far tasks are apart.

    Parameters
    ----------
    mixtures : DataFrame
        :attr:`vpanalysis.attribution.ParaphraseResult.mixtures`.
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
    """
    rows = mixtures[mixtures["task"] == "all"].reset_index(drop=True)
    tasks = mixtures[mixtures["task"] != "all"]
    with theme():
        if ax is None:
            ax = new_axes(6.2, 1.6 + 0.34 * len(rows))[1]
        y = np.arange(len(rows), dtype=np.float64)
        value, low, high = (rows[key].to_numpy(dtype=np.float64) for key in ("variation", "low", "high"))
        place = {wording: k for k, wording in enumerate(rows["wording"])}
        ax.plot(tasks["variation"], [place[w] + 0.22 for w in tasks["wording"]], ls="", marker="|", ms=6, color=GREY)
        ax.errorbar(value, y, xerr=[value - low, high - value], fmt=TRUTH.marker, ms=5, lw=1.1, color=TRUTH.colour)
        between = float(rows["between"].iloc[0]) if len(rows) else float("nan")
        if between == between:
            ax.axvline(between, color=GREY, lw=0.9, ls=(0, (4, 2)), zorder=0)
            ax.annotate(" between tasks", (between, 1), xycoords=("data", "axes fraction"), ha="left", va="top",
                        color=GREY, fontsize=8)  # fmt: skip
        unread = (rows["changed"] == 0).to_numpy()
        ax.set_yticks(y, [f"{w}\n(not read by the gate)" if no else w for w, no in zip(rows["wording"], unread,
                                                                                       strict=True)])  # fmt: skip
        ax.set_ylim(len(rows) - 0.4, -0.8)
        ax.set_xlim(0, 1)
        ax.set_xlabel(
            "total variation from the original wording's mixture\n"
            f"(dots: all items, {100 * level:g} % intervals; ticks: tasks)"
        )
        ax.set_title(f"{name}: mixtures under other wordings" if name else "Mixtures under other wordings")
        add_note(ax, note)
    return ax
