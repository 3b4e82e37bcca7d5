"""Which depth of the encoder each question is answered from, and whether other words for it change that.

Why it exists. PCLM's claim is that the prompt chooses the layers. The paper prints no weights by task. So the mean
mixture is drawn task by task, with its numbers in the cells; and because a gate may have learnt the questions by heart,
beside it stands how far the mixture moves when the same is asked in other words, where that was measured.

The idea. A map a gate: rows are tasks, columns are streams from shallow to deep. A gate that gives every prompt one
mixture is one row. Checkpoints whose weights are equal item by item are one map, which says so: preference training
leaves the gate alone. The movement under rewording is the total variation from the mixture of the original wording, 0
for none and 1 for no stream in common, with the mean distance between tasks as a scale.

What it cannot show: that a stream is used. A weight multiplies tokens of very different lengths, and a stream with a
large weight may carry what another carries too; clamping (:func:`vpanalysis.gates`) asks that.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._outcomes import task_order
from vpanalysis.figures._checkpoints import (
    ALL,
    IDENTITY,
    arms,
    ground,
    identity,
    marks,
    shown,
    small,
    task_label,
)
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._sources import lacking
from vpanalysis.plots.maps import draw_map
from vpanalysis.plots.style import GREY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis._run import Run
    from vpanalysis.attribution import ParaphraseResult
    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY", "SAME"]

SAME = 1e-5
"""Weights that differ by no more than this count as equal; batches of other sizes round that differently."""

WEIGHT, MOVED = "weight", "variation"
COLUMNS = [*IDENTITY, "same", "what", "task", "column", "value", "low", "high", "sd", "n", "n_groups", "changed",
           "between"]  # fmt: skip


def data(sources: Sources) -> pd.DataFrame:
    """Return mean weights by gate, task and stream, and total variation by task and wording."""
    gates: dict[str, pd.DataFrame] = {}
    for name in sources.names:
        weights = sources.all[name].gates
        if weights is not None and len(weights):
            gates[name] = weights
    if not gates:
        raise lacking("gate_heatmap", f"no Run with a mixer among {sources.names or 'no Runs'}", ENTRY.record)
    # Numbers of the organism stay by themselves, whatever else has its weights.
    families: dict[str, list[str]] = {}
    for planted in (True, False):
        families |= _equal({name: one for name, one in gates.items() if sources.is_planted(name) is planted})
    who = identity(sources, list(gates))
    rows: list[dict[str, Any]] = []
    # The organism first, as everywhere.
    for name in (one for one in who if one in families):
        alike = families[name]
        common = {**who[name], "same": "; ".join(str(who[other]["label"]) for other in alike)}
        rows += [{**common, "what": WEIGHT, **row} for row in _weights(sources.all[name], gates[name])]
        rows += [{**common, "what": MOVED, **row} for row in _moved(sources, [name, *alike])]
    return pd.DataFrame(rows, columns=COLUMNS)


def _equal(gates: dict[str, pd.DataFrame]) -> dict[str, list[str]]:
    """Return Runs with gates of their own, and for each those whose weights are equal on every item they share."""
    families: dict[str, list[str]] = {}
    for name, weights in gates.items():
        for first in families:
            other = gates[first]
            both = weights.index.intersection(other.index)
            if len(both) and list(weights.columns) == list(other.columns):
                far = np.abs(weights.loc[both].to_numpy() - other.loc[both].to_numpy())
                if float(np.nanmax(far)) <= SAME:
                    families[first].append(name)
                    break
        else:
            families[name] = []
    return families


def _weights(run: Run, weights: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """Yield mean, spread and interval of each stream's weight by task."""
    items = run.predictions.set_index("id").loc[weights.index]
    for task in task_order(items["task_name"]):
        here = (items["task_name"] == task).to_numpy()
        # The gate reads the prompt: items that ask one question are one observation of it.
        questions = items["question"][here].to_numpy(dtype=object)
        for stream in weights.columns:
            values = weights[stream].to_numpy(dtype=np.float64)[here]
            found = stats.mean(values, {"question": questions})
            yield {
                "task": task, "column": str(stream), "value": found.value, "low": found.low, "high": found.high,
                "sd": float(values.std()), "n": float(found.n), "n_groups": float(found.n_groups), "changed": np.nan,
                "between": np.nan,
            }  # fmt: skip


