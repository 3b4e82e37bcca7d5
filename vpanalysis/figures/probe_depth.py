"""Does a deeper probe find more? Linear probes and ReLU networks of three and five layers at the same sites.

Why it exists. A probe with several layers can compute a label that no linear reader finds, or fit noise. The paper
shows three depths; its conclusion (what is there is there for a linear reader already, or is not) depends on them.

The idea. Depths are compared at the sites where a Run has kept all of them, on the same items and folds. "Linear" is
the paper's kind where it was kept: a single layer trained by Adam like the networks (``mlp1``), so that depth is all
that differs; else logistic regression, else ridge. Tasks are averaged alike. The interval of the average is recovered
from those of the tasks with the correlation of their errors between speakers or wordings
(:mod:`vpanalysis.figures._layers`).

What it cannot show. All lines are of the same clips: overlapping intervals do not test the difference of two depths
(:func:`vpanalysis.compare_probes` does). A network that finds less than a line was trained on too few items for it;
that says nothing of the states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, averaged, draw_parts, part_of, positions, probe_of, pt
from vpanalysis.figures._sources import Sources, lacking
from vpanalysis.plots.style import GREY, SERIES, short_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis.probes import ProbeResult

__all__ = ["ENTRY"]

_KINDS = {"linear": ("mlp1", "logistic", "ridge"), "3 layers": ("mlp3",), "5 layers": ("mlp5",)}
_WRITTEN = {"mlp1": "linear (Adam)", "logistic": "linear (logistic)", "ridge": "linear (ridge)", "mlp3": "3 layers",
            "mlp5": "5 layers"}  # fmt: skip
_AVERAGE = "average"
_SMALL = 4
_SITES = "--site 'encoder[*]' --site 'text[*]'"


def data(sources: Sources) -> pd.DataFrame:
    """Return a row an estimator, site and task, and rows of the average over tasks (task "average")."""
    name, found = _chosen(sources)
    run = sources.all[name]
    results = list(found.values())
    here = [set(r.table.dropna(subset=["accuracy"])["task"]) for r in results]
    tasks = [task for task in results[0].tasks if all(task in one for one in here)]
    if not tasks:
        raise lacking("probe_depth", f"probes in {name!r}, of which no task had enough items", ENTRY.record)
    shared = set.intersection(*(set(r.sites) for r in results))
    rows: list[dict[str, Any]] = []
    for kind, result in found.items():
        common = {**about(sources, name), "depth": kind, "estimator": str(result.settings["estimator"])}
        means = averaged(run, result, tasks)
        for row in means[means["site"].isin(shared)].to_dict("records"):
            rows += [{
                **common, "task": _AVERAGE, **{k: row[k] for k in ("site", "site_order")}, "part": part_of(row["site"]),
                **{k: row[k] for k in ("value", "low", "high", "chance", "n", "tasks")},
            }]  # fmt: skip
        table = result.table[result.table["site"].isin(shared) & result.table["task"].isin(tasks)]
        for row in table.dropna(subset=["accuracy"]).to_dict("records"):
            rows += [{
                **common, "task": row["task"], **{k: row[k] for k in ("site", "site_order")},
                "part": part_of(row["site"]), "value": row["accuracy"], "tasks": 1,
                **{k: row[k] for k in ("low", "high", "chance", "n")},
            }]  # fmt: skip
    return pd.DataFrame(rows)


def _chosen(sources: Sources) -> tuple[str, dict[str, ProbeResult]]:
    """Return the first Run with a linear probe and a network at common sites, and its probes by depth."""
    asked = sources.names
    best: tuple[str, dict[str, ProbeResult]] | None = None
    for name in asked:
        networks = {kind: _probe(sources, name, kind) for kind in ("3 layers", "5 layers")}
        kept = {kind: result for kind, result in networks.items() if result is not None}
        linear = _probe(sources, name, "linear")
        if linear is None or not kept:
            continue
        # Two networks are better than one; of equals the first Run in the order of the ladder.
        if best is None or len(kept) + 1 > len(best[1]):
            best = name, {"linear": linear, **kept}
    if best is None:
        run = str(sources.all[asked[0]].path) if asked else "RUN"
        each = " && ".join(f"vpanalysis probe {run} --estimator {e} {_SITES} --save" for e in ("mlp1", "mlp3", "mlp5"))
        raise lacking("probe_depth", f"{len(asked)} Runs, none with a linear probe and a network in it", each)
    return best


def _probe(sources: Sources, name: str, kind: str) -> ProbeResult | None:
    return probe_of(sources, name, estimators=_KINDS[kind], whole=False)


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw the average on the left, and the four tasks whose linear probe changes most along the way on the right."""
    import numpy as np

    places = _places(table)
    small = _telling(table)
    grid = figure.add_gridspec(2, 2 + len(small[::2]), width_ratios=[1, 1, *[0.95] * len(small[::2])])
    main = figure.add_subplot(grid[:, :2])
    _lines(main, table[table["task"] == _AVERAGE], places, size=3.2)
    draw_parts(main, places, above=True)
    main.set_ylabel("probe accuracy")
    tasks = int(table.loc[table["task"] == _AVERAGE, "tasks"].max())
    main.set_title(f"Average of {tasks} tasks", pad=pt(13))
    main.set_xlabel("site")
    for number, task in enumerate(small):
        ax = figure.add_subplot(grid[number % 2, 2 + number // 2], sharey=main)
        _lines(ax, table[table["task"] == task], places, size=2.0, band=False)
        draw_parts(ax, places, labels="ends", names=number % 2 == 1, above=False, short=True, size=6)
        ax.set_title(short_task(task), fontsize=pt(8))
        ax.tick_params(labelleft=False)
    main.set_ylim(-0.02, 1.04)
    main.set_yticks(np.linspace(0, 1, 5))
    first = table.iloc[0]
    handles, labels = main.get_legend_handles_labels()
    name = f"{first['model']}{', organism (planted)' if first['planted'] else ''}"
    figure.legend(handles, labels, loc="outside upper center", ncols=4, title=name, title_fontsize=pt(8))


def _places(table: pd.DataFrame) -> dict[str, float]:
    return positions(list(dict.fromkeys(table.sort_values("site_order", kind="stable")["site"])))


def _telling(table: pd.DataFrame) -> list[str]:
    """Return the tasks whose linear probe changes most between sites, in the order of the table."""
    linear = table[(table["depth"] == "linear") & (table["task"] != _AVERAGE)]
    spread = linear.groupby("task", sort=False)["value"].agg(lambda v: v.max() - v.min())
    most = set(spread.sort_values(ascending=False, kind="stable").index[:_SMALL])
    return [task for task in dict.fromkeys(linear["task"]) if task in most]


def _lines(ax: Axes, rows: pd.DataFrame, places: dict[str, float], *, size: float, band: bool = True) -> None:
    estimators = list(dict.fromkeys(rows["estimator"]))
    for number, name in enumerate(estimators):
        series = SERIES[number]
        # Side by side, so that the whiskers of one depth do not hide those of another.
        shift = (number - (len(estimators) - 1) / 2) * 0.16
        own = rows[rows["estimator"] == name].sort_values("site_order", kind="stable")
        for parts in (("encoder", "interface"), ("LLM",)):
            chain = own[own["part"].isin(parts)]
            if chain.empty:
                continue
            x = [places[site] + shift for site in chain["site"]]
            arms = [(chain["value"] - chain["low"]).clip(lower=0), (chain["high"] - chain["value"]).clip(lower=0)]
            label = _WRITTEN[name] if parts[0] == "encoder" else None
            ax.errorbar(
                x, chain["value"], yerr=arms, color=series.colour, ls=series.line, marker=series.marker, ms=pt(size),
                lw=pt(1.1 if band else 0.9), elinewidth=pt(0.8 if band else 0.5), capsize=pt(1.5 if band else 0),
                mfc=series.colour if number != 1 else "white", label=label, zorder=3 + number,
            )  # fmt: skip
    ax.axhline(float(rows["chance"].iloc[0]), color=GREY, ls=(0, (1, 2)), lw=pt(1.0), zorder=1,
               label="chance" if band else None)  # fmt: skip


def alt(table: pd.DataFrame) -> str:
    """Say how deep the probes are and how far apart they get."""
    means = table[table["task"] == _AVERAGE].pivot(index="site", columns="depth", values="value")
    wide = (means.max(axis=1) - means.min(axis=1)).max()
    return (
        f"Average probe accuracy by site for probes of {means.shape[1]} depths on {table.iloc[0]['model']}, with four "
        f"tasks beside it. At no site do the averages of two depths differ by more than {wide:.2f}."
    )


ENTRY = Entry(
    id="probe_depth",
    title="Probe depth: linear, three and five layers",
    paper="the probe-depth ablation (curves not published as numbers)",
    caption=(
        "Accuracy of probes of the truth of three depths at the same sites, items and folds, averaged over tasks "
        "(left) and for the four tasks whose linear probe changes most between sites (right); all tasks are in the "
        "table. Whiskers: 95 %. The interval of the average is recovered from those of the tasks, with the "
        "correlation of their errors between clusters, and is for other speakers and clips of these tasks. Lines are "
        "of the same clips: overlap does not test a difference."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=2.9,
    record=f"vpanalysis probe RUN --estimator mlp1 {_SITES} --save, and the same with mlp3 and mlp5",
)  # fmt: skip
"""The entry of the gallery."""
