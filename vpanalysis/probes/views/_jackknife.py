"""Leaving one cluster out at a time: an interval for statistics that are no means.

Similarities and ranks are functions of all items together. Leaving out a cluster (all items of a speaker) and computing
again, G times, tells how much such a statistic hangs on one cluster (Efron and Stein 1981; Kott 2001 for groups of
clusters)::

    variance = (G - 1) / G * sum over clusters of (value without the cluster - mean of these) ** 2

with the t quantile of G - 1 degrees of freedom, around the value over all items, cut to what the statistic can be.
"""

from __future__ import annotations

import numpy as np

from vpanalysis.probes.splits import FloatArray, IntArray
from vpanalysis.stats import quantile

__all__ = ["deletions", "joined", "limits"]


def deletions(clusters: dict[str, IntArray], items: int) -> dict[str, IntArray]:
    """Return the clusterings with two clusters or more; every item by itself where none is given."""
    if not clusters:
        return {"none": np.arange(items, dtype=np.int64)}
    return {name: codes for name, codes in clusters.items() if len(np.unique(codes)) > 1}


def joined(codes: IntArray, most: int, random_state: int | None) -> IntArray:
    """Join clusters at random into at most `most` of about equal number: as valid an interval, with fewer fits."""
    names, numbers = np.unique(codes, return_inverse=True)
    place = np.random.default_rng(random_state).permutation(len(names)) % most
    return np.unique(place[numbers], return_inverse=True)[1].astype(np.int64)


def limits(
    value: FloatArray, without: FloatArray, *, level: float, low: float, high: float
) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the interval.

    Parameters
    ----------
    value : array, shape (...), float64
    without : array, shape (cluster, ...), float64
        The statistic without each cluster.
    level : float
    low, high : float
        What the statistic can be at least and at most.

    Returns
    -------
    low, high : array, shape (...), float64
        NaN where the statistic does not exist without some cluster.
    """
    count = len(without)
    deviation = without - without.mean(axis=0)
    half = quantile(0.5 + level / 2, count - 1) * np.sqrt((count - 1) / count * np.sum(deviation**2, axis=0))
    return np.clip(value - half, low, high), np.clip(value + half, low, high)
