"""Readers, inverters and listeners told apart: the hearing index beside the accuracies that it is made of.

Why it exists. Acc_GT on conflict items is the paper's measure, and a model that simply turns the words around gets it
right without hearing anything; on congruent items the same model is wrong. A reader is the opposite. Only who is right
on both kinds of twins has used the voice, and the hearing index counts how far a model is beyond every rule that does
not.

The idea. A column a checkpoint, a row a task. Above, the hearing index with its interval: 0 is the best that words and
options alone allow, 1 is always right. Below, the two accuracies behind it, on conflict and on congruent twins of the
same cells. A reader has its pair far apart with congruent on the right, an inverter with conflict on the right; both
have an index of 0 or less.

What it cannot show: how the voice was used, and whether the clips give the truth away by anything else than the voice.
A twin is needed for either condition, so benchmarks of conflict items alone have no such picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._checkpoints import ALL, IDENTITY, arms, bounds, ground, identity, shown, small, task_label
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.style import CLAIM, GREY, SERIES, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

METRICS = {"acc_gt": "conflict", "acc_congruent": "congruent", "hearing": "hearing index"}
COLUMNS = [*IDENTITY, "task", "metric", "value", "low", "high", "n", "n_groups", "grouping", "blind", "prediction"]
ACROSS = 7
"""Checkpoints side by side; more go into another band."""

INDEX = SERIES[2]


def data(sources: Sources) -> pd.DataFrame:
    """Return the hearing index and its two accuracies by task and Run."""
    rows: list[dict[str, Any]] = []
    who = identity(sources)
    for name, columns in who.items():
        score = sources.score(name)
        table = score.table[score.table["metric"].isin(list(METRICS))]
        blind = dict(zip(score.per_task["task"], score.per_task["blind"], strict=True))
        # Tasks without congruent twins have accuracies and no index.
        with_index = set(table.loc[table["metric"] == "hearing", "task"])
        rows += [
            {
                **columns, "task": ALL if one["task"] == "overall" else one["task"], "metric": METRICS[one["metric"]],
                "value": one["estimate"], "low": one["low"], "high": one["high"], "n": float(one["n"]),
                "n_groups": float(one["n_groups"]), "grouping": one["group"],
                "blind": float(blind.get(one["task"], np.nan)), "prediction": score.prediction,
            }
            for one in table.to_dict("records") if one["task"] in with_index
        ]  # fmt: skip
    if not rows:
        found = f"no congruent twins in {', '.join(who)}" if who else "no Run of a model that answers"
        raise lacking("hearing", found, ENTRY.record)
    return pd.DataFrame(rows, columns=COLUMNS)


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw two rows of panels a band of checkpoints: the index, and the two accuracies behind it."""
    names = list(dict.fromkeys(data["name"]))
    tasks = [t for t in dict.fromkeys(data["task"]) if t != ALL]
    tasks += [ALL] if ALL in set(data["task"]) else []
    bands, across = math.ceil(len(names) / ACROSS), min(ACROSS, len(names))
    grid = figure.subplots(2 * bands, across, squeeze=False)
    called = shown(data)
    index = data[data["metric"] == METRICS["hearing"]]
    # Intervals of short Runs reach far; the range that matters is that of the index itself.
    ends = bounds(index, (-0.1, 1.0))
    for number, name in enumerate(names):
        rows = data[data["name"] == name]
        above, below = grid[2 * (number // ACROSS), number % ACROSS], grid[2 * (number // ACROSS) + 1, number % ACROSS]
        _index(above, rows[rows["metric"] == METRICS["hearing"]], tasks, ends)
        _pairs(below, rows, tasks)
        above.set_title(_heading(called[name]), loc="center", fontsize=small() * 1.1, pad=4)
        for ax, what in ((above, "hearing index"), (below, "accuracy")):
            ax.set_xlabel(what, fontsize=small(), labelpad=1.5)
            ax.set_ylim(len(tasks) - 0.4, -0.6)
            ax.set_yticks(range(len(tasks)), [task_label(t) for t in tasks] if number % ACROSS == 0 else [])
            ax.tick_params(labelsize=small(), length=2, pad=1.5)
            if ALL in tasks:
                ax.axhline(len(tasks) - 1.5, color="#CCCCCC", lw=0.6, zorder=0)
    for ax in _unused(grid, len(names)) if bands > 1 else []:
        ax.set_visible(False)
    _legend(figure, grid[0, 0], data)


def _unused(grid: Any, count: int) -> list[Axes]:
    """Return the panels of the last band that no checkpoint fills."""
    rest = (-count) % ACROSS
    return [ax for row in grid[-2:] for ax in row[ACROSS - rest :]] if rest else []


def _heading(label: str) -> str:
    """Return a label in lines that fit above a narrow panel."""
    import textwrap

    return "\n".join(textwrap.wrap(label, 13)[:3])


def _index(ax: Axes, rows: pd.DataFrame, tasks: list[str], ends: tuple[float, float]) -> None:
    ax.axvspan(ends[0] - 1, 0, color="#EEEEEE", lw=0, zorder=0)
    ax.axvline(0, color=GREY, lw=0.7, zorder=1)
    y = [tasks.index(task) for task in rows["task"]]
    ax.errorbar(rows["value"], y, xerr=arms(rows), fmt=INDEX.marker, color=INDEX.colour, lw=0.9, zorder=3)
    ax.set_xlim(*ends)
    ax.set_xticks([0, 1], ["0", "1"])


def _pairs(ax: Axes, rows: pd.DataFrame, tasks: list[str]) -> None:
    for series, what, shift in ((TRUTH, "conflict", -0.16), (CLAIM, "congruent", 0.16)):
        part = rows[rows["metric"] == what]
        y = [tasks.index(task) + shift for task in part["task"]]
        ax.errorbar(part["value"], y, xerr=arms(part), fmt=series.marker, color=series.colour, lw=0.9, zorder=3,
                    ms=0.8 * _size())  # fmt: skip
    ax.set_xlim(-0.06, 1.06)
    ax.set_xticks([0, 1], ["0", "1"])


def _size() -> float:
    import matplotlib as mpl

    return float(mpl.rcParams["lines.markersize"])


def _legend(figure: Figure, ax: Axes, data: pd.DataFrame) -> None:
    handles = [
        ax.errorbar([], [], xerr=np.zeros((2, 0)), fmt=series.marker, color=series.colour, lw=0.9, label=label)
        for series, label in (
            (INDEX, "hearing index (grey: what needs no hearing)"), (TRUTH, "accuracy on conflict twins"),
            (CLAIM, "on congruent twins"),
        )
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0.3, columnspacing=1.2,
                  title=ground(data), title_fontsize=small())  # fmt: skip


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    rows = data[(data["metric"] == METRICS["hearing"]) & (data["task"] == ALL)]
    told = [
        f"{label} {value:.2f}".replace("-0.00", "0.00")
        for label, value in zip(rows["label"], rows["value"], strict=True)
    ]
    return (
        "Hearing index by task for every checkpoint, above accuracy on conflict and on congruent twins. Index over all "
        f"tasks: {', '.join(told)}; 0 or less needs no hearing."
    )


ENTRY = Entry(
    "hearing", "Hearing index on conflict and congruent twins", "none",
    "Hearing index (above) and accuracy on the conflict and congruent twins behind it (below), by task, with 95 % "
    "intervals clustered by speaker or wording. 0 is the best that any rule can reach that sees words and options "
    "alone, 1 is always right: readers, inverters and guessers lie on the grey ground. Over all tasks the index is the "
    "mean over tasks, the accuracies are over all items. The paper has no such control.",
    data=data, draw=draw, alt=alt,
    height=lambda table: 0.6 + 4.1 * math.ceil(table["name"].nunique() / ACROSS),
)  # fmt: skip
