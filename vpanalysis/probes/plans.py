"""What all sites of a task share: items, folds, label sets, and the facts that stand in every row of the table.

Why it exists. A curve over sites compares only if every site is asked the same question of the same items on the same
split under the same shuffles. So a plan is made once a task and target, before any state is read.

The idea of ``group_by="auto"``. A split is as strict as the data allow: by speaker and script, else by speaker, else by
script. "Allow" means that every grouping has at least as many groups as there are folds and every training set holds
every class. One call takes one split for all its tasks, or its rows would not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vpanalysis.errors import RunError
from vpanalysis.probes.estimator import LabelSets
from vpanalysis.probes.shuffles import shuffled_rows
from vpanalysis.probes.splits import (
    GROUPINGS,
    FloatArray,
    Fold,
    IntArray,
    check_grouping,
    group_ids,
    independent_sets,
    make_folds,
)
from vpanalysis.probes.targets import ProbeTask

__all__ = ["Plan", "choose_columns", "make_plan"]

_LARGE = 1e8
"""Bytes of training weights that are rather made when they are needed."""

_SETS = 16
"""Label sets that are weighed at once."""

_STRICTEST_FIRST = (("speaker", "script"), ("speaker",), ("script",))


class Plan:
    """A task and target, ready to be fitted.

    Attributes
    ----------
    items : ProbeTask
    clusters : list of arrays, shape (item,), int64
        Groups by each grouping; intervals are clustered by them.
    folds : list of Fold
        Empty where the task cannot be probed; `facts` then says why.
    fold_of : array, shape (item,), int64
        In which fold each item is tested.
    facts : dict
        Columns of the table that do not change from site to site.
    """

    def __init__(self, items: ProbeTask, clusters: list[IntArray], folds: list[Fold], group: str, reason: str) -> None:
        self.items, self.clusters, self.folds = items, clusters, folds
        self.fold_of = np.full(len(items.rows), -1, dtype=np.int64)
        for number, fold in enumerate(folds):
            self.fold_of[fold.test] = number
        numeric, classes = items.numbers is not None, len(items.classes)
        share = np.bincount(items.labels, weights=items.weights, minlength=1)
        self.facts: dict[str, Any] = {
            "metric": "R2" if numeric else "accuracy",
            "accuracy": np.nan, "low": np.nan, "high": np.nan,
            "chance": 0.0 if numeric else 1.0 / classes if classes else np.nan,
            "majority": float(share.max() / items.weights.sum()) if classes else 0.0 if numeric else np.nan,
            "n": len(items.rows),
            "n_train": min((len(fold.train) for fold in folds), default=0),
            "n_groups": min((len(np.unique(c)) for c in clusters), default=0),
            "n_classes": classes, "group": group, "note": reason or items.note,
        }  # fmt: skip

    def label_sets(self, shuffles: int, seed: int | None, *, lazily: bool = False) -> LabelSets:
        """Return the labels and their shuffles, each with weights that make *its* truth and words independent.

        Training weights of all folds are an array; `lazily` a function, where such an array would be large.
        """
        items = self.items
        size = len(items.rows)
        frame = items.frame
        cells = frame["cell"] if "cell" in frame.columns else frame["id"]
        # An item without a cell is a cell of its own.
        own = cells.where(cells.notna(), "item " + frame["id"].astype(str)).astype(str)
        values = items.labels if items.numbers is None else items.numbers
        moved = shuffled_rows(
            values, self.clusters, np.unique(own, return_inverse=True)[1], frame["condition"].astype(str).to_numpy(),
            shuffles, seed, self.fold_of,
        )  # fmt: skip
        source = np.concatenate([np.arange(size)[None], moved])
        del moved
        shape, labels = source.shape, values[source]
        # What is kept of 200 shuffles of 100,000 items is a byte each, and what does not move is there once.
        sides = [np.unique(side, return_inverse=True)[1].reshape(-1) for side in (items.truth, items.words)]
        sides = [side.astype(np.min_scalar_type(side.max(initial=0))) for side in sides]
        moves = 1 if items.target == "claim" else 0
        sides[moves] = sides[moves][source]
        del source
        truth, words = (np.broadcast_to(side, shape) for side in sides)

        def weigh(number: int, some: IntArray | slice = slice(None)) -> FloatArray:
            out = np.ones(truth[some].shape)
            train = self.folds[number].train
            out[:, train] = independent_sets(truth[some].astype(np.int64), words[some].astype(np.int64), train)
            return out

        late = lazily and 8.0 * len(self.folds) * len(labels) * size > _LARGE
        weights = np.empty(shape)
        for start in range(0, len(labels), _SETS):
            some = slice(start, start + _SETS)
            weights[some] = independent_sets(truth[some].astype(np.int64), words[some].astype(np.int64))
        train = weigh if late else np.stack([weigh(number) for number in range(len(self.folds))])
        return LabelSets(labels, self.folds, train, weights, self.clusters[0])


def _grouped(items: ProbeTask, columns: Sequence[str]) -> tuple[list[IntArray], str]:
    found = [group_ids(items.frame, column) for column in columns]
    return [groups for groups, _ in found], " and ".join(dict.fromkeys(used for _, used in found))


def make_plan(
    items: ProbeTask,
    columns: Sequence[str],
    *,
    n_splits: int,
    random_state: int | None,
    like: Plan | None = None,
) -> Plan:
    """Split the items of a task by `columns`.

    Parameters
    ----------
    items : ProbeTask
    columns : sequence of str
    n_splits : int
    random_state : int or None
    like : Plan, optional
        Take its split, if it is over the same items.

    Returns
    -------
    Plan
        Without folds where the task cannot be probed, for a reason that stands in its note.
    """
    if not len(items.rows):
        return Plan(items, [], [], " and ".join(columns), items.note)
    clusters, group = _grouped(items, columns)
    if items.numbers is None and len(items.classes) < 2:
        return Plan(items, clusters, [], group, f"one class only: {items.classes[0]!r}")
    if items.numbers is not None and len(np.unique(items.numbers)) < 2:
        return Plan(items, clusters, [], group, f"one value only: {items.numbers[0]:g}")
    folds: list[Fold] = []
    if like is not None and like.folds and np.array_equal(like.items.rows, items.rows):
        folds = [Fold(fold.train, fold.test, items.train_weights(fold.train)) for fold in like.folds]
    if not folds or _lacking(items, folds):
        folds = make_folds(
            items.labels, clusters, n_splits=n_splits, random_state=random_state, weigh=items.train_weights
        )
    if not folds:
        counts = [len(np.unique(c)) for c in clusters]
        return Plan(items, clusters, [], group, f"too few groups: {counts} by {group}, after joining cells")
    lacking = _lacking(items, folds)
    return Plan(items, clusters, [] if lacking else folds, group, lacking)


def _lacking(items: ProbeTask, folds: Sequence[Fold]) -> str:
    """Return why a training set teaches nothing; empty where all do."""
    for number, fold in enumerate(folds):
        if items.numbers is None and len(np.unique(items.labels[fold.train])) < 2:
            only = items.classes[int(items.labels[fold.train[0]])]
            return f"one class only, {only!r}, in the {len(fold.train)} training items of fold {number}"
        if items.numbers is not None and len(np.unique(items.numbers[fold.train])) < 2:
            return f"one value only in the {len(fold.train)} training items of fold {number}"
    return ""


def choose_columns(
    tasks: Sequence[ProbeTask], target: str, group_by: str, *, n_splits: int, random_state: int | None
) -> tuple[str, ...]:
    """Return the columns whose groups are not split.

    Parameters
    ----------
    tasks : sequence of ProbeTask
        All that shall compare.
    target : str
        Cannot be its own group.
    group_by : {"auto", "speaker", "script", "both"}
    n_splits : int
    random_state : int or None

    Returns
    -------
    tuple of str

    Raises
    ------
    RunError
        For an unknown `group_by`, or one that is the target.
    """
    if group_by not in ("auto", *GROUPINGS):
        allowed_words = ("auto", *GROUPINGS)
        raise RunError("cannot group the folds", found=f"group_by={group_by!r}", allowed=allowed_words, word=group_by)
    columns = () if group_by == "auto" else check_grouping(group_by)
    if target in columns:
        other = "script" if target == "speaker" else "speaker"
        raise RunError(
            f"cannot probe {target!r} across folds that never share one",
            found=f"target={target!r} with group_by={group_by!r}",
            fix=f"use group_by={other!r}",
        )
    if columns:
        return columns
    candidates = [names for names in _STRICTEST_FIRST if target not in names]
    allowed = [
        {names for names in candidates if _allows(items, names, n_splits, random_state)} for items in tasks
    ]  # fmt: skip
    # A task that no split suits is an empty cell in any case, and does not decide for the others.
    common = [names for names in candidates if all(names in some for some in allowed if some)]
    return common[0] if common and any(allowed) else ("script",) if target == "speaker" else ("speaker",)


def _allows(items: ProbeTask, columns: Sequence[str], n_splits: int, random_state: int | None) -> bool:
    if len(items.rows) < 2 or (items.numbers is None and len(items.classes) < 2):
        return False
    if not all(column in items.frame.columns and items.frame[column].notna().any() for column in columns):
        return False
    clusters, _ = _grouped(items, columns)
    if min(len(np.unique(groups)) for groups in clusters) < n_splits:
        return False
    folds = make_folds(items.labels, clusters, n_splits=n_splits, random_state=random_state)
    classes = len(np.unique(items.labels))
    return bool(folds) and all(len(np.unique(items.labels[fold.train])) == classes for fold in folds)


def regression_interval(truth: FloatArray, predicted: FloatArray, weights: FloatArray) -> FloatArray:
    """Return per item what R^2 is the weighted mean of, to first order; its clustered interval is that of R^2.

    R^2 is one minus a ratio of means, and is linearised as such (the delta method).
    """
    mean = np.average(truth, weights=weights)
    spread = (truth - mean) ** 2
    scale = float(np.average(spread, weights=weights))
    error = (truth - predicted) ** 2
    share = float(np.average(error, weights=weights)) / scale
    return 1.0 - share + (share * spread - error) / scale
