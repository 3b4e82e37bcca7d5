"""The linear reader: StandardScaler and L2 logistic regression, solved where the data live.

With 160 training items and 768 features (six time segments of 128) the items span at most 160 directions, and an
L2-penalised linear model never leaves that span: any part of the weights outside it changes no prediction and only
costs penalty (the representer theorem). So the standardised features are first rotated into the span of the training
rows, by an eigendecomposition of their Gram matrix, and scikit-learn's solver works on 160 columns instead of 768.
Nothing is thrown away: this is a change of basis, not PCA, and the predictions are those of the full problem.

``C`` is fixed rather than searched. 0.01 on standardised features is close to the best for the shapes met here (100 to
1,200 items, 128 to 1,280 features; on planted signals from weak to strong a factor of ten either way costs one to
three points of accuracy), and one constant keeps all layers and tasks comparable.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vpanalysis.probes.splits import FloatArray, Fold, IntArray

__all__ = ["DEFAULT_C", "cross_val_predict", "fit_predict", "single_thread", "span_coordinates"]

DEFAULT_C = 0.01
"""Inverse penalty of the logistic regression on standardised features."""

# Predicted classes no longer change below this, except at ties closer than 0.02 in probability.
_TOL, _MAX_ITER = 1e-4, 500

# Out-of-fold predictions by content. Checkpoints that share a frozen encoder share its states, byte for byte, so that
# their seven Runs are probed at the price of one. A prediction is 2 KB, so a thousand of them are nothing.
_MEMO: OrderedDict[str, IntArray] = OrderedDict()
_MEMO_SIZE = 4096


def single_thread() -> AbstractContextManager[Any]:
    """Return a context that holds BLAS to one thread.

    These matrices are so small that a second thread costs more in waiting than it brings in work, and one thread makes
    the digits independent of the machine's core count.
    """
    # threadpoolctl comes with scikit-learn and carries no types.
    return cast("AbstractContextManager[Any]", importlib.import_module("threadpoolctl").threadpool_limits(limits=1))


def span_coordinates(train: FloatArray, test: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotate `train` and `test` into an orthonormal basis of the span of the rows of `train`.

    Parameters
    ----------
    train : array, shape (train item, feature), float64
    test : array, shape (test item, feature), float64

    Returns
    -------
    train, test : array, shape (item, rank), float64
        Coordinates with the same inner products among training rows, and between test and training rows, as before.
        Returned unchanged where there are at least as many items as features.
    """
    if train.shape[1] <= train.shape[0]:
        return train, test
    values, vectors = np.linalg.eigh(train @ train.T)
    # Directions whose share of the variance is below rounding hold no data (one is always lost to centring).
    keep = values > 1e-10 * max(float(values[-1]), 1e-300)
    scale = np.sqrt(values[keep])
    basis = vectors[:, keep]
    return basis * scale, (test @ train.T) @ (basis / scale)


def fit_predict(
    train: NDArray[np.floating[Any]],
    labels: IntArray,
    test: NDArray[np.floating[Any]],
    *,
    C: float = DEFAULT_C,
    weights: FloatArray | None = None,
) -> IntArray:
    """Fit the probe on `train` and predict `test`.

    Parameters
    ----------
    train, test : array, shape (item, feature), floating
        States; scaling is learnt from `train` alone.
    labels : array, shape (train item,), int64
        Class number of each training item. With one class only that class is predicted.
    C : float
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
    scaler = StandardScaler().fit(np.asarray(train, dtype=np.float64))
    x = cast("FloatArray", scaler.transform(np.asarray(train, dtype=np.float64)))
    x_test = cast("FloatArray", scaler.transform(np.asarray(test, dtype=np.float64)))
    x, x_test = span_coordinates(x, x_test)
    if x.shape[1] == 0:  # a constant site: nothing but the intercept is left to learn
        x, x_test = np.zeros((len(x), 1)), np.zeros((len(x_test), 1))
    model = LogisticRegression(C=C, tol=_TOL, max_iter=_MAX_ITER)
    with warnings.catch_warnings():
        # At very large C on separable data the optimum is at infinity; the classes are right long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels, sample_weight=weights)
    return np.asarray(model.predict(x_test), dtype=np.int64)


def cross_val_predict(
    states: NDArray[np.floating[Any]],
    labels: IntArray,
    folds: list[Fold],
    *,
    C: float = DEFAULT_C,
) -> IntArray:
    """Predict every item by the probe that has not seen its group.

    Parameters
    ----------
    states : array, shape (item, feature), floating
    labels : array, shape (item,), int64
    folds : list of Fold
        Whose test sets cover every item once.
    C : float
        Inverse penalty.

    Returns
    -------
    array, shape (item,), int64
        Out-of-fold class numbers. Kept by content for the life of the process, so states that several Runs share are
        fitted once.
    """
    key = _digest(states, labels, folds, C)
    if key in _MEMO:
        _MEMO.move_to_end(key)
        return _MEMO[key].copy()
    predicted = np.full(len(labels), -1, dtype=np.int64)
    for fold in folds:
        predicted[fold.test] = fit_predict(
            states[fold.train], labels[fold.train], states[fold.test], C=C, weights=fold.weights
        )
    _MEMO[key] = predicted.copy()
    while len(_MEMO) > _MEMO_SIZE:
        _MEMO.popitem(last=False)
    return predicted


def _digest(states: NDArray[np.floating[Any]], labels: IntArray, folds: list[Fold], C: float) -> str:
    digest = hashlib.blake2b(f"{states.dtype}{states.shape}{C!r}".encode(), digest_size=16)
    for array in (states, labels, *(part for fold in folds for part in (fold.train, fold.test, fold.weights))):
        # The length goes in as well, or two lists of folds could run together to one string of bytes.
        digest.update(f"|{array.size}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
