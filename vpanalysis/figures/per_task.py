"""Task by task: who picks the truth, who picks the claim, and who is right by chance.

Why it exists. Acc_GT over all tasks is a mean of very different things: two options against four, one sentence against
five turns. The paper prints it over all tasks; of the grid behind it only fragments are public. So the grid is drawn
from Runs, with intervals, and the fragments stand beside it where they are of that task.

The idea. A panel a task. In it the checkpoints in the order of the ladder, each with the share of conflict items on
which it picked the truth and on which it picked a claim, and a line at one over the number of options. What is left to
one is a third option or no usable answer. Published marks are hollow, stand by themselves on a grey ground, and have no
interval because none was printed.

What it cannot show: whether a task is heard. Picking the truth on conflict items is also what a model does that turns
the words around; see :mod:`vpanalysis.figures.hearing`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._checkpoints import IDENTITY, arms, ground, identity, shown, small
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._published import published
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.style import CLAIM, GREY, TRUTH, short_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

METRICS = {"acc_gt": ("Acc_GT: picks the truth", TRUTH), "ala": ("ALA: picks a claim", CLAIM)}
COLUMNS = [*IDENTITY, "task", "metric", "value", "low", "high", "n", "chance", "prediction", "source"]
PUBLISHED = "published"
ACROSS = 5
WIDE = 1.45
"""Width of the place of a published mark, where that of a checkpoint is 1."""


def data(sources: Sources) -> pd.DataFrame:
    """Return Acc_GT and ALA by task and Run, and the published numbers of these tasks."""
    who = identity(sources)
    if not who:
        raise lacking("per_task", "no Run of a model that answers", ENTRY.record)
    rows: list[dict[str, Any]] = []
    for name, columns in who.items():
        score = sources.score(name)
        conflict = score.outcomes[score.outcomes["condition"] == "conflict"]
        chance = (1 / conflict["choices"].map(len)).groupby(conflict["task_name"]).mean()
        rows += [
            {
                **columns, "task": one["task"], "metric": one["metric"], "value": one["estimate"], "low": one["low"],
                "high": one["high"], "n": float(one["n"]), "chance": float(chance[one["task"]]),
                "prediction": score.prediction, "source": "",
            }
            for one in score.table.to_dict("records") if one["metric"] in METRICS and one["task"] in chance.index
        ]  # fmt: skip
    if not rows:
        raise lacking("per_task", f"no conflict items in {', '.join(who)}", ENTRY.record)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    return pd.DataFrame([*rows, *_fragments(tasks)], columns=COLUMNS)


def _fragments(tasks: list[str]) -> list[dict[str, Any]]:
    """Return published numbers of these tasks as rows of the table, as shares."""
    return [
        {
            "name": "", "label": row["row"], "variant": "", "group": PUBLISHED, "origin": row["source"],
            "planted": False, "task": row["column"], "metric": "acc_gt", "value": row["value"] / 100, "low": math.nan,
            "high": math.nan, "n": math.nan, "chance": math.nan, "prediction": "",
            "source": "; ".join(filter(None, [row["place"], row["note"]])),
        }
        for row in published("per_task").to_dict("records") if row["column"] in tasks
    ]  # fmt: skip


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw a panel a task, five a row."""
    measured = data[data["origin"] == MEASURED]
    printed = data[data["origin"] != MEASURED]
    tasks = list(dict.fromkeys(data["task"]))
    names = list(dict.fromkeys(measured["name"]))
    # A gap where the organism ends and other models begin.
    own = measured.drop_duplicates("name").set_index("name")
    place, at = {}, 0.0
    for before, name in zip([None, *names], names, strict=False):
        at += 0.8 if before is not None and own["group"][before] != own["group"][name] else 0.0
        place[name] = at
        at += 1.0
    edge = at - 0.35
    most = int(printed.groupby("task").size().max()) if len(printed) else 0
    called = shown(measured)
    down = math.ceil(len(tasks) / ACROSS)
    grid = np.atleast_1d(figure.subplots(down, min(ACROSS, len(tasks)), sharex=True, sharey=True)).reshape(-1)
    for number, (task, ax) in enumerate(zip(tasks, grid, strict=False)):
        _panel(ax, measured[measured["task"] == task], place)
        if most:
            ax.axvspan(edge, edge + WIDE * most, color="#EEEEEE", lw=0, zorder=0)
            _published(ax, printed[printed["task"] == task], edge)
        ax.set_title(short_task(task), pad=3)
        ax.set_xlim(-0.65, edge + WIDE * most)
        ax.set_ylim(-0.03, 1.05)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"])
        ax.set_xticks(list(place.values()), [called[name] for name in names], rotation=90)
        last = number + ACROSS >= len(tasks)
        ax.tick_params(axis="x", labelbottom=last, length=0, labelsize=small(), pad=2)
    for ax in grid[len(tasks) :]:
        ax.set_visible(False)
    figure.supylabel("share of conflict items", fontsize=grid[0].xaxis.label.get_size())
    _legend(figure, grid[0], bool(most), ground(measured))


