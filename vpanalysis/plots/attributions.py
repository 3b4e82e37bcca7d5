"""Maps of attributions in seconds and hertz, coloured tokens, and the curves that say whether a map is true.

Blue pulls towards the truth, vermilion towards what the words claim; numbers, signs and hatching say so as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.plots.style import CLAIM, GREY, SERIES, TRUTH, add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["attribution_map", "attribution_profile", "faithfulness_curves"]

_HZ = (100, 300, 500, 1000, 2000, 4000, 8000)
"""Frequencies that are named."""

_COLUMNS = 92
"""Characters of a line of tokens."""

_WINDOW = 0.2
"""Seconds of audio that are drawn as one token."""


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("margin", [CLAIM.colour, "#FFFFFF", TRUTH.colour])


def attribution_map(
    values: xr.DataArray, ax: Axes | None = None, *, title: str = "", note: str | None = None,
    mel_edges: Any = None,
) -> Axes:  # fmt: skip
    """Draw the map of one item.

    Parameters
    ----------
    values : DataArray, nats
        From :meth:`vpanalysis.attribution.AttributionResult.map`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    title : str
        Model, site, method and baseline.
    note : str, optional
        Caption under the picture.
    mel_edges : array, shape (bin + 2,), optional
        Edges of mel bins in hertz, for a map with frequencies.

    Returns
    -------
    Axes
        Seconds against hertz, seconds against nats a second, or tokens in lines.
    """
    with theme():
        if values.dims == ("token",):
            ax = _tokens(values, ax)
        elif len(values.dims) == 2:
            ax = _spectrogram(values, ax, mel_edges)
        else:
            ax = _time(values, ax)
        ax.set_title(title, fontsize=9.5)
        add_note(ax, note)
    return ax


def _spectrogram(values: xr.DataArray, ax: Axes | None, edges: Any) -> Axes:
    if ax is None:
        ax = new_axes(7.0, 3.6)[1]
    step = float(values.attrs["step_s"])
    bins, frames = values.shape
    data = np.asarray(values.values, dtype=np.float64)
    # A few extreme cells would leave the rest white.
    most = max(float(np.quantile(np.abs(data), 0.995)), 1e-12)
    drawn = ax.imshow(
        data, origin="lower", aspect="auto", cmap=_colours(), vmin=-most, vmax=most, interpolation="nearest",
        extent=(0.0, frames * step, -0.5, bins - 0.5),
    )  # fmt: skip
    centres = np.asarray(values["mel_hz"].values if edges is None else np.asarray(edges)[1:-1], dtype=np.float64)
    named = [hz for hz in _HZ if hz <= centres[-1] * 1.05]
    ax.set_yticks(np.interp(named, centres, np.arange(bins)), [f"{hz:,}" for hz in named])
    ax.set_ylabel("frequency in Hz (mel scale)")
    ax.set_xlabel("time in s")
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, extend="both")
    bar.set_label("nats a cell  (+ truth, − claims)")
    return ax


def _time(values: xr.DataArray, ax: Axes | None) -> Axes:
    if ax is None:
        ax = new_axes(7.0, 2.9)[1]
    step = float(values.attrs["step_s"])
    rate = np.asarray(values.values, dtype=np.float64) / step
    start = np.arange(len(rate)) * step
    for sign, series, name, hatch in ((1, TRUTH, "towards the truth", ""), (-1, CLAIM, "towards the claims", "///")):
        ax.bar(
            start, np.where(sign * rate > 0, rate, 0.0), width=step, align="edge", color=series.colour, lw=0.3,
            edgecolor="white", hatch=hatch, label=name,
        )  # fmt: skip
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_xlim(0, len(rate) * step)
    ax.set_xlabel("time in s")
    ax.set_ylabel("nats a second")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def _pieces(values: xr.DataArray) -> list[tuple[str, float, bool]]:
    """Return what is drawn one after the other: text, nats, whether it is audio."""
    step = float(values.attrs["step_s"])
    size = max(1, round(_WINDOW / step))
    spans, texts = list(values["span"].values), list(values["text"].values)
    numbers = np.asarray(values.values, dtype=np.float64)
    out: list[tuple[str, float, bool]] = []
    heard = 0
    for number, span, text in zip(numbers, spans, texts, strict=True):
        if span == "silence":
            # Audio tokens behind the clip are one piece, not hundreds.
            before = out.pop()[1] if out and out[-1][0] == "silence" else 0.0
            out.append(("silence", before + float(number), True))
            continue
        if span != "audio":
            out.append((str(text).replace("\n", "⏎").strip() or "␣", float(number), False))
            continue
        if heard % size == 0:
            out.append((f"{heard * step:.1f} s", 0.0, True))
        name, known, _ = out[-1]
        out[-1] = (name, known + float(number), True)
        heard += 1
    return out


def _tokens(values: xr.DataArray, ax: Axes | None) -> Axes:
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    pieces = _pieces(values)
    places, column, line = [], 0, 0
    for text, number, _ in pieces:
        width = max(len(text), len(f"{number:+.1f}")) + 1
        if column + width > _COLUMNS:
            column, line = 0, line + 1
        places.append((column, line, width))
        column += width
    if ax is None:
        ax = new_axes(8.4, 0.9 + 0.42 * (line + 1))[1]
    most = max(max(abs(number) for _, number, _ in pieces), 1e-12)
    shade, norm = _colours(), Normalize(-most, most)
    for (text, number, heard), (x, y, width) in zip(pieces, places, strict=True):
        colour = shade(norm(number))
        dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.55
        edge, style = (GREY, ":") if heard else ("#CCCCCC", "-")
        ax.add_patch(Rectangle((x, y + 0.04), width - 0.15, 0.9, fc=colour, ec=edge, lw=0.5, ls=style))
        middle = x + (width - 0.15) / 2
        ink = "white" if dark else "black"
        ax.text(middle, y + 0.34, text, ha="center", va="center", fontsize=7, family="monospace", color=ink)
        # Small numbers are left to the shade.
        if abs(number) >= max(0.05, 0.02 * most):
            ax.text(middle, y + 0.74, f"{number:+.1f}", ha="center", va="center", fontsize=5.5, color=ink)
    ax.set_xlim(-0.3, _COLUMNS)
    ax.set_ylim(line + 1.05, -0.1)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    step = float(values.attrs["step_s"])
    ax.set_xlabel(f"nats a token; audio (dotted) in windows of {max(1, round(_WINDOW / step)) * step:.2g} s")
    return ax


def attribution_profile(rows: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw mean attributions to equal parts of the clips with their intervals.

    Parameters
    ----------
    rows : DataFrame
        Of one task of :meth:`vpanalysis.attribution.AttributionResult.over_time`.
    ax : Axes, optional
    title : str

    Returns
    -------
    Axes
    """
    with theme():
        if ax is None:
            ax = new_axes(5.6, 3.0)[1]
        middle = 50 * (rows["start"] + rows["stop"]).to_numpy(dtype=np.float64)
        value, low, high = (rows[name].to_numpy(dtype=np.float64) for name in ("value", "low", "high"))
        ax.axhline(0, color=GREY, lw=0.8, zorder=0)
        ax.errorbar(middle, value, yerr=[value - low, high - value], fmt="o-", color=TRUTH.colour, lw=1.3, capsize=2)
        ax.set_xlim(0, 100)
        ax.set_xlabel("part of the clip, in % of its length")
        ax.set_ylabel("nats (mean and interval)")
        task = str(rows["task"].iloc[0])
        about = "all tasks" if task == "all" else short_task(task)
        what = f"{about}, {int(rows['n'].max())} clips"
        ax.set_title(f"{title}: {what}" if title else what, fontsize=9.5)
    return ax


