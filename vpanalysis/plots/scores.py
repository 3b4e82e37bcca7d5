"""Scores of several checkpoints side by side: does it listen, or does it read?

:func:`acc_vs_ala` is the plane of the question itself: picks the truth (up) against picks the claim (right), on
conflict items. No model can be above the falling diagonal; the distance to it is what a model answers that is neither.
On two options every model is *on* it, and a model that merely inverts the words reaches the top left corner without
hearing anything, which is why :func:`hearing_bars` sets congruent and neutral accuracy and the hearing index beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, LABEL_SIZE, SERIES, add_note, new_axes, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation, Text

__all__ = ["METRICS", "acc_vs_ala", "hearing_bars", "overall_table"]


Estimate = tuple[float, float, float]
"""Value, low end and high end of an interval."""


Box = tuple[float, float, float, float]
Align = Literal["left", "right", "center"]


class ScoreLike(Protocol):
    """What is needed of a Score here."""

    @property
    def overall(self) -> pd.DataFrame:
        """Estimates with intervals over all tasks."""


METRICS: Mapping[str, str] = {
    "acc_gt": "Acc_GT (conflict)",
    "ala": "ALA (conflict)",
    "acc_congruent": "congruent",
    "acc_neutral": "neutral",
    "hearing": "hearing index",
}
"""Metrics of :func:`hearing_bars`, left to right, with their headings."""


def overall_table(scores: Mapping[str, ScoreLike]) -> pd.DataFrame:
    """Return the numbers behind both pictures.

    Parameters
    ----------
    scores : mapping of name to Score

    Returns
    -------
    DataFrame
        One row a checkpoint and metric: name, metric, estimate, low, high. Metrics that a score lacks (no congruent
        items, say) are left out.
    """
    return pd.DataFrame(
        [(name, metric, *values) for (name, metric), values in _numbers(scores).items()],
        columns=["name", "metric", "estimate", "low", "high"],
    )


def acc_vs_ala(scores: Mapping[str, ScoreLike], ax: Axes | None = None, *, note: str | None = None) -> Axes:
    """Draw Acc_GT against ALA on conflict items, one mark with intervals per checkpoint.

    Parameters
    ----------
    scores : mapping of name to Score
        Drawn in this order.
    ax : Axes, optional
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    numbers = _numbers(scores)
    with theme():
        if ax is None:
            ax = new_axes(5.6, 5.2)[1]
        ax.plot([0, 1], [1, 0], color="#BBBBBB", lw=1.0, zorder=0)
        ax.fill([0, 1, 1], [1, 1, 0], color="#F2F2F2", lw=0, zorder=0)
        ax.text(0.98, 0.98, "impossible:\ntruth + claim > 1", ha="right", va="top", fontsize=LABEL_SIZE, color=GREY)
        # Words for the corners, where they do not collide with a model that sits in one.
        edge = ax.text(0.5, 0.53, "always one of the two", rotation=-45, rotation_mode="anchor", ha="center",
                       va="bottom", fontsize=LABEL_SIZE, color=GREY)  # fmt: skip
        points, arms = [], {}
        for number, name in enumerate(scores):
            x, y = numbers.get((name, "ala")), numbers.get((name, "acc_gt"))
            if x is None or y is None:
                continue
            series = SERIES[number % len(SERIES)]
            drawn = ax.errorbar(
                x[0],
                y[0],
                xerr=_arms(x),
                yerr=_arms(y),
                fmt=series.marker,
                color=series.colour,
                ms=7,
                mec="white",
                mew=0.8,
                elinewidth=1.0,
                zorder=4,
            )
            drawn.lines[0].set_gid(name)
            points.append((name, x[0], y[0], series.colour))
            arms[x[0], y[0]] = (x, y)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_aspect("equal")
        ax.set_xlabel("ALA: picks what the words claim (conflict items)  → reads")
        ax.set_ylabel("Acc_GT: picks what the voice says  → listens")
        ax.set_title("Listen or read")
        add_note(ax, note)
        _label_points(ax, points, arms, edge)
    return ax


def _numbers(scores: Mapping[str, ScoreLike]) -> dict[tuple[str, str], Estimate]:
    """Return estimate, low and high by checkpoint and metric."""
    found: dict[tuple[str, str], Estimate] = {}
    for name, one in scores.items():
        overall = one.overall
        for metric in METRICS:
            row = overall.loc[overall["metric"] == metric, ["estimate", "low", "high"]].to_numpy(dtype=float)
            if len(row) and math.isfinite(row[0, 0]):
                found[name, metric] = (float(row[0, 0]), float(row[0, 1]), float(row[0, 2]))
    return found


def _arms(interval: Estimate) -> list[list[float]]:
    """Return the two arms of an error bar; none where the interval is unknown."""
    value, low, high = interval
    return [
        [max(0.0, value - low) if math.isfinite(low) else 0.0],
        [max(0.0, high - value) if math.isfinite(high) else 0.0],
    ]


