"""Voice and words, each taken away in turn: what they add to the margin of the truth, checkpoint by checkpoint.

Why it exists. Accuracy says who won, not by how much each pulled. The listen-read factorial asks about a clip with
both, with the voice alone, with the words alone and with neither, and divides the margin of the truth among voice and
words (Shapley 1953). On conflict items a listener's voice adds much and its words nothing; a reader's words take away.

The idea. A band a *family*, which is a way of taking words and voice away: twins rendered anew, smoothed and flattened
speech, reversed speech with the words as text. In it a row a checkpoint: voice and words in nats with intervals, on the
right the listening share of the means where the effects have the signs that a share needs, and the verdict that
:func:`vpanalysis.attribution.listen_vs_read` drew from the intervals.

What it cannot show: families side by side. They cover different tasks and items (in the titles), and in manipulated
speech what a strange sound does is part of every estimate. Nats of different checkpoints differ also by how sharp their
answers are; the share does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._checkpoints import (
    ALL,
    IDENTITY,
    arms,
    bounds,
    ground,
    identity,
    shown,
    signed,
    small,
)
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.style import CLAIM, GREY, SERIES, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.attribution import ListenRead
    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

EFFECTS = {"listen": "voice", "read": "words", "interaction": "interaction", "share": "listening share"}
TOLD = ("reads", "listens", "listens and reads")
"""Verdicts with which a share of effects means something."""

COLUMNS = [*IDENTITY, "family", "task", "effect", "value", "low", "high", "verdict", "n", "n_asked", "n_groups",
           "grouping", "tasks"]  # fmt: skip
DRAWN = ((EFFECTS["listen"], TRUTH, -0.16), (EFFECTS["read"], CLAIM, 0.16))
SHARE = SERIES[2]


def data(sources: Sources) -> pd.DataFrame:
    """Return voice, words, interaction and listening share over all tasks, by checkpoint and family."""
    rows: list[dict[str, Any]] = []
    who = identity(sources)
    for name, columns in who.items():
        found: ListenRead | None = sources.one("ListenRead", name)
        if found is not None:
            rows += [{**columns, **row} for row in _rows(found)]
    if not rows:
        kept = f"no ListenRead kept in {', '.join(who)}" if who else "no Run of a model that answers"
        own = 'for a model of your own: vp.listen_vs_read(model, bench).save(vp.open_run("runs/NAME"))'
        raise lacking("factorial", kept, f"{ENTRY.record}; {own}")
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(found: ListenRead) -> list[dict[str, Any]]:
    tasks = found.items.groupby("family")["task"].nunique()
    rows = []
    for one in found.table[found.table["task"] == "all"].to_dict("records"):
        common = {
            "family": one["family"], "task": ALL, "verdict": one["verdict"], "n": float(one["n"]),
            "n_asked": float(one["n_asked"]), "n_groups": float(one["n_groups"]),
            "grouping": one["group"] if isinstance(one["group"], str) else "",
            "tasks": int(tasks.get(one["family"], 0)),
        }  # fmt: skip
        for key, effect in EFFECTS.items():
            told = key != "share" or one["verdict"] in TOLD
            value, low, high = (float(one[f"{key}{end}"]) if told else np.nan for end in ("", "_low", "_high"))
            rows.append({**common, "effect": effect, "value": value, "low": low, "high": high})
    return rows


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw a band a family: effects in nats, listening shares, verdicts."""
    families, called = list(dict.fromkeys(data["family"])), shown(data)
    names = list(called)
    grid = figure.subplots(len(families), 2, squeeze=False, sharex="col", width_ratios=[2.1, 1.0])
    ends = bounds(data[data["effect"].isin([EFFECTS["listen"], EFFECTS["read"]])])
    for number, (family, (left, right)) in enumerate(zip(families, grid, strict=True)):
        rows = data[data["family"] == family]
        _effects(left, rows, names)
        _shares(right, rows, names)
        left.set_yticks(range(len(names)), [called[name] for name in names])
        right.set_yticks(range(len(names)), [""] * len(names))
        for ax in (left, right):
            ax.set_ylim(len(names) - 0.4, -0.6)
            ax.tick_params(axis="y", length=2)
            ax.tick_params(axis="x", labelbottom=number == len(families) - 1)
        left.set_title(f"{family}: {_counted(rows)}", pad=3)
        right.set_title("listening share" if number == 0 else "", pad=3)
    grid[-1, 0].set_xlim(*ends)
    grid[-1, 0].set_xlabel("added to the margin of the truth, in nats")
    grid[-1, 1].set_xlim(-0.05, 1.05)
    grid[-1, 1].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    grid[-1, 1].set_xlabel("0: words alone, 1: voice alone")
    _legend(figure, grid[0, 0], data)


