"""The ladder: what SFT, the mixer and DPO each do to Acc_GT and ALA, for two published models and for one's own Runs.

Why it exists. The paper's remedy is a sequence of steps, and its numbers are a story of two lines that cross: a base
model picks the claim and not the truth, one with the mixer the truth and not the claim. Whether each step moves both is
what a reader asks, of the paper and of a reproduction.

The idea. A row a checkpoint, with a round mark at Acc_GT and a square one at ALA and a line between them, so that a
crossing is seen as the marks changing sides. Published marks are hollow and without intervals, own ones filled with
intervals, each group under its own heading.

What it cannot show: why a step helps. No row trains the base model with DPO alone, and the paper prints no ALA for
models without a mixer, which are drawn with one mark. The organism's rows were planted to behave alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._checkpoints import IDENTITY, arms
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import METRICS, overall, published_row
from vpanalysis.figures._published import published, published_value
from vpanalysis.figures._sources import VARIANTS
from vpanalysis.plots.style import CLAIM, GREY, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["BASES", "COLUMNS", "ENTRY", "STEPS", "data"]

BASES = {"AF3": "Audio Flamingo 3", "Qwen2-Audio": "Qwen2-Audio"}
"""Published base models and how they are written."""

STEPS = ("base", "sft", "sft+dpo", "pclm", "pclm+dpo")
"""Variants that the paper has."""

COLUMNS = [
    *IDENTITY,
    "base",
    "benchmark",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "chance",
    "prediction",
    "place",
    "note",
]
_SERIES = {"acc_gt": TRUTH, "ala": CLAIM}
_NAMES = {"acc_gt": "Acc_GT", "ala": "ALA"}


def published_rows(table: str, metrics: dict[str, str]) -> list[dict[str, Any]]:
    """Return the published ladder of both bases, of a table with these columns by metric."""
    printed = {(r["row"], r["column"]): r for r in published(table).to_dict("records")}
    rows = []
    for base, title in BASES.items():
        for variant in STEPS:
            for metric, column in metrics.items():
                one = printed.get((published_row(base, variant), column))
                if one is None:
                    continue
                rows.append({
                    "name": one["row"], "label": VARIANTS[variant], "variant": variant, "group": f"{title} (published)",
                    "origin": one["source"], "planted": False, "base": base, "benchmark": "VoxParadox",
                    "metric": metric, "value": float(one["value"]), "low": float("nan"), "high": float("nan"),
                    "n": published_value("chance", "VoxParadox", "items"),
                    "chance": published_value("chance", "VoxParadox", "Acc_GT"), "prediction": "parsed replies",
                    "place": one["place"], "note": one["note"],
                })  # fmt: skip
    return rows


def data(sources: Sources) -> pd.DataFrame:
    """Return the published ladders and own Runs by variant, in percent."""
    ours = [{**row, "place": "", "note": ""} for row in overall(sources)]
    return pd.DataFrame([*published_rows("ladder", METRICS), *ours], columns=COLUMNS)


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw a row a checkpoint."""
    ax = figure.subplots()
    ticks: list[tuple[float, str]] = []
    y = -1.0
    for group in dict.fromkeys(data["group"]):
        part = data[data["group"] == group]
        y += 1.2
        head = str(group)
        if (part["origin"] == MEASURED).all():
            head += f", on {part['benchmark'].iloc[0]}" if part["benchmark"].nunique() == 1 else ""
        ax.annotate(head, (0, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                    va="center", fontweight="bold")  # fmt: skip
        start = y + 0.5
        for name in dict.fromkeys(part["name"]):
            y += 1.0
            rows = part[part["name"] == name]
            _checkpoint(ax, rows, y)
            ticks.append((y, str(rows["label"].iloc[0])))
        if part["chance"].round(6).nunique() == 1:
            ax.plot([part["chance"].iloc[0]] * 2, [start, y + 0.5], color="black", lw=0.8, ls=(0, (1, 1.5)), zorder=1)
        if (part["origin"] == MEASURED).all() and (part["planted"]).any():
            ax.axhspan(start - 1.05, y + 0.55, color="#F1F1F1", lw=0, zorder=0)
    ax.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y + 0.6, -0.45)
    ax.set_xlim(-2, 102)
    ax.set_xlabel("% of conflict items")
    _legend(figure, data)


def _checkpoint(ax: Axes, rows: pd.DataFrame, y: float) -> None:
    measured = bool((rows["origin"] == MEASURED).all())
    by = rows.set_index("metric")
    if len(by) == 2:
        ax.plot(by["value"], [y, y], color=GREY, lw=0.9, ls="-" if measured else (0, (4, 2)), zorder=2)
    for metric, series in _SERIES.items():
        if metric not in by.index:
            continue
        one = by.loc[[metric]]
        if measured:
            # A little apart, so that intervals do not cover each other.
            shift = -0.12 if metric == "acc_gt" else 0.12
            ax.errorbar(one["value"], [y + shift], xerr=arms(one), fmt=series.marker, color=series.colour,
                        elinewidth=1.0, capsize=1.6, zorder=4)  # fmt: skip
        else:
            ax.plot(one["value"], [y], ls="", marker=series.marker, mfc="white", mec=series.colour, mew=1.0, ms=4.2,
                    zorder=4)  # fmt: skip


def _legend(figure: Figure, data: pd.DataFrame) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for metric, series in _SERIES.items():
        handles.append(Line2D([], [], ls="", marker=series.marker, mfc="white", mec=series.colour, ms=4.2,
                              label=f"{_NAMES[metric]}, published"))  # fmt: skip
    handles.append(Line2D([], [], color="black", lw=0.8, ls=(0, (1, 1.5)), label="guessing (Acc_GT)"))
    if (data["origin"] == MEASURED).any():
        for place, (metric, series) in zip((1, 3), _SERIES.items(), strict=True):
            mark = Line2D([], [], ls="-", lw=1.0, color=series.colour, marker=series.marker,
                          label=f"{_NAMES[metric]}, measured, 95 %")  # fmt: skip
            handles.insert(place, mark)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.4, columnspacing=0.9)


def alt(data: pd.DataFrame, what: str = "Acc_GT and ALA") -> str:
    """Return what the picture, or the table, shows in words."""
    parts = []
    for group in dict.fromkeys(data["group"]):
        rows = data[(data["group"] == group) & (data["metric"] == "acc_gt")]
        first, best = rows.iloc[0], rows.loc[rows["value"].idxmax()]
        digits = 1 if first["origin"] == MEASURED else 2
        parts.append(
            f"{group}: Acc_GT {first['value']:.{digits}f} % for {first['label']}, at most {best['value']:.{digits}f} % "
            f"for {best['label']}"
        )
    return f"{what} by checkpoint. " + "; ".join(parts) + "."


ENTRY = Entry(
    "ladder", "Acc_GT and ALA step by step", "Table 2",
    "Acc_GT (round) and ALA (square) on conflict items by step of training. Hollow: published, without intervals; ALA "
    "of models without a mixer is not known to us. Filled: Runs with 95 % intervals clustered by speaker or wording. "
    "On grey: the bundled organism, planted, not evidence about Audio Flamingo 3.",
    data=data, draw=draw, alt=alt, width="single", published=("ladder", "chance"),
    record="vpanalysis reproduce --out runs",
    height=lambda table: 1.0 + 0.15 * (len(table.drop_duplicates(["group", "name"])) + 1.2 * table["group"].nunique()),
)  # fmt: skip
