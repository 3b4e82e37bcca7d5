"""Folds that leak nothing, and weights that make the words uninformative.

Two leaks make a probe look better than it is.

*The same voice or sentence on both sides.* A probe that has met the speaker recognises the speaker, not the age. So
folds are made of whole groups: all items of a speaker (default), of a script, or both. The twins of a design cell
(same voice, other words) are never split either, whatever the grouping: groups that share a cell are merged first.

*The words give the answer away.* On conflict items the words never name the truth, so with two labels "the other one"
is always right and a probe of the words scores 100 % without hearing a thing. No grouping helps: truth and claim are
the same problem. Congruent twins repair it, in the right proportion. :func:`independence_weights` gives every item the
weight ``P(truth) P(words) / P(truth, words)``, after which words carry no information about the truth (and the truth
none about the words) in the items used. For two labels that is one conflict item to one congruent; for four it is three
to one, because there are three ways to be wrong.

The weights are made anew for every training set, to the frequencies of the whole task. Balance over all items is not
enough: whatever is over-represented in the training set is then under-represented in the test set, and a probe that
learnt it does *worse* than chance. (Balanced designs are notorious for it: leave one of two Females out, and "Male" is
the commoner answer in training and wrong in testing.)

>>> import numpy as np
>>> truth = np.array(["f", "f", "m", "m"]); words = np.array(["m", "f", "f", "m"])
>>> independence_weights(truth, words)
array([1., 1., 1., 1.])
>>> truth = np.array(["f", "f", "f", "m", "m", "m"]); words = np.array(["f", "f", "m", "f", "m", "m"])
>>> independence_weights(truth, words)
array([0.75, 0.75, 1.5 , 1.5 , 0.75, 0.75])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from vpanalysis.errors import RunError

__all__ = [
    "GROUPINGS", "Fold", "group_ids", "independence_weights", "independent_sets", "make_folds", "mutual_information",
]  # fmt: skip

GROUPINGS = ("speaker", "script", "both")
"""Accepted values of ``group_by``."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """One split: row numbers to train on and row numbers to test on.

    Attributes
    ----------
    train, test : array, shape (rows,), int64
        Disjoint positions into the items of the task.
    weights : array, shape (training rows,), float64
        Weight of each training item in the loss.
    """

    train: IntArray
    test: IntArray
    weights: FloatArray


def group_ids(frame: pd.DataFrame, column: str) -> tuple[IntArray, str]:
    """Number the groups that a fold may not split.

    Parameters
    ----------
    frame : DataFrame
        The items of one task; `column` and ``cell`` are read.
    column : str
        Column whose values are groups, for example ``"speaker"``.

    Returns
    -------
    groups : array, shape (item,), int64
        Group number of each item: the connected components of "same `column`" and "same cell". An item without either
        is a group of its own.
    used : str
        What the groups mean: `column`, or ``"cell"`` or ``"item"`` when the data do not name it.
    """
    size = len(frame)
    named = column in frame.columns and bool(frame[column].notna().any())
    twins = "cell" in frame.columns and bool(frame["cell"].notna().any())
    parent = list(range(size))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for name, use in ((column, named), ("cell", twins)):
        first: dict[str, int] = {}
        if not use:
            continue
        for row, value in enumerate(frame[name]):
            if pd.isna(value):
                continue
            other = first.setdefault(str(value), row)
            parent[root(row)] = root(other)
    groups = np.unique([root(row) for row in range(size)], return_inverse=True)[1].astype(np.int64)
    return groups, column if named else "cell" if twins else "item"


def _assign(labels: IntArray, groups: IntArray, n_splits: int, random_state: int | None) -> IntArray:
    """Return the fold number of every row: stratified where every class has enough rows, grouped always."""
    smallest = int(np.bincount(labels).min()) if len(labels) else 0
    if smallest >= n_splits:
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=random_state)
    else:
        # StratifiedGroupKFold cannot stratify a class that is rarer than the folds are many.
        splitter = GroupKFold(n_splits, shuffle=True, random_state=random_state)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for number, (_, test) in enumerate(splitter.split(np.zeros((len(labels), 1)), labels, groups)):
        fold_of[test] = number
    return fold_of


def make_folds(
    labels: IntArray,
    groupings: Sequence[IntArray],
    *,
    n_splits: int = 5,
    random_state: int | None = 0,
    weigh: Callable[[IntArray], FloatArray] | None = None,
) -> list[Fold]:
    """Split items so that every item is tested once and no group stands on both sides.

    With one grouping (speakers, or scripts) this is ordinary grouped cross-validation. With two, each is cut into
    `n_splits` folds and every crossing of a speaker fold with a script fold is a test set of its own, whose training
    set is the items in *neither*: items that share only the speaker or only the script are dropped from training, not
    from testing, so that the accuracy is over the same items as with one grouping. The price is `n_splits` squared
    fits on ``(1 - 1 / n_splits) ** 2`` of the items.

    Parameters
    ----------
    labels : array, shape (item,), int64
        Class numbers, used to stratify where every class has at least `n_splits` items.
    groupings : sequence of one or two arrays, shape (item,), int64
        Group numbers from :func:`group_ids`.
    n_splits : int
        Folds per grouping; lowered to the number of groups when there are fewer.
    random_state : int or None
        Seed of the shuffle of groups.
    weigh : callable, optional
        From the training rows to their weights; equal weights by default.

    Returns
    -------
    list of Fold
        Empty when a grouping has fewer than two groups, or no training items are left.
    """
    assigned = []
    for groups in groupings:
        count = min(n_splits, len(np.unique(groups)))
        if count < 2:
            return []
        assigned.append(_assign(labels, groups, count, random_state))
    pairs = list(_crossings(assigned))
    if not all(len(train) for train, _ in pairs):
        return []
    return [Fold(train, test, weigh(train) if weigh else np.ones(len(train))) for train, test in pairs]


def _crossings(assigned: Sequence[IntArray]) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield training and test rows."""
    if len(assigned) == 1:
        for number in np.unique(assigned[0]):
            yield np.flatnonzero(assigned[0] != number), np.flatnonzero(assigned[0] == number)
        return
    first, second = assigned
    for one in np.unique(first):
        for two in np.unique(second):
            test = np.flatnonzero((first == one) & (second == two))
            if len(test):
                yield np.flatnonzero((first != one) & (second != two)), test


