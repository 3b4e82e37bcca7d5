"""How Runs stand in a figure: their label, their group, and the marks that stay the same from panel to panel.

Why it exists. A reader follows one checkpoint over ten panels. So every figure about behaviour calls it by one label
and draws it with one mark, and says by its group whether the numbers are of the bundled organism, whose layer profile
was planted, or of somebody's model.

The idea. Rows of a figure's table start with what :func:`identity` says of a Run: name, label, variant, group, origin,
planted. Marks follow from the order of the labels alone, so that a table read back from CSV is drawn alike.

>>> [series.marker for series in marks(["base", "+ SFT"]).values()]
['o', 's']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.figures._entry import MEASURED
from vpanalysis.figures._sources import VARIANTS
from vpanalysis.plots.style import SERIES, Series, short_task

if TYPE_CHECKING:
    from vpanalysis.figures._sources import Sources

__all__ = ["ALL", "IDENTITY", "ORGANISM", "OWN", "arms", "bounds", "ground", "identity", "marks", "p_text",
           "shown", "signed", "small", "task_label"]  # fmt: skip

ORGANISM, OWN = "organism (planted)", "measured models"
"""Groups of Runs: never one series."""

ALL = "all tasks"
"""Label of rows over all tasks; what Scores call ``overall`` and interventions ``all``."""

IDENTITY = ("name", "label", "variant", "group", "origin", "planted")
"""First columns of every table about Runs."""


def identity(sources: Sources, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the first columns of each Run's rows, those of the organism first.

    Parameters
    ----------
    sources : Sources
    names : iterable of str, optional
        Runs; default all that answer, in the order of the ladder.

    Returns
    -------
    dict of str to dict
        By name of the Run, keys `IDENTITY`. A checkpoint of the organism is called by its variant where only one Run
        has it, any other Run by its own name.
    """
    wanted = list(sources.names if names is None else names)
    variants = sources.variants()
    planted = {name: sources.is_planted(name) for name in wanted}
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(wanted, key=lambda one: not planted[one]):
        alike = [n for n in wanted if planted[n] and variants[n] == variants[name]]
        label = VARIANTS[variants[name]] if planted[name] and len(alike) == 1 else name
        found[name] = {
            "name": name, "label": label, "variant": variants[name],
            "group": ORGANISM if planted[name] else OWN, "origin": MEASURED, "planted": planted[name],
        }  # fmt: skip
    return found


def shown(data: pd.DataFrame) -> dict[str, str]:
    """Return labels by name; where other models stand beside the organism, its labels say so."""
    one = data.loc[data["name"] != ""].drop_duplicates("name")
    mixed = one["group"].nunique() > 1
    return {
        str(name): f"{label} (planted)" if mixed and planted else str(label)
        for name, label, planted in zip(one["name"], one["label"], one["planted"], strict=True)
    }


def ground(data: pd.DataFrame) -> str:
    """Return whose numbers a figure shows, for its legend: the group, or both."""
    return " and ".join(dict.fromkeys(data.loc[data["name"] != "", "group"]))


def marks(names: Iterable[str]) -> dict[str, Series]:
    """Return colour, marker and line by name, in the order of first appearance."""
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(dict.fromkeys(names))}


def small() -> float:
    """Return the smallest type of the style in points: 6 on paper."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties

    # Outside a style it may be a word, such as "medium".
    return max(6.0, 0.87 * float(FontProperties(size=mpl.rcParams["xtick.labelsize"]).get_size_in_points()))


def task_label(task: str) -> str:
    """Return how a task is written beside an axis."""
    return ALL if task in ("overall", "all") else short_task(task)


def arms(rows: pd.DataFrame) -> Any:
    """Return the distances from value to low and high, shape (2, row); none where there is no interval."""
    value, low, high = (rows[key].to_numpy(dtype=np.float64) for key in ("value", "low", "high"))
    return np.clip(np.nan_to_num([value - low, high - value]), 0.0, None)


def bounds(rows: pd.DataFrame, least: Sequence[float] = (0.0, 0.0), margin: float = 0.05) -> tuple[float, float]:
    """Return limits of an axis that hold all intervals, `least`, and a margin."""
    ends = pd.concat([rows[key] for key in ("value", "low", "high")]).dropna()
    low, high = min([*ends, *least]), max([*ends, *least])
    room = margin * ((high - low) or 1.0)
    return float(low - room), float(high + room)


def p_text(value: float) -> str:
    """Return a p value in three digits, nothing for a missing one."""
    if np.isnan(value):
        return ""
    return "<.001" if value < 0.001 else "1" if value > 0.9995 else f"{value:.3f}".lstrip("0")


def signed(value: float) -> str:
    """Return a difference in two digits with its sign, and no sign at zero."""
    text = f"{value:+.2f}"
    return "0.00" if text[1:] == "0.00" else text