def _moved(sources: Sources, names: list[str]) -> list[dict[str, Any]]:
    """Return how far the mixture moves under rewording, from the first of these Runs that keeps it."""
    for name in names:
        found: ParaphraseResult | None = sources.one("ParaphraseResult", name)
        if found is not None and len(found.mixtures):
            return [
                {
                    "task": ALL if row["task"] == "all" else row["task"], "column": row["wording"],
                    "value": row["variation"], "low": row["low"], "high": row["high"], "sd": np.nan,
                    "n": float(row["n"]), "n_groups": float(row["n_groups"]), "changed": float(row["changed"]),
                    "between": float(row["between"]),
                }
                for row in found.mixtures.to_dict("records")
            ]  # fmt: skip
    return []


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw a band a gate: the map of its weights, and how far rewording moves them."""
    called = shown(data)
    names = list(called)
    fixed = {name: _is_fixed(data[data["name"] == name]) for name in names}
    moves = bool((data["what"] == MOVED).any())
    columns = 2 if moves else 1
    grid = figure.subplots(
        len(names), columns, squeeze=False, height_ratios=[_rows_of(data, name) + 0.4 for name in names],
        width_ratios=[1.55, 1.0][:columns],
    )  # fmt: skip
    weights = data[data["what"] == WEIGHT]
    high = max(0.5, float(weights["value"].max()))
    wordings = marks(data.loc[(data["what"] == MOVED) & (data["changed"] > 0), "column"])
    for number, name in enumerate(names):
        rows = data[data["name"] == name]
        tasks = list(dict.fromkeys(rows.loc[rows["what"] == WEIGHT, "task"]))
        _map(grid[number, 0], rows[rows["what"] == WEIGHT], tasks, fixed[name], high)
        grid[number, 0].set_title(_title(called[name], rows), pad=3)
        if moves:
            ax = grid[number, 1]
            part = rows[(rows["what"] == MOVED) & (rows["changed"] > 0)]
            if fixed[name] or not len(part):
                _said(ax, "one mixture for all prompts" if fixed[name] else "rewording: not measured")
            else:
                _movement(ax, part, tasks, wordings)
                ax.set_title("moved by rewording", pad=3)
    _legend(figure, grid[0, 0], data, wordings)


def _title(label: str, rows: pd.DataFrame) -> str:
    """Return the checkpoints that a map is of, in lines of its width."""
    same = str(rows["same"].iloc[0])
    return textwrap.fill(f"{label}; {same}: equal weights" if same else label, 46)


def _is_fixed(rows: pd.DataFrame) -> bool:
    """Whether all prompts get one mixture, of those that differ."""
    rows = rows[rows["what"] == WEIGHT]
    if rows["task"].nunique() < 2 and rows["n_groups"].max() < 2:
        return False
    by_stream = rows.groupby("column")["value"]
    return bool((by_stream.max() - by_stream.min()).max() <= SAME and rows["sd"].max() <= SAME)


def _rows_of(data: pd.DataFrame, name: str) -> int:
    rows = data[(data["name"] == name) & (data["what"] == WEIGHT)]
    return 1 if _is_fixed(rows) else int(rows["task"].nunique())


def _map(ax: Axes, rows: pd.DataFrame, tasks: list[str], fixed: bool, high: float) -> None:
    streams = list(dict.fromkeys(rows["column"]))
    drawn = tasks[:1] if fixed else tasks
    cells = rows.set_index(["task", "column"])
    mean = np.array([[float(cells.loc[(t, s), "value"]) for s in streams] for t in drawn])
    spread = np.array([[float(cells.loc[(t, s), "sd"]) for s in streams] for t in drawn])
    text = pd.DataFrame(mean).map(lambda v: f"{v:.2f}")
    # Where every item of a task asks one thing, there is no spread to tell.
    text += pd.DataFrame(spread).map(lambda v: f" ±{v:.2f}" if v >= 0.005 else "")
    draw_map(ax, mean, text, high=high, size=small())
    ax.set_xticks(range(len(streams)), streams)
    ax.set_yticks(range(len(drawn)), [ALL] if fixed else [task_label(t) for t in drawn])
    ax.tick_params(labelsize=small(), pad=2)


def _movement(ax: Axes, rows: pd.DataFrame, tasks: list[str], looks: Any) -> None:
    between = float(rows["between"].iloc[0])
    if np.isfinite(between):
        ax.axvline(between, color=GREY, lw=0.8, ls=(0, (4, 2)), zorder=0)
    present = [name for name in looks if name in set(rows["column"])]
    for number, wording in enumerate(present):
        part = rows[(rows["column"] == wording) & rows["task"].isin(tasks)]
        shift = 0.0 if len(present) < 2 else (number - (len(present) - 1) / 2) * 0.44 / (len(present) - 1)
        y = [tasks.index(task) + shift for task in part["task"]]
        look = looks[wording]
        ax.errorbar(part["value"], y, xerr=arms(part), fmt=look.marker, color=look.colour, lw=0.9, zorder=3)
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.set_yticks(range(len(tasks)), [""] * len(tasks))
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel("total variation", fontsize=small(), labelpad=1)
    ax.tick_params(labelsize=small(), length=2, pad=2)


def _said(ax: Axes, text: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.text(0.0, 0.5, text, transform=ax.transAxes, fontsize=small(), va="center", color=GREY)


def _legend(figure: Figure, ax: Axes, data: pd.DataFrame, wordings: Any) -> None:
    handles: list[Any] = [
        ax.errorbar([], [], xerr=np.zeros((2, 0)), fmt=look.marker, color=look.colour, lw=0.9, label=wording)
        for wording, look in wordings.items()
    ]
    if handles:
        handles += ax.plot([], [], color=GREY, lw=0.8, ls=(0, (4, 2)), label="between tasks, mean")
    said = f"{ground(data)}; numbers: mean weight, ± SD over items from 0.01 on"
    unread = list(dict.fromkeys(data.loc[(data["what"] == MOVED) & (data["changed"] == 0), "column"]))
    unread = [wording for wording in unread if wording not in wordings]
    if unread:
        said += f"\nnot read by the gate, which moves by 0: {', '.join(unread)}"
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)), handletextpad=0.3,
                  title=said, title_fontsize=small())  # fmt: skip


def alt(data: pd.DataFrame) -> str:
    """Return what the picture shows in words."""
    told = []
    for name, label in shown(data).items():
        rows = data[(data["name"] == name) & (data["what"] == WEIGHT)]
        wide = rows.pivot(index="task", columns="column", values="value")
        text = f"{label}: one mixture for all prompts" if _is_fixed(rows) else (
            f"{label}: largest weight per task "
            + ", ".join(f"{task_label(str(t))} {wide.loc[t].idxmax()} {wide.loc[t].max():.2f}" for t in wide.index)
        )  # fmt: skip
        moved = data[(data["name"] == name) & (data["what"] == MOVED) & (data["task"] == ALL) & (data["changed"] > 0)]
        if len(moved):
            text += f"; rewording moves it by {moved['value'].min():.2f} to {moved['value'].max():.2f}"
        told.append(text)
    return f"Mean gate weights by task and stream. {'. '.join(told)}."


def _height(data: pd.DataFrame) -> float:
    called = shown(data)
    lines = sum(_title(label, data[data["name"] == name]).count("\n") for name, label in called.items())
    return 0.55 + 0.13 * lines + sum(0.52 + 0.165 * _rows_of(data, name) for name in called)


ENTRY = Entry(
    "gate_heatmap", "Gate weights by task, and under rewording", "none",
    "Mean gate weight by task (rows) and stream (columns). Checkpoints whose weights are equal on every item are shown "
    "once. Right, where it was measured: total variation between the mixtures of the original and of another wording, "
    "by task (0: the same mixture), with 95 % intervals where a task asks more than one question; dashed, the mean "
    "total variation between tasks. A large weight does not show that a stream is used. The paper has no such "
    "heat map.",
    data=data, draw=draw, alt=alt, height=_height,
)  # fmt: skip
