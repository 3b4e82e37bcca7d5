"""What a calibration found: by how much each other value is worse, with its interval.

A forest: one row a comparison, grouped by convention. A convention is decided where all its rows end to the right of
the grey band, in which an advantage is too small to count. Verdicts are told by marker and by words, not by colour
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from vpanalysis.plots.style import GREY, LABEL_SIZE, SERIES, add_note, new_axes, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["calibration_forest"]

_HEADINGS = {
    "layer_index_convention": "layer numbers",
    "mid_pool": "middle layers",
    "gate_order": "order of the gate's outputs",
    "gate_text": "text of the gate",
    "bert_pooling": "pooling of BERT",
}
_KINDS = {"one step": "", "best with it": " (best of all with it)"}


class CalibrationLike(Protocol):
    """What is needed of a Calibration here."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """Its ``name``."""

    @property
    def comparisons(self) -> pd.DataFrame:
        """One row a comparison."""

    @property
    def decided(self) -> dict[str, str]:
        """What was decided."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """``margin`` and ``level``."""


def calibration_forest(found: CalibrationLike, *, note: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the comparisons of a calibration.

    Parameters
    ----------
    found : Calibration
    note : str, optional
        Caption under the picture.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        x: advantage of the chosen value in nats an item; one row a comparison.
    """
    rows = _rows(found)
    with theme():
        if ax is None:
            ax = new_axes(8.2, 1.5 + 0.27 * len(rows))[1]
        margin = float(found.settings["margin"])
        ax.axvspan(-margin, margin, color="#000000", alpha=0.10, lw=0, zorder=0).set_gid("margin")
        ax.axvline(0, color=GREY, lw=0.8, zorder=1)
        for y, row in enumerate(rows):
            if isinstance(row, str):
                continue
            worse = row["verdict"] == "worse"
            series = SERIES[0] if worse else SERIES[1]
            if not math.isnan(row["low"]):
                ax.plot([row["low"], row["high"]], [y, y], color=series.colour, lw=1.6, ls=series.line, zorder=2)
            (mark,) = ax.plot(
                [row["difference"]], [y], marker=series.marker, ls="", ms=5.5, color=series.colour,
                mfc=series.colour if worse else "white", zorder=3,
            )  # fmt: skip
            mark.set_gid(f"{row['convention']}:{row['other']}:{row['kind']}")
            ax.annotate(
                str(row["verdict"]), xy=(1.0, y), xycoords=("axes fraction", "data"), xytext=(5, 0), va="center",
                textcoords="offset points", fontsize=LABEL_SIZE, color=series.colour, annotation_clip=False,
            )  # fmt: skip
        ax.set_yticks(range(len(rows)), [_label(row) for row in rows])
        for label, row in zip(ax.get_yticklabels(), rows, strict=True):
            if isinstance(row, str):
                label.set_fontweight("bold")
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("advantage of the chosen value (nat an item)")
        ax.set_title(f"Calibration of {found.model} on {found.benchmark['name']}")
        level = 100 * float(found.settings["level"])
        # The labels take half of the figure, which its layout finds out only when it is drawn.
        add_note(ax, " ".join(filter(None, (_legend(margin, level), note))), width=3.6)
    return ax


def _legend(margin: float, level: float) -> str:
    return f"Intervals hold together at {level:g} %. Grey band: advantages below {margin:g} do not count."


def _rows(found: CalibrationLike) -> list[str | dict[Any, Any]]:
    """Return headings and comparisons from top to bottom."""
    rows: list[str | dict[Any, Any]] = []
    for convention, part in found.comparisons.groupby("convention", sort=False):
        name = _HEADINGS.get(str(convention), str(convention))
        value = part["chosen"].iloc[0]
        state = "decided" if str(convention) in found.decided else "not decided"
        rows.append(f"{name}: {value}, {state}")
        rows += part.to_dict("records")
    return rows


def _label(row: str | dict[Any, Any]) -> str:
    return row if isinstance(row, str) else f"against {row['other']}{_KINDS.get(row['kind'], '')}"
