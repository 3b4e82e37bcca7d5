"""What all controls share: the items and folds of a task, one call that fits them, and one form of result row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis import stats
from vpanalysis._tables import Kind, typed
from vpanalysis.errors import RunError
from vpanalysis.probes.estimator import DEFAULT_C, single_thread
from vpanalysis.probes.layers import reducer_for
from vpanalysis.probes.solvers.engine import Fits, fit_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, check_grouping, group_ids, make_folds
from vpanalysis.probes.targets import ProbeTask, RunLike, read_states, select_task, tasks_of
from vpanalysis.stats import Estimate

__all__ = [
    "KINDS", "ProbeSetup", "TaskPlan", "adjusted", "correctness", "empty_row", "fit", "matrices", "paired", "plan_task",
    "plans", "row",
]  # fmt: skip

KINDS: Mapping[str, Kind] = {
    "control": "text", "task": "text", "site": "text", "variant": "text", "measure": "text", "condition": "text",
    "target": "text", "at": "float", "value": "float", "low": "float", "high": "float", "p": "float", "q": "float",
    "n": "int", "n_groups": "int", "group": "text", "note": "text", "source": "text",
}  # fmt: skip
"""Columns of every control's rows and their types."""

# Differing clusters below which their t interval is not trusted alone.
_FEW = 5


@dataclass(frozen=True)
class ProbeSetup:
    """How the probes of a control are made; the meaning is that of :func:`vpanalysis.probes.probe_layers`.

    Attributes
    ----------
    target : str
        ``"truth"``, ``"claim"`` or a metadata column.
    conditions : sequence of str, optional
        Default: conflict and congruent twins, weighted so that words and truth are independent.
    reducer : str
        ``"auto"`` or a stored reducer.
    group_by : {"speaker", "script", "both"}
        What no fold may have on both sides.
    n_splits : int
        Folds per grouping.
    C : float or sequence of float
        Inverse penalty; of several, one is chosen within each training fold.
    random_state : int
        Seed of folds, random labels, orders and noise.
    level : float
        Of the intervals.
    """

    target: str = "truth"
    conditions: Sequence[str] | None = None
    reducer: str = "auto"
    group_by: str = "speaker"
    n_splits: int = 5
    C: float | Sequence[float] = DEFAULT_C
    random_state: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        check_grouping(self.group_by)
        if self.n_splits < 2:
            raise RunError("cannot cross-validate", found=f"n_splits={self.n_splits}", allowed="2 or more")
        if not 0 < self.level < 1:
            raise RunError("cannot make intervals", found=f"level={self.level}", allowed="between 0 and 1")


@dataclass(frozen=True)
class TaskPlan:
    """The items of one task, their clusterings by name and their folds; without folds `reason` says why."""

    items: ProbeTask
    clusters: Mapping[str, IntArray]
    folds: list[Fold] = field(repr=False)
    reason: str = ""

    @property
    def group(self) -> str:
        """What the folds keep together."""
        return " and ".join(self.clusters)

    @property
    def first(self) -> IntArray:
        """The first clustering."""
        return next(iter(self.clusters.values()))


def plan_task(run: RunLike, task: str, setup: ProbeSetup) -> TaskPlan:
    """Choose the items of a task and cut them into grouped folds."""
    columns = check_grouping(setup.group_by)
    if setup.target in columns:
        raise RunError(
            f"cannot probe {setup.target!r} across folds that never share one", found=f"group_by={setup.group_by!r}",
            fix=f"use group_by={'script' if setup.target == 'speaker' else 'speaker'!r}",
        )  # fmt: skip
    items = select_task(run, task, setup.target, setup.conditions)
    found = [group_ids(items.frame, column) for column in columns] if len(items.rows) else []
    clusters = {used: ids for ids, used in found}
    if not len(items.rows):
        return TaskPlan(items, clusters, [], items.note)
    if len(items.classes) < 2:
        return TaskPlan(items, clusters, [], f"one class only: {items.classes[0]!r}")
    folds = make_folds(
        items.labels, list(clusters.values()), n_splits=setup.n_splits, random_state=setup.random_state,
        weigh=items.train_weights,
    )  # fmt: skip
    sizes = [len(np.unique(ids)) for ids in clusters.values()]
    reason = "" if folds else f"too few groups: {sizes} by {' and '.join(clusters)}, after joining cells"
    if any(len(np.unique(items.labels[fold.train])) < 2 for fold in folds):
        folds, reason = [], "one class only in the training items of a fold"
    return TaskPlan(items, clusters, folds, reason)


