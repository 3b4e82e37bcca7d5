"""Where the voice, and where the words, pass through: the share of the answer that follows a patched place.

Why it exists. A probe finds the voice in a layer; that the answer was made from it there is another claim. Patching
tests it (:func:`vpanalysis.patch`), and the paper has no such experiment.

The idea. Twins differ in the voice alone or in the words alone. States of one are written into the run of the other at
one site and span of tokens, and the share of the difference in margin that comes back is drawn, sites downwards from
waveform to answer, spans across. A Run with a mixer comes first, the base beside it where both were patched, each with
the swaps that were kept. Numbers in brackets have an interval that holds 0.

What it cannot show. Shares of different places do not add up, and a place that suffices need not be the only one. Where
the twins' answers do not differ (a model that ignores the voice), there is nothing to recover: cells hold a dash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, part_of, pt
from vpanalysis.figures._sources import VARIANTS, Sources, lacking, variant_of
from vpanalysis.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ENTRY"]

_SWAPS = ("voice", "words")
_SPANS = ("audio", "question", "options", "answer", "last", "all")
_FIRST = ("pclm+dpo", "pclm", "static", "final", "sft+dpo", "sft", "base")
_CODE = (
    "python -c \"import vpanalysis as vp; [vp.patch('mini-pclm-dpo', 'mini', swap=s).save(vp.open_run("
    "'runs/mini-pclm-dpo')) for s in ('voice', 'words')]\""
)


def data(sources: Sources) -> pd.DataFrame:
    """Return a row a Run, swap, site and span, over all tasks: the recovered share."""
    kept = {name: _swaps(sources, name) for name in sources.names}
    kept = {name: swaps for name, swaps in kept.items() if "voice" in swaps}
    if not kept:
        raise lacking("patching_map", "no Run with a patch of the voice in it", f"{ENTRY.record}, or {_CODE}")
    rank = {variant: number for number, variant in enumerate(_FIRST)}
    variants = {name: variant_of(sources.all[name]) for name in kept}
    order = sorted(kept, key=lambda name: rank.get(variants[name], len(rank)))
    chosen = order[:1] + [name for name in order[1:] if variants[name] == "base"][:1]
    rows: list[dict[str, Any]] = []
    for name in chosen:
        common = {**about(sources, name), "variant": VARIANTS[variants[name]]}
        for swap, result in kept[name].items():
            table = result.table[result.table["task"] == "all"]
            for number, site in enumerate(result.sites):
                for row in table[table["site"] == site].to_dict("records"):
                    rows += [{
                        **common, "swap": swap, "direction": str(result.settings["direction"]), "site": site,
                        "site_order": number, "part": part_of(site), "span": row["span"], "value": row["recovered"],
                        "low": row["low"], "high": row["high"], "total": row["total"], "total_low": row["total_low"],
                        "total_high": row["total_high"], "holds_0": bool(row["low"] <= 0 <= row["high"]),
                        "n": row["n"], "n_groups": row["n_groups"], "reason": row["reason"] or "",
                    }]  # fmt: skip
    return pd.DataFrame(rows)


def _swaps(sources: Sources, name: str) -> dict[str, Any]:
    """Return the newest patch of every swap, of whole layers and of twins that the benchmark makes."""
    found = {swap: sources.one("PatchResult", name, swap=swap, heads=False, direction="denoise") for swap in _SWAPS}
    return {swap: result for swap, result in found.items() if result is not None}


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw a map a Run and swap, sites downwards and spans across."""
    runs = list(dict.fromkeys(table["run"]))
    panels = [
        (run, swap) for run in runs for swap in _SWAPS if len(table[(table["run"] == run) & (table["swap"] == swap)])
    ]
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    before = ""
    for ax, (run, swap) in zip(axes, panels, strict=True):
        rows = table[(table["run"] == run) & (table["swap"] == swap)]
        _map(ax, rows, labels=run != before)
        first = rows.iloc[0]
        total = f"{first['total']:+.1f} [{first['total_low']:.1f}, {first['total_high']:.1f}] nats".replace("-", "−")
        ax.set_title(f"{swap} patched\n{total}", fontsize=pt(7), fontweight="normal")
        if run != before:
            # The name of the Run stands once, above its first map.
            name = f"{first['model']}{' (planted)' if first['planted'] else ''}"
            ax.annotate(name, (0, 1), xycoords="axes fraction", xytext=(0, pt(24)), textcoords="offset points",
                        fontsize=pt(8), fontweight="bold", va="bottom")  # fmt: skip
        before = run
    said = "shade and number: recovered share of the difference between twins (written above each map); "
    said += "(in brackets): its 95 % interval holds 0;\n–: the twins' margins cannot be told apart, nothing to recover"
    figure.supxlabel(said, fontsize=pt(6.3), color=GREY)


