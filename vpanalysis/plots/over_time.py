"""Pictures with seconds on the x axis: decodability over time, its generalisation, and where attention was.

A curve over time carries three lines to read it by: chance (dotted), the threshold that the best bin of shuffled labels
passes once in twenty times (dashed), and a strip below with the share of clips that are still there, since a bin that
few clips reach says little. Marks are filled where the curve is above what shuffles reach at their best anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, LABEL_SIZE, SERIES, add_note, new_axes, short_task, spread, theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vpanalysis.probes.attentive import AttentiveResult
    from vpanalysis.probes.over_time import TimeResult

__all__ = ["attention_profile", "generalisation_map", "time_curve"]

_MOST = 4
"""Sites that are drawn by default: more curves with bands cannot be told apart."""

_CLOCK = {"start": "seconds from the start", "end": "seconds before the end", "relative": "share of the clip"}


def time_curve(
    result: TimeResult,
    task: str | None = None,
    *,
    sites: str | Sequence[str] | None = None,
    note: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw probe accuracy over time for one task.

    Parameters
    ----------
    result : TimeResult
    task : str, optional
        Default: the first.
    sites : str or sequence of str, optional
        Default: all, or four of them, evenly spaced along the model.
    note : str, optional
        Caption under the picture.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    RunError
        For a task or site that was not probed.
    """
    task = result.tasks[0] if task is None else task
    shown = _few(result.sites) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    curves = {site: result.curve(task, site) for site in shown}
    with theme():
        if ax is None:
            ax = new_axes(7.6, 3.7)[1]
        ends: list[tuple[float, float, str, str]] = []
        for number, (site, curve) in enumerate(curves.items()):
            made = curve.dropna(subset=["accuracy"])
            if made.empty:
                continue
            end = _one_curve(ax, made, number, site, alone=len(curves) == 1)
            ends.append((end[0], end[1], site, SERIES[number % len(SERIES)].colour))
        every = pd.concat(list(curves.values()))
        made = every.dropna(subset=["accuracy"])
        if made.empty:
            ax.text(0.5, 0.5, f"not probed: {every['note'].iloc[0]}", transform=ax.transAxes, ha="center", color=GREY)
            return ax
        chance = float(made["chance"].iloc[0])
        ax.axhline(chance, color=GREY, ls=(0, (1, 2)), lw=1.0, zorder=1).set_gid("chance")
        names = [(chance, "chance", GREY)]
        if made["threshold"].notna().any():
            threshold = float(made["threshold"].max())
            ax.axhline(threshold, color=GREY, ls=(0, (5, 2)), lw=0.9, zorder=1).set_gid("threshold")
            names.append((threshold, "shuffles' best bin, 95 %", GREY))
        ratio = (made["metric"] == "R2").any()
        low = min(0.0, float(np.floor(10 * made["low"].min()) / 10)) if ratio else 0.0
        # Room below for the clips that are still there.
        ax.set_ylim(low - 0.17 * (1.0 - low), 1.02)
        ax.set_yticks([t for t in (0, 0.25, 0.5, 0.75, 1.0) if t >= low])
        _remaining(ax, every, low)
        ax.margins(x=0.01)
        _name_ends(ax, [(y, name, colour) for _, y, name, colour in ends] + names)
        unit = str(made["unit"].iloc[0])
        ax.set_xlabel(_CLOCK["relative"] if unit == "clip" else _CLOCK[str(result.settings.get("align", "start"))])
        ax.set_ylabel("R²" if ratio else "probe accuracy")
        ax.set_title(f"{short_task(task)}: {result.settings.get('target', '')} over time")
        by = made["group"].iloc[0]
        words = f"{int(made['n'].max())} clips, folds by {by}, band: 95 % interval by group."
        if made["p_adjusted"].notna().any():
            words += " Filled marks: p ≤ 0.05, adjusted for the bins of the site."
        add_note(ax, " ".join(p for p in (words, note) if p))
    return ax


def _few(sites: list[str]) -> list[str]:
    if len(sites) <= _MOST:
        return sites
    return [sites[round(i)] for i in np.linspace(0, len(sites) - 1, _MOST)]


