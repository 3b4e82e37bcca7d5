"""The linear reader of ``probe_layers``: all sites of a task, all folds, the labels and their shuffles in one call.

The fits are :func:`~vpanalysis.probes.solvers.engine.fit_many` (logistic regression, ridge) and
:func:`~vpanalysis.probes.solvers.engine.regress_many` (numbers). What is added here is what a task needs of them: the
out-of-fold prediction of every item under the true labels, one score for every shuffle, and a memory of both. The
memory goes by content: checkpoints that share a frozen encoder share its states byte for byte, so that their Runs are
probed at the price of one.

``C`` is 0.01 by default: on standardised features it is close to the best for the shapes met here (100 to 1,200 items,
128 to 1,280 features; on planted signals from weak to strong a factor of ten either way costs one to three points of
accuracy), and one constant keeps all layers and tasks comparable. A sequence is searched, inside every training fold.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vpanalysis.probes.solvers import DEFAULT_PENALTIES, fit_many, regress_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray

__all__ = ["DEFAULT_C", "ESTIMATORS", "LabelSets", "SiteFit", "fit_predict", "fit_sites", "r_squared", "single_thread"]

DEFAULT_C = 0.01
"""Inverse penalty of the logistic regression on standardised features."""

ESTIMATORS = ("logistic", "ridge")

# A prediction and its shuffles are a few KB, so some thousands of them are nothing.
_MEMO: OrderedDict[str, SiteFit] = OrderedDict()
_MEMO_SIZE = 4096

_HELD_BYTES = 1e9
"""States that are held at once; sites beyond that wait for the next call of the solver."""


@dataclass(frozen=True, eq=False)
class LabelSets:
    """What is fitted: the true labels in the first row, a shuffle in every other.

    Attributes
    ----------
    values : array, shape (set, item), int64 or float64
        Class numbers, or numbers for a regression.
    folds : list of Fold
        Whose test sets cover every item once; their own weights are not looked at.
    train_weights : array, shape (fold, set, item), float64
        Weight of every item in the loss.
    weights : array, shape (set, item), float64
        Weight of every item in the score.
    groups : array, shape (item,), int64
        Items that are left out together when a strength is chosen inside a training fold.
    """

    values: NDArray[Any]
    folds: list[Fold]
    train_weights: FloatArray
    weights: FloatArray
    groups: IntArray


@dataclass(frozen=True, eq=False)
class SiteFit:
    """Out-of-fold predictions of a site under the true labels, shape (item,), and the score of every shuffle."""

    predicted: NDArray[Any]
    shuffled: FloatArray


def single_thread() -> AbstractContextManager[Any]:
    """Return a context that holds BLAS to one thread.

    These matrices are so small that a second thread costs more in waiting than it brings in work, and one thread makes
    the digits independent of the machine's core count.
    """
    # threadpoolctl comes with scikit-learn and carries no types.
    return cast("AbstractContextManager[Any]", importlib.import_module("threadpoolctl").threadpool_limits(limits=1))


def fit_sites(
    read: Callable[[str], NDArray[np.floating[Any]]],
    sites: Sequence[str],
    sets: LabelSets,
    *,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    progress: Callable[[float], None] | None = None,
) -> list[SiteFit]:
    """Predict every item, at every site and under every label set, by a probe that has not seen its group.

    Parameters
    ----------
    read : callable
        From the name of a site to its states, shape (item, feature), floating.
    sites : sequence of str
    sets : LabelSets
    estimator : {"logistic", "ridge"}
        Ridge takes its penalty by generalised cross-validation in every fold and set. Numbers are always ridge.
    C : float or sequence of float
        Inverse penalty of the logistic regression.
    progress : callable, optional
        Called with the number of sites that are done, in fractions.

    Returns
    -------
    list of SiteFit
        Kept by content for the life of the process, so states that several Runs share are fitted once. Scores of
        shuffles are weighted accuracies, or R^2.
    """
    common = _digest_of_sets(sets, estimator, C)
    found: dict[str, SiteFit] = {}
    held: dict[str, tuple[str, NDArray[np.floating[Any]]]] = {}

    def flush() -> None:
        if not held:
            return
        before = len(found)
        tell = None if progress is None else lambda done, total: progress(before + len(held) * done / total)
        fits = _fit([states for _, states in held.values()], list(held), sets, estimator, C, tell)
        for (site, (key, _)), fit in zip(held.items(), fits, strict=True):
            found[site] = _MEMO[key] = fit
        held.clear()
        while len(_MEMO) > _MEMO_SIZE:
            _MEMO.popitem(last=False)

    size = 0
    for site in sites:
        states = read(site)
        key = _digest(states, common)
        if key in _MEMO:
            _MEMO.move_to_end(key)
            found[site] = _MEMO[key]
            continue
        if held and size + states.nbytes > _HELD_BYTES:
            flush()
            size = 0
        held[site] = (key, states)
        size += states.nbytes
    flush()
    if progress is not None:
        progress(len(sites))
    return [SiteFit(found[site].predicted.copy(), found[site].shuffled.copy()) for site in sites]


def _fit(
    states: list[NDArray[np.floating[Any]]],
    names: list[str],
    sets: LabelSets,
    estimator: str,
    C: float | Sequence[float],
    progress: Callable[[int, int], None] | None,
) -> list[SiteFit]:
    pairs = [(fold.train, fold.test) for fold in sets.folds]
    values = sets.values
    # Penalties are chosen with equal weights, so that one factorisation serves all shuffles; fits are weighted exactly.
    common: dict[str, Any] = {
        "weights": sets.train_weights, "penalties": DEFAULT_PENALTIES, "choose_weighted": False, "names": names,
        "progress": progress,
    }  # fmt: skip
    if values.dtype.kind == "f":
        numbers, _ = regress_many(states, values, pairs, **common)
        return [SiteFit(one[0], r_squared(values[1:], one[1:], sets.weights[1:])) for one in numbers]
    groups = sets.groups if estimator == "logistic" and np.size(C) > 1 else None
    fits = fit_many(states, values, pairs, kind=estimator, C=C, one_class="nan", groups=groups, **common)
    lonely = _only_class(values, sets.folds)
    out = []
    for predicted in fits.predicted:
        predicted = np.where(predicted < 0, lonely, predicted)
        right = (predicted == values).astype(np.float64)
        share = (right * sets.weights).sum(axis=1) / sets.weights.sum(axis=1)
        out.append(SiteFit(predicted[0], share[1:]))
    return out


def _only_class(values: IntArray, folds: Sequence[Fold]) -> IntArray:
    """Return the first training class of every set and item's fold: the prediction where there is no other."""
    out = np.full(values.shape, -1, dtype=np.int64)
    for fold in folds:
        out[:, fold.test] = values[:, fold.train[:1]]
    return out


