"""What all controls share: the items and folds of a task, one call that fits them, and one form of result row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis import stats
from vpanalysis._tables import Kind, typed
from vpanalysis.errors import RunError
from vpanalysis.probes.estimator import DEFAULT_C, single_thread
from vpanalysis.probes.layers import reducer_for
from vpanalysis.probes.paired import paired_interval
from vpanalysis.probes.plans import choose_columns, make_plan
from vpanalysis.probes.solvers.engine import Fits, fit_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, check_grouping, group_ids
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
    group_by : {"auto", "speaker", "script", "both"}
        What no fold may have on both sides; ``"auto"`` is the strictest that the data of all tasks allow, at five times
        the price where that is both.
    n_splits : int
        Folds per grouping.
    inner_splits : int
        Folds per grouping in which a site is chosen within the training items.
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
    inner_splits: int = 3
    C: float | Sequence[float] = DEFAULT_C
    random_state: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.group_by != "auto":
            check_grouping(self.group_by)
        if min(self.n_splits, self.inner_splits) < 2:
            found = f"n_splits={self.n_splits}, inner_splits={self.inner_splits}"
            raise RunError("cannot cross-validate", found=found, allowed="2 or more")
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
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / max(1, len(self.items.classes))

    @property
    def first(self) -> IntArray:
        """The first clustering."""
        return next(iter(self.clusters.values()))


def plan_task(run: RunLike, task: str, setup: ProbeSetup, columns: Sequence[str] | None = None) -> TaskPlan:
    """Choose the items of a task and cut them into folds grouped by `columns`, by default what suits this task."""
    items = select_task(run, task, setup.target, setup.conditions)
    if items.numbers is not None:
        raise RunError(f"cannot make controls for {setup.target!r}", found="numbers", allowed="classes")
    if columns is None:
        columns = _columns([items], setup)
    plan = make_plan(items, columns, n_splits=setup.n_splits, random_state=setup.random_state)
    named = [group_ids(items.frame, column) for column in columns] if len(items.rows) else []
    clusters = {used: ids for ids, used in named}
    return TaskPlan(items, clusters, plan.folds, "" if plan.folds else str(plan.facts["note"]))


def _columns(tasks: Sequence[ProbeTask], setup: ProbeSetup) -> tuple[str, ...]:
    split: dict[str, Any] = {"n_splits": setup.n_splits, "random_state": setup.random_state}
    return choose_columns(tasks, setup.target, setup.group_by, **split)


def plans(run: RunLike, tasks: str | Sequence[str] | None, setup: ProbeSetup) -> list[tuple[str, TaskPlan]]:
    """Return the plan of every chosen task, all on one kind of split."""
    names = tasks_of(run, tasks)
    columns = _columns([select_task(run, task, setup.target, setup.conditions) for task in names], setup)
    return [(task, plan_task(run, task, setup, columns)) for task in names]


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
    """Return the weighted mean of ``a - b`` with its interval, and the p value of flipping the signs of clusters."""
    found = paired_interval(a, b, clusters, weights, level=level)
    return found, stats.sign_flip_test((a - b) * weights, clusters, random_state=seed).p


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
