"""Layer curves: what a linear reader finds along the way from the waveform to the answer.

One panel answers four questions at a glance. Where is the voice (``truth``, solid, circles) and where are the words
(``claim``, dashed, squares)? How far above chance? And does the model use what is there: its own accuracy is a
horizontal line, and the distance from the probe at the audio tokens down to that line is the *utilization gap*.

The streams of a PCLM run beside each other, not one after the other, so they are drawn as single marks. The line
breaks between the audio tokens and the language model, because there the states are read at another place (the answer
position) and a step is no longer a step of the same thing.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.plots.style import (
    CLAIM,
    GREY,
    LABEL_SIZE,
    MODEL,
    NOTE_SIZE,
    TRUTH,
    Series,
    add_note,
    new_axes,
    short_task,
    spread,
    theme,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.probes import ProbeResult

__all__ = ["layer_curves", "layer_grid"]

Estimate = tuple[float, float, float]
"""Value, low end and high end of an interval."""

_GROUPS = (  # pattern, group, heading, on the path from waveform to answer?
    (r"encoder", "encoder", "encoder layer", True),
    (r"tower$", "tower", "", True),
    (r"streams", "streams", "streams", False),
    (r"(projector|mixed)$", "tokens", "", True),
    (r"text", "text", "LLM layer, answer position", True),
    (r"layer", "layer", "layer", True),
)


@dataclass(frozen=True)
class _Place:
    """Where a site stands on the x axis."""

    site: str
    x: float
    label: str
    group: str
    serial: bool


def _layout(sites: Sequence[str]) -> list[_Place]:
    """Give every site an x position: one apart, and a little more where a new part of the model begins."""
    places: list[_Place] = []
    x = 0.0
    for site in sites:
        found = next(((g, s) for p, g, _, s in _GROUPS if re.match(p, site)), ("other", False))
        group, serial = found
        if places:
            x += 1.0 if places[-1].group == group else 1.5
        number = re.search(r"\[(\d+)\]$", site)
        label = number.group(1) if number else site.rsplit(".", 1)[-1]
        label = {"embed": "emb", "projector": "proj", "mixed": "mix"}.get(label, label)
        places.append(_Place(site, x, label, group, serial))
    return places


def _draw_axis(ax: Axes, places: list[_Place], *, headings: bool, most: int = 26) -> None:
    """Label the sites and separate the parts of the model."""
    step = max(1, math.ceil(len(places) / most))
    words = {i for i, p in enumerate(places) if not p.label.isdigit()}
    shown = []
    dropped = {"proj", "emb"} if step > 3 else set()
    for i, place in enumerate(places):
        if place.label in dropped:
            continue
        # Where sites are dense, a number beside a word would run into it.
        crowded = step > 1 and (i - 1 in words or i + 1 in words)
        if i in words or (int(place.label) % step == 0 and not crowded):
            shown.append(place)
    ax.set_xticks([p.x for p in shown], [p.label for p in shown])
    for tick, place in zip(ax.get_xticklabels(), shown, strict=True):
        if not place.label.isdigit():
            tick.set_rotation(90)
            if step > 1:
                tick.set_fontsize(7)
    if places:
        ax.set_xlim(places[0].x - 0.6, places[-1].x + 0.6)
    for before, after in itertools.pairwise(places):
        if before.group != after.group:
            ax.axvline((before.x + after.x) / 2, color="#DDDDDD", lw=0.8, zorder=0)
    if not headings:
        return
    for _, group, heading, _ in _GROUPS:
        xs = [p.x for p in places if p.group == group]
        if heading and len(xs) > 1:
            ax.text(
                (xs[0] + xs[-1]) / 2,
                1.01,
                heading if len(xs) > 3 else heading.split(",")[0].replace(" layer", ""),
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=LABEL_SIZE,
                color=GREY,
            )


def _draw_curve(ax: Axes, curve: pd.DataFrame, places: list[_Place], series: Series, name: str) -> None:
    """Draw one probe curve with its band: serial sites joined, parallel ones as open marks with error bars."""
    rows = curve.dropna(subset=["accuracy"]).set_index("site")
    # Marks shrink where an Axes is narrow for its sites, so that the line style stays visible between them.
    size = float(np.clip(0.35 * ax.bbox.width / ax.figure.dpi * 72 / max(len(places), 1), 1.8, 4.5))
    for part, chain in (("audio", ("encoder", "tower", "tokens")), ("text", ("text",)), ("layer", ("layer",))):
        on = [p for p in places if p.group in chain and p.site in rows.index]
        if not on:
            continue
        xs, block = [p.x for p in on], rows.loc[[p.site for p in on]]
        (line,) = ax.plot(
            xs, block["accuracy"], color=series.colour, marker=series.marker, ls=series.line, ms=size, zorder=4,
            clip_on=False,
        )  # fmt: skip
        line.set_gid(f"{name}:{part}")
        ax.fill_between(xs, block["low"], block["high"], color=series.colour, alpha=0.15, lw=0, zorder=1)
        if block["shuffle_low"].notna().any():
            # Where the same probes land when the labels are shuffled.
            low, high = block["shuffle_low"].astype(float), block["shuffle_high"].astype(float)
            ax.fill_between(
                xs, low, high, facecolor="none", edgecolor=series.colour, alpha=0.35, hatch="////", lw=0, zorder=0,
            ).set_gid(f"shuffle:{name}:{part}")  # fmt: skip
    beside = [p for p in places if p.group in ("streams", "other") and p.site in rows.index]
    if beside:
        xs, block = [p.x for p in beside], rows.loc[[p.site for p in beside]]
        below = (block["accuracy"] - block["low"]).clip(lower=0)
        above = (block["high"] - block["accuracy"]).clip(lower=0)
        drawn = ax.errorbar(
            xs, block["accuracy"], yerr=[below, above], fmt=series.marker, color=series.colour, mfc="white", lw=0.8,
            ms=size, zorder=4,
        )  # fmt: skip
        drawn.lines[0].set_gid(f"{name}:streams")


def _levels(curve: pd.DataFrame) -> tuple[float, float]:
    made = curve.dropna(subset=["accuracy"])
    return (
        (float("nan"), float("nan")) if made.empty else (float(made["chance"].iloc[0]), float(made["majority"].max()))
    )


def _gap_site(curve: pd.DataFrame) -> pd.Series[Any] | None:
    """Return the row of the audio tokens that the language model receives."""
    for site in ("mixed", "projector"):
        row = curve[(curve["site"] == site) & curve["accuracy"].notna()]
        if len(row):
            return row.iloc[0]
    return None


def _panel(
    ax: Axes,
    result: ProbeResult,
    task: str,
    claim_result: ProbeResult | None,
    model_accuracy: Estimate | None,
    *,
    labels: bool,
) -> None:
    curve = result.curve(task)
    places = _layout(list(curve["site"]))
    series = TRUTH if result.target != "claim" else CLAIM
    probes = [(curve, series, result.target)]
    if claim_result is not None and task in claim_result.tasks:
        probes.append((claim_result.curve(task), CLAIM, claim_result.target))
    named: list[_Name] = []
    for drawn, style, word in probes:
        _draw_curve(ax, drawn, places, style, word)
        made = drawn.dropna(subset=["accuracy"])
        if len(made):
            named.append(_Name(float(made["accuracy"].iloc[-1]), f"probe: {word}", style.colour))
    named += _draw_references(ax, probes)
    if model_accuracy is not None:
        value, low, high = model_accuracy
        ax.axhline(value, color=MODEL.colour, lw=1.8, zorder=3).set_gid("model")
        if math.isfinite(low) and math.isfinite(high):
            ax.axhspan(low, high, color="#000000", alpha=0.08, lw=0, zorder=0)
        named += [_Name(value, "model's own answer", MODEL.colour), *_draw_gap(ax, curve, places, value)]
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    if not curve["accuracy"].notna().any():
        reason = textwrap.fill(f"not probed: {curve['note'].iloc[0]}", 30)
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL_SIZE, color=GREY)
    if labels:
        _name_lines(ax, named)


@dataclass(frozen=True)
class _Name:
    """A label at the right end of a line."""

    y: float
    text: str
    colour: str
    pointer: bool = True


def _draw_references(ax: Axes, probes: Sequence[tuple[pd.DataFrame, Series, str]]) -> list[_Name]:
    """Draw chance (dotted) and majority (dash-dotted) of each probe; equal levels get one label."""
    found: dict[tuple[str, float], list[tuple[str, str]]] = {}
    for drawn, style, word in probes:
        chance, majority = _levels(drawn)
        if not math.isfinite(chance):
            continue
        close = abs(majority - chance) < 0.02
        ax.axhline(chance, color=style.colour, ls=(0, (1, 2)), lw=1.0, zorder=1).set_gid(f"chance:{word}")
        found.setdefault(("chance and majority" if close else "chance", round(chance, 2)), []).append(
            (word, style.colour)
        )
        if not close:
            ax.axhline(majority, color=style.colour, ls=(0, (4, 2, 1, 2)), lw=0.8, zorder=1).set_gid(f"majority:{word}")
            found.setdefault(("majority", round(majority, 2)), []).append((word, style.colour))
    several = len(probes) > 1
    return [
        _Name(
            level,
            f"{kind} ({whose[0][0]})" if several and len(whose) == 1 else kind,
            whose[0][1] if len(whose) == 1 else GREY,
        )
        for (kind, level), whose in found.items()
    ]


def _draw_gap(ax: Axes, curve: pd.DataFrame, places: list[_Place], value: float) -> list[_Name]:
    """Draw the utilization gap as an arrow at the audio tokens; nothing where the probe is not clearly above."""
    row = _gap_site(curve)
    if row is None or row["accuracy"] - value < 0.05:
        return []
    top = float(row["accuracy"])
    x = next(p.x for p in places if p.site == row["site"]) + 0.4
    arrow = {"arrowstyle": "<->", "lw": 1.0, "color": GREY, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(x, value), xytext=(x, top), arrowprops=arrow, zorder=5).set_gid("gap")
    return [_Name((value + top) / 2, f"↕ utilization gap {top - value:.2f}", GREY, pointer=False)]


def _name_lines(ax: Axes, named: Sequence[_Name]) -> None:
    """Write the names of the lines beside their right ends, moved apart where they would touch."""
    height = ax.bbox.height / ax.figure.dpi * 72
    ys = spread([name.y for name in named], gap=1.45 * LABEL_SIZE / max(height, 1.0), low=0.0, high=1.0)
    for name, y in zip(named, ys, strict=True):
        pointer = {"arrowstyle": "-", "lw": 0.6, "color": name.colour, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            name.text,
            xy=(1.0, name.y),
            xycoords=("axes fraction", "data"),
            xytext=(1.035, y),
            textcoords=("axes fraction", "data"),
            va="center",
            ha="left",
            fontsize=LABEL_SIZE,
            color=name.colour,
            arrowprops=pointer if name.pointer else None,
            annotation_clip=False,
        )


def layer_curves(
    result: ProbeResult,
    task: str,
    claim_result: ProbeResult | None = None,
    model_accuracy: Estimate | None = None,
    *,
    note: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw probe accuracy along the sites for one task.

    Parameters
    ----------
    result : ProbeResult
        Usually of the target ``"truth"``.
    task : str
    claim_result : ProbeResult, optional
        Drawn on the same axis, usually of the target ``"claim"``.
    model_accuracy : tuple of float, optional
        The model's own accuracy on the same items with its interval: value, low, high.
    note : str, optional
        Caption under the picture.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    with theme():
        if ax is None:
            # Wide enough that the marks of a 32-layer encoder stay apart.
            ax = new_axes(min(13.0, max(8.2, 3.0 + 0.11 * len(result.sites))), 3.9)[1]
        curve = result.curve(task)
        _draw_axis(ax, _layout(list(curve["site"])), headings=True)
        _panel(ax, result, task, claim_result, model_accuracy, labels=True)
        ax.set_ylabel("R²" if (curve["metric"] == "R2").any() else "probe accuracy")
        row = curve.iloc[0]
        reducer = " and ".join(dict.fromkeys(curve["reducer"]))
        shuffled = ", hatched: shuffled labels" if curve["shuffle_low"].notna().any() else ""
        about = (
            f"site   (states: {reducer}; n = {int(row['n'])} clips, folds by {row['group']}, "
            f"{int(row['n_groups'])} groups, band: 95 % interval{shuffled})"
        )
        # Wrapped to the width of the Axes, whose labels are half as wide as high.
        ax.set_xlabel(textwrap.fill(about, max(40, int(ax.bbox.width / ax.figure.dpi * 72 / (9.5 * 0.5)))))
        ax.set_title(f"{short_task(task)}: what a linear probe finds", pad=18)
        add_note(ax, note)
    return ax


def layer_grid(
    result: ProbeResult,
    claim_result: ProbeResult | None = None,
    model_accuracy: Mapping[str, Estimate] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    columns: int = 5,
    title: str | None = None,
    note: str | None = None,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Draw the layer curves of all tasks as small multiples with one legend.

    Parameters
    ----------
    result, claim_result : ProbeResult
        As in :func:`layer_curves`.
    model_accuracy : mapping of task to tuple of float, optional
        Value, low and high of the model's own accuracy per task.
    tasks : sequence of str, optional
        Default: all tasks of `result`.
    columns : int
        Panels in a row.
    title, note : str, optional
        Heading and caption of the whole picture.
    axes : sequence of Axes, optional
        One per task; a new figure by default.

    Returns
    -------
    array of Axes, shape (task,)
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    chosen = list(tasks) if tasks is not None else result.tasks
    with theme():
        if axes is None:
            columns = min(columns, len(chosen))
            lines = math.ceil(len(chosen) / columns)
            fig, made = plt.subplots(
                lines, columns, figsize=(2.75 * columns + 0.4, 2.25 * lines + 0.9), sharey=True, layout="constrained",
                squeeze=False,
            )  # fmt: skip
            flat = list(made.flat)
            for spare in flat[len(chosen) :]:
                spare.set_visible(False)
            handles = [Line2D([], [], color=TRUTH.colour, marker=TRUTH.marker, ls=TRUTH.line, label="probe: truth")]
            if claim_result is not None:
                handles.append(
                    Line2D([], [], color=CLAIM.colour, marker=CLAIM.marker, ls=CLAIM.line, label="probe: claim")
                )
            if any(place.group == "streams" for place in _layout(result.sites)):
                handles.append(Line2D([], [], color=GREY, marker="o", mfc="white", ls="", label="open: one stream"))
            handles.append(Line2D([], [], color=GREY, ls=(0, (1, 2)), lw=1.0, label="chance"))
            handles.append(Line2D([], [], color=GREY, ls=(0, (4, 2, 1, 2)), lw=0.8, label="majority"))
            if model_accuracy:
                handles.append(Line2D([], [], color=MODEL.colour, lw=1.8, label="model's own answer"))
            fig.legend(handles=handles, loc="outside upper right", ncols=len(handles))
            if title:
                fig.suptitle(title, x=0.01, ha="left", fontweight="bold")
            if note:
                _figure_note(fig, note)
        else:
            flat = list(axes)
            columns = len(flat)
        for number, (task, ax) in enumerate(zip(chosen, flat, strict=False)):
            _draw_axis(ax, _layout(list(result.curve(task)["site"])), headings=False, most=14)
            _panel(ax, result, task, claim_result, (model_accuracy or {}).get(task), labels=False)
            ax.tick_params(axis="x", labelsize=7)
            ax.set_title(short_task(task), fontsize=10)
            if number % columns == 0:
                ax.set_ylabel("probe accuracy")
    return np.array(flat[: len(chosen)], dtype=object)


def _figure_note(fig: Any, note: str) -> None:
    """Write a caption under a whole figure; the layout makes room for it."""
    wide = int(fig.get_figwidth() * 72 / (NOTE_SIZE * 0.52))
    fig.supxlabel(textwrap.fill(note, wide), x=0.01, ha="left", fontsize=NOTE_SIZE, color=GREY).set_gid("note")
