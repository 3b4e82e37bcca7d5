"""Listening and reading side by side: what voice and words each add to the margin of the truth.

Two marks a task on one axis in nats. On conflict items a listener's voice mark is far right and its word mark at zero;
a reader's word mark is far left. Hollow marks have an interval that holds zero. A second picture holds checkpoints, and
the ways in which words and voice were taken away, side by side: no share stands without its family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from vpanalysis.errors import RunError
from vpanalysis.plots.style import CLAIM, GREY, SERIES, TRUTH, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vpanalysis.attribution import ListenRead

__all__ = ["listen_read", "listening_shares"]


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


def listening_shares(
    results: ListenRead | Sequence[ListenRead],
    ax: Axes | None = None,
    *,
    task: str = "all",
    common: bool = False,
    note: str | None = None,
) -> Axes:
    """Draw the listening share of checkpoints, a mark for every family.

    Parameters
    ----------
    results : ListenRead or sequence of ListenRead
        One a checkpoint.
    ax : Axes, optional
        Where to draw; a new figure by default.
    task : str
        ``"all"`` for all tasks together.
    common : bool
        Only items that are complete in every family of a result, so that families compare.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes

    Raises
    ------
    RunError
        Where no result has the task.
    """
    many: list[ListenRead] = list(results) if isinstance(results, (list, tuple)) else [cast("ListenRead", results)]
    parts = []
    for result in many:
        rows = (result.common() if common else result).table
        parts.append(rows[rows["task"] == task].assign(model=str(result.settings.get("model", ""))))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["family", "model"])
    if not len(table):
        raise RunError("cannot draw listening shares", found=f"no result of task {task!r}")
    models, families = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["family"]))
    with theme():
        if ax is None:
            ax = new_axes(6.0, 1.5 + (0.22 + 0.15 * len(families)) * max(len(models), 2))[1]
        for number, family in enumerate(families):
            rows = table[table["family"] == family].set_index("model").reindex(models)
            value, low, high = (rows[f"share{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
            y = np.arange(len(models)) + (number - (len(families) - 1) / 2) * 0.7 / max(len(families), 1)
            series = SERIES[number % len(SERIES)]
            # A share is of effects; where there is none, or the words help, it says little.
            told = rows["verdict"].fillna("").isin(["reads", "listens", "listens and reads"]).to_numpy()
            arms = np.nan_to_num([value - low, high - value])
            for mask, filled in ((told, True), (~told & np.isfinite(value), False)):
                ax.errorbar(
                    value[mask], y[mask], xerr=arms[:, mask] if filled else None, fmt=series.marker, ms=5, lw=1.1,
                    color=series.colour, mfc=series.colour if filled else "white", zorder=3,
                )  # fmt: skip
            ax.plot([], [], series.marker, color=series.colour, ms=5, label=family)
            for at in np.flatnonzero(~told):
                right = np.isfinite(value[at]) and value[at] > 0.5
                said = str(rows["verdict"].iloc[at]) if isinstance(rows["verdict"].iloc[at], str) else "not measured"
                x = (value[at] if np.isfinite(value[at]) else 0.0) + (-0.025 if right else 0.025)
                ax.text(x, y[at], said, fontsize=7, color=GREY, va="center", ha="right" if right else "left")
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":", zorder=0)
        ax.set_yticks(np.arange(len(models)), models)
        ax.set_ylim(len(models) - 0.45, -0.55)
        ax.set_xlim(-0.03, 1.03)
        ax.set_xlabel("listening share: 0 words alone, 1 voice alone (95 % interval)")
        where = "all tasks" if task == "all" else short_task(task)
        ax.set_title(f"Voice or words: {where}", pad=22)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(families), borderaxespad=0.2)
        add_note(ax, note)
    return ax