def _one_curve(ax: Axes, made: pd.DataFrame, number: int, site: str, *, alone: bool) -> tuple[float, float]:
    """Draw a curve with its band; return its end."""
    series = SERIES[number % len(SERIES)]
    x, y = made["time"].to_numpy(dtype=float), made["accuracy"].to_numpy(dtype=float)
    (line,) = ax.plot(x, y, color=series.colour, ls=series.line, zorder=4)
    line.set_gid(site)
    low, high = made["low"].to_numpy(dtype=float), made["high"].to_numpy(dtype=float)
    ax.fill_between(x, low, high, color=series.colour, alpha=0.18 if alone else 0.10, lw=0, zorder=2)
    passed = (made["p_adjusted"] <= 0.05).to_numpy()
    size = 4.5 if len(x) < 45 else 3.0
    for where, face in ((passed, series.colour), (~passed, "white")):
        ax.plot(x[where], y[where], series.marker, ms=size, color=series.colour, mfc=face, mew=0.9, zorder=5)
    if alone and made["shuffle_low"].notna().any():
        below, above = made["shuffle_low"].to_numpy(dtype=float), made["shuffle_high"].to_numpy(dtype=float)
        band = ax.fill_between(x, below, above, facecolor="none", edgecolor=GREY, alpha=0.4, hatch="////", lw=0)
        band.set_gid("shuffle")
    return float(x[-1]), float(y[-1])


def _remaining(ax: Axes, rows: pd.DataFrame, floor: float) -> None:
    """Draw a strip at the bottom: how many clips have frames in a bin."""
    part = rows.drop_duplicates("bin").sort_values("time").dropna(subset=["time"])
    height = 0.10 * (1.0 - floor)
    base, most = ax.get_ylim()[0], float(part["n"].max())
    x = np.concatenate([part["start"].to_numpy(dtype=float), part["stop"].to_numpy(dtype=float)[-1:]])
    values = part["n"].to_numpy(dtype=float) / max(most, 1.0) * height
    strip = ax.fill_between(
        x, base, base + np.concatenate([values, values[-1:]]), step="post", color="#BBBBBB", lw=0, zorder=1
    )
    strip.set_gid("remaining")
    ax.annotate(
        "clips there", xy=(0.0, base + height / 2), xycoords=("axes fraction", "data"), xytext=(-4, 0),
        textcoords="offset points", ha="right", va="center", fontsize=7.5, color=GREY, annotation_clip=False,
    )  # fmt: skip


def _name_ends(ax: Axes, named: list[tuple[float, str, str]]) -> None:
    """Write names beside the right ends of lines, moved apart where they would touch."""
    low, high = ax.get_ylim()
    height = ax.bbox.height / ax.figure.dpi * 72
    gap = 1.45 * LABEL_SIZE / max(height, 1.0) * (high - low)
    ys = spread([value for value, _, _ in named], gap=gap, low=low, high=high)
    for (value, text, colour), y in zip(named, ys, strict=True):
        ax.annotate(
            text, xy=(1.0, value), xycoords=("axes fraction", "data"), xytext=(1.03, y),
            textcoords=("axes fraction", "data"), va="center", ha="left", fontsize=LABEL_SIZE, color=colour,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )  # fmt: skip


