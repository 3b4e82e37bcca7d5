"""Voice and words by depth: where a linear reader finds the truth, where the claim, and where it finds more of which.

Why it exists. The paper probes the truth alone. What the words claim can be probed at the same places, and only both
together show where a model turns from hearing to reading. The paper has no such picture.

The idea. Truth and claim are probed on the same Run. Tasks differ in their number of options, and a claim has fewer
values than the truth in the pattern tasks (a level, not an order of levels), so what is compared is the accuracy
*rescaled to 0 at chance and 1 at perfect*; both maps have one scale of shades, and the number in a cell is the accuracy
itself. A mark says where the truth is above chance and above the claim: filled where the interval of the one lies above
that of the other, open where only the values do.

What it cannot show. Truth and claim are probed on items that are weighted so that neither gives the other away, but
intervals that do not overlap are no paired test (:func:`vpanalysis.compare_probes` makes one). Where both can be read,
nothing is said about which is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, averaged, draw_parts, part_of, positions, probe_of, pt
from vpanalysis.figures._sources import Sources, lacking, variant_of
from vpanalysis.plots.style import CLAIM, GREY, TRUTH, short_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ENTRY"]

_AVERAGE = "average"
_TARGETS = ("truth", "claim")
_SERIES = {"truth": TRUTH, "claim": CLAIM}
_CHANCE: dict[str, Any] = {"truth": (0, (1, 2)), "claim": (0, (5, 2, 1, 2))}
_MOST_NUMBERS = 24
"""Sites up to which a number fits into a cell; beyond, contour lines tell shades apart."""


def data(sources: Sources) -> pd.DataFrame:
    """Return a row a target, task and site, and rows of the average over tasks (task "average")."""
    name, found = _chosen(sources)
    run = sources.all[name]
    rows: list[dict[str, Any]] = []
    for target, result in found.items():
        common = {**about(sources, name), "target": target}
        table = result.table
        means = averaged(run, result)
        for row in means.to_dict("records"):
            rows += [{**common, "task": _AVERAGE, "part": part_of(row["site"]), **{str(k): v for k, v in row.items()}}]
        span = 1 - table["chance"]
        shares = {f"share{end}": (table[of] - table["chance"]) / span
                  for end, of in (("", "accuracy"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
        for row in table.assign(**shares).to_dict("records"):
            rows += [{
                **common, "task": row["task"], "part": part_of(str(row["site"])), "site": row["site"],
                "site_order": row["site_order"], "value": row["accuracy"],
                **{k: row[k] for k in ("low", "high", "chance", "share", "share_low", "share_high", "n")}, "tasks": 1,
            }]  # fmt: skip
    made = pd.DataFrame(rows)
    if not (made["task"] == _AVERAGE).any():
        raise lacking("depth_profile", f"probes in {name!r}, of which no task had enough items", ENTRY.record)
    return made.assign(truth_above=_above(made))


def _above(made: pd.DataFrame) -> list[str]:
    """Return for each row of the truth whether it is above the claim: "apart", "value", or ""."""
    claims = made[made["target"] == "claim"].set_index(["task", "site"])
    said = []
    for row in made.to_dict("records"):
        key = (row["task"], row["site"])
        if row["target"] != "truth" or key not in claims.index:
            said.append("")
            continue
        claim = claims.loc[key]
        # Of two at chance the higher one is so by accident: the truth has to be above chance to be above the claim.
        higher = row["share"] > claim["share"] and row["share_low"] > 0
        said.append("apart" if higher and row["share_low"] > claim["share_high"] else "value" if higher else "")
    return said


def _chosen(sources: Sources) -> tuple[str, dict[str, Any]]:
    """Return the Run whose truth and claim were probed at all sites: the base if it is there, else the first."""
    asked = sources.names
    bases = [name for name in asked if variant_of(sources.all[name]) == "base"]
    for name in [*bases, *asked]:
        truth, claim = probe_of(sources, name, "truth"), probe_of(sources, name, "claim")
        if truth is not None and claim is not None:
            return name, {"truth": truth, "claim": claim}
    run = str(sources.all[asked[0]].path) if asked else "RUN"
    found = f"{len(asked)} Runs of models that answer, none with probes of both truth and claim at all sites"
    raise lacking("depth_profile", found, f"vpanalysis probe {run} --target both --save")


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw the averages above, and a map of the truth and one of the claim below, on one axis of sites."""
    places = positions(list(dict.fromkeys(table.sort_values("site_order", kind="stable")["site"])))
    tasks = [task for task in dict.fromkeys(table["task"]) if task != _AVERAGE]
    rows = max(len(tasks), 4)
    axes = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [8.5, rows, rows]})
    _averages(axes[0], table[table["task"] == _AVERAGE], places)
    for ax, target in zip(axes[1:], _TARGETS, strict=True):
        _map(ax, table[table["target"] == target], tasks, places)
        ax.set_title(f"Probe accuracy for the {target}", fontsize=pt(8))
    for ax in axes:
        draw_parts(ax, places, names=ax is axes[0], size=6.5)
        ax.tick_params(axis="x", which="both", labelbottom=ax is axes[-1])
    axes[-1].set_xlabel("site")
    first = table.iloc[0]
    axes[0].set_title(f"{first['model']}{', organism (planted)' if first['planted'] else ''}", pad=pt(11))
    for ax in axes[1:]:
        ax.tick_params(which="both", length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)


