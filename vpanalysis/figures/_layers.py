"""What the figures about layers share: where a site stands, which probes are whole, and an average over tasks.

Why it exists. Several figures show probes from waveform to answer. They must agree on where the encoder ends, on which
stored result counts as the probe of a Run, and on what the interval of an average over tasks means.

The ideas. A site belongs to the *encoder* (its layers), to the *interface* (what the tower hands on, the streams, the
audio tokens), or to the *LLM*. An average over tasks weighs tasks alike. Its interval is recovered from the intervals
of the tasks (the method of :func:`vpanalysis.stats.combination`, Zou and Donner 2008) with the correlation of the
tasks' errors between clusters, because the same speakers occur in several tasks. With d the distances of the tasks to
their limits, c = 1 / tasks, and R that correlation, the limit is ``mean -+ c sqrt(d' R d)``.

What it cannot show. Tasks are taken as given: the interval is for other speakers and clips of these tasks, not for
other tasks.

>>> [part_of(site) for site in ("encoder[3]", "tower", "mixed", "text[0]")]
['encoder', 'interface', 'interface', 'LLM']
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis._run import Run
    from vpanalysis.figures._sources import Sources
    from vpanalysis.probes import ProbeResult

__all__ = [
    "LINEAR", "PARTS", "about", "averaged", "draw_parts", "encoder_depth", "is_labelled", "part_of", "positions",
    "probe_of", "site_label",
]  # fmt: skip

PARTS = ("encoder", "interface", "LLM")
"""Parts of the path from waveform to answer."""

LINEAR = ("logistic", "ridge", "mlp1")
"""Linear probes, the default one first."""

_NOT_PROBED = frozenset({"gate", "options"})
_INDEX = re.compile(r"\[(\d+)\]$")
_LAYER = re.compile(r"(?:encoder|text)\[(\d+)\]$")
_MOST_LABELS = 40


def part_of(site: str) -> str:
    """Return which of `PARTS` a site belongs to."""
    if site.startswith("encoder"):
        return "encoder"
    return "LLM" if site.startswith("text") else "interface"


def encoder_depth(site: str, layers: int) -> float:
    """Return the depth of an encoder's site: 0 for what enters the first layer, 1 for what the last puts out.

    Parameters
    ----------
    site : str
    layers : int
        Layers of the encoder.

    Returns
    -------
    float
        NaN for ``tower``, which is the last layer's output pooled and normed, and for what is no encoder's.
    """
    found = _INDEX.search(site)
    if site == "encoder.stem":
        return 0.0
    return (int(found.group(1)) + 1) / layers if found and site.startswith("encoder") else float("nan")


def is_labelled(run: Run) -> bool:
    """Whether a Run is of labelled clips: nothing is claimed, and all items of a task offer the same sorted labels."""
    items = run.predictions
    if not len(items) or any(len(claims) for claims in items["claims"]) or any(len(said) for said in items["said"]):
        return False
    for _, part in items.groupby("task_name", sort=False):
        offered = {tuple(map(str, choices)) for choices in part["choices"]}
        if len(offered) != 1 or list(next(iter(offered))) != sorted(next(iter(offered))):
            return False
    return True


def probe_of(
    sources: Sources, name: str, target: str = "truth", *, estimators: Sequence[str] = LINEAR, whole: bool = True
) -> ProbeResult | None:
    """Return the newest stored probes of a Run, of the first estimator that has some.

    Parameters
    ----------
    sources : Sources
    name : str
        A Run.
    target : str
        Also found in a result for both targets.
    estimators : sequence of str
        In the order of preference.
    whole : bool
        Only probes of every site of the Run and of all conditions.
    """
    wanted = set(sources.all[name].sites) - _NOT_PROBED
    found: dict[str, ProbeResult] = {}
    for _, result in sources.results("ProbeResult", name):
        if target not in set(result.table["target"]) or (whole and result.settings.get("conditions") is not None):
            continue
        if whole and not wanted <= set(result.table["site"]):
            continue
        found.setdefault(str(result.settings.get("estimator")), result.of(target))
    return next((found[name] for name in estimators if name in found), None)


def about(sources: Sources, name: str) -> dict[str, Any]:
    """Return the columns that say of which Run a row is: run, model, benchmark, origin, planted."""
    made = sources.all[name].manifest
    return {
        "run": name, "model": str(made["model"]["name"]), "benchmark": str(made["benchmark"]["name"]),
        "origin": "measured", "planted": sources.is_planted(name),
    }  # fmt: skip


def averaged(run: Run, result: ProbeResult, tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the accuracy of probes averaged over tasks, by site.

    Parameters
    ----------
    run : Run
        The Run that was probed; it knows which speakers and wordings tasks share.
    result : ProbeResult
        Of one target.
    tasks : sequence of str, optional
        Default: all tasks that could be probed. Each counts alike.

    Returns
    -------
    DataFrame
        Columns site, site_order, value, low, high, chance (the mean of the tasks'), share, share_low, share_high (the
        same for accuracies rescaled to 0 at chance and 1 at perfect), n (predictions), tasks.
    """
    table = result.table.dropna(subset=["accuracy"])
    chosen = list(dict.fromkeys(table["task"])) if tasks is None else list(tasks)
    rows: list[dict[str, Any]] = []
    for site in result.sites:
        here = table[(table["site"] == site) & table["task"].isin(chosen)].set_index("task")
        if list(here.index.sort_values()) != sorted(chosen):
            continue
        here = here.loc[chosen]
        apart = _correlation(run, result, site, chosen)
        chance = here["chance"].to_numpy(dtype=np.float64)
        value, low, high = (here[name].to_numpy(dtype=np.float64) for name in ("accuracy", "low", "high"))
        even = np.full(len(chosen), 1 / len(chosen))
        mean = _combined(value, low, high, even, apart)
        share = _combined(value - chance, low - chance, high - chance, even / (1 - chance), apart)
        rows.append(
            {
                "site": site, "site_order": int(here["site_order"].iloc[0]),
                **dict(zip(("value", "low", "high"), mean, strict=True)), "chance": float(chance.mean()),
                **dict(zip(("share", "share_low", "share_high"), share, strict=True)),
                "n": int(here["n"].sum()), "tasks": len(chosen),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _combined(value: Any, low: Any, high: Any, weights: Any, correlation: Any) -> tuple[float, float, float]:
    """Return a weighted sum and its limits, recovered from those of the parts; no less than independent parts give."""
    centre = float(weights @ value)
    ends = []
    for distance in (value - low, high - value):
        arm = weights * np.maximum(distance, 0.0)
        # Errors of a few dozen clusters can look opposed by accident; that is not used to narrow the interval.
        ends.append(float(np.sqrt(max(arm @ correlation @ arm, arm @ arm))))
    return centre, centre - ends[0], centre + ends[1]


def _correlation(run: Run, result: ProbeResult, site: str, tasks: Sequence[str]) -> Any:
    """Return how errors of tasks go together between clusters; of several clusterings the one that says it most."""
    rows = result.predictions
    rows = rows[(rows["site"] == site) & rows["task"].isin(tasks)]
    weight, right = rows["weight"].to_numpy(dtype=np.float64), rows["correct"].to_numpy(dtype=np.float64)
    sums = pd.DataFrame({"task": rows["task"].to_numpy(), "w": weight, "wy": weight * right}).groupby("task").sum()
    of_task = rows["task"].map(sums["wy"] / sums["w"]).to_numpy(dtype=np.float64)
    total = rows["task"].map(sums["w"]).to_numpy(dtype=np.float64)
    influence = weight * (right - of_task) / total
    best = np.eye(len(tasks))
    for names in _clusterings(run, result, rows):
        wide = pd.DataFrame({"cluster": names, "task": rows["task"].to_numpy(), "sum": influence}).pivot_table(
            index="cluster", columns="task", values="sum", aggfunc="sum", fill_value=0.0
        )
        found = stats.cluster_correlation(wide.reindex(columns=list(tasks)).to_numpy(dtype=np.float64))
        best = found if found.sum() > best.sum() else best
    return best


def _clusterings(run: Run, result: ProbeResult, rows: pd.DataFrame) -> list[Any]:
    """Return the clusters of predictions under names that tasks share, where the folds were made by a column."""
    items = run.predictions.set_index("id")
    by = [name for name in str(result.settings.get("grouped_by", "")).split(" and ") if name in items.columns]
    return [items[name].reindex(rows["id"]).astype(str).to_numpy() for name in by]


# Where sites stand on an axis -----------------------------------------------------------------------------------------


def pt(size: float) -> float:
    """Return a size in points of the paper's style in the style at hand, whose page grows less than its type."""
    import matplotlib as mpl

    base: Any = mpl.rcParams["font.size"]
    return float(size * (float(base) / 8) ** 0.84)


def positions(sites: Sequence[str]) -> dict[str, float]:
    """Return an x position for every site: one apart, and more where a new part of the model begins."""
    places: dict[str, float] = {}
    for before, site in itertools.zip_longest([None, *sites], sites):
        if site is None:
            continue
        last = places[before] if before is not None else -1.0
        new = before is not None and part_of(before) != part_of(site)
        places[site] = last + (1.8 if new else 1.0)
    return places


def site_label(site: str) -> str:
    """Return a short label: the number of a layer or stream, or what is written instead."""
    found = _INDEX.search(site)
    if found:
        return f"s{found.group(1)}" if site.startswith("streams") else found.group(1)
    return {"encoder.stem": "stem", "text.embed": "emb", "projector": "proj", "mixed": "mix"}.get(site, site)


def draw_parts(
    ax: Axes,
    places: Mapping[str, float],
    *,
    labels: str = "all",
    names: bool = True,
    size: float = 6.5,
    above: bool = True,
    short: bool = False,
) -> None:
    """Label an axis of sites and draw a line where one part of the model ends.

    Parameters
    ----------
    ax : Axes
    places : mapping of str to float
        As :func:`positions` returns it.
    labels : {"all", "ends", "none"}
        Label every site, or only the first and the last layer of encoder and LLM.
    names : bool
        Write the names of the parts.
    size : float
        Of the type, in points.
    above : bool
        Names above the axes, or below the labels.
    short : bool
        Shorten "interface", where panels are narrow.
    """
    groups = {part: [s for s in places if part_of(s) == part] for part in PARTS}
    shown = list(places)
    if labels == "all" and len(places) > _MOST_LABELS:
        # Every second layer is labelled where all would touch.
        shown = [s for s in places if not (found := _LAYER.match(s)) or int(found.group(1)) % 2 == 0]
    if labels != "all":
        layers = {part: [s for s in groups[part] if _INDEX.search(s)] for part in ("encoder", "LLM")}
        shown = [s for found in layers.values() for s in dict.fromkeys([*found[:1], *found[-1:]])]
    if labels == "none":
        shown = []
    ax.set_xticks([places[s] for s in shown], [site_label(s) for s in shown], fontsize=pt(size))
    if labels == "all":
        # Not `get_xticklabels`, which leaves out the hidden ones of shared axes.
        for tick, site in zip(ax.xaxis.get_major_ticks(), shown, strict=True):
            level = _INDEX.search(site) and not site.startswith("streams") and len(places) <= 24
            tick.label1.set_rotation(0 if level else 90)
    ax.set_xticks(list(places.values()), minor=True)
    ax.tick_params(axis="x", which="minor", length=1.5)
    ax.tick_params(axis="x", which="major", length=3)
    ax.set_xlim(min(places.values()) - 0.7, max(places.values()) + 0.7)
    present = [part for part in PARTS if groups[part]]
    for before, after in itertools.pairwise(present):
        edge = (places[groups[before][-1]] + places[groups[after][0]]) / 2
        ax.axvline(edge, color="#8A8A8A", lw=pt(0.7), zorder=0)
    for part in present if names else ():
        middle = (places[groups[part][0]] + places[groups[part][-1]]) / 2
        word = "interf." if short and part == "interface" else part
        ax.annotate(
            word, (middle, 1.0 if above else 0.0), xycoords=("data", "axes fraction"),
            xytext=(0, pt(2 if above else -4.5 - 2.2 * size)), textcoords="offset points",
            ha="center", va="bottom" if above else "baseline", fontsize=pt(size), color=GREY, annotation_clip=False,
        )  # fmt: skip