def independence_weights(truth: NDArray[np.str_], words: NDArray[np.str_], rows: IntArray | None = None) -> FloatArray:
    """Weigh items so that truth and words are independent, with mean weight 1.

    Parameters
    ----------
    truth, words : array, shape (item,), str
        Label of the voice and label of the words of each item ("" when nothing is said).
    rows : array, shape (row,), int64, optional
        Weigh only these items (a training set), to the frequencies that truth and words have over all items.

    Returns
    -------
    array, shape (item,) or (row,), float64
        ``P(truth) P(words) / P(truth, words)``, the joint frequency counted over `rows`, rescaled to mean 1. Exact
        independence needs every combination to occur; what is left is measured by :func:`mutual_information`.
    """
    t = np.unique(truth, return_inverse=True)[1]
    w = np.unique(words, return_inverse=True)[1]
    wanted = np.outer(np.bincount(t), np.bincount(w)).astype(np.float64)
    if rows is not None:
        t, w = t[rows], w[rows]
    joint = np.zeros(wanted.shape)
    np.add.at(joint, (t, w), 1.0)
    weights: FloatArray = wanted[t, w] / joint[t, w]
    weights /= weights.mean()
    return weights


def independent_sets(truth: IntArray, words: IntArray, rows: IntArray | None = None) -> FloatArray:
    """Return :func:`independence_weights` of many label sets at once.

    Parameters
    ----------
    truth, words : array, shape (set, item), int64
        Class numbers from 0.
    rows : array, shape (row,), int64, optional
        As in :func:`independence_weights`; all items by default.

    Returns
    -------
    array, shape (set, item) or (set, row), float64
    """
    sets, t_size, w_size = len(truth), int(truth.max()) + 1, int(words.max()) + 1

    def counted(codes: IntArray, size: int) -> FloatArray:
        at = codes + size * np.arange(sets)[:, None]
        return np.bincount(at.ravel(), minlength=sets * size).reshape(sets, size).astype(np.float64)

    wanted = counted(truth, t_size)[:, :, None] * counted(words, w_size)[:, None, :]
    t, w = (truth, words) if rows is None else (truth[:, rows], words[:, rows])
    pair = t * w_size + w
    joint = counted(pair, t_size * w_size)
    ratio = np.divide(wanted.reshape(sets, -1), joint, out=np.zeros_like(joint), where=joint > 0)
    weights: FloatArray = np.take_along_axis(ratio, pair, axis=1)
    weights /= weights.mean(axis=1, keepdims=True)
    return weights


def mutual_information(truth: NDArray[np.str_], words: NDArray[np.str_], weights: FloatArray) -> float:
    """Return the mutual information of truth and words under `weights`, in nats (plug-in estimate)."""
    t = np.unique(truth, return_inverse=True)[1]
    w = np.unique(words, return_inverse=True)[1]
    joint = np.zeros((t.max() + 1, w.max() + 1))
    np.add.at(joint, (t, w), weights)
    joint /= joint.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / outer[seen])))


def check_grouping(group_by: str) -> tuple[str, ...]:
    """Return the columns that `group_by` stands for; :class:`RunError` for an unknown word."""
    if group_by not in GROUPINGS:
        raise RunError("cannot group the folds", found=f"group_by={group_by!r}", allowed=GROUPINGS, word=group_by)
    return ("speaker", "script") if group_by == "both" else (group_by,)
