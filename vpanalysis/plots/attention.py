"""Where the answer position looks: a line a span along the layers, or a map of layers and heads.

Both pictures say what they are not: attention weights are no attribution (Jain and Wallace 2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.maps import draw_map
from vpanalysis.plots.style import GREY, LABEL_SIZE, SERIES, add_note, new_axes, spread, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attention_by_layer", "attention_map"]

CAVEAT = "Attention is not attribution: other weights may give the same answer (Jain and Wallace 2019)."

_LABEL = {
    "mass": "attention mass from the answer position",
    "per_token": "attention per token of the span",
    "relative": "attention over the span's share of tokens",
}


def attention_by_layer(
    rows: pd.DataFrame, ax: Axes | None = None, *, name: str = "", level: float = 0.95, note: str | None = CAVEAT
) -> Axes:
    """Draw the attention to every span along the layers, with intervals.

    Parameters
    ----------
    rows : DataFrame
        Of one task, head and quantity of :attr:`vpanalysis.attribution.AttentionResult.table`.
    ax : Axes, optional
    name : str
        Of the model, for the title.
    level : float
        Of the intervals, for the label.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    quantity = str(rows["quantity"].iloc[0])
    spans = list(dict.fromkeys(rows["span"]))
    with theme():
        if ax is None:
            ax = new_axes(5.8, 3.6)[1]
        ends = []
        for span, series in zip(spans, SERIES, strict=False):
            part = rows[rows["span"] == span].sort_values("layer")
            x = part["layer"].to_numpy(dtype=np.float64)
            value, low, high = (part[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
            ax.fill_between(x, low, high, color=series.colour, alpha=0.15, lw=0)
            ax.plot(x, value, color=series.colour, marker=series.marker, ls=series.line)
            ends.append(float(value[-1]))
        if quantity == "relative":
            ax.axhline(1.0, color=GREY, lw=0.8, ls=(0, (1, 2)))
        layers = sorted(set(rows["layer"]))
        bottom, top = ax.get_ylim()
        ax.set_xlim(layers[0] - 0.15, layers[-1] + 0.15)
        ax.set_ylim(bottom, top)
        for span, series, y in zip(spans, SERIES, spread(ends, 0.07 * (top - bottom), bottom, top), strict=False):
            ax.annotate(span, (1.01, y), xycoords=("axes fraction", "data"), color=series.colour, va="center",
                        fontsize=LABEL_SIZE, annotation_clip=False)  # fmt: skip
        step = max(1, len(layers) // 14)
        ax.set_xticks(layers[::step])
        ax.set_xlabel(f"layer of the language model (bands: {100 * level:g} % intervals)")
        ax.set_ylabel(_LABEL.get(quantity, quantity))
        ax.set_title(f"{name}: attention, mean of the heads" if name else "Attention, mean of the heads")
        add_note(ax, note)
    return ax


def attention_map(rows: pd.DataFrame, ax: Axes | None = None, *, name: str = "", note: str | None = CAVEAT) -> Axes:
    """Draw the attention to one span, a row a head (and their mean) and a column a layer.

    Parameters
    ----------
    rows : DataFrame
        Of one task, span and quantity of :attr:`vpanalysis.attribution.AttentionResult.table`.
    ax : Axes, optional
    name : str
        Of the model, for the title.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        Numbers stand in the cells of maps of up to 400.
    """
    quantity, span = str(rows["quantity"].iloc[0]), str(rows["span"].iloc[0])
    heads = [h for h in dict.fromkeys(rows["head"]) if h != "mean"] + ["mean"]
    layers = sorted(set(rows["layer"]))
    cells = rows.set_index(["head", "layer"])["value"]
    value = np.array([[float(cells.loc[(head, layer)]) for layer in layers] for head in heads])
    few = value.size <= 400
    text = pd.DataFrame(value).map(lambda v: f"{v:.2f}" if few else "")
    with theme():
        if ax is None:
            ax = new_axes(2.4 + (0.5 if few else 0.16) * len(layers), 1.8 + (0.32 if few else 0.14) * len(heads))[1]
        high = 1.0 if quantity == "mass" else max(1e-9, float(np.nanmax(value)))
        draw_map(ax, value, text, high=high, size=7.5)
        step, jump = max(1, len(layers) // 14), max(1, len(heads) // 16)
        ax.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        shown = [k for k in range(len(heads) - 1) if k % jump == 0] + [len(heads) - 1]
        ax.set_yticks(shown, [heads[k] for k in shown])
        ax.axhline(len(heads) - 1.5, color="#BBBBBB", lw=0.8)
        ax.set_xlabel("layer of the language model")
        ax.set_ylabel("head")
        what = _LABEL.get(quantity, quantity)
        ax.set_title(f"{name}: {span}\n{what}" if name else f"{span}\n{what}", fontsize=9)
        add_note(ax, note)
    return ax
