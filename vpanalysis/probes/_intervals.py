"""The seam between probes and statistics: accuracies and paired differences, with groups as the unit.

Items of one speaker succeed or fail together, so 200 clips of 60 speakers carry less than 200 clips' worth of evidence.
Both functions take one clustering per grouping of the folds and keep the wider result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats as distributions

from vpanalysis.probes.splits import FloatArray, IntArray

__all__ = ["accuracy_interval", "difference_interval"]


def _spread(values: FloatArray, groups: IntArray, weights: FloatArray) -> tuple[float, int]:
    """Return the cluster-robust variance of the weighted mean (linearised) and the number of clusters."""
    centred = weights * (values - np.average(values, weights=weights))
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=centred)
    count = len(sums)
    if count < 2:
        return float("nan"), count
    return float(count / (count - 1) * np.sum(sums**2) / weights.sum() ** 2), count


def accuracy_interval(
    correct: FloatArray, clusters: Sequence[IntArray], weights: FloatArray, *, level: float
) -> tuple[float, float, float]:
    """Return weighted accuracy and its Wilson interval on the cluster-effective sample size with a t quantile.

    Parameters
    ----------
    correct : array, shape (item,), float64
        1 where the prediction is right, else 0.
    clusters : sequence of arrays, shape (item,), int64
        One or more clusterings; the widest interval is returned.
    weights : array, shape (item,), float64
    level : float
        Confidence level.

    Returns
    -------
    accuracy, low, high : float
        NaN bounds with fewer than two clusters.
    """
    p = float(np.average(correct, weights=weights))
    low, high = p, p
    for groups in clusters:
        variance, count = _spread(correct, groups, weights)
        if count < 2:
            return p, float("nan"), float("nan")
        kish = float(weights.sum() ** 2 / np.sum(weights**2))
        # All right or all wrong shows no variance to estimate dependence from: every cluster then counts once.
        n = min(kish, p * (1 - p) / variance) if variance > 0 else float(count)
        t2 = float(distributions.t.ppf(0.5 + level / 2, count - 1)) ** 2
        centre = (p + t2 / (2 * n)) / (1 + t2 / n)
        half = np.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
        low, high = min(low, max(0.0, centre - half)), max(high, min(1.0, centre + half))
    return p, low, high


def difference_interval(
    differences: FloatArray, clusters: Sequence[IntArray], weights: FloatArray, *, level: float
) -> tuple[float, float, float]:
    """Return the weighted mean of paired differences and its cluster-robust t interval; parameters as above."""
    mean = float(np.average(differences, weights=weights))
    half = 0.0
    for groups in clusters:
        variance, count = _spread(differences, groups, weights)
        if count < 2:
            return mean, float("nan"), float("nan")
        half = max(half, float(distributions.t.ppf(0.5 + level / 2, count - 1)) * float(np.sqrt(variance)))
    return mean, mean - half, mean + half
