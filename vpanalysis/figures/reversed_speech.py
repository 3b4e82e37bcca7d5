"""Played backwards: what a model answers when the voice is there and the words are not.

Why it exists. Backwards, speech keeps pitch, loudness and the size of the vocal tract and loses its words. A model that
was led astray by the words should then pick the claim less often, and, if it can use the voice, the truth more often.
The paper reports exactly this; its numbers are not public. Here it is measured on one's own Runs, item by item.

The idea. Each conflict item is asked twice, as recorded and reversed, and only items that exist both ways count.
:func:`vpanalysis.benchmark.transforms.mapped_item` says for which tasks the truth survives: of age, gender, emotion and
the number of speakers it stays, speaker clips are renumbered in question and options, and orders and contours flip and
are used only where the flipped truth is offered and is no claim. The claim of a reversed clip is what its words would
have asserted. Differences are paired; their intervals and sign-flip p values respect speakers and wordings.

What it cannot show: that the words were the cause. Reversed speech is also a sound that no model was trained on, so a
change mixes what the words did with what the strangeness does; and whoever answers at chance looks as if freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._outcomes import clusterings, options, outcome_table, task_order
from vpanalysis.figures._checkpoints import (
    ALL,
    IDENTITY,
    arms,
    bounds,
    ground,
    identity,
    marks,
    p_text,
    shown,
    signed,
    small,
)
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.style import CLAIM, GREY, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

NORMAL, REVERSED, CHANGE = "normal", "reversed", "reversed - normal"
METRICS = {"acc_gt": ("Acc_GT", TRUTH), "ala": ("ALA", CLAIM)}
COLUMNS = [*IDENTITY, "task", "metric", "audio", "value", "low", "high", "p", "p_adjusted", "n", "n_groups", "grouping",
           "prediction"]  # fmt: skip
TICKS = (0, 0.25, 0.5, 0.75, 1)
COMMAND = "vpanalysis reproduce --full --out runs"
PYTHON = (
    'for a model of your own: vp.run(model, bench, "runs/NAME") and '
    'vp.run(model, vpanalysis.attribution.condition(bench, "reversed"), "runs/NAME-reversed")'
)


def data(sources: Sources) -> pd.DataFrame:
    """Return Acc_GT and ALA as recorded and reversed, and the paired change, over all tasks and by task."""
    rows: list[dict[str, Any]] = []
    for name, columns in identity(sources).items():
        paired = _paired(sources, name)
        if paired is None:
            continue
        items, prediction = paired
        tasks = task_order(items["task_name"])
        for task in (ALL, *tasks):
            here = items if task == ALL else items[items["task_name"] == task]
            for metric in METRICS:
                rows += [{**columns, "task": task, "metric": metric, "prediction": prediction, **one}
                         for one in _estimates(here, metric)]  # fmt: skip
    if not rows:
        found = "no Run of the same weights on reversed clips" if sources.names else "no Run of a model that answers"
        raise lacking("reversed_speech", found, f"{COMMAND}; {PYTHON}")
    return _adjusted(pd.DataFrame(rows, columns=COLUMNS))


def _paired(sources: Sources, name: str) -> tuple[pd.DataFrame, str] | None:
    """Return conflict items that exist both ways, with what was picked, and the prediction that was judged."""
    from vpanalysis._predictions import recorded_kinds

    backwards = sources.changed(name, REVERSED)
    if backwards is None:
        return None
    prediction = sources.score(name).prediction
    if prediction not in recorded_kinds(backwards.predictions):
        # One measurement both ways: where replies were written for one only, the logits of both are compared.
        prediction = "pred_logits"
    keep = ["id", "task_name", "cell", "speaker", "script", "truth", "predicted"]
    sides = []
    for run in (sources.all[name], backwards):
        table = outcome_table(run.predictions, prediction, run.name)[keep].copy()
        # Not the claims: on a reversed clip nothing is said, while the foils stay, renumbered where the clips are.
        table["foils"] = run.predictions["foils"].map(options).to_numpy(dtype=object)
        sides.append(table)
    scored = sources.score(name).outcomes
    asked = set(scored.loc[scored["condition"] == "conflict", "id"])
    plain, turned = (side[side["id"].isin(asked)].set_index("id") for side in sides)
    both = plain.index.intersection(turned.index, sort=False)
    if not len(both):
        return None
    items = plain.loc[both, ["task_name", "cell", "speaker", "script"]].copy()
    for audio, side in ((NORMAL, plain.loc[both]), (REVERSED, turned.loc[both])):
        items[f"acc_gt {audio}"] = [float(p == t) for p, t in zip(side["predicted"], side["truth"], strict=True)]
        items[f"ala {audio}"] = [float(p in f) for p, f in zip(side["predicted"], side["foils"], strict=True)]
    return items.reset_index(), prediction


def _estimates(items: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """Return the share as recorded, the share reversed, and the paired difference with its test."""
    before, after = (items[f"{metric} {audio}"].to_numpy(dtype=np.float64) for audio in (NORMAL, REVERSED))
    groups = clusterings(items) or {"item": items["id"].to_numpy(dtype=object)}
    twice = {key: np.concatenate([labels, labels]) for key, labels in groups.items()}
    part = np.repeat([0, 1], len(items))
    found = {
        NORMAL: stats.proportion(before, groups), REVERSED: stats.proportion(after, groups),
        CHANGE: stats.combination(np.concatenate([before, after]), part, [-1.0, 1.0], twice),
    }  # fmt: skip
    flip = stats.sign_flip_test(after - before, groups)
    return [
        {
            "audio": audio, "value": one.value, "low": one.low, "high": one.high, "n": float(len(items)),
            "p": flip.p if audio == CHANGE else np.nan, "n_groups": float(one.n_groups), "grouping": one.group,
        }
        for audio, one in found.items()
    ]  # fmt: skip


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """Fill in p values adjusted over Runs (rows over all tasks) or over tasks (rows of a task)."""
    table["p_adjusted"] = np.nan
    change = table[table["audio"] == CHANGE]
    for (_, over), part in change.groupby(["metric", change["task"] == ALL]):
        for family in [part] if over else [rows for _, rows in part.groupby("name", sort=False)]:
            table.loc[family.index, "p_adjusted"] = stats.benjamini_hochberg(family["p"].to_numpy(dtype=np.float64))
    return table


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the plane of truth against claim with an arrow a Run, and beside it the paired changes."""
    rows = data[data["task"] == ALL]
    plane, forest = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    looks, called = marks(rows["name"]), shown(rows)
    for name, series in looks.items():
        _arrow(plane, rows[rows["name"] == name], series.colour, series.marker)
    plane.plot([0, 1], [1, 0], color="#BBBBBB", lw=0.8, zorder=0)
    plane.set_xlim(-0.03, 1.03)
    plane.set_ylim(-0.03, 1.03)
    plane.set_xticks(TICKS)
    plane.set_yticks(TICKS)
    plane.set_aspect("equal")
    plane.set_xlabel("ALA: picks a claim")
    plane.set_ylabel("Acc_GT: picks the truth")
    counts = rows["n"].drop_duplicates()
    many = f"{counts.min():.0f}" if len(counts) == 1 else f"{counts.min():.0f} to {counts.max():.0f}"
    tasks = data.loc[data["task"] != ALL, "task"].nunique()
    plane.set_title(f"{many} conflict items, {tasks} tasks")
    _changes(forest, rows, list(looks), called)
    handles = [
        plane.plot([], [], ls="", marker=series.marker, color=series.colour, label=called[name])[0]
        for name, series in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), handletextpad=0.3,
                  title=f"{ground(rows)}; arrow: from normal (large mark) to reversed (small mark)",
                  title_fontsize=small())  # fmt: skip