def _map(ax: Axes, rows: pd.DataFrame, *, labels: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps["Blues"]
    sites = list(dict.fromkeys(rows.sort_values("site_order", kind="stable")["site"]))
    spans = [span for span in _SPANS if span in set(rows["span"])]
    cells = rows.set_index(["site", "span"])
    for i, site in enumerate(sites):
        for j, span in enumerate(spans):
            if (site, span) not in cells.index:
                continue
            cell: Any = cells.loc[(site, span)]
            shade = float(np.clip(np.nan_to_num(cell["value"]), 0, 1))
            box = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colours(shade / 1.15), edgecolor="#DDDDDD", lw=pt(0.4))
            ax.add_patch(box)
            said = "–"
            if np.isfinite(cell["value"]):
                said = f"{cell['value']:.2f}".replace("-0.00", "0.00").replace("-", "−")
                said = f"({said})" if cell["holds_0"] else said
            ink = "white" if shade > 0.6 else "black"
            ax.text(j, i, said, ha="center", va="center", fontsize=pt(6), color=ink).set_in_layout(False)
    for i in range(1, len(sites)):
        if part_of(sites[i]) != part_of(sites[i - 1]):
            ax.axhline(i - 0.5, color="#555555", lw=pt(0.9))
    ax.set_xlim(-0.5, len(spans) - 0.5)
    ax.set_ylim(len(sites) - 0.5, -0.5)
    ax.set_xticks(range(len(spans)), spans, rotation=90, fontsize=pt(6.5))
    ax.set_yticks(range(len(sites)), sites if labels else [""] * len(sites), fontsize=pt(6.5))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def alt(table: pd.DataFrame) -> str:
    """Say for every map where most of the difference comes back."""
    said = []
    for (model, swap), rows in table.groupby(["model", "swap"], sort=False):
        made = rows.dropna(subset=["value"])
        if made.empty:
            said.append(f"{model}, {swap}: nothing to recover")
            continue
        inner = made[made["part"] == "LLM"]
        best = (inner if len(inner) else made).sort_values("value").iloc[-1]
        said.append(f"{model}, {swap}: most inside the LLM at {best['site']}, {best['span']} ({best['value']:.2f})")
    return f"Maps of the recovered share by site and span. {'; '.join(said)}."


def _height(table: pd.DataFrame) -> float:
    return min(9.0, 1.35 + 0.155 * table.groupby("run")["site"].nunique().max())


ENTRY = Entry(
    id="patching_map",
    title="Which places hand on the voice, and which the words",
    paper="none",
    caption=(
        "States of a clip's twin, which differs in the voice alone (left of each pair) or in the words alone (right), "
        "written into the run of the clip at one site and span of tokens (denoising). Number: share of the difference "
        "in margin between the twins (in nats above the map, with its interval) that comes back, a ratio of means "
        "over pairs of all tasks; in brackets where its interval (Fieller's, speakers and wordings as the unit) holds "
        "0. Audio sites have one span. Shares of places do not add up."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=_height,
)  # fmt: skip
"""The entry of the gallery."""