def _label_points(
    ax: Axes,
    points: list[tuple[str, float, float, str]],
    arms: Mapping[tuple[float, float], tuple[Estimate, Estimate]],
    edge: Text,
) -> None:
    """Name the points directly, each label where it covers the fewest points and labels already placed."""
    fig = ax.get_figure(root=True)
    if fig is None or not points:
        return
    # The final layout is needed to know what covers what.
    fig.draw_without_rendering()
    marks = ax.transData.transform([(x, y) for _, x, y, _ in points])
    # Marks and the arms of their error bars are not to be covered.
    taken = [
        box
        for (_, x, y, _), (mx, my) in zip(points, marks, strict=True)
        for box in ((mx - 6, my - 6, mx + 6, my + 6), *_arm_boxes(ax, x, y, arms.get((x, y))))
    ]
    scale = fig.dpi / 72
    frame = ax.get_window_extent()
    corners = edge.get_window_extent()
    written: Box = (corners.x0, corners.y0, corners.x1, corners.y1)
    placed: list[Box] = []
    directions = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 16, endpoint=False)]
    for number, (name, x, y, colour) in enumerate(points):
        wide, tall = len(name) * LABEL_SIZE * 0.56 * scale, LABEL_SIZE * 1.3 * scale
        best: tuple[float, float, float, Align] | None = None
        for reach in (10, 18, 28, 42, 58):
            for dx, dy in directions:
                cx, cy = marks[number][0] + dx * reach * scale, marks[number][1] + dy * reach * scale
                align: Align = "left" if dx > 0.3 else "right" if dx < -0.3 else "center"
                left = cx - {"left": 0.0, "right": wide, "center": wide / 2}[align]
                box = (left, cy - tall / 2, left + wide, cy + tall / 2)
                cost = 0.15 * reach
                cost += sum(40.0 for b in placed if _overlap(box, b))
                cost += sum(25.0 for b in taken if _overlap(box, b))
                # Beyond the diagonal no model can be, so a name there looks misplaced.
                cost += 3.0 * (sum(ax.transData.inverted().transform(box[2:])) > 1.0)
                cost += 15.0 * _overlap(box, written)
                cost += 60.0 * (box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1)
                if best is None or cost < best[0]:
                    best = (cost, dx * reach, dy * reach, align)
                    chosen = box
        assert best is not None
        placed.append(chosen)
        label: Annotation = ax.annotate(
            name,
            xy=(x, y),
            xytext=(best[1], best[2]),
            textcoords="offset points",
            ha=best[3],
            va="center",
            fontsize=LABEL_SIZE,
            color=colour,
            zorder=5,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": colour, "shrinkB": 3}
            if math.hypot(*best[1:3]) > 14
            else None,
        )
        label.set_gid(f"label:{name}")


def _arm_boxes(ax: Axes, x: float, y: float, arms: tuple[Estimate, Estimate] | None) -> list[Box]:
    """Return the boxes, in pixels, of the two error bars at a point."""
    if arms is None or not all(math.isfinite(v) for arm in arms for v in arm):
        return []
    (_, left, right), (_, low, high) = arms
    corners = ax.transData.transform([(left, y), (right, y), (x, low), (x, high)])
    (x0, y0), (x1, _), (x2, y2), (_, y3) = ((float(a), float(b)) for a, b in corners)
    return [(x0 - 3, y0 - 2, x1 + 3, y0 + 2), (x2 - 2, y2 - 2, x2 + 2, y3 + 2)]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def hearing_bars(scores: Mapping[str, ScoreLike], ax: Axes | None = None, *, note: str | None = None) -> Axes:
    """Draw the closing table as a picture: per checkpoint five lanes of bars with intervals and numbers.

    Parameters
    ----------
    scores : mapping of name to Score
        Drawn from top to bottom in this order.
    ax : Axes, optional
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
        With one lane per metric of :data:`METRICS`. Shares run from 0 to 1; the hearing index from -1 (or its lowest
        interval end) to 1, with a line at 0 where readers, inverters and guessers end.
    """
    numbers = _numbers(scores)
    names = list(scores)
    lane, gap = 1.0, 0.42
    with theme():
        if ax is None:
            ax = new_axes(11.0, 1.5 + 0.42 * len(names))[1]
        ticks: list[float] = []
        labels: list[str] = []
        for number, (metric, heading) in enumerate(METRICS.items()):
            here = {name: numbers[name, metric] for name in names if (name, metric) in numbers}
            floor = -0.5 if metric == "hearing" else 0.0
            if metric == "hearing":
                floor = min([floor, *(math.floor(2 * float(np.nanmin(v[:2]))) / 2 for v in here.values())])
            start = number * (lane + gap)

            def place(value: float, start: float = start, floor: float = floor) -> float:
                return start + lane * (value - floor) / (1 - floor)

            for at in (floor, 0.0, 0.5, 1.0) if floor < 0 else (0.0, 0.5, 1.0):
                ticks.append(place(at))
                labels.append(f"{at:g}")
                ax.axvline(place(at), color="#E3E3E3" if at else "#888888", lw=0.8, zorder=0)
            for height, name in enumerate(names):
                if name not in here:
                    continue
                value, low, high = here[name]
                series = SERIES[height % len(SERIES)]
                ax.barh(
                    height,
                    place(value) - place(0.0),
                    left=place(0.0),
                    height=0.56,
                    color=series.colour,
                    alpha=0.35 if metric != "hearing" else 0.6,
                    lw=0,
                ).patches[0].set_gid(f"{name}:{metric}")
                ax.plot([place(low), place(high)], [height, height], color="black", lw=1.1, zorder=3, marker="|", ms=6)
                ax.plot(place(value), height, marker=series.marker, color=series.colour, mec="black", mew=0.5,
                        ms=5, zorder=4, ls="")  # fmt: skip
                ax.text(start + lane + 0.04, height, f"{value:.2f}", va="center", ha="left", fontsize=LABEL_SIZE)
            ax.text(start, -0.75, heading, ha="left", va="bottom", fontsize=9.5, fontweight="bold")
        ax.set_xticks(ticks, labels)
        ax.set_yticks(range(len(names)), names)
        ax.set_xlim(-0.06, len(METRICS) * (lane + gap) - 0.1)
        ax.set_ylim(len(names) - 0.4, -0.8)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=7.5, length=2)
        for side in ("left", "bottom", "top", "right"):
            ax.spines[side].set_visible(False)
        ax.set_xlabel("over all tasks; lines: 95 % intervals")
        add_note(ax, note)
    return ax
