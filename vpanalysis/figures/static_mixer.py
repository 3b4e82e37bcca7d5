"""Does the mixture have to follow the prompt? PCLM against the same streams under one learned mixture for all prompts.

Why it exists. PCLM gives the language model more layers of the encoder *and* lets the prompt choose among them. The
paper's gain over its base model is of both together, and it reports no control in which only the first is left. The
static mixer is that control: equal streams, equal training, weights that are learned and the same for every prompt.

The idea. Both answered the same clips, so Acc_GT and margin are compared item by item, per task and over all, with
intervals clustered by speaker and wording, sign-flip p values, and p values adjusted over the tasks (Benjamini and
Hochberg). PCLM against the static mixer is the clean comparison; PCLM + DPO is shown beside it, and differs from the
static mixer in its preference training as well. Beside the differences stand the accuracies themselves.

What it cannot show: that conditioning is worth nothing where no difference is found. Read the interval. And a control
has one seed here: what another training run would have given is in no interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._outcomes import clusterings
from vpanalysis.attribution.margins import margins_of
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
    task_label,
)
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.style import GREY, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis._run import Run
    from vpanalysis.figures._sources import Sources
    from vpanalysis.scoring import Score

__all__ = ["ENTRY"]

VALUE, DIFFERENCE = "value", "difference"
METRICS = {"acc_gt": "Acc_GT", "margin": "margin (nats)"}
COLUMNS = [*IDENTITY, "what", "against", "task", "metric", "value", "low", "high", "p", "p_adjusted", "n", "n_groups",
           "grouping", "prediction"]  # fmt: skip


def data(sources: Sources) -> pd.DataFrame:
    """Return Acc_GT and margin of the static mixer and of PCLM, and their paired differences."""
    variants = sources.variants("static", "pclm", "pclm+dpo")
    static = [name for name, variant in variants.items() if variant == "static"]
    mixers = [name for name, variant in variants.items() if variant != "static"]
    pairs = [(a, b) for b in static for a in mixers if _alike(sources, a, b)]
    if not pairs:
        found = f"static mixers {static or 'none'}, prompt-conditioned mixers {mixers or 'none'} on one benchmark"
        raise lacking("static_mixer", found.replace("'", ""), ENTRY.record)
    who = identity(sources, [name for name in sources.names if name in {n for pair in pairs for n in pair}])
    rows: list[dict[str, Any]] = []
    for name, columns in who.items():
        items = _items(sources.score(name), sources.all[name])
        rows += [{**columns, "what": VALUE, "against": "", **row} for row in _values(items)]
    for one, other in pairs:
        rows += [{**who[one], "what": DIFFERENCE, "against": other, **row} for row in _differences(sources, one, other)]
    return pd.DataFrame(rows, columns=COLUMNS).assign(
        prediction=lambda t: t["name"].map({name: sources.score(name).prediction for name in who})
    )


def _alike(sources: Sources, one: str, other: str) -> bool:
    """Whether two Runs answered the same items and are judged by the same kind of prediction."""
    asked = [sources.all[name].manifest["benchmark"]["sha"] for name in (one, other)]
    return bool(asked[0] == asked[1] and sources.score(one).prediction == sources.score(other).prediction)


def _items(score: Score, run: Run) -> pd.DataFrame:
    """Return the scored conflict items with what was right and the margin of the truth."""
    items = score.outcomes[score.outcomes["condition"] == "conflict"].reset_index(drop=True)
    right = (items["outcome"] == "listened").astype(np.float64)
    return items.assign(acc_gt=right, margin=items["id"].map(margins_of(run)))


def _by_task(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {ALL: items, **{str(task): part for task, part in items.groupby("task_name", sort=False)}}


def _row(found: stats.Estimate, task: str, metric: str) -> dict[str, Any]:
    return {
        "task": task, "metric": metric, "value": found.value, "low": found.low, "high": found.high, "n": float(found.n),
        "n_groups": float(found.n_groups), "grouping": found.group,
    }  # fmt: skip


def _values(items: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for task, part in _by_task(items).items():
        known = part[part["margin"].notna()]
        rows.append(_row(stats.proportion(part["acc_gt"], clusterings(part)), task, "acc_gt"))
        rows.append(_row(stats.mean(known["margin"], clusterings(known)), task, "margin"))
    return rows


def _differences(sources: Sources, one: str, other: str) -> list[dict[str, Any]]:
    """Return paired differences with their tests: Acc_GT as `scoring.compare` has it, the margin likewise."""
    from vpanalysis.scoring import compare

    found = compare(sources.score(one), sources.score(other)).table
    rows = [
        {
            "task": ALL if row["task"] == "overall" else row["task"], "metric": "acc_gt", "value": row["difference"],
            "low": row["low"], "high": row["high"], "p": row["p"], "p_adjusted": row["q"], "n": float(row["n"]),
            "n_groups": float(row["n_groups"]), "grouping": row["group"],
        }
        for row in found[found["metric"] == "acc_gt"].to_dict("records")
    ]  # fmt: skip
    ours, theirs = (_items(sources.score(name), sources.all[name]) for name in (one, other))
    gap = ours["margin"] - ours["id"].map(theirs.set_index("id")["margin"])
    paired = ours.assign(gap=gap)[gap.notna()]
    margins = []
    for task, part in _by_task(paired).items():
        groups = clusterings(part) or {"item": part["id"].to_numpy(dtype=object)}
        row = _row(stats.mean(part["gap"], groups), task, "margin")
        margins.append({**row, "p": stats.sign_flip_test(part["gap"], groups).p, "p_adjusted": np.nan})
    tasks = [row for row in margins if row["task"] != ALL]
    for row, q in zip(tasks, stats.benjamini_hochberg([row["p"] for row in tasks]), strict=True):
        row["p_adjusted"] = float(q)
    return [*rows, *margins]


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw Acc_GT, and the paired differences in Acc_GT and margin with their p values."""
    tasks = [t for t in dict.fromkeys(data["task"]) if t != ALL]
    tasks = [*tasks, ALL]
    looks, called = marks(data["name"]), shown(data)
    values, changes = data[data["what"] == VALUE], data[data["what"] == DIFFERENCE]
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[1.0, 1.0, 1.0])
    accuracy = values[values["metric"] == "acc_gt"]
    names = list(dict.fromkeys(accuracy["name"]))
    for name, part in accuracy.groupby("name", sort=False):
        _series(left, part, tasks, _shift(names, str(name)), looks[str(name)])
    left.set_xlim(*bounds(accuracy, (0.0, 1.0), 0.03))
    left.set_title("Acc_GT")
    left.set_xlabel("share of conflict items")
    for ax, metric, label in ((middle, "acc_gt", "share of conflict items"), (right, "margin", "nats")):
        rows = changes[changes["metric"] == metric]
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
        pairs = list(dict.fromkeys(zip(rows["name"], rows["against"], strict=True)))
        for number, (name, against) in enumerate(pairs):
            part = rows[(rows["name"] == name) & (rows["against"] == against)]
            shift = _shift(pairs, (name, against))
            _series(ax, part, tasks, shift, looks[name])
            _p_values(ax, part, tasks, number, len(pairs), looks[name])
        ax.set_xlim(*bounds(rows))
        ax.set_title(f"difference in {METRICS[metric].split(' ')[0]}")
        ax.set_xlabel(label)
    left.set_yticks(range(len(tasks)), [task_label(task) for task in tasks])
    left.set_ylim(len(tasks) - 0.4, -0.6)
    for ax in (left, middle, right):
        ax.axhline(len(tasks) - 1.5, color="#CCCCCC", lw=0.6, zorder=0)
    handles = [
        left.errorbar([], [], xerr=np.zeros((2, 0)), fmt=look.marker, color=look.colour, lw=0.9, label=called[name])
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.3,
                  title=f"{ground(data)}; differences: this checkpoint minus the static mixer, paired by item",
                  title_fontsize=small())  # fmt: skip


