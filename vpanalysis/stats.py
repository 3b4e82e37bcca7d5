"""Intervals and tests, in one place, with the group as the unit of evidence.

Why it exists. Two hundred clips of fifty speakers are not two hundred independent observations: a model that mishears
one voice mishears all its clips, and one that trips over a sentence trips over it in every voice. Plain binomial
intervals are then too narrow, and a "significant" difference between two checkpoints may be one unlucky speaker. So
everything takes *clusterings* (a name and one label an item, such as ``{"speaker": ..., "script": ...}``), computes
with each of them, and keeps the widest interval and the largest p-value.

The ideas, each of which is textbook:

* *One proportion* (:func:`proportion`). The variance of the mean is estimated from sums over clusters
  (linearisation, with the factor G / (G - 1)); ``n_effective = p (1 - p) / variance`` is how many independent items
  would be as telling, never more than there are. Wilson's interval is taken at that size with the t quantile of G - 1
  degrees of freedom (Korn and Graubard 1998; Franco et al. 2019). All right or all wrong shows nothing of how items
  depend on each other, and one or two failures show little; below five the dependence within a cluster is taken to be
  at least 0.5 (at none) fading to what the data say (at five). Without any clustering it is Wilson's plain interval
  with the normal quantile, and :attr:`Estimate.group` is ``"none"``.
* *A combination of proportions* (:func:`combination`): a difference between runs, or the hearing index. Limits are
  recovered from those of the parts (MOVER; Zou and Donner 2008, Newcombe 1998): with d the distances from the parts to
  their own limits, times coefficients, and R the correlation of the parts between clusters, the limit is
  ``value -+ sqrt(d' R d)``. Twins of a cell and the same item under two checkpoints fall in the same cluster, so their
  covariance is in R. Where parts are far from 0 and 1 this is the delta method; near 0 and 1 it keeps Wilson's
  asymmetry instead of an interval of width zero.
* *A difference* is tested by flipping the sign of whole clusters (:func:`sign_flip_test`), which needs no
  distribution at all. :func:`mcnemar_exact` stands beside it because readers expect it; it assumes independent items.
* *Many tasks*: :func:`benjamini_hochberg`. *What could have been seen at all*:
  :attr:`Estimate.minimum_detectable_effect`.

Worked example: 6 speakers with 10 items each, which stand or fall together, are 6 observations and not 60:

>>> import numpy as np
>>> right = np.repeat([1, 1, 1, 1, 0, 0], 10); speaker = np.repeat(np.arange(6), 10)
>>> print(proportion(right))
0.667 [0.541, 0.773]
>>> print(proportion(right, {"speaker": speaker}))
0.667 [0.204, 0.940]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions

__all__ = [
    "Estimate",
    "FlipTest",
    "benjamini_hochberg",
    "cluster_correlation",
    "combination",
    "mcnemar_exact",
    "mean",
    "proportion",
    "sign_flip_test",
    "wilson",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Labels = NDArray[np.object_]
Clusters = Mapping[str, ArrayLike]
"""A clustering by name: one label an item."""

POWER = 0.8
"""Power at which a minimum detectable effect is stated."""

_FLIP_BYTES = 6.4e7
"""Of the signs that are there at once."""

_FEW = 5
_ASSUMED = 0.5
"""Below so many failures (or successes) the correlation within a cluster is taken to be at least so large."""

_STRATIFIED = 0.75
"""Out of fold, the smallest variance as a share of that of independent items: groups in which every class is as common
err less unevenly than chance, but a variance from ten groups may also be small by accident."""

_ROUNDS = 4
"""Of limits that depend on themselves; the fifth would move them by less than 0.001."""

NO_GROUPS = "none"
"""What :attr:`Estimate.group` says where items were taken as independent."""


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Attributes
    ----------
    value, low, high : float
        The estimate and the ends of its interval; NaN ends where there is one group only.
    n : int
        Items used.
    n_effective : float
        Independent items that would be as telling; NaN for combinations, which mix several sizes.
    n_groups : int
        Clusters of the clustering that gave the widest interval; `n` where there is none.
    group : str
        Name of that clustering, ``"none"`` where items were taken as independent.
    level : float
        Confidence level.
    """

    value: float
    low: float
    high: float
    n: int
    n_effective: float
    n_groups: int
    group: str
    level: float = 0.95

    @property
    def df(self) -> float:
        """Degrees of freedom of the t quantile; infinite where items were taken as independent."""
        return math.inf if self.group == NO_GROUPS else float(self.n_groups - 1)

    @property
    def se(self) -> float:
        """Standard error that the interval amounts to: its width over twice the quantile."""
        return (self.high - self.low) / (2 * quantile(0.5 + self.level / 2, self.df))

    @property
    def minimum_detectable_effect(self) -> float:
        """Distance from a fixed number that a two-sided test at this level finds in 80 % of replications."""
        return (quantile(0.5 + self.level / 2, self.df) + quantile(POWER, self.df)) * self.se

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class FlipTest:
    """What :func:`sign_flip_test` found.

    Attributes
    ----------
    p : float
        Two-sided p-value.
    n_groups : int
        Clusters that could be flipped: those that differ at all.
    group : str
        The clustering with the largest p-value.
    exact : bool
        Whether all sign patterns were counted, not a sample of them.
    """

    p: float
    n_groups: int
    group: str
    exact: bool


