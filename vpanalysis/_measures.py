"""What is measured on a set of items: every metric as a combination of shares, so that one estimator serves all.

Acc_GT is the share of conflict items that were listened to. The hearing index is a weighted sum of two shares per task.
A difference between two runs is the same sum with the second run subtracted. So a metric is written down once, as a
:class:`Measure` (which rows, which share each row belongs to, what the shares count for), and :func:`estimate`,
:func:`difference` and the sign-flip test all read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._hearing import Blind
from vpanalysis._outcomes import TWINS, clusterings
from vpanalysis.stats import BoolArray, Estimate, FloatArray, IntArray, Labels

__all__ = ["COMPARED", "as_row", "Measure", "Items", "difference", "estimate", "measures", "paired_tests"]

COMPARED = ("acc_gt", "ala", "acc_congruent", "acc_neutral", "hearing")
"""Metrics that runs are compared by."""


@dataclass(frozen=True)
class Measure:
    """A sum of shares: ``constant + sum_k coefficients[k] * mean(hits of part k)``.

    Attributes
    ----------
    hit : str
        Column of hits (:attr:`Items.hits`).
    rows : array, shape (row,), int64
        Positions of the items used.
    parts : array, shape (row,), int64
        The share that each of them belongs to.
    coefficients : tuple of float, shape (part,)
    constant : float
    """

    hit: str
    rows: IntArray
    parts: IntArray
    coefficients: tuple[float, ...] = (1.0,)
    constant: float = 0.0


@dataclass(frozen=True)
class Items:
    """An outcome table, with what is counted as numbers and the groups of its items."""

    table: pd.DataFrame
    hits: Mapping[str, FloatArray]
    groups: Mapping[str, Labels]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Items:
        """Return the items of an outcome table."""
        outcome, twins = table["outcome"].to_numpy(dtype=object), table["twins"].to_numpy(dtype=object)
        hits = {
            name: (outcome == name).astype(np.float64) for name in ("listened", "read", "other", "unparsed", "failed")
        }
        hits |= {name: (twins == name).astype(np.float64) for name in TWINS}
        first = [bool(c) and p == c[0] for p, c in zip(table["predicted"], table["claims"], strict=True)]
        hits["read_first"] = np.array(first, dtype=np.float64)
        return cls(table, hits, clusterings(table))


def measures(items: Items, tasks: Sequence[str], blind: Mapping[str, Blind]) -> dict[str, Measure]:
    """Return the metrics that can be taken on the items of `tasks`, by name, in the order of tables."""
    task = items.table["task_name"].to_numpy(dtype=object)
    condition = items.table["condition"].to_numpy(dtype=object)
    here = np.isin(task, np.array(tasks, dtype=object))
    paired = np.array([t is not None for t in items.table["twins"]], dtype=np.bool_)
    conflict = here & (condition == "conflict")
    others = [c for c in dict.fromkeys(condition[here]) if c not in ("conflict", "congruent", "neutral")]
    found = {
        "acc_gt": _share("listened", conflict),
        "ala": _share("read", conflict),
        "ala_single": _share("read_first", conflict),
        "other": _share("other", conflict),
        **{
            "acc_" + name.replace("-", "_"): _share("listened", here & (condition == name))
            for name in ("congruent", "neutral", *others)
        },
        "hearing": _hearing(task, condition, [t for t in tasks if t in blind and blind[t].known], blind),
        **{name: _share(name, here & paired) for name in TWINS},
        "unparsed": _share("unparsed", here),
        "failed": _share("failed", here),
    }
    return {name: measure for name, measure in found.items() if len(measure.rows)}


def _share(hit: str, where: BoolArray) -> Measure:
    rows = np.flatnonzero(where).astype(np.int64)
    return Measure(hit, rows, np.zeros(len(rows), dtype=np.int64))


def _hearing(
    task: Labels,
    condition: Labels,
    tasks: Sequence[str],
    blind: Mapping[str, Blind],
) -> Measure:
    """Return the mean hearing index over `tasks`: two shares a task."""
    rows, parts, coefficients, constant = [], [], [], 0.0
    for number, name in enumerate(tasks):
        conflict, congruent, shift = blind[name].coefficients
        for part, kind in enumerate(("conflict", "congruent")):
            found = np.flatnonzero((task == name) & (condition == kind))
            rows.append(found)
            parts.append(np.full(len(found), 2 * number + part))
        coefficients += [conflict / len(tasks), congruent / len(tasks)]
        constant += shift / len(tasks)
    none = [np.zeros(0, dtype=np.int64)]
    return Measure(
        "listened",
        np.concatenate(rows or none).astype(np.int64),
        np.concatenate(parts or none).astype(np.int64),
        tuple(coefficients),
        constant,
    )


def estimate(items: Items, measure: Measure, level: float) -> Estimate:
    """Return the value of a metric with its interval."""
    values = items.hits[measure.hit][measure.rows]
    groups = {name: labels[measure.rows] for name, labels in items.groups.items()}
    if measure.coefficients == (1.0,) and not measure.constant:
        return stats.proportion(values, groups, level=level)
    return stats.combination(
        values, measure.parts, measure.coefficients, groups, constant=measure.constant, level=level
    )


def _paired_groups(items: Items, measure: Measure) -> dict[str, Labels]:
    """Return the groups of the rows; an item is at least paired with itself under the other run."""
    groups = {name: labels[measure.rows] for name, labels in items.groups.items()}
    return groups or {"item": items.table["id"].to_numpy(dtype=object)[measure.rows]}


def difference(a: Items, b: Items, measure: Measure, level: float) -> Estimate:
    """Return the metric of `a` minus that of `b`, two runs over the same items, with its paired interval."""
    values = np.concatenate([one.hits[measure.hit][measure.rows] for one in (a, b)])
    size = len(measure.coefficients)
    parts = np.concatenate([measure.parts, measure.parts + size])
    coefficients = [*measure.coefficients, *(-c for c in measure.coefficients)]
    groups = {name: np.concatenate([g, g]) for name, g in _paired_groups(a, measure).items()}
    return stats.combination(values, parts, coefficients, groups, level=level)


def paired_tests(
    a: Items, b: Items, measure: Measure, random_state: int | np.random.Generator | None
) -> tuple[stats.FlipTest, float]:
    """Return the sign-flip test over clusters and McNemar's p-value (NaN for what is not one share)."""
    x, y = (one.hits[measure.hit][measure.rows] for one in (a, b))
    scale = np.array(measure.coefficients) / np.maximum(
        1, np.bincount(measure.parts, minlength=len(measure.coefficients))
    )
    flip = stats.sign_flip_test((x - y) * scale[measure.parts], _paired_groups(a, measure), random_state=random_state)
    return flip, stats.mcnemar_exact(x, y) if len(scale) == 1 else math.nan


def as_row(estimate: Estimate, **more: Any) -> dict[str, Any]:
    """Return an estimate as a row of a table: estimate, low, high, n, n_effective, n_groups, group, mde."""
    return {
        **more,
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "n_effective": estimate.n_effective,
        "n_groups": estimate.n_groups,
        "group": estimate.group,
        "mde": estimate.minimum_detectable_effect,
    }
