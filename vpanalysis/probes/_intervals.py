"""The seam between probes and statistics: accuracies and paired differences, with groups as the unit.

Items of one speaker succeed or fail together, so 200 clips of 60 speakers carry less than 200 clips' worth of evidence.
Both functions take one clustering per grouping of the folds and keep the wider result; see :mod:`vpanalysis.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpanalysis import stats
from vpanalysis.stats import FloatArray, IntArray

__all__ = ["accuracy_interval", "difference_interval"]


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
    found = stats.proportion(correct, _named(clusters), weights=weights, level=level)
    return found.value, found.low, found.high


def difference_interval(
    differences: FloatArray, clusters: Sequence[IntArray], weights: FloatArray, *, level: float
) -> tuple[float, float, float]:
    """Return the weighted mean of paired differences and its cluster-robust t interval; parameters as above."""
    found = stats.mean(differences, _named(clusters), weights=weights, level=level)
    return found.value, found.low, found.high


def _named(clusters: Sequence[IntArray]) -> dict[str, IntArray]:
    return {str(number): labels for number, labels in enumerate(clusters)}
