"""More and more of an intervention, beside as much of a random one: the table that follows.

Why it exists. A vector added to a state and a set of units scaled up or down are judged in the same way. What did the
answers of held-out items do as the dose grew, what did they do under random interventions of the same size, and what
happened to items that nobody meant?

The idea. Each item is asked under every dose, under the intervention itself (arm ``chosen``) and under several random
ones (arm ``random``, by number of the draw). All differences are paired by item. The value of an item under "random" is
its mean over the draws; besides, the effects of the draws are shown as they scatter, and ``rank`` is the share of
effects, the intervention's own among them, that are at least as far from nothing as its own: with n draws it cannot be
below 1 / (n + 1).

The paired difference to the mean of the draws takes these draws as they fell. Two random vectors differ as well, and
enough items show it; so what is called ``beyond`` random has gone further than *every* draw, too.

Items of other tasks are asked along with several tasks. In the rows over all tasks such an item is there once, with
its mean over the tasks whose directions it was asked under.

p values come from flipping the signs of whole speakers and wordings, adjusted over all sites and doses of a task, set
of items and measure (largest statistic of shared flips, ``_flips.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.probes.paired import paired_interval
from vpanalysis.stats import FloatArray

__all__ = ["ALL", "CHOSEN", "ITEMS", "MEASURES", "RANDOM", "dose_columns", "dose_table", "left_text", "shown_table"]

ALL = "all"
"""What stands for the task in rows over all tasks."""

CHOSEN, RANDOM = "chosen", "random"

MEASURES = ("margin", "accuracy", "ala", "towards")
"""Margin of the truth in nats; shares answered with the truth, with a claim, and with the option that is pushed to."""

ITEMS = ("id", "task", "set", "speaker", "script", "site", "arm", "draw")
"""First columns of a table of items; the dose and the measures follow."""

_SETS = ("conflict", "congruent", "neutral")
"""Sets of items that come first, in this order."""


def dose_columns(dose: str) -> tuple[str, ...]:
    """Return the columns of :func:`dose_table`."""
    return (
        "task", "set", "site", "measure", dose, "value", "low", "high",
        *(f"{name}{end}" for name in ("difference", "random", "over_random") for end in ("", "_low", "_high")),
        "rank", "beyond", "p", "p_adjusted", "p_random", "p_random_adjusted", "n", "n_groups",
    )  # fmt: skip


def _subsets(items: pd.DataFrame, dose: str) -> list[tuple[str, pd.DataFrame]]:
    tasks = list(dict.fromkeys(items["task"]))
    each = [(task, items[items["task"] == task]) for task in tasks]
    return [(ALL, _once(items, dose)), *each] if len(tasks) > 1 else each


def _once(items: pd.DataFrame, dose: str) -> pd.DataFrame:
    """Return the items of several tasks, each once: measures are means over the tasks with which it was asked."""
    keys = ["id", "set", "site", "arm", "draw", dose]
    how = {"speaker": "first", "script": "first", **dict.fromkeys(MEASURES, "mean")}
    return items.groupby(keys, sort=False, as_index=False).agg(how)


def dose_table(
    items: pd.DataFrame, *, dose: str, still: float, level: float = 0.95, random_state: int = 0
) -> pd.DataFrame:
    """Return every measure under every dose, with what it differs from.

    Parameters
    ----------
    items : DataFrame
        Columns :data:`ITEMS`, the dose, and :data:`MEASURES`.
    dose : str
        Name of its column.
    still : float
        The dose that changes nothing.
    level : float
    random_state : int
        Of the sign flips.

    Returns
    -------
    DataFrame
        Columns :func:`dose_columns`. ``difference`` is to the untouched model, ``over_random`` to the mean of the
        random interventions; ``random`` is the mean measure under these, with the smallest and the largest draw.
        ``beyond``: further from the untouched model than every draw, and ``p_random_adjusted`` below ``1 - level``.
    """
    out: list[dict[str, Any]] = []
    for task, mine in _subsets(items, dose):
        # Batches are by length; sets are shown in one order whatever the clips.
        for which in sorted(set(mine["set"]), key=lambda name: (_SETS.index(name) if name in _SETS else 3, name)):
            here = mine[mine["set"] == which]
            for measure in MEASURES:
                rows = _of_measure(here, measure, dose, still, level, random_state)
                out += [{"task": task, "set": which, "measure": measure, **row} for row in rows]
    return pd.DataFrame(out, columns=list(dose_columns(dose)))


def _of_measure(
    here: pd.DataFrame, measure: str, dose: str, still: float, level: float, seed: int
) -> list[dict[str, Any]]:
    untouched = here[here[dose] == still].drop_duplicates("id").set_index("id")
    untouched = untouched[untouched[measure].notna()]
    if untouched.empty:
        return []
    keys, base = untouched.index, untouched[measure].to_numpy(dtype=np.float64)
    codes = clusters_by_name(untouched)
    ones = np.ones(len(keys))

    def gap(a: FloatArray, b: FloatArray) -> stats.Estimate:
        plain = measure == "margin"
        return stats.mean(a - b, codes, level=level) if plain else paired_interval(a, b, codes, ones, level=level)

    columns: dict[tuple[str, float, str], list[FloatArray]] = {}
    for named, part in here.groupby(["site", dose, "arm", "draw"], sort=False):
        site, amount, arm, _ = cast("tuple[str, float, str, int]", named)
        values = part.set_index("id")[measure].reindex(keys).to_numpy(dtype=np.float64)
        columns.setdefault((site, float(amount), arm), []).append(values)
    sites = list(dict.fromkeys(here["site"]))
    amounts = sorted({amount for _, amount, _ in columns})
    cells = [(site, amount) for site in sites for amount in amounts if amount != still]
    if cells:
        moved = np.stack([columns[site, amount, CHOSEN][0] - base for site, amount in cells])
        drawn = [np.stack(columns[site, amount, RANDOM]) for site, amount in cells]
        over = np.stack([columns[c[0], c[1], CHOSEN][0] - d.mean(axis=0) for c, d in zip(cells, drawn, strict=True)])
        tests = np.stack([*flip_family(moved, codes, random_state=seed), *flip_family(over, codes, random_state=seed)])
    out: list[dict[str, Any]] = []
    for site in sites:
        for amount in amounts:
            mine = columns[site, amount, CHOSEN][0]
            found = (stats.mean if measure == "margin" else stats.proportion)(mine, codes, level=level)
            row: dict[str, Any] = {
                "site": site,
                dose: amount,
                "n": found.n,
                "n_groups": found.n_groups,
                "beyond": False,
            }
            row |= {"value": found.value, "low": found.low, "high": found.high}
            if amount != still:
                at = cells.index((site, amount))
                means = drawn[at].mean(axis=1)
                effects, own = np.abs(means - base.mean()), abs(float(moved[at].mean()))
                row |= {"random": means.mean(), "random_low": means.min(), "random_high": means.max()}
                row["rank"] = (1 + int((effects >= own - 1e-12).sum())) / (1 + len(means))
                for name, other in (("difference", base), ("over_random", drawn[at].mean(axis=0))):
                    one = gap(mine, other)
                    row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
                names = ("p", "p_adjusted", "p_random", "p_random_adjusted")
                row |= dict(zip(names, tests[:, at].tolist(), strict=True))
                row["beyond"] = bool((effects < own - 1e-12).all()) and row["p_random_adjusted"] < 1 - level
            out.append(row)
    return out


def left_text(settings: Mapping[str, Any]) -> str:
    """Return what was not asked, as a sentence that follows another; empty where all was.

    >>> left_text({"skipped": 1, "left_out": 3, "tasks_left_out": ["age_prediction"]})
    ' Not asked: 1 item without a usable clip, 3 without training items; no item of age_prediction is left.'
    """
    skipped, left_out = int(settings.get("skipped", 0)), int(settings.get("left_out", 0))
    said = [f"{skipped} item{'' if skipped == 1 else 's'} without a usable clip"] if skipped else []
    said += [f"{left_out}{'' if said else ' item' if left_out == 1 else ' items'} without training items"] * bool(
        left_out
    )
    tasks = ", ".join(settings.get("tasks_left_out", ()))
    if not said:
        return ""
    return f" Not asked: {', '.join(said)}{f'; no item of {tasks} is left' if tasks else ''}."


def _interval(low: float, high: float, sign: str) -> str:
    # One speaker, or one item, says nothing about others.
    return "–" if pd.isna(low) or pd.isna(high) else f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def shown_table(table: pd.DataFrame, dose: str) -> pd.DataFrame:
    """Return the table as it is printed: estimates with their intervals, in one column each."""
    shown = table[["task", "set", "site", "measure", dose]].copy()
    for name, title in (("value", "value"), ("difference", "difference"), ("over_random", "over random")):
        sign, ends = ("", "") if name == "value" else ("+", f"{name}_")
        shown[title] = [
            "–" if pd.isna(v) else f"{v:{sign}.2f} {_interval(low, high, sign)}"
            for v, low, high in zip(table[name], table[f"{ends}low"], table[f"{ends}high"], strict=True)
        ]
    shown["p random"] = ["–" if p != p else "<.001" if p < 0.001 else f"{p:.3f}" for p in table["p_random_adjusted"]]
    shown["rank"] = ["–" if r != r else f"{r:.2f}" for r in table["rank"]]
    shown["beyond"] = ["yes" if yes else "" for yes in table["beyond"]]
    shown["n"] = table["n"]
    return shown
