"""One sign-flip test for a family of paired differences that share their items.

Why it exists. "Which of twenty layers differ from the last one?" is twenty tests on the same clips. Bonferroni treats
them as if they had nothing to do with each other; flipping the signs of a cluster for *all* of them at once keeps how
they hang together, and the largest statistic of every flip is what chance alone makes of the best of twenty.

The method. Under the null hypothesis a cluster's differences are as likely with the other sign, for all members of the
family together. The statistic is the sum over clusters divided by the root of their sum of squares, which no flip
changes, so members of unequal spread count alike. A member's p value counts flips in which its own statistic is at
least as large, its adjusted one flips in which *any* member's is (single-step maxT: Westfall and Young 1993,
"Resampling-based multiple testing"; with +1 in numerator and denominator: Phipson and Smyth 2010).

>>> import numpy as np
>>> p, adjusted = flip_family(np.array([[1.0] * 8, [1, -1] * 4]), {"item": np.arange(8)})
>>> p.tolist(), adjusted.tolist()               # 2 of 256 patterns are as extreme for the first, 2 more for the second
([0.0078125, 1.0], [0.015625, 1.0])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from vpanalysis.stats import FloatArray

__all__ = ["flip_family"]

_CHUNK, _BYTES = 1000, 6.4e7
"""Patterns at a time, and what they may take: with every item a cluster of its own, clusters are many."""


def flip_family(
    contributions: ArrayLike,
    clusters: Mapping[str, ArrayLike],
    *,
    random_state: int | None = 0,
    draws: int = 9999,
    exact_up_to: int = 12,
) -> tuple[FloatArray, FloatArray]:
    """Return two-sided p values of paired differences, and those adjusted for the family.

    Parameters
    ----------
    contributions : array_like, shape (member, item)
        What each item adds to the statistic of each member: its difference, times its weight.
    clusters : mapping of str to array_like, shape (item,)
        Whole clusters are flipped. Of several clusterings the larger p value is kept.
    random_state : int or None
    draws : int
        Sign patterns where there are too many to count.
    exact_up_to : int
        Count all patterns where at most so many clusters differ at all.

    Returns
    -------
    p, p_adjusted : array, shape (member,), float64
        1 for members in which nothing differs.
    """
    d = np.atleast_2d(np.asarray(contributions, dtype=np.float64))
    p, adjusted = np.zeros(len(d)), np.zeros(len(d))
    for labels in clusters.values():
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        sums = np.zeros((len(d), len(names)))
        np.add.at(sums.T, codes.reshape(-1), d.T)
        root = np.sqrt(np.square(sums).sum(axis=1))
        moves = root > 1e-9 * np.abs(d).max(initial=0.0)
        unit = np.divide(sums, root[:, None], out=np.zeros_like(sums), where=moves[:, None])
        # Clusters in which no member differs are the same under either sign.
        unit = unit[:, (unit != 0).any(axis=0)]
        exact = unit.shape[1] <= exact_up_to
        seen = np.abs(unit.sum(axis=1)) - 1e-9
        own, any_member, total = np.zeros(len(d)), np.zeros(len(d)), 0
        for signs in _patterns(unit.shape[1], exact, draws, random_state):
            found = np.abs(signs @ unit.T)
            own += (found >= seen).sum(axis=0)
            any_member += (found.max(axis=1)[:, None] >= seen).sum(axis=0)
            total += len(signs)
        more = 0 if exact else 1
        here = np.where(moves, (own + more) / (total + more), 1.0)
        family = np.where(moves, (any_member + more) / (total + more), 1.0)
        p, adjusted = np.maximum(p, here), np.maximum(adjusted, family)
    return p, adjusted


def _patterns(count: int, exact: bool, draws: int, seed: int | None) -> Iterator[FloatArray]:
    """Yield sign patterns, shape (pattern, cluster): all of them, or a sample."""
    if exact:
        yield np.asarray(1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1), dtype=np.float64)
        return
    rng = np.random.default_rng(seed)
    step = max(1, min(_CHUNK, int(_BYTES / (16 * count))))
    for start in range(0, draws, step):
        signs = rng.integers(0, 2, size=(min(step, draws - start), count))
        yield np.asarray(1.0 - 2.0 * signs, dtype=np.float64)
