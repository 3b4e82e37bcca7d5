"""Labels of a Run or of arrays for the views that need them, with weights that keep truth and words independent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vpanalysis.errors import RunError
from vpanalysis.probes.splits import FloatArray, IntArray, check_grouping
from vpanalysis.probes.targets import ProbeTask, select_task, tasks_of
from vpanalysis.probes.views._input import Activations, Sites, of_rows

__all__ = ["LabelPair", "codes_of", "of_run", "task_items"]


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Items with two labels: the one to erase and the one to measure.

    Attributes
    ----------
    data : Activations
    codes : array, shape (2, item), int64
    names : pair of str
    weights : array, shape (item,), float64
    task : ProbeTask or None
    note : str
    """

    data: Activations
    codes: IntArray
    names: tuple[str, str]
    weights: FloatArray
    task: ProbeTask | None = None
    note: str = ""

    @classmethod
    def of_arrays(cls, data: Activations, erase: ArrayLike, measure: ArrayLike) -> LabelPair:
        """Return labels given as arrays, all items of one weight."""
        codes = np.stack([codes_of(labels, data.items)[0] for labels in (erase, measure)])
        return cls(data, codes, ("label A", "label B"), np.ones(data.items))

    def train_weights(self, rows: IntArray) -> FloatArray:
        """Return the weights of the training items `rows`."""
        return np.ones(len(rows)) if self.task is None else self.task.train_weights(rows)


def codes_of(labels: ArrayLike, items: int) -> tuple[IntArray, tuple[str, ...]]:
    """Return class numbers and class names; RunError for another length or fewer than two classes."""
    values = np.asarray(labels)
    if values.shape != (items,) or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise RunError("cannot read the labels", found=f"shape {values.shape}", allowed=f"({items},), none missing")
    names, codes = np.unique(values.astype(str), return_inverse=True)
    if len(names) < 2:
        raise RunError("cannot use the labels", found=f"one class only, {str(names[0])!r}", allowed="two or more")
    return codes.astype(np.int64), tuple(str(name) for name in names)


def task_items(run: Any, task: str | None, target: str, columns: tuple[str, ...]) -> ProbeTask:
    """Return the items of `task` (the only one, where None) with `target` as label."""
    present = tasks_of(run, task)
    if len(present) > 1:
        raise RunError("cannot choose the task", found=f"{len(present)} tasks", allowed=present, fix="name one: task=")
    if target in columns:
        raise RunError(
            f"cannot probe {target!r} across folds that never share one", found=f"group_by={target!r}",
            fix="group by the other of speaker and script",
        )  # fmt: skip
    items = select_task(run, present[0], target)
    if len(items.classes) < 2:
        raise RunError(f"cannot probe {target!r} of {present[0]!r}", found=f"classes {items.classes}",
                       allowed="two or more")  # fmt: skip
    return items


def of_run(
    run: Any, erase: str, measure: str, task: str | None, sites: Sites, group_by: str, reducer: str
) -> LabelPair:
    """Return the items of a task that have both labels."""
    columns = check_grouping(group_by)
    first, second = (task_items(run, task, target, columns) for target in (erase, measure))
    # Where either is the truth or the claim, its words and truth are what the weights hold apart.
    ruled, other = (first, second) if first.target in ("truth", "claim") else (second, first)
    ruled = ruled.take(np.isin(ruled.rows, other.rows))
    if not len(ruled.rows):
        raise RunError("cannot erase", found=f"no item with both {erase!r} and {measure!r}")
    codes = []
    for items in (first, second):
        place = {int(row): number for number, row in enumerate(items.rows)}
        labels = np.array([items.classes[items.labels[place[int(row)]]] for row in ruled.rows])
        codes.append(codes_of(labels, len(labels))[0])
    data = of_rows(run, ruled.rows, sites, columns, reducer, {"task": ruled.task, "group_by": group_by})
    return LabelPair(data, np.stack(codes), (erase, measure), ruled.weights, replace(ruled), ruled.note)