def _panel(ax: Axes, rows: pd.DataFrame, place: dict[str, float]) -> None:
    ends, chance = (-0.65, max(place.values()) + 0.5), float(rows["chance"].mean())
    ax.plot(ends, (chance, chance), color=GREY, lw=0.8, ls=(0, (1, 1.5)), zorder=1)
    for (metric, (_, series)), shift in zip(METRICS.items(), (-0.17, 0.17), strict=True):
        part = rows[rows["metric"] == metric]
        x = [place[name] + shift for name in part["name"]]
        ax.errorbar(x, part["value"], yerr=arms(part), fmt=series.marker, color=series.colour, lw=0.9, zorder=3)


def _published(ax: Axes, rows: pd.DataFrame, edge: float) -> None:
    if not len(rows):
        ax.text(edge + 0.5 * WIDE, 0.02, "none public", rotation=90, ha="center", va="bottom", fontsize=small(),
                color=GREY)  # fmt: skip
    for number, row in enumerate(rows.to_dict("records")):
        series = METRICS[str(row["metric"])][1]
        x, y = edge + (number + 0.5) * WIDE, float(row["value"])
        ax.plot(x, y, ls="", marker="D", mfc="white", mec=series.colour, color=series.colour, zorder=3)
        above, gap = y < 0.55, 0.7 * small()
        ax.annotate(_in_lines(str(row["label"])), (x, y), xytext=(0, gap if above else -gap),
                    textcoords="offset points", rotation=90, ha="center", va="bottom" if above else "top",
                    fontsize=small(), color="#444444", linespacing=0.95)  # fmt: skip


def _in_lines(label: str, most: int = 12) -> str:
    """Return "model + this + that" broken before a plus where a line would be longer than `most`."""
    lines: list[str] = []
    for number, part in enumerate(label.split(" + ")):
        word = f"+ {part}" if number else part
        if lines and len(lines[-1]) + 1 + len(word) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _legend(figure: Figure, ax: Axes, published: bool, whose: str) -> None:
    handles: list[Any] = [
        ax.errorbar([], [], yerr=np.zeros((2, 0)), fmt=series.marker, color=series.colour, lw=0.9, label=label)
        for label, series in METRICS.values()
    ]
    handles += ax.plot([], [], color=GREY, lw=0.8, ls=(0, (1, 1.5)), label="chance")
    if published:
        handles += ax.plot([], [], ls="", marker="D", mfc="white", color=TRUTH.colour, label="published Acc_GT")
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handletextpad=0.4,
                  columnspacing=1.2, title=f"filled: {whose}", title_fontsize=small())  # fmt: skip


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    rows = data[(data["origin"] == MEASURED) & (data["metric"] == "acc_gt")]
    mean = rows.groupby("label", sort=False)["value"].mean()
    count = int((data["origin"] != MEASURED).sum())
    return (
        f"Acc_GT and ALA on conflict items in {rows['task'].nunique()} tasks for {len(mean)} checkpoints. Mean Acc_GT "
        f"over tasks runs from {mean.min():.2f} ({mean.idxmin()}) to {mean.max():.2f} ({mean.idxmax()}); "
        f"{count} published numbers stand beside them as hollow marks."
    )


ENTRY = Entry(
    "per_task", "Listening and reading, task by task", "per-task results (full grid not public)",
    "Acc_GT (picks what the voice makes true) and ALA (picks what the words claim) on conflict items, with 95 % "
    "intervals clustered by speaker or wording, whichever is wider. Dotted: one over the number of options. Hollow "
    "marks on grey: published numbers of other models on other clips, printed without intervals; the other tasks' "
    "numbers are not public. A high Acc_GT alone does not show that a task is heard.",
    data=data, draw=draw, alt=alt, published=("per_task",),
    height=lambda table: 0.9 + 1.55 * math.ceil(table["task"].nunique() / ACROSS),
)  # fmt: skip
