"""What probes differ by: paired differences, honest best sites, and what more items would bring.

A difference is drawn where people read differences: as a distance from zero, not as two bars whose heights they have to
subtract in their head. Filled marks have an adjusted p value below 0.05, hollow ones have not; both keep their
interval, because "not significant" is not "zero".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.plots.style import GREY, LABEL_SIZE, TRUTH, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["best_sites", "learning_curves", "probe_differences"]


def probe_differences(rows: pd.DataFrame, ax: Axes | None = None, *, names: tuple[str, str] = ("a", "b")) -> Axes:
    """Draw differences between probes, from the waveform at the top to the answer at the bottom.

    Parameters
    ----------
    rows : DataFrame
        Of :attr:`vpanalysis.probes.ProbeComparison.table`: of one task, or of one site over several tasks.
    ax : Axes, optional
        Where to draw; a new figure by default.
    names : tuple of str
        What is compared: the first less the second.

    Returns
    -------
    Axes
    """
    by_task = rows["task"].nunique() > 1
    several = rows["target"].nunique() > 1
    labels = [
        (short_task(str(row.task)) if by_task else str(row.site)) + (f" ({row.target})" if several else "")
        for row in rows.itertuples()
    ]
    with theme():
        if ax is None:
            ax = new_axes(6.4, 1.3 + 0.26 * max(len(rows), 3))[1]
        y = np.arange(len(rows))
        made = rows["difference"].notna().to_numpy()
        sure = (rows["p_adjusted"] < 0.05).to_numpy()
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
        for mask, face in ((made & sure, TRUTH.colour), (made & ~sure, "white")):
            part = rows[mask]
            if not len(part):
                continue
            value, low, high = (part[name].to_numpy(dtype=np.float64) for name in ("difference", "low", "high"))
            ax.errorbar(
                value, y[mask], xerr=[np.clip(value - low, 0, None), np.clip(high - value, 0, None)],
                fmt=TRUTH.marker, ms=5, lw=1.1, color=TRUTH.colour, mfc=face, zorder=3,
            )  # fmt: skip
        for at in np.flatnonzero(~made):
            ax.text(0.0, float(at), "not probed", fontsize=LABEL_SIZE, color=GREY, va="center", ha="center")
        ax.set_yticks(y, labels)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        kind = "R²" if (rows["metric"] == "R2").any() else "accuracy"
        ax.set_xlabel(f"difference in {kind}, with 95 % interval (filled: adjusted p < 0.05)")
        which = "all tasks" if by_task else short_task(str(rows["task"].iloc[0])) if len(rows) else ""
        ax.set_title(f"{which}: {names[0]} less {names[1]}", loc="left", fontsize=10)
    return ax


def best_sites(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of the best site per task, chosen nested, beside the optimistic one.

    Parameters
    ----------
    table : DataFrame
        Of :attr:`vpanalysis.probes.BestSites.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    made = table[table["accuracy"].notna()].reset_index(drop=True)
    with theme():
        if ax is None:
            ax = new_axes(6.6, 1.4 + 0.3 * max(len(made), 3))[1]
        y = np.arange(len(made))
        value, low, high = (made[name].to_numpy(dtype=np.float64) for name in ("accuracy", "low", "high"))
        ax.errorbar(
            value, y, xerr=[np.clip(value - low, 0, None), np.clip(high - value, 0, None)], fmt=TRUTH.marker, ms=5,
            lw=1.2, color=TRUTH.colour, zorder=3, label="chosen within training items",
        )  # fmt: skip
        ax.plot(made["optimistic"], y, ls="", marker="|", ms=11, mew=1.4, color=GREY, label="picked on the test items")
        ax.plot(made["chance"], y, ls="", marker=".", ms=5, color=GREY, label="chance")
        names = [f"{short_task(str(row.task))}  ({row.site})" for row in made.itertuples()]
        ax.set_yticks(y, names)
        ax.set_ylim(len(made) - 0.4, -0.6)
        ax.set_xlim(0, 1.02)
        ax.set_xlabel("probe accuracy, with 95 % interval")
        ax.set_title("What the best site tells", loc="left", pad=24)
        ax.legend(
            loc="lower right", bbox_to_anchor=(1, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.3, columnspacing=1.0
        )
    return ax


def learning_curves(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw accuracy against the number of training items, a line a site (or a task, of one site).

    Parameters
    ----------
    table : DataFrame
        Of :attr:`vpanalysis.probes.LearningCurves.table`: of one task, or of one site over several.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    import seaborn as sns

    by_task = table["task"].nunique() > 1
    made = table[table["accuracy"].notna()]
    with theme():
        if ax is None:
            ax = new_axes(6.4, 3.6)[1]
        key = "task" if by_task else "site"
        names = list(dict.fromkeys(made[key]))
        # One hue in order: sites follow one another, so their lines should.
        colours = sns.color_palette("colorblind" if len(names) < 9 and by_task else "viridis", len(names))
        marks = "osD^v<>PX*"
        for number, name in enumerate(names):
            part = made[made[key] == name].sort_values("n_train")
            x = part["n_train"].to_numpy(dtype=np.float64)
            ax.plot(x, part["accuracy"], color=colours[number], marker=marks[number % len(marks)],
                    label=short_task(str(name)) if by_task else str(name))  # fmt: skip
            ax.fill_between(x, part["low"], part["high"], color=colours[number], alpha=0.12, lw=0)
        for level in sorted(set(made["chance"].round(6))):
            ax.axhline(level, color=GREY, ls=(0, (1, 2)), lw=1.0, zorder=0)
        ax.set_xscale("log", base=2)
        ticks = sorted({int(n) for n in made["n_train"]})
        keep = [n for i, n in enumerate(ticks) if i == 0 or n / ticks[i - 1] > 1.25 or n == ticks[-1]]
        ax.set_xticks(keep, [str(n) for n in keep])
        ax.minorticks_off()
        if (made["metric"] != "R2").all():
            ax.set_ylim(0, 1.02)
        ax.set_xlabel("training items (mean over folds); band: 95 % interval, dotted: chance")
        ax.set_ylabel("R²" if (made["metric"] == "R2").any() else "probe accuracy")
        if len(made):
            what = "" if by_task else f"{short_task(str(made['task'].iloc[0]))}: "
            ax.set_title(f"{what}what more items would bring", loc="left")
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax
