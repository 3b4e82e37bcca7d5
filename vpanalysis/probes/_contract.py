"""What the probes share as scikit-learn estimators: an error that both families know, and scaling with weights."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from vpanalysis.errors import RunError

__all__ = ["Prepared", "ProbeValueError", "encode"]


class ProbeValueError(RunError, ValueError):
    """Data that a probe cannot be fitted on. A ``ValueError`` as well, which is what scikit-learn's tools expect."""


class Prepared:
    """Training data as the solvers want them: weighted rows only, standardised, float64.

    Attributes
    ----------
    rows : array, shape (item, feature), float64
    labels : array, shape (item,), int64
    weights : array, shape (item,), float64
    kept : array, shape (kept item,), int64
        Positions of the items with positive weight, which are all that is kept.
    mean, scale : array, shape (feature,), float64
    """

    def __init__(
        self, X: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64], standardize: bool
    ) -> None:
        # An item without weight is an item that is not there, in scaling as in fitting.
        self.kept = np.flatnonzero(weights > 0)
        X, self.labels, self.weights = X[self.kept], labels[self.kept], weights[self.kept]
        self.mean, self.scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if standardize:
            self.mean, self.scale = _scaling(X, self.weights)
        self.rows = (X - self.mean) / self.scale


def _scaling(X: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and scale of every feature, as ``StandardScaler`` does, with a scale of one for constant features.

    The variance takes a second pass, about the mean. From weighted sums of squares alone, as scikit-learn has it, that
    of a constant can come out negative, and its root is not a number.
    """
    mean = np.average(X, axis=0, weights=weights)
    variance = np.average((X - mean) ** 2, axis=0, weights=weights)
    rounding = len(X) * np.finfo(np.float64).eps
    constant = variance <= rounding * variance + (rounding * mean) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def encode(estimator: Any, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, standardize: bool) -> Prepared:
    """Check training data by scikit-learn's rules, set ``classes_`` and ``n_features_in_``, and prepare them.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array_like, shape (item, feature)
    y : array_like, shape (item,)
    sample_weight : array_like, shape (item,), optional
        Not negative.
    standardize : bool

    Returns
    -------
    Prepared

    Raises
    ------
    ProbeValueError
        With fewer than two classes of positive weight.
    """
    X, y = validate_data(estimator, X, y, dtype=np.float64)
    check_classification_targets(y)
    estimator.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
    weights = cast(
        "NDArray[np.float64]",
        _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True),
    )
    present = np.unique(labels[weights > 0])
    if len(present) < 2:
        names = estimator.classes_.tolist()
        found = f"one class only, {names[present[0]]!r}" if len(present) else "no item of positive weight"
        raise ProbeValueError(
            "cannot train a classifier", found=found, allowed="two classes or more",
            fix="give more items, or leave this cell empty",
        )  # fmt: skip
    return Prepared(cast("NDArray[np.float64]", X), labels.reshape(-1).astype(np.int64), weights, standardize)