def _counted(rows: pd.DataFrame) -> str:
    """Return how many items and tasks a family rests on, which checkpoints of one benchmark share."""
    most = rows.sort_values("n").iloc[-1]
    least = int(rows["n"].min())
    items = f"{least}" if least == int(most["n"]) else f"{least} to {int(most['n'])}"
    return f"{items} items, {int(most['tasks'])} tasks"


def _effects(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    for effect, look, shift in DRAWN:
        part = rows[(rows["effect"] == effect) & rows["value"].notna()]
        y = [names.index(name) + shift for name in part["name"]]
        ax.errorbar(part["value"], y, xerr=arms(part), fmt=look.marker, color=look.colour, lw=0.9, zorder=3)


def _shares(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    ax.axvline(0.5, color=GREY, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
    part = rows[(rows["effect"] == EFFECTS["share"]) & rows["value"].notna()]
    ax.errorbar(part["value"], [names.index(name) for name in part["name"]], xerr=arms(part), fmt=SHARE.marker,
                color=SHARE.colour, lw=0.9, zorder=3)  # fmt: skip
    for name, verdict in rows.drop_duplicates("name")[["name", "verdict"]].itertuples(index=False):
        ax.annotate(str(verdict), (1.0, names.index(name)), xycoords=("axes fraction", "data"), xytext=(4, 0),
                    textcoords="offset points", fontsize=small(), va="center", color="#333333")  # fmt: skip


def _legend(figure: Figure, ax: Axes, data: pd.DataFrame) -> None:
    handles = [
        ax.errorbar([], [], xerr=np.zeros((2, 0)), fmt=look.marker, color=look.colour, lw=0.9, label=label)
        for label, look in ((f"{EFFECTS['listen']} (listening)", TRUTH), (f"{EFFECTS['read']} (reading)", CLAIM),
                            (EFFECTS["share"], SHARE))
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0.3,
                  title=f"{ground(data)}; verdicts on the right", title_fontsize=small())  # fmt: skip


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    told = []
    for family, label in dict.fromkeys(zip(data["family"], data["label"], strict=True)):
        rows = data[(data["family"] == family) & (data["label"] == label)].set_index("effect")
        voice, words = (rows.loc[EFFECTS[key]] for key in ("listen", "read"))
        if not np.isnan(voice["value"]):
            told.append(f"{label} by {family} voice {signed(voice['value'])}, words {signed(words['value'])} nats "
                        f"({voice['verdict']})")  # fmt: skip
    return f"What voice and words add to the margin of the truth on conflict items: {'; '.join(told)}."


ENTRY = Entry(
    "factorial", "Listen-read factorial", "none",
    "Shapley values of voice and words for the margin of the truth over the claims on conflict items, by checkpoint "
    "and by family (way of taking words and voice away), with 95 % intervals clustered by speaker or wording. Right: "
    "the listening share (bootstrap interval) where the verdict allows one, and the verdict. Families cover different "
    "tasks and items and are not to be compared with each other; nats of checkpoints differ also by how sharp answers "
    "are.",
    data=data, draw=draw, alt=alt,
    height=lambda table: 0.9 + table["family"].nunique() * (0.35 + 0.17 * table["name"].nunique()),
)  # fmt: skip