def generalisation_map(
    result: TimeResult,
    task: str | None = None,
    site: str | None = None,
    *,
    note: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the accuracy of each bin's probe in each other bin (King and Dehaene 2014).

    Parameters
    ----------
    result : TimeResult
        Made with ``generalise=True``.
    task, site : str, optional
        Default: the first task, and its best site.
    note : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
        White is chance, blue above and red below; a contour encloses cells whose interval is above chance.

    Raises
    ------
    RunError
        Where the map was not made.
    """
    import matplotlib as mpl

    task = result.tasks[0] if task is None else task
    if site is None:
        rows = result.table[(result.table["task"] == task) & result.table["accuracy"].notna()]
        site = str(rows["site"].iloc[int(rows["accuracy"].to_numpy().argmax())]) if len(rows) else result.sites[0]
    wide = result.pivot(task, site)
    rows = result.generalisation
    rows = rows[(rows["task"] == task) & (rows["site"] == site)]
    chance = float(rows["chance"].iloc[0])
    above = rows.assign(above=rows["low"] > chance).pivot(index="train_time", columns="test_time", values="above")
    times = wide.columns.to_numpy(dtype=float)
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.5
    edge = (times[0] - half, times[-1] + half)
    reach = max(1.0 - chance, 1e-6)
    with theme():
        if ax is None:
            ax = new_axes(5.2, 4.3)[1]
        colours = mpl.colormaps["RdBu"].with_extremes(bad="#EEEEEE")
        image = ax.imshow(
            wide.to_numpy(dtype=float), origin="lower", extent=(*edge, *edge), cmap=colours, vmin=chance - reach,
            vmax=chance + reach, aspect="equal", interpolation="nearest",
        )  # fmt: skip
        image.set_gid("map")
        _outline(ax, above.to_numpy(dtype=bool), times, half)
        ax.plot(edge, edge, color=GREY, lw=0.7, ls=(0, (1, 2)))
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, boundaries=None)
        bar.ax.set_ylim(max(0.0, float(np.nanmin(wide.to_numpy())) - 0.05), 1.0)
        bar.ax.axhline(chance, color=GREY, lw=0.9)
        bar.set_label(f"accuracy (white: chance, {chance:.2f})")
        unit = str(rows["unit"].iloc[0])
        clock = _CLOCK["relative"] if unit == "clip" else _CLOCK[str(result.settings.get("align", "start"))]
        ax.set_xlabel(f"tested at ({clock})")
        ax.set_ylabel("trained at")
        ax.set_title(f"{short_task(task)}, {site}")
        words = f"{int(rows['n'].max())} clips; outlined: 95 % interval of the cell above chance, not adjusted."
        add_note(ax, " ".join(p for p in (words, note) if p))
    return ax


def _outline(ax: Axes, inside: Any, times: Any, half: float) -> None:
    """Draw the border between cells that are inside and cells that are not."""
    grown = np.pad(inside, 1)
    lines = []
    for row, column in np.argwhere(grown):
        x, y = times[column - 1], times[row - 1]
        for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if not grown[row + dy, column + dx]:
                if dy:
                    lines.append([(x - half, y + dy * half), (x + half, y + dy * half)])
                else:
                    lines.append([(x + dx * half, y - half), (x + dx * half, y + half)])
    if lines:
        from matplotlib.collections import LineCollection

        ax.add_collection(LineCollection(lines, colors="black", linewidths=0.9), autolim=False)


def attention_profile(
    result: AttentiveResult,
    task: str | None = None,
    *,
    sites: str | Sequence[str] | None = None,
    item: str | None = None,
    note: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where attentive pooling looked: the mean over items on the clip from 0 to 1, or one item in seconds.

    Parameters
    ----------
    result : AttentiveResult
    task : str, optional
        Default: the first.
    sites : str or sequence of str, optional
        Default: all, or four of them.
    item : str, optional
        Id of an item; its attention is drawn frame by frame.
    note : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes
        Attention over even attention: 1 is what the mean does.

    Raises
    ------
    RunError
        For a task, site or item that was not probed.
    """
    from vpanalysis.errors import RunError

    task = result.tasks[0] if task is None else task
    shown = _few(result.sites) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    for name, value, known in (("task", task, result.tasks), *(("site", site, result.sites) for site in shown)):
        if value not in known:
            raise RunError(f"cannot show the attention of the {name}", found=repr(value), allowed=known, word=value)
    with theme():
        if ax is None:
            ax = new_axes(7.6, 3.4)[1]
        named: list[tuple[float, str, str]] = []
        number, unit = 0, ""
        for site in shown:
            line = result.table[(result.table["task"] == task) & (result.table["site"] == site)].iloc[0]
            if pd.isna(line["accuracy"]):
                continue
            if item is None:
                rows = result.profile[(result.profile["task"] == task) & (result.profile["site"] == site)]
                x, y = (rows["start"] + rows["stop"]) / 2, rows["density"]
            else:
                rows = result.of_item(item, task=task, site=site)
                x, y, unit = rows["time"], rows["density"], str(rows["unit"].iloc[0])
            for head in dict.fromkeys(rows["head"]):
                series, mine = SERIES[number % len(SERIES)], (rows["head"] == head).to_numpy()
                number += 1
                ax.plot(x[mine], y[mine], color=series.colour, ls=series.line, zorder=4)[0].set_gid(f"{site}:{head}")
                if item is None:
                    low, high = rows["low"][mine].clip(lower=0), rows["high"][mine]
                    ax.fill_between(x[mine], low, high, color=series.colour, alpha=0.15, lw=0, zorder=2)
                label = site + (f", head {head}" if rows["head"].nunique() > 1 else "")
                named.append((float(y[mine].iloc[-1]), f"{label} ({line['difference']:+.2f})", series.colour))
        if not named:
            ax.text(0.5, 0.5, "not probed", transform=ax.transAxes, ha="center", color=GREY)
            return ax
        ax.axhline(1.0, color=GREY, ls=(0, (1, 2)), lw=1.0, zorder=1).set_gid("even")
        ax.set_ylim(bottom=0, top=ax.get_ylim()[1])
        ax.margins(x=0.01)
        _name_ends(ax, [*named, (1.0, "even: the mean", GREY)])
        clocks = {"s": "seconds from the start", "position": "position in the text", "frame": "frames from the start"}
        ax.set_xlabel("share of the clip" if item is None else clocks.get(unit, unit))
        ax.set_ylabel("attention / even attention")
        ax.set_title(f"{short_task(task)}: where attentive pooling looks")
        words = (f"Clip {item}, out of fold. " if item else "") + "In brackets: accuracy gained over the mean."
        if item is None:
            words = (
                f"Mean over {int(result.profile['n'].max())} clips, out of fold, band: 95 % interval by group. " + words
            )
        add_note(ax, " ".join(p for p in (words, note) if p))
    return ax