def plans(run: RunLike, tasks: str | Sequence[str] | None, setup: ProbeSetup) -> list[tuple[str, TaskPlan]]:
    """Return the plan of every chosen task."""
    return [(task, plan_task(run, task, setup)) for task in tasks_of(run, tasks)]


def matrices(run: RunLike, sites: Sequence[str], items: ProbeTask, setup: ProbeSetup) -> list[FloatArray]:
    """Return the states of the items at every site, each of shape (item, feature)."""
    return [read_states(run, site, reducer_for(site, items.task, setup.reducer), items.rows)[0] for site in sites]


def fit(
    states: Any,
    labels: NDArray[np.integer[Any]],
    folds: Sequence[Any],
    items: ProbeTask,
    setup: ProbeSetup,
    *,
    groups: IntArray | None = None,
    n_classes: int | None = None,
) -> Fits:
    """Predict every test item at every site: the one door of all controls to the solver."""
    with single_thread():
        return fit_many(
            states, labels, folds, C=setup.C, groups=groups, one_class="nan",
            n_classes=len(items.classes) if n_classes is None else n_classes,
        )  # fmt: skip


def correctness(run: RunLike, sites: Sequence[str], plan: TaskPlan, setup: ProbeSetup) -> FloatArray:
    """Return 1 where the out-of-fold prediction is right, shape (site, item), float64."""
    fits = fit(matrices(run, sites, plan.items, setup), plan.items.labels, plan.folds, plan.items, setup,
               groups=plan.first)  # fmt: skip
    return np.asarray(fits.predicted[:, 0] == plan.items.labels, dtype=np.float64)


def paired(
    a: FloatArray, b: FloatArray, clusters: Mapping[str, IntArray], weights: FloatArray, *, level: float, seed: int
) -> tuple[Estimate, float]:
    """Return the weighted mean of ``a - b`` with its interval, and the p value of flipping the signs of clusters.

    `a` and `b` are between 0 and 1. The interval is the clustered t interval of the differences. Where fewer than five
    clusters differ it shows little of how much they could, and is widened to what the limits of the two accuracies
    give (`vpanalysis.stats.combination`).
    """
    difference = a - b
    found = stats.mean(difference, clusters, weights=weights, level=level)
    test = stats.sign_flip_test(difference * weights, clusters, random_state=seed)
    if test.n_groups < _FEW:
        twice = {name: np.concatenate([ids, ids]) for name, ids in clusters.items()}
        parts = np.repeat([0, 1], len(a))
        other = stats.combination(np.concatenate([a, b]), parts, (1.0, -1.0), twice, level=level)
        low = min(found.low, found.value - (other.value - other.low))
        high = max(found.high, found.value + (other.high - other.value))
        found = replace(found, low=low, high=high)
    return found, test.p


def row(control: str, task: str, measure: str, found: Estimate | float, source: str, **more: Any) -> dict[str, Any]:
    """Return one row of a control's table."""
    made: dict[str, Any] = {"control": control, "task": task, "measure": measure, "source": source}
    made |= {"site": "", "variant": "", "condition": "pooled", "target": "", "group": "", "note": ""}
    if isinstance(found, Estimate):
        made |= {
            "value": found.value, "low": found.low, "high": found.high, "n": found.n, "n_groups": found.n_groups,
            "group": found.group,
        }  # fmt: skip
    else:
        made["value"] = found
    return made | more


def empty_row(control: str, task: str, measure: str, source: str, reason: str, **more: Any) -> dict[str, Any]:
    """Return a row without a number, and why."""
    return row(control, task, measure, math.nan, source, note=reason, **more)


def adjusted(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table, with p values adjusted over all rows of one call (Benjamini and Hochberg 1995)."""
    table = typed(rows, KINDS)
    for name in ("p", "q"):
        if not len(rows):
            table[name] = np.zeros(0)
    if len(table):
        table["q"] = stats.benjamini_hochberg(table["p"].to_numpy(dtype=np.float64))
    return table