def _arrow(ax: Axes, rows: pd.DataFrame, colour: str, marker: str) -> None:
    import matplotlib as mpl

    size = float(mpl.rcParams["lines.markersize"])
    points = []
    for audio, scale in ((NORMAL, 1.5), (REVERSED, 0.9)):
        x, y = (rows[(rows["audio"] == audio) & (rows["metric"] == metric)] for metric in ("ala", "acc_gt"))
        ax.errorbar(x["value"], y["value"], xerr=arms(x), yerr=arms(y), fmt=marker, color=colour, ms=scale * size,
                    mec="white", mew=0.5, lw=0.7, ls="", alpha=0.95, zorder=3)  # fmt: skip
        points.append((float(x["value"].iloc[0]), float(y["value"].iloc[0])))
    ax.annotate("", points[1], points[0], zorder=4, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 0.9, "shrinkA": size * 0.8, "shrinkB": size * 0.5,
        "mutation_scale": 2.2 * size, "connectionstyle": "arc3,rad=0.12"})  # fmt: skip


def _changes(ax: Axes, rows: pd.DataFrame, names: list[str], called: dict[str, str]) -> None:
    change = rows[rows["audio"] == CHANGE]
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    for (metric, (label, series)), shift in zip(METRICS.items(), (-0.15, 0.15), strict=True):
        part = change[change["metric"] == metric]
        y = [names.index(name) + shift for name in part["name"]]
        ax.errorbar(part["value"], y, xerr=arms(part), fmt=series.marker, color=series.colour, lw=0.9, label=label)
        for row, at in zip(part.to_dict("records"), y, strict=True):
            ax.annotate(p_text(float(row["p_adjusted"])), (1.0, at), xycoords=("axes fraction", "data"), xytext=(3, 0),
                        textcoords="offset points", fontsize=small(), va="center", color="#333333")  # fmt: skip
    ax.annotate("adj. p", (1.0, 1.0), xycoords="axes fraction", xytext=(3, 3), textcoords="offset points",
                fontsize=small(), color="#333333", va="bottom")  # fmt: skip
    ax.set_yticks(range(len(names)), [called[name] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(*bounds(change))
    ax.set_xlabel("reversed minus normal (paired)")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    rows = data[(data["task"] == ALL) & (data["audio"] == CHANGE)].set_index(["label", "metric"])
    told = [
        f"{label}: Acc_GT {signed(rows.loc[(label, 'acc_gt'), 'value'])}, "
        f"ALA {signed(rows.loc[(label, 'ala'), 'value'])}"
        for label in dict.fromkeys(data["label"])
    ]
    return (
        f"Acc_GT against ALA of {len(told)} checkpoints on normal and on reversed clips of the same conflict items, "
        f"with an arrow from one to the other. Change when reversed: {'; '.join(told)}."
    )


ENTRY = Entry(
    "reversed_speech", "Normal and time-reversed speech", "reversed-audio experiment (numbers not public)",
    "Acc_GT and ALA on conflict items as recorded and played backwards, on the items that exist both ways (their "
    "number is in the title), with 95 % intervals clustered by speaker or wording. Right: paired changes, with p "
    "values of sign flips of whole clusters, adjusted over checkpoints (Benjamini and Hochberg). Tasks whose truth "
    "does not survive reversal are left out; speaker clips are renumbered. Reversed speech lacks its words and is also "
    "unlike anything in training; the picture does not tell these apart. By task in the table behind it.",
    data=data, draw=draw, alt=alt, height=3.6,
)  # fmt: skip