def _averages(ax: Axes, rows: pd.DataFrame, places: dict[str, float]) -> None:
    for target in _TARGETS:
        own = rows[rows["target"] == target].sort_values("site_order", kind="stable")
        series = _SERIES[target]
        beside = own["site"].astype(str).str.startswith("streams")
        for parts in (("encoder", "interface"), ("LLM",)):
            chain = own[~beside & own["part"].isin(parts)]
            x = [places[site] for site in chain["site"]]
            ax.plot(x, chain["value"], color=series.colour, marker=series.marker, ls=series.line, ms=pt(3.2),
                    lw=pt(1.2), zorder=4, label=target if parts[0] == "encoder" else None)  # fmt: skip
            ax.fill_between(x, chain["low"], chain["high"], color=series.colour, alpha=0.2, lw=0, zorder=2)
        streams = own[beside]
        if len(streams):
            x = [places[site] for site in streams["site"]]
            arms = [streams["value"] - streams["low"], streams["high"] - streams["value"]]
            ax.errorbar(
                x,
                streams["value"],
                yerr=arms,
                fmt=series.marker,
                color=series.colour,
                mfc="white",
                ms=pt(3.2),
                lw=pt(0.7),
            )
        ax.axhline(float(own["chance"].mean()), color=series.colour, ls=_CHANCE[target], lw=pt(0.9), zorder=1,
                   label=f"chance, {target}")  # fmt: skip
    _marks(ax, rows[rows["target"] == "truth"], places, 1.06)
    ax.set_ylim(0, 1.12)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.set_ylabel(f"mean of {int(rows['tasks'].max())} tasks")
    handles, labels = ax.get_legend_handles_labels()
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": "black", "marker": "^", "ls": "", "ms": pt(3.5)}
    handles += [Line2D([], [], **look), Line2D([], [], mfc="white", mew=pt(0.7), **look)]
    labels += ["truth above claim, intervals apart", "truth above claim, values only"]
    figure: Any = ax.figure
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


def _marks(ax: Axes, rows: pd.DataFrame, places: dict[str, float], y: float) -> None:
    for kind, fill in (("apart", "black"), ("value", "white")):
        x = [places[site] for site in rows.loc[rows["truth_above"] == kind, "site"]]
        if x:  # a line of no points that is not clipped has its box at the origin of the page
            ax.plot(
                x,
                [y] * len(x),
                ls="",
                marker="^",
                ms=pt(2.8),
                mfc=fill,
                mec="black",
                mew=pt(0.6),
                zorder=6,
                clip_on=False,
            )