def _shift(among: list[Any], which: Any) -> float:
    """Return how far from its row a series lies, so that none hides another."""
    return 0.0 if len(among) < 2 else (among.index(which) - (len(among) - 1) / 2) * 0.5 / (len(among) - 1)


def _series(ax: Axes, rows: pd.DataFrame, tasks: list[str], shift: float, look: Series) -> None:
    y = [tasks.index(task) + shift for task in rows["task"]]
    ax.errorbar(rows["value"], y, xerr=arms(rows), fmt=look.marker, color=look.colour, lw=0.9, zorder=3)


def _p_values(ax: Axes, rows: pd.DataFrame, tasks: list[str], number: int, count: int, look: Series) -> None:
    """Write p beside the panel, a column a comparison: adjusted over tasks; over all tasks there is one test."""
    width = 5.6 * small() * 0.62
    at = 4 + number * width
    ax.plot([1.0], [1.0], marker=look.marker, color=look.colour, ls="", clip_on=False, transform=_beside(ax, at + 8, 5))
    for row in rows.to_dict("records"):
        p = float(row["p"] if row["task"] == ALL else row["p_adjusted"])
        ax.annotate(p_text(p), (1.0, tasks.index(row["task"])), xycoords=("axes fraction", "data"), xytext=(at, 0),
                    textcoords="offset points", fontsize=small(), va="center", color="#333333")  # fmt: skip
    if number == 0:
        ax.annotate("p", (1.0, 1.0), xycoords="axes fraction", xytext=(at + count * width / 2, 11), va="bottom",
                    textcoords="offset points", fontsize=small(), ha="center", color="#333333")  # fmt: skip


def _beside(ax: Axes, x: float, y: float) -> Any:
    """Return the upper right corner of a panel, moved by points."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(x / 72, y / 72, ax.figure.dpi_scale_trans)


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    rows = data[(data["what"] == DIFFERENCE) & (data["task"] == ALL)]
    told = [
        f"{row['label']} minus static mixer, {METRICS[row['metric']]}: {signed(row['value'])} "
        f"[{signed(row['low'])}, {signed(row['high'])}]"
        for row in rows.to_dict("records")
    ]
    return f"Acc_GT by task, and paired differences with intervals. Over all tasks: {'; '.join(told)}."


ENTRY = Entry(
    "static_mixer", "Prompt-conditioned against static mixture", "none",
    "Left: Acc_GT by task. Middle and right: paired difference to the static mixer (the same streams and recipe, one "
    "learned mixture for all prompts) in Acc_GT and in the margin of the truth over the claims, with 95 % intervals "
    "clustered by speaker or wording. p: sign flips of whole clusters, adjusted over tasks (Benjamini and Hochberg); "
    "in the last row, one test over all tasks. PCLM + DPO differs from the control by its preference training too. One "
    "training run each. Margins also grow where all answers become sharper. The paper reports no such control.",
    data=data, draw=draw, alt=alt, height=3.7,
)  # fmt: skip
