"""Layer-wise probing of one Run, a panel a task, beside the model's own accuracy.

Why it exists. The paper's section 4.2 rests on one picture: a probe reads the paralinguistic label from the encoder,
from the audio tokens and inside the language model, far better than the model answers. Its curves were not published as
numbers, so it is drawn again from a Run.

The idea. All probes of a task are scored on the same out-of-fold items, with the same weights, as the model's own
answers (:func:`vpanalysis.probes.own_accuracy`). The *utilization gap* is that of
:func:`vpanalysis.probes.controls.utilization_gap`: the probe chooses among the options that an item offers, and its
correctness less the model's is averaged item by item. Its site is the best one *chosen within the training items* of
every fold: the maximum of a curve would be too high by luck, and the last site of the language model, read at the
answer position, says what the model is about to answer rather than what was there to be used. The gap at the audio
tokens is in the table, too. A result of ``vpanalysis controls RUN --which gap --save`` is taken where a Run has one;
else the gap is computed from the Run's states.

What it cannot show. That a label can be read from a state does not mean that the model reads it. Probes here pool
conflict and congruent twins, weighted so that the words say nothing about the truth; the paper used conflict items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, draw_parts, part_of, positions, probe_of, pt
from vpanalysis.figures._sources import VARIANTS, Sources, lacking, variant_of
from vpanalysis.plots.style import GREY, TRUTH, short_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis._run import Run
    from vpanalysis.probes import ProbeResult

__all__ = ["ENTRY"]

_COLUMNS = 5
_ANSWERS = ("pred_logits", "pred_text_score", "pred_generated")


def data(sources: Sources) -> pd.DataFrame:
    """Return a row a task and site (``quantity`` is "probe"), and rows "own accuracy" and "gap" of each task."""
    name, result = _chosen(sources)
    run = sources.all[name]
    common = {**about(sources, name), "variant": VARIANTS[variant_of(run)]}
    rows: list[dict[str, Any]] = []
    for row in result.table.to_dict("records"):
        rows += [{
            **common, "task": row["task"], "quantity": "probe", "site": row["site"], "site_order": row["site_order"],
            "part": part_of(str(row["site"])), "value": row["accuracy"], "low": row["low"], "high": row["high"],
            "chance": row["chance"], "n": row["n"], "n_groups": row["n_groups"], "note": row["note"] or "",
        }]  # fmt: skip
    empty = {"site_order": -1, "chance": np.nan, "n_groups": -1}
    for own in _own(run, result).to_dict("records"):
        rows += [{
            **common, **empty, "task": own["task"], "quantity": "own accuracy", "site": "", "part": "",
            "value": own["accuracy"], "low": own["low"], "high": own["high"], "n": own["n"], "note": "",
        }]  # fmt: skip
    order = {site: number for number, site in enumerate(run.sites)}
    for gap in _gaps(sources, name, list(result.tasks)).to_dict("records"):
        where = "gap at the audio tokens" if gap["variant"] == "audio tokens" else "gap at the best site"
        known = gap["site"] in order
        rows.append({
            **common, **empty, "task": gap["task"], "quantity": where, "site": gap["site"] or "",
            "site_order": order[gap["site"]] if known else -1, "part": part_of(gap["site"]) if known else "",
            "value": gap["value"], "low": gap["low"], "high": gap["high"], "n": gap["n"], "n_groups": gap["n_groups"],
            "note": gap["note"] or "",
        })  # fmt: skip
    return pd.DataFrame(rows).reset_index(drop=True)


def _chosen(sources: Sources) -> tuple[str, ProbeResult]:
    """Return the first base with probes of its truth at all sites, or the first Run with such."""
    asked = sources.names
    bases = [name for name in asked if variant_of(sources.all[name]) == "base"]
    for name in [*bases, *asked]:
        result = probe_of(sources, name)
        if result is not None:
            return name, result
    found = f"{len(asked)} Runs of models that answer, none with probes of the truth at all of its sites"
    raise lacking("probing", found, f"vpanalysis probe {_path(sources, asked)} --save")


def _path(sources: Sources, names: list[str]) -> str:
    return str(sources.all[names[0]].path) if names else "RUN"


def _own(run: Run, result: ProbeResult) -> pd.DataFrame:
    from vpanalysis.probes import own_accuracy

    return own_accuracy(run, result, prediction=_recorded(run))


def _recorded(run: Run) -> str:
    """Return the first kind of answer that was recorded, as the stored definition of the gap takes it."""
    table = run.predictions
    return next((name for name in _ANSWERS if name in table.columns and table[name].notna().any()), _ANSWERS[0])


def _gaps(sources: Sources, name: str, tasks: list[str]) -> pd.DataFrame:
    """Return the gaps over all items of the probes: those that were kept, or computed now."""
    from vpanalysis.probes.controls import utilization_gap

    for _, kept in sources.results("ControlResult", name):
        rows = kept.table[(kept.table["measure"] == "gap") & (kept.table["condition"] == "pooled")]
        if set(tasks) <= set(rows["task"]) and kept.settings.get("conditions") is None:
            found: pd.DataFrame = rows[rows["task"].isin(tasks)]
            return found
    made = utilization_gap(sources.all[name], tasks)
    return made[(made["measure"] == "gap") & (made["condition"] == "pooled")]


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw a panel a task: the probe with its band, chance, the model's own accuracy, and the gap."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    tasks = list(dict.fromkeys(table["task"]))
    wide = min(_COLUMNS, len(tasks))
    high = -(-len(tasks) // wide)
    axes = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    for number, (ax, task) in enumerate(zip(axes.flat, tasks, strict=False)):
        _panel(ax, table[table["task"] == task], task)
        if number % wide == 0:
            ax.set_ylabel("accuracy")
        # The lowest panel of a column names the parts, also where the last row is not full.
        last = number + wide >= len(tasks)
        ax.tick_params(axis="x", which="both", labelbottom=last)
        draw_parts(ax, _places(table), labels="ends", names=last, above=False, short=True, size=6)
    for spare in list(axes.flat)[len(tasks) :]:
        spare.set_visible(False)
    first = table.iloc[0]
    name = f"{first['model']}{', organism (planted)' if first['planted'] else ''}"
    handles = [
        Line2D([], [], color=TRUTH.colour, marker="o", ms=pt(3), label="linear probe of the truth"),
        Patch(facecolor=TRUTH.colour, alpha=0.25, label="95 % interval"),
        Line2D([], [], color="black", lw=pt(1.4), label="model's own accuracy"),
        Line2D([], [], color=GREY, ls=(0, (1, 2)), lw=pt(1.0), label="chance"),
        Line2D([], [], color="black", marker="^", ms=pt(3), lw=pt(0.8), label="gap"),
    ]
    if (table.loc[table["quantity"] == "probe", "site"].astype(str).str.startswith("streams")).any():
        handles.insert(
            1, Line2D([], [], color=TRUTH.colour, marker="o", mfc="white", ls="", ms=pt(3), label="one stream")
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=6, title=name, columnspacing=1.2, handlelength=1.8,
                  title_fontsize=pt(8))  # fmt: skip


def _places(table: pd.DataFrame) -> dict[str, float]:
    probes = table[table["quantity"] == "probe"].sort_values("site_order", kind="stable")
    return positions(list(dict.fromkeys(probes["site"])))


def _panel(ax: Axes, rows: pd.DataFrame, task: str) -> None:
    places = _places(rows)
    probes = rows[(rows["quantity"] == "probe") & rows["value"].notna()].sort_values("site_order", kind="stable")
    beside = probes["site"].astype(str).str.startswith("streams")
    size = 2.6 if len(places) <= 24 else 1.6
    for parts in (("encoder", "interface"), ("LLM",)):
        chain = probes[~beside & probes["part"].isin(parts)]
        if chain.empty:
            continue
        x = [places[site] for site in chain["site"]]
        ax.plot(x, chain["value"], color=TRUTH.colour, marker="o", ms=pt(size), lw=pt(1.0), zorder=4, clip_on=False)
        ax.fill_between(x, chain["low"], chain["high"], color=TRUTH.colour, alpha=0.22, lw=0, zorder=2)
    streams = probes[beside]
    if len(streams):
        x = [places[site] for site in streams["site"]]
        arms = [streams["value"] - streams["low"], streams["high"] - streams["value"]]
        ax.errorbar(
            x, streams["value"], yerr=arms, fmt="o", color=TRUTH.colour, mfc="white", ms=pt(size), lw=pt(0.6), zorder=4
        )
    if len(probes):
        ax.axhline(float(probes["chance"].iloc[0]), color=GREY, ls=(0, (1, 2)), lw=pt(1.0), zorder=1)
    own = rows[rows["quantity"] == "own accuracy"]
    if len(own):
        ax.axhline(float(own["value"].iloc[0]), color="black", lw=pt(1.3), zorder=3)
        ax.axhspan(float(own["low"].iloc[0]), float(own["high"].iloc[0]), color="black", alpha=0.12, lw=0, zorder=0)
    gap = rows[(rows["quantity"] == "gap at the best site") & rows["value"].notna()]
    said = "gap not estimated"
    if len(gap) and len(own):
        one, base = gap.iloc[0], float(own["value"].iloc[0])
        said = f"gap {one['value']:+.2f} [{one['low']:.2f}, {one['high']:.2f}]".replace("-0.00", "0.00").replace(
            "-", "−"
        )
        if abs(one["value"]) > 0.03:
            arrow = {"arrowstyle": "-|>,head_width=0.14,head_length=0.22", "lw": pt(0.8), "color": "black"}
            arrow |= {"shrinkA": 0, "shrinkB": 0}
            tip = (places[one["site"]], base + one["value"])
            ax.annotate("", tip, (places[one["site"]], base), arrowprops=arrow, zorder=5)
    ax.set_title(short_task(task), pad=pt(10.5))
    ax.annotate(said, (0, 1), xycoords="axes fraction", xytext=(0, pt(2.5)), textcoords="offset points", va="bottom",
                fontsize=pt(6.3))  # fmt: skip
    ax.set_ylim(-0.02, 1.03)
    ax.set_yticks([0, 0.5, 1.0], ["0", ".5", "1"])


def alt(table: pd.DataFrame) -> str:
    """Say what the panels show, with the range of the gaps."""
    gaps = table[(table["quantity"] == "gap at the best site") & table["value"].notna()]
    first = table.iloc[0]
    start = f"Probe accuracy by site from encoder to language model for {first['model']}, a panel for each of "
    start += f"{table['task'].nunique()} tasks, with the model's own accuracy as a line."
    if gaps.empty:
        return start
    ordered = gaps.sort_values("value", kind="stable")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    return (
        f"{start} The gap between the best probe and the model goes from {low['value']:+.2f} "
        f"({short_task(str(low['task']))}) to {high['value']:+.2f} ({short_task(str(high['task']))})."
    )


def _height(table: pd.DataFrame) -> float:
    return 0.75 + 1.45 * -(-table["task"].nunique() // _COLUMNS)


ENTRY = Entry(
    id="probing",
    title="Layer-wise probing from encoder to language model",
    paper="section 4.2, layer-wise probing of Audio Flamingo 3 (curves not published as numbers)",
    caption=(
        "Accuracy of a linear probe of the truth at every site, out of fold with groups kept together, and its 95 % "
        "interval; vertical lines separate encoder, interface (tower, streams, audio tokens) and LLM (answer "
        "position). Black: the model's own accuracy on the same items and weights, with its interval. Gap: probe less "
        "model, item by item, the probe choosing among the offered options at the site that was chosen within the "
        "training items (arrow at the site chosen most often). A probe that succeeds does not show that the model "
        "uses what it reads. The paper probed every second layer with a three-layer network and ten folds."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=_height,
)  # fmt: skip
"""The entry of the gallery."""