def _map(ax: Axes, rows: pd.DataFrame, tasks: list[str], places: dict[str, float]) -> None:
    """Draw a cell a task and site, white at chance and dark at perfect, with the accuracy in it."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps["Blues"]
    numbers = len(places) <= _MOST_NUMBERS
    cells = rows.set_index(["task", "site"])
    shades = np.full((len(tasks), len(places)), np.nan)
    for i, task in enumerate(tasks):
        for j, (site, x) in enumerate(places.items()):
            if (task, site) not in cells.index:
                continue
            cell: Any = cells.loc[(task, site)]
            if not np.isfinite(cell["value"]):
                ax.text(x, i, "–", ha="center", va="center", fontsize=pt(6))
                continue
            shades[i, j] = shade = float(np.clip(cell["share"], 0, 1))
            ax.add_patch(Rectangle((x - 0.5, i - 0.5), 1, 1, color=colours(shade / 1.15), lw=0))
            above = cell["truth_above"]
            dark = shade > 0.6
            if numbers:
                said = f"{cell['value']:.2f}".removeprefix("0")
                ax.text(x + (0.12 if above else 0), i, said, ha="center", va="center", fontsize=pt(6), clip_on=True,
                        color="white" if dark else "black").set_in_layout(False)  # fmt: skip
            if above:
                edge = "white" if dark else "black"
                ax.plot(x - (0.33 if numbers else 0), i, marker="^", ms=pt(2.2), mec=edge,
                        mfc=edge if above == "apart" else "none", mew=pt(0.5))  # fmt: skip
    if not numbers and np.isfinite(shades).all() and min(shades.shape) > 1:
        lines = ax.contour(list(places.values()), range(len(tasks)), shades, levels=[0.25, 0.5, 0.75], colors=GREY,
                           linewidths=pt(0.5))  # fmt: skip
        ax.clabel(lines, fontsize=pt(6), fmt="%.2f")
    ax.set_yticks(range(len(tasks)), [short_task(task) for task in tasks], fontsize=pt(6.5))
    ax.set_ylim(len(tasks) - 0.5, -0.5)


def alt(table: pd.DataFrame) -> str:
    """Say where the averages of truth and claim start and end, and where the truth is above."""
    means = table[table["task"] == _AVERAGE].sort_values("site_order", kind="stable")
    said = []
    for target, rows in means.groupby("target", sort=False):
        start, end = rows.iloc[0], rows.iloc[-1]
        said.append(f"{target} from {start['value']:.2f} at {start['site']} to {end['value']:.2f} at {end['site']}")
    above = means.loc[(means["target"] == "truth") & (means["truth_above"] == "apart"), "site"]
    where = f"at {', '.join(above)}" if len(above) else "at no site"
    return (
        f"Probe accuracy by site on {table.iloc[0]['model']}, average of tasks: {'; '.join(said)}. Rescaled to chance, "
        f"the truth is above the claim with intervals apart {where}. Two maps below give every task."
    )


def _height(table: pd.DataFrame) -> float:
    return 2.8 + 2 * 0.145 * max(table["task"].nunique() - 1, 4)


ENTRY = Entry(
    id="depth_profile",
    title="Voice and words by depth",
    paper="none",
    caption=(
        "Accuracy of linear probes of the truth (what the voice says) and of the claim (what the words say) at every "
        "site, averaged over tasks with 95 % intervals (above), and for each task (maps; one scale of shades, 0 at "
        "chance and 1 at perfect; the number is the accuracy). Triangles: the truth is above chance and, once both "
        "are rescaled, above the claim; filled where intervals do not overlap. Both can be read where both are; which "
        "is used is not shown."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=_height,
)  # fmt: skip
"""The entry of the gallery."""
