"""Acc_GT and ALA of the published base models, and of one's own Runs below them.

Why it exists. The paper's first claim is that audio LLMs pick what the words say: twelve models below or about chance
in Acc_GT, and most of them above 60 % in ALA. A reader who measured a model of their own wants it in the same picture,
and must not take it for one of the twelve.

The idea. Two panels share their rows. Published bars are hatched and have no interval, because none was printed; where
the authors' second leaderboard disagrees with the paper its value is a hollow diamond. One's own Runs are filled bars
with intervals in groups of their own, one for the organism and one for other models. Chance is drawn beside each group:
27.5 % for the ten published tasks, and what guessing gives on the very items for each Run.

What it cannot show: that a low Acc_GT is reading. That is ALA's part, and a third answer is neither. Runs on other
clips than the published ones are not comparable with them row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._checkpoints import IDENTITY, arms, small
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import METRICS, overall
from vpanalysis.figures._published import published, published_value
from vpanalysis.plots.style import CLAIM, GREY, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["COLUMNS", "ENTRY", "MEAN", "PUBLISHED", "RECORD", "data", "rows_of_models"]

PUBLISHED = "published"
"""Group of the published models."""

MEAN = "mean of 12"
RECORD = "vpanalysis run MODEL IHP-Lab/VoxParadox --generate --out runs/NAME"
SECOND = "second leaderboard"
COLUMNS = [
    *IDENTITY,
    "benchmark",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "chance",
    "prediction",
    "place",
    "use",
    "note",
]
_HATCH = {"acc_gt": "////", "ala": "...."}
_SERIES = {"acc_gt": TRUTH, "ala": CLAIM}
_TITLES = {"acc_gt": "Acc_GT: picks the truth", "ala": "ALA: picks a claim"}
_GAP = 1.1


def rows_of_models(*, mean: bool = False) -> list[dict[str, Any]]:
    """Return the published base models as rows of the table, and the second leaderboard where it disagrees.

    Parameters
    ----------
    mean : bool
        Also the printed means over the twelve.
    """
    every = published("leaderboard", use=False)
    chance = published_value("chance", "VoxParadox", "Acc_GT")
    items = published_value("chance", "VoxParadox", "items")
    names = {title: metric for metric, title in METRICS.items()}
    printed = {(r["row"], r["column"]): r["value"] for r in every[every["use"]].to_dict("records")}
    rows = []
    for one in every.to_dict("records"):
        model, metric = str(one["row"]), names.get(str(one["column"]))
        second = "second version" in str(one["place"]) and one["value"] != printed[one["row"], one["column"]]
        if metric is None or (model == MEAN and not (mean and one["use"])) or not (one["use"] or second):
            continue
        rows.append({
            "name": model, "label": model, "variant": "base", "group": PUBLISHED, "origin": one["source"],
            "planted": False, "benchmark": "VoxParadox", "metric": metric, "value": float(one["value"]),
            "low": float("nan"), "high": float("nan"), "n": items, "chance": chance, "prediction": "parsed replies",
            "place": one["place"], "use": bool(one["use"]), "note": one["note"],
        })  # fmt: skip
    return rows


def data(sources: Sources, *, mean: bool = False) -> pd.DataFrame:
    """Return published models and own Runs, in percent."""
    ours = [{**row, "place": "", "use": True, "note": ""} for row in overall(sources)]
    return pd.DataFrame([*rows_of_models(mean=mean), *ours], columns=COLUMNS)


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the two panels."""
    places, heads = _places(data)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, metric in zip(axes, METRICS, strict=True):
        rows = data[data["metric"] == metric]
        _bars(ax, rows, metric, places)
        if metric == "acc_gt":
            _chance(ax, rows, places)
        ax.set_title(_TITLES[metric], pad=3)
        ax.set_xlabel("% of conflict items")
        ax.set_xlim(0, 118 if metric == "ala" else max(45.0, 8 + float(rows[["value", "high"]].max().max()) * 1.12))
        ax.set_xticks([t for t in range(0, 101, 20) if t <= ax.get_xlim()[1]])
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(list(places.values()), [label for _, label in places])
    axes[0].set_ylim(max(places.values()) + 0.7, -1.15)
    for group, y in heads.items():
        axes[0].annotate(group, (0, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                         ha="left", va="center", weight="bold", size="small", annotation_clip=False)  # fmt: skip
    _legend(figure, data)


def _places(data: pd.DataFrame) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Return the height of every row by group and label, and of the groups' headings."""
    places: dict[tuple[str, str], float] = {}
    heads: dict[str, float] = {}
    y = -1.0
    for group in dict.fromkeys(data["group"]):
        part = data[data["group"] == group]
        benchmarks = list(dict.fromkeys(part["benchmark"]))
        y += _GAP if heads else 0.2
        heads[f"{group}, on {benchmarks[0]}" if len(benchmarks) == 1 else str(group)] = y
        for label in dict.fromkeys(part["label"]):
            y += 1.0
            places[str(group), str(label)] = y
    return places, heads


def _bars(ax: Axes, rows: pd.DataFrame, metric: str, places: dict[tuple[str, str], float]) -> None:
    series = _SERIES[metric]
    for row in rows[rows["use"]].to_dict("records"):
        y, value = places[row["group"], row["label"]], float(row["value"])
        other: list[float] = []
        if row["origin"] == MEASURED:
            ax.barh(y, value, height=0.7, color=series.colour, edgecolor="black", lw=0.4)
            one = pd.DataFrame([row])
            ax.errorbar([value], [y], xerr=arms(one), fmt="none", ecolor="black", elinewidth=0.9, capsize=1.8, zorder=4)
            end = value if pd.isna(row["high"]) else float(row["high"])
        else:
            ax.barh(y, value, height=0.7, color="white", edgecolor=GREY, hatch=_HATCH[metric], lw=0.6)
            other = rows[~rows["use"] & (rows["label"] == row["label"])]["value"].tolist()
            for second in other:
                ax.plot(second, y, ls="", marker="D", mfc="white", mec="black", ms=4, mew=0.9, zorder=5)
            end = max([value, *(v + 1.2 for v in other)])
        text = f"{value:.1f}"
        if row["origin"] != MEASURED:
            text = f"{value:.2f}" + "".join(f" (page: {second:.2f})" for second in other)
        ax.annotate(text, (end, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=small(),
                    zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip


def _chance(ax: Axes, rows: pd.DataFrame, places: dict[tuple[str, str], float]) -> None:
    """Draw what guessing gives: one line beside a group whose items are the same, else one piece a row."""
    for group in dict.fromkeys(rows["group"]):
        part = rows[(rows["group"] == group) & rows["use"]]
        for row in part.to_dict("records"):
            y = places[row["group"], row["label"]]
            ax.plot([row["chance"]] * 2, [y - 0.5, y + 0.5], color="black", lw=1.0, ls=(0, (3, 1.5)), zorder=3,
                    gid="chance")  # fmt: skip


def _legend(figure: Figure, data: pd.DataFrame) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor="white", edgecolor=GREY, hatch="////", label="published, no interval")]
    if not data["use"].all():
        handles.append(Line2D([], [], ls="", marker="D", mfc="white", mec="black", ms=4,
                              label=f"authors' {SECOND}, where it disagrees"))  # fmt: skip
    if (data["origin"] == MEASURED).any():
        handles.append(Patch(facecolor=GREY, edgecolor="black", label="measured, with 95 % interval"))
    handles.append(Line2D([], [], color="black", lw=1.0, ls=(0, (3, 1.5)), label="guessing"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.5, columnspacing=1.5)


def alt(data: pd.DataFrame, what: str = "Bars") -> str:
    """Return what the picture, or the table, shows in words."""
    theirs = data[(data["group"] == PUBLISHED) & data["use"]]
    acc, ala = (theirs[theirs["metric"] == metric] for metric in METRICS)
    text = (
        f"{what} of {len(acc)} published models: Acc_GT from {acc['value'].min():.2f} to {acc['value'].max():.2f} %, "
        f"{int((acc['value'] < acc['chance']).sum())} of them below guessing ({acc['chance'].iloc[0]:.1f} %); ALA from "
        f"{ala['value'].min():.2f} to {ala['value'].max():.2f} %."
    )
    ours = data[(data["origin"] == MEASURED) & (data["metric"] == "acc_gt")]
    if len(ours):
        text += (
            f" In groups of their own {len(ours)} Runs with intervals, Acc_GT from {ours['value'].min():.1f} to "
            f"{ours['value'].max():.1f} %."
        )
    return text


ENTRY = Entry(
    "leaderboard", "Acc_GT and ALA by model", "Table 1; the figure of Acc_GT and ALA by model",
    "Acc_GT and ALA on conflict items. Hatched: the paper's twelve base models, printed without intervals. Filled: "
    "Runs, with 95 % intervals clustered by speaker or wording; those of the organism were planted and are not "
    "evidence about the models above. Dashed: guessing. Other clips than the published ones are another measurement.",
    data=data, draw=draw, alt=alt, published=("leaderboard", "chance"), record=RECORD,
    height=lambda table: 1.15 + 0.165 * (len(table.drop_duplicates(["group", "label"]))
                                         + 1.1 * table["group"].nunique()),
)  # fmt: skip
