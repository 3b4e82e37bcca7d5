"""What share of an effect a patch brought about: a ratio of means, with an interval that knows both may be noise.

Why it exists. "Recovered" is ``(patched - base) / (source - base)``. Pair by pair the denominator is sometimes near
zero, and a mean of such ratios is ruled by the pairs in which nothing was to be recovered. So means are divided, once.
And where the mean effect itself cannot be told from zero there is nothing to recover a share of: such a cell is empty.

The method (Fieller 1954, "Some problems in interval estimation"; with cluster-robust variances linearised as in
:func:`vpanalysis.stats.mean`, and the t quantile of clusters - 1). With N the mean of what the patch moved and D the
mean of what there was to move, the interval holds every r for which ``N - r D`` cannot be told from zero::

    (N - r D)^2 <= t^2 (V_NN - 2 r V_ND + r^2 V_DD)

which is bounded exactly where the interval of D does not hold 0.

>>> moved, total = np.array([1.0, 2.0, 1.0, 2.0]), np.array([2.0, 4.0, 2.0, 4.0])
>>> share = recovered(moved, total, {"speaker": ["a", "b", "c", "d"]})
>>> (round(share.value, 3), round(share.low, 3), round(share.high, 3))
(0.5, 0.5, 0.5)
>>> recovered(moved, np.array([1.0, -1.0, 2.0, -2.0]), {"speaker": ["a", "b", "c", "d"]}).reason
'nothing to recover: the whole effect cannot be told from 0'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vpanalysis import stats
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.stats import FloatArray

__all__ = ["ALL", "FIRST_ORDER", "TABLE", "Recovered", "first_order_table", "recovered", "recovery_table"]

ALL = "all"
"""What stands for the task in rows over all tasks."""

TABLE = (
    "task", "site", "span", "recovered", "low", "high", "moved", "moved_low", "moved_high", "total", "total_low",
    "total_high", "linear", "reason", "n", "n_groups", "group",
)  # fmt: skip
"""Columns of the map."""

FIRST_ORDER = ("task", "site", "span", "exact", "linear", "mean_absolute_error", "relative_error", "correlation", "n")
"""Columns of the comparison with the first-order estimate."""

NOTHING = "nothing to recover: the whole effect cannot be told from 0"
ONE_GROUP = "one speaker and one wording only: no interval"


@dataclass(frozen=True)
class Recovered:
    """A share and how well it is known; NaN with a `reason` where there is none."""

    value: float
    low: float
    high: float
    n_groups: int
    group: str
    reason: str = ""


def recovered(
    moved: ArrayLike, total: ArrayLike, clusters: Mapping[str, ArrayLike], *, level: float = 0.95
) -> Recovered:
    """Return the mean of `moved` over the mean of `total`, with Fieller's interval.

    Parameters
    ----------
    moved, total : array_like, shape (pair,)
        In nats, without NaN.
    clusters : mapping of str to array_like, shape (pair,)
        The widest interval is kept; the cell is empty where the whole effect holds 0 under any of them.
    level : float

    Returns
    -------
    Recovered
    """
    n, d = np.asarray(moved, dtype=np.float64), np.asarray(total, dtype=np.float64)
    empty = Recovered(math.nan, math.nan, math.nan, 0, stats.NO_GROUPS, ONE_GROUP)
    best = empty
    for name, labels in clusters.items():
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        groups = len(names)
        if groups < 2:
            continue
        found = _fieller(n, d, codes.reshape(-1), groups, level)
        if found is None:
            return Recovered(math.nan, math.nan, math.nan, groups, name, NOTHING)
        if best.n_groups == 0 or found[1] - found[0] > best.high - best.low:
            best = Recovered(float(n.mean() / d.mean()), *found, groups, name)
    return best


def _fieller(n: FloatArray, d: FloatArray, codes: Any, groups: int, level: float) -> tuple[float, float] | None:
    """Return the ends of the interval; None where it is not bounded."""
    centred = np.stack([n - n.mean(), d - d.mean()])
    sums = np.stack([np.bincount(codes, weights=row, minlength=groups) for row in centred])
    variance = groups / (groups - 1) * (sums @ sums.T) / len(n) ** 2
    t2 = stats.quantile(0.5 + level / 2, groups - 1) ** 2
    top, bottom = float(n.mean()), float(d.mean())
    a = bottom**2 - t2 * variance[1, 1]
    # Rounding leaves a trace of an effect where both runs are the same.
    if a <= 1e-12 * max(1.0, float(np.square(d).mean())):
        return None
    b = top * bottom - t2 * variance[0, 1]
    c = top**2 - t2 * variance[0, 0]
    root = math.sqrt(max(0.0, b * b - a * c))
    ratio = top / bottom
    return min(ratio, (b - root) / a), max(ratio, (b + root) / a)


def _subsets(pairs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    tasks = list(dict.fromkeys(pairs["task"]))
    return [(ALL, pairs), *((task, pairs[pairs["task"] == task]) for task in tasks)]


def recovery_table(pairs: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Return the map of a table with one row a pair, site and span.

    Parameters
    ----------
    pairs : DataFrame
        With the columns id, task, speaker, script, site, span, base, source, patched, linear, in nats.
    level : float

    Returns
    -------
    DataFrame
        Columns :data:`TABLE`, one row a task (and one for all), site and span.
    """
    out = []
    for task, mine in _subsets(pairs):
        for (site, span), cell in mine.groupby(["site", "span"], sort=False):
            clusters: Mapping[str, Any] = clusters_by_name(cell)
            moved = (cell["patched"] - cell["base"]).to_numpy(dtype=np.float64)
            whole = (cell["source"] - cell["base"]).to_numpy(dtype=np.float64)
            share = recovered(moved, whole, clusters, level=level)
            one, total = stats.mean(moved, clusters, level=level), stats.mean(whole, clusters, level=level)
            linear = float(cell["linear"].mean() / whole.mean()) if not share.reason else math.nan
            row = (
                task, site, span, share.value, share.low, share.high, one.value, one.low, one.high, total.value,
                total.low, total.high, linear, share.reason, len(cell), share.n_groups, share.group,
            )  # fmt: skip
            out.append(dict(zip(TABLE, row, strict=True)))
    return pd.DataFrame(out, columns=list(TABLE))


def first_order_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return how the first-order estimate compares with what the patches did; columns :data:`FIRST_ORDER`, in nats.

    ``relative_error`` is the mean absolute error over the mean absolute effect; ``correlation`` (Pearson) is over pairs
    and NaN where one of the two does not vary. Sites without gradients are left out.
    """
    out = []
    for task, mine in _subsets(pairs[pairs["linear"].notna()]):
        for (site, span), cell in mine.groupby(["site", "span"], sort=False):
            exact = (cell["patched"] - cell["base"]).to_numpy(dtype=np.float64)
            linear = cell["linear"].to_numpy(dtype=np.float64)
            error, size = float(np.abs(exact - linear).mean()), float(np.abs(exact).mean())
            varies = len(cell) > 2 and min(float(exact.std()), float(linear.std())) > 1e-9
            row = (
                task, site, span, float(exact.mean()), float(linear.mean()), error,
                error / size if size > 1e-9 else math.nan,
                float(np.corrcoef(exact, linear)[0, 1]) if varies else math.nan, len(cell),
            )  # fmt: skip
            out.append(dict(zip(FIRST_ORDER, row, strict=True)))
    return pd.DataFrame(out, columns=list(FIRST_ORDER))