def r_squared(truth: FloatArray, predicted: FloatArray, weights: FloatArray) -> FloatArray:
    """Return one minus the weighted squared error over that of the weighted mean, along the last axis."""
    mean = (truth * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
    error: FloatArray = (weights * (truth - predicted) ** 2).sum(-1) / (weights * (truth - mean) ** 2).sum(-1)
    return 1.0 - error


def fit_predict(
    train: NDArray[np.floating[Any]],
    labels: IntArray,
    test: NDArray[np.floating[Any]],
    *,
    C: float | Sequence[float] = DEFAULT_C,
    weights: FloatArray | None = None,
) -> IntArray:
    """Fit a logistic probe on `train` and predict `test`.

    Parameters
    ----------
    train, test : array, shape (item, feature), floating
        States; scaling is learnt from `train` alone.
    labels : array, shape (train item,), int64
        Class number of each training item. With one class only that class is predicted.
    C : float or sequence of float
        Inverse penalty.
    weights : array, shape (train item,), float64, optional
        Weight of each training item in the loss.

    Returns
    -------
    array, shape (test item,), int64
        Predicted class numbers.
    """
    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0], dtype=np.int64)
    size = len(train)
    whole = np.concatenate([labels, np.full(len(test), -1)]).astype(np.int64)
    weighed = np.concatenate([np.ones(size) if weights is None else weights, np.ones(len(test))])
    fold = (np.arange(size), np.arange(size, size + len(test)))
    return fit_many(np.concatenate([train, test])[None], whole, [fold], C=C, weights=weighed).predicted[0, 0, size:]


def _digest_of_sets(sets: LabelSets, estimator: str, C: float | Sequence[float]) -> bytes:
    digest = hashlib.blake2b(f"{estimator}{np.asarray(C).tolist()!r}{sets.values.dtype}".encode(), digest_size=16)
    parts = [part for fold in sets.folds for part in (fold.train, fold.test)]
    for array in (sets.values, sets.train_weights, sets.weights, sets.groups, *parts):
        # The shape goes in as well, or two lists of folds could run together to one string of bytes.
        digest.update(f"|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _digest(states: NDArray[np.floating[Any]], common: bytes) -> str:
    digest = hashlib.blake2b(common + f"{states.dtype}{states.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(states).data)
    return digest.hexdigest()
