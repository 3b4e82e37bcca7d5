"""The seam between probes and statistics: accuracies and paired differences, with groups as the unit.

Items of one speaker succeed or fail together, so 200 clips of 60 speakers carry less than 200 clips' worth of evidence.
Both functions take one clustering per grouping of the folds and keep the wider result; see :mod:`vpanalysis.stats`.

An accuracy from cross-validation has a second dependence that no clustering shows: every group that is tested was also
trained on, by the probes that test the others. Where probes guess, that nearly doubles the variance. At accuracy 0.5
with labels that belong to the speaker, 95 % intervals that ignore it held the truth in 88, 87 and 85 % of draws with
10, 24 and 48 speakers, and more speakers do not help; ``benchmarks/coverage.py`` measures it before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpanalysis import stats
from vpanalysis.stats import FloatArray, IntArray

__all__ = ["accuracy_interval", "difference_interval"]


def accuracy_interval(
    correct: FloatArray,
    clusters: Sequence[IntArray],
    weights: FloatArray,
    *,
    level: float,
    chance: float | None = 0.5,
) -> tuple[float, float, float]:
    """Return the weighted accuracy of out-of-fold predictions and its interval.

    It is Wilson's on the cluster-effective sample size with a t quantile (Korn and Graubard 1998), with the covariance
    between folds in the variance (:func:`vpanalysis.stats.proportion`).

    Parameters
    ----------
    correct : array, shape (item,), float64
        1 where the prediction is right, else 0.
    clusters : sequence of arrays, shape (item,), int64
        One or more clusterings; the widest interval is returned.
    weights : array, shape (item,), float64
    level : float
        Confidence level.
    chance : float or None
        Accuracy of guessing, one over the number of classes. The default suits two classes and is careful with more:
        intervals are a little wider. None for the answers of one fixed model, which no fold has fitted.

    Returns
    -------
    accuracy, low, high : float
        NaN bounds with fewer than two clusters. The interval is for the accuracy that the probes of the folds would
        have, on average, on items of new groups.
    """
    found = stats.proportion(correct, _named(clusters), weights=weights, level=level, chance=chance)
    return found.value, found.low, found.high


def difference_interval(
    differences: FloatArray, clusters: Sequence[IntArray], weights: FloatArray, *, level: float
) -> tuple[float, float, float]:
    """Return the weighted mean of paired differences and its cluster-robust t interval; parameters as above."""
    found = stats.mean(differences, _named(clusters), weights=weights, level=level)
    return found.value, found.low, found.high


def _named(clusters: Sequence[IntArray]) -> dict[str, IntArray]:
    return {str(number): labels for number, labels in enumerate(clusters)}