@lru_cache(maxsize=1024)
def quantile(probability: float, df: float) -> float:
    """Return the quantile of Student's t, or of the normal distribution for infinite `df`; NaN below one."""
    if df < 1:
        return math.nan
    if math.isinf(df):
        return float(distributions.norm.ppf(probability))
    return float(distributions.t.ppf(probability, df))


def wilson(p: float, n: float, *, level: float = 0.95, df: float = math.inf) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    Parameters
    ----------
    p : float
        The proportion, from 0 to 1.
    n : float
        Independent observations, whole or effective.
    level : float
        Confidence level.
    df : float
        Degrees of freedom of the quantile; infinite gives the classical interval.

    Returns
    -------
    low, high : float
        Within 0 and 1, and around `p`.
    """
    t2 = quantile(0.5 + level / 2, df) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    # Rounding must not push the interval off its own estimate at 0 and 1.
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def proportion(
    values: ArrayLike,
    clusters: Clusters | None = None,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    chance: float | None = None,
) -> Estimate:
    """Return a mean of values between 0 and 1 with its cluster-robust Wilson interval.

    Parameters
    ----------
    values : array_like, shape (item,)
        1 where something holds, else 0.
    clusters : mapping of str to array_like, shape (item,), optional
        Clusterings; the widest interval is kept. One with a single cluster cannot tell how clusters differ and is
        passed over, unless there is no other: the bounds are NaN then.
    weights : array_like, shape (item,), optional
        Default: all one.
    level : float
        Confidence level.
    chance : float, optional
        Where the values are the verdicts of a cross-validated classifier on items it was not fitted to: the accuracy of
        guessing, one over the number of classes. Needs clusters. Leave it out for the verdicts of one fixed model.

    Returns
    -------
    Estimate
        All NaN without items.

    Notes
    -----
    With `chance`, v the variance between clusters, b = p (1 - p) / n that of independent items, and lambda the share of
    a score's correlation that is left when only its sign is kept, ``phi(z)**2 / (p (1 - p))`` at ``p = Phi(z)`` (the
    first term of the tetrachoric series, Pearson 1900), the covariance between clusters of different folds adds
    ``f (v - (1 - lambda) b)``: the part of v that is not rounding to right and wrong. Only two guesses covary, so f is
    the square of the share ``(1 - q) / (1 - chance)`` of answers that are guesses: one at chance, none when all is
    right. As Wilson's interval takes the variance at the accuracy q that a limit supposes, so does f. The bracket is
    kept between 0 and what clusters of identical items would give.
    """
    y = np.asarray(values, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(y):
        return Estimate(math.nan, math.nan, math.nan, 0, 0.0, 0, NO_GROUPS, level)
    p = min(1.0, max(0.0, float(np.average(y, weights=w))))
    kish = float(w.sum() ** 2 / np.sum(w**2))
    if not clusters:
        return Estimate(p, *wilson(p, kish, level=level), len(y), kish, len(y), NO_GROUPS, level)
    found = []
    for name, codes, count in _usable(clusters):
        effective = _effective(y, w, codes, count, p, kish, chance)
        n = effective(p)
        low, high = wilson(p, n, level=level, df=count - 1) if count > 1 else (math.nan, math.nan)
        for _ in range(_ROUNDS if chance is not None and count > 1 else 0):
            low = wilson(p, effective(low), level=level, df=count - 1)[0]
            high = wilson(p, effective(high), level=level, df=count - 1)[1]
        found.append(Estimate(p, low, high, len(y), n, count, name, level))
    return _widest(found)


def mean(values: ArrayLike, clusters: Clusters, *, weights: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """Return a mean of any values (margins, paired differences) with its cluster-robust t interval.

    Parameters are those of :func:`proportion`. Without clusterings the items are taken as independent. Values that are
    all equal give an interval of width zero; for differences of proportions use :func:`combination`, which does not.
    """
    y = np.asarray(values, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(y):
        return Estimate(math.nan, math.nan, math.nan, 0, 0.0, 0, NO_GROUPS, level)
    centre = float(np.average(y, weights=w))
    found = []
    for name, codes, count in _usable(clusters or {NO_GROUPS: np.arange(len(y))}):
        df = math.inf if name == NO_GROUPS else count - 1
        half = quantile(0.5 + level / 2, df) * math.sqrt(_variance(y, w, codes, count))
        found.append(Estimate(centre, centre - half, centre + half, len(y), math.nan, count, name, level))
    return _widest(found)


def combination(
    values: ArrayLike,
    parts: ArrayLike,
    coefficients: Sequence[float],
    clusters: Clusters | None = None,
    *,
    constant: float = 0.0,
    level: float = 0.95,
) -> Estimate:
    """Return ``constant + sum of coefficients x proportions`` with an interval recovered from those of the parts.

    Parameters
    ----------
    values : array_like, shape (item,)
        Between 0 and 1.
    parts : array_like of int, shape (item,)
        To which proportion an item belongs, from 0. The same clip judged twice stands here twice, with the same
        cluster labels.
    coefficients : sequence of float, shape (part,)
        One for each part.
    clusters : mapping of str to array_like, shape (item,), optional
        As in :func:`proportion`; without them parts count as independent.
    constant : float
        Added to the sum.
    level : float
        Confidence level.

    Returns
    -------
    Estimate
        NaN where a part has no items; NaN bounds where a part has one cluster only.

    Notes
    -----
    Two parts that are all right or all wrong show no variance and therefore no correlation; they are taken as fully
    correlated, which is the careful choice for parts whose coefficients have the same sign.
    """
    y, k = np.asarray(values, dtype=np.float64), np.asarray(parts, dtype=np.int64)
    c = np.asarray(coefficients, dtype=np.float64)
    sizes = np.bincount(k, minlength=len(c))
    if not len(y) or not sizes.all():
        return Estimate(math.nan, math.nan, math.nan, len(y), math.nan, 0, NO_GROUPS, level)
    p = np.clip(np.bincount(k, weights=y, minlength=len(c)) / sizes, 0.0, 1.0)
    value = constant + float(c @ p)
    influence = (y - p[k]) / sizes[k]
    found = []
    for name, codes, count in _usable(clusters or {NO_GROUPS: np.arange(len(y))}):
        sums = np.zeros((count, len(c)))
        np.add.at(sums, (codes, k), influence)
        limits = [_limits(y[k == i], codes[k == i], plain=name == NO_GROUPS, level=level) for i in range(len(c))]
        low, high = _recovered(c, p, np.array(limits), cluster_correlation(sums))
        found.append(Estimate(value, value - low, value + high, len(y), math.nan, count, name, level))
    return _widest(found)


def _limits(y: FloatArray, codes: IntArray, *, plain: bool, level: float) -> tuple[float, float]:
    one = proportion(y, None if plain else {"group": codes}, level=level)
    return one.low, one.high


def _recovered(c: FloatArray, p: FloatArray, limits: FloatArray, correlation: FloatArray) -> tuple[float, float]:
    """Return the distances from a combination to its limits (Zou and Donner 2008, equation 9, for many parts)."""
    down, up = p - limits[:, 0], limits[:, 1] - p
    arms = []
    for towards, away in ((down, up), (up, down)):
        # A negative coefficient moves the sum down where its part moves up.
        d = np.where(c > 0, c * towards, c * away)
        arms.append(math.sqrt(max(0.0, float(d @ correlation @ d))))
    return arms[0], arms[1]


def cluster_correlation(sums: FloatArray) -> FloatArray:
    """Return the correlation of the errors of several estimates over clusters.

    Parameters
    ----------
    sums : array (cluster, part)
        Sums of the influences of a cluster's items on each estimate.

    Returns
    -------
    array (part, part)
        1 on the diagonal; an estimate without influences correlates with none.
    """
    covariance = sums.T @ sums
    spread = np.sqrt(np.diag(covariance))
    # Influences of a constant part are zero up to rounding.
    still = spread <= 1e-12
    scale = np.where(still, 1.0, spread)
    correlation = covariance / np.outer(scale, scale)
    correlation[still, :], correlation[:, still] = 0.0, 0.0
    correlation[np.ix_(still, still)] = 1.0
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation, dtype=np.float64)


def sign_flip_test(
    contributions: ArrayLike,
    clusters: Clusters | None = None,
    *,
    random_state: int | np.random.Generator | None = 0,
    draws: int = 9999,
    exact_up_to: int = 14,
) -> FlipTest:
    """Test that paired differences are symmetric around zero, by flipping the signs of whole clusters.

    Parameters
    ----------
    contributions : array_like, shape (item,)
        What each item adds to the statistic, which is their sum: for a difference of accuracies the difference of the
        item; for the hearing index the difference times the item's coefficient.
    clusters : mapping of str to array_like, shape (item,), optional
        The largest p-value is kept. Without them every item is flipped by itself.
    random_state : int, Generator or None
        For the sample of sign patterns where there are too many to count.
    draws : int
        Size of that sample. The observed pattern counts as one more, so that p is never 0.
    exact_up_to : int
        Count all ``2 ** k`` patterns where at most so many clusters differ at all.

    Returns
    -------
    FlipTest
        ``p = 1`` where nothing differs.
    """
    d = np.asarray(contributions, dtype=np.float64)
    rng = np.random.default_rng(random_state)
    worst: FlipTest | None = None
    for name, labels in (clusters or {NO_GROUPS: np.arange(len(d))}).items():
        codes, count = _codes(labels)
        sums = np.bincount(codes, weights=d, minlength=count)
        # Clusters that do not differ are the same under either sign: leaving them out changes nothing but the work.
        size = float(np.abs(d).max(initial=0.0))
        sums = sums[np.abs(sums) > 1e-9 * size]
        k, exact = len(sums), len(sums) <= exact_up_to
        threshold = abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())
        if exact:
            signs = 1.0 - 2.0 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1)
            p = float(np.mean(np.abs(signs @ sums) >= threshold)) if k else 1.0
        else:
            hits, step = 0, max(1, min(1000, int(_FLIP_BYTES / (16 * max(k, 1)))))
            for start in range(0, draws, step):
                signs = 1.0 - 2.0 * rng.integers(0, 2, size=(min(step, draws - start), k))
                hits += int(np.sum(np.abs(signs @ sums) >= threshold))
            p = (1 + hits) / (1 + draws)
        if worst is None or p > worst.p:
            worst = FlipTest(p, k, name, exact)
    assert worst is not None
    return worst


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided exact McNemar p-value of two paired right/wrong vectors. It assumes independent items.

    Parameters
    ----------
    a, b : array_like of bool, shape (item,)
        Whether each of the two was right, item by item.
    """
    x, y = np.asarray(a, dtype=np.bool_), np.asarray(b, dtype=np.bool_)
    only_a, only_b = int(np.sum(x & ~y)), int(np.sum(~x & y))
    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2 * float(distributions.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Return p-values adjusted for the false discovery rate (Benjamini and Hochberg 1995); NaN stays NaN, uncounted."""
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full(p.shape, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    if len(known):
        order = known[np.argsort(p[known], kind="stable")]
        scaled = p[order] * len(known) / np.arange(1, len(known) + 1)
        q[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return q


def _codes(labels: ArrayLike) -> tuple[IntArray, int]:
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    return codes.astype(np.int64).reshape(-1), len(names)


def _usable(clusters: Clusters) -> list[tuple[str, IntArray, int]]:
    """Return (name, codes, count) of every clustering; of those with one cluster only where there is no other."""
    coded = [(name, *_codes(labels)) for name, labels in clusters.items()]
    return [one for one in coded if one[2] > 1] or coded[:1]


def _variance(y: FloatArray, w: FloatArray, codes: IntArray, count: int) -> float:
    """Return the cluster-robust variance of the weighted mean, linearised; NaN for one cluster."""
    if count < 2:
        return math.nan
    centred = w * (y - np.average(y, weights=w))
    sums = np.bincount(codes, weights=centred, minlength=count)
    return float(count / (count - 1) * np.sum(sums**2) / w.sum() ** 2)


def _effective(
    y: FloatArray, w: FloatArray, codes: IntArray, count: int, p: float, kish: float, chance: float | None
) -> Callable[[float], float]:
    """Return how many independent items would be as telling, if the accuracy were what the function is given."""
    own = _variance(y, w, codes, count)
    # The cluster size that a cluster-wide failure would take with it, seen from an item.
    size = float(np.sum(np.bincount(codes, weights=w, minlength=count) ** 2) / np.sum(w**2))
    rare = min(int(np.sum(y > p)), int(np.sum(y < p)))
    cautious = kish / (1 + (size - 1) * _ASSUMED * (1 - rare / _FEW)) if rare < _FEW else math.inf
    between, most = 0.0, kish
    if chance is not None and 0 < p < 1:
        alone, z = p * (1 - p) / kish, float(special.ndtri(p))
        kept = math.exp(-z * z) / (2 * math.pi * p * (1 - p))
        between, most = min(max(0.0, own - (1 - kept) * alone), kept * size * alone), kish / _STRATIFIED

    def at(q: float) -> float:
        guessed = 0.0 if chance is None else min(1.0, (1 - q) / (1 - chance))
        variance = own + guessed**2 * between
        return min(most, p * (1 - p) / variance if variance > 0 else most, cautious)

    return at


def _widest(found: Sequence[Estimate]) -> Estimate:
    def width(one: Estimate) -> float:
        return -1.0 if math.isnan(one.low) else one.high - one.low

    return max(found, key=width)