_NAMES = {
    "deletion": ("taken away, largest first", TRUTH),
    "deletion_random": ("taken away at random", SERIES[4]),
    "insertion": ("put back, largest first", CLAIM),
    "insertion_random": ("put back at random", SERIES[5]),
}


def faithfulness_curves(rows: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the mean margin while parts of the state are taken away and put back.

    Parameters
    ----------
    rows : DataFrame
        One row a curve and share: task, curve, share, value, low, high, n.
    ax : Axes, optional
    title : str

    Returns
    -------
    Axes
    """
    with theme():
        if ax is None:
            ax = new_axes(6.8, 3.4)[1]
        for curve, part in rows.groupby("curve", sort=False):
            name, series = _NAMES[str(curve)]
            x = 100 * part["share"].to_numpy(dtype=np.float64)
            ax.plot(x, part["value"], color=series.colour, marker=series.marker, ls=series.line, ms=4, label=name)
            ax.fill_between(x, part["low"], part["high"], color=series.colour, alpha=0.10, lw=0)
        ax.axhline(0, color=GREY, lw=0.8, zorder=0)
        ax.set_xlim(0, 100)
        ax.set_xlabel("blocks taken away or put back, in %")
        ax.set_ylabel("margin of the truth, in nats")
        task = str(rows["task"].iloc[0])
        about = "all tasks" if task == "all" else short_task(task)
        what = f"{about}, {int(rows['n'].max())} items"
        ax.set_title(f"{title}: {what}" if title else what, fontsize=9.5)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax
