"""Probes on a labelled folder of natural speech: do the states of a model hold the cue outside of synthetic clips?

Why it exists. A benchmark of synthetic speech may be read by a probe from what a synthesizer leaves behind. The paper
therefore repeats its probes on tasks made from natural recordings (VoxCeleb2).

The idea. Any folder of labelled clips is a benchmark whose words claim nothing (one subfolder a label, or a table
``path,label[,speaker,script,task_name]``). A Run on one is told by its items: nothing is claimed, and every item of a
task offers the same sorted labels. Probes of the truth are drawn by site, a panel a task, a line a Run.

What it cannot show. Whether recordings are natural is not known to this package: it is what the folder holds. Labels of
a corpus go with its speakers, rooms and wordings, so folds must keep speakers together: without a ``speaker`` column a
probe may recognise speakers instead of the cue, and the note of the table says what was kept together. With neutral
words there is nothing to read instead of listening, so no gap to a model's own accuracy is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, draw_parts, is_labelled, part_of, positions, probe_of, pt
from vpanalysis.figures._sources import Sources, lacking
from vpanalysis.plots.style import GREY, SERIES, short_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ENTRY"]

_RECORD = "vpanalysis run MODEL FOLDER --out runs/natural && vpanalysis probe runs/natural --save"
_COLUMNS = 3


def data(sources: Sources) -> pd.DataFrame:
    """Return a row a Run, task and site: the probes of the labels."""
    runs = [n for n in [*sources.names, *sources.others, *sources.encoders] if is_labelled(sources.all[n])]
    if not runs:
        raise lacking("natural_speech", "no Run on a folder of labelled clips", _RECORD)
    rows: list[dict[str, Any]] = []
    for name in runs:
        result = probe_of(sources, name)
        if result is None:
            continue
        for row in result.table.to_dict("records"):
            rows += [{
                **about(sources, name), "task": row["task"], "site": row["site"], "site_order": row["site_order"],
                "part": part_of(str(row["site"])), "value": row["accuracy"], "low": row["low"], "high": row["high"],
                "chance": row["chance"], "majority": row["majority"], "n": row["n"], "n_groups": row["n_groups"],
                "grouped_by": row["group"], "note": row["note"] or "",
            }]  # fmt: skip
    if not rows:
        path = sources.all[runs[0]].path
        raise lacking("natural_speech", "no probes of the labels in it", f"vpanalysis probe {path} --save")
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw a panel a task, a line a Run."""
    from matplotlib.lines import Line2D

    tasks, runs = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["run"]))
    wide = min(_COLUMNS, len(tasks))
    high = -(-len(tasks) // wide)
    axes = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    places = _places(table)
    for number, (ax, task) in enumerate(zip(axes.flat, tasks, strict=False)):
        _panel(ax, table[table["task"] == task], runs, places)
        last = number + wide >= len(tasks)
        dense = len(places) / (6.75 / wide) > 9
        ax.tick_params(axis="x", which="both", labelbottom=last)
        draw_parts(ax, places, labels="ends" if dense else "all", names=number < wide, short=True, size=6)
        if number % wide == 0:
            ax.set_ylabel("probe accuracy")
    for spare in list(axes.flat)[len(tasks) :]:
        spare.set_visible(False)
    handles = [
        Line2D([], [], color=SERIES[i].colour, marker=SERIES[i].marker, ls=SERIES[i].line, ms=pt(3.5),
               label=_written(table[table["run"] == name]))
        for i, name in enumerate(runs)
    ]  # fmt: skip
    if table["site"].astype(str).str.startswith("streams").any():
        handles.append(Line2D([], [], color=GREY, marker="o", mfc="white", ls="", ms=pt(3.5), label="one stream"))
    handles.append(Line2D([], [], color=GREY, ls=(0, (1, 2)), lw=pt(1.0), label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(2, len(runs)) if len(handles) > 3 else 3)


def _written(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first['model']} on {first['benchmark']}{', organism (planted)' if first['planted'] else ''}"


def _places(table: pd.DataFrame) -> dict[str, float]:
    """Return places for the sites of all Runs, the parts in their order; a site that one Run lacks keeps its place."""
    part = {"encoder": 0, "interface": 1, "LLM": 2}
    # The tower's output comes before what is made of it, also where Runs number their sites differently.
    first = {"tower": 0, "projector": 2, "mixed": 3}
    order_of = {str(site): order for site, order in table.groupby("site")["site_order"].min().items()}
    keyed = {
        site: (part[part_of(site)], first.get(site, 1) if part_of(site) == "interface" else 0, order, site)
        for site, order in order_of.items()
    }
    return positions(sorted(keyed, key=lambda site: keyed[site]))


def _panel(ax: Axes, rows: pd.DataFrame, runs: list[str], places: dict[str, float]) -> None:
    for number, name in enumerate(runs):
        series = SERIES[number % len(SERIES)]
        own = rows[(rows["run"] == name) & rows["value"].notna()].sort_values("site_order", kind="stable")
        beside = own["site"].astype(str).str.startswith("streams")
        shift = (number - (len(runs) - 1) / 2) * 0.2
        for chain, line in [
            (own[~beside & own["part"].isin(["encoder", "interface"])], series.line),
            (own[~beside & (own["part"] == "LLM")], series.line),
            (own[beside], ""),
        ]:
            if chain.empty:
                continue
            x = [places[site] + shift for site in chain["site"]]
            arms = [(chain["value"] - chain["low"]).clip(lower=0), (chain["high"] - chain["value"]).clip(lower=0)]
            ax.errorbar(
                x, chain["value"], yerr=arms, color=series.colour, marker=series.marker, ls=line, ms=pt(2.6),
                lw=pt(1.0), elinewidth=pt(0.6), mfc=series.colour if line else "white", zorder=3 + number,
            )  # fmt: skip
    first = rows.iloc[0]
    ax.axhline(float(first["chance"]), color=GREY, ls=(0, (1, 2)), lw=pt(1.0), zorder=1)
    ax.set_title(f"{short_task(str(first['task']))}, n = {int(rows['n'].max())}", pad=pt(11))
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])


def alt(table: pd.DataFrame) -> str:
    """Say how well each task's labels can be read where they can be read best."""
    best = table.dropna(subset=["value"]).groupby("task", sort=False)["value"].max()
    said = ", ".join(f"{short_task(str(task))} {value:.2f}" for task, value in best.items())
    return (
        f"Probe accuracy by site for the labels of {', '.join(dict.fromkeys(table['benchmark']))} in "
        f"{', '.join(dict.fromkeys(table['model']))}. Highest over sites: {said}."
    )


def _height(table: pd.DataFrame) -> float:
    return 0.7 + 1.95 * -(-table["task"].nunique() // _COLUMNS)


ENTRY = Entry(
    id="natural_speech",
    title="Probes on labelled clips of natural speech",
    paper="natural-speech check on tasks made from VoxCeleb2 (curves not published as numbers)",
    caption=(
        "Accuracy of linear probes of the labels of a folder of clips, by site and task, out of fold; whiskers: 95 % "
        "with the groups of the folds as the unit. Words claim nothing there. Without a speaker column folds cannot "
        "keep speakers apart, and a probe may recognise them instead of the cue. That the clips are natural is the "
        "folder's word."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=_height,
    record=_RECORD,
)  # fmt: skip
"""The entry of the gallery."""
