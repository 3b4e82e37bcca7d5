"""Shuffled labels that keep everything but the tie between label and state.

Why it exists. A shuffle is a fair control only if it could have happened: labels that come by speaker must be shuffled
by speaker, or 200 clips of ten speakers pass for 200 independent observations and everything is significant.

The idea. The smallest thing that moves is a design cell: its twins (same voice, other words) take the labels of another
cell's twins, condition by condition. Where all items of a group (a speaker) have one label, whole groups trade labels.
Elsewhere cells trade labels within their group, and groups of the same make-up (as many cells of the same conditions)
trade all their labels at once, so that a group of a single cell is not stuck with its own. Restricted permutations of
this kind are those of Winkler et al. 2015, "Multi-level block permutation". All sites of a task share each shuffle,
which is what makes the maximum over sites a test of the family (Westfall and Young 1993).

Folds are stratified by the true labels, and a shuffle knows nothing of folds. Where whole groups trade labels it may
put most of a class into one fold; what is left of that class to train on is thin, the other class is the safer guess,
and the shuffle scores *below* chance. With ten speakers the average shuffle scored 0.47 where it should score 0.50, and
7.5 % of tests at 5 % found something in nothing. A shuffle is a fair control only if the design could have drawn it, so
of :data:`CANDIDATES` shuffles for every one wanted those are kept that spread the labels over the folds most evenly
(Morgan and Rubin 2012, "Rerandomization": compare with what the balance criterion admits). Taking only shuffles as even
as the truth would be exact, and would leave 16 different ones of ten speakers, too few to ever reach 5 %.

>>> rows = shuffled_rows(np.array([0, 0, 1, 1]), [np.array([0, 0, 1, 1])], np.arange(4), np.zeros(4), 1, seed=3)
>>> rows[0] // 2                               # two groups with a label each: they trade, or they do not
array([1, 1, 0, 0])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis.probes.splits import FloatArray, IntArray

__all__ = ["Evidence", "evidence", "shuffled_rows"]

FEWEST_ADJUSTED = 199
"""Shuffles that adjusted p values take at least: the smallest possible p is then 0.005."""

CANDIDATES = 3
"""Shuffles of whole groups that are drawn for each one that is kept."""

_ELEMENTS = 4_000_000
"""Labels of candidates that are looked at in one go."""


def shuffled_rows(
    labels: NDArray[Any],
    groupings: Sequence[IntArray],
    cells: NDArray[Any],
    conditions: NDArray[Any],
    n: int,
    seed: int | None = 0,
    folds: IntArray | None = None,
) -> IntArray:
    """Draw `n` shuffles: from which item each item takes its label.

    Parameters
    ----------
    labels : array, shape (item,)
        Class numbers or numbers; only looked at for being constant within groups.
    groupings : sequence of arrays, shape (item,), int64
        Group numbers of the split. The first grouping within whose groups the labels are constant is shuffled as a
        whole; where there is none, labels are shuffled within the groups of the first. Cells lie within groups.
    cells : array, shape (item,)
        Which items move together.
    conditions : array, shape (item,)
        Twins take labels from twins of the same condition.
    n : int
    seed : int or None
    folds : array, shape (item,), int64, optional
        In which fold each item is tested. With it, shuffles of whole groups are those most even over the folds.

    Returns
    -------
    array, shape (n, item), int64
        Within groups every row is a permutation, so that each label is kept as often as it was. Between whole groups
        of different sizes it is the number of groups with each label that is kept.
    """
    rng = np.random.default_rng(seed)
    for groups in groupings:
        ids, first, which = np.unique(groups, return_index=True, return_inverse=True)
        if bool((labels == labels[first][which]).all()):
            size = n if folds is None else CANDIDATES * n
            drawn = np.array([first[rng.permutation(len(ids))] for _ in range(size)], dtype=np.int64)
            drawn = drawn.reshape(size, len(ids))
            return drawn[:, which] if folds is None else _even(drawn, which, labels, folds, n)
    out = np.empty((n, len(labels)), dtype=np.int64)
    families = _families(groupings[0], cells, conditions)
    for row in out:
        for members in families:
            for target, source in zip(members, rng.permutation(len(members)), strict=True):
                for to, of in zip(target, members[source], strict=True):
                    row[to] = of[rng.permutation(len(of))] if len(of) > 1 else of
    return out


def _even(drawn: IntArray, which: IntArray, labels: NDArray[Any], folds: IntArray, n: int) -> IntArray:
    """Return the `n` rows, in their order, under which the folds differ least in their shares of each label.

    A row of `drawn` says by group where its items take their label from, `which` is the group of every item.
    """
    # Numbers are spread by their value, classes one by one.
    sides = [labels] if labels.dtype.kind == "f" else [labels == one for one in np.unique(labels)]
    member = (folds[:, None] == np.unique(folds)).astype(np.float64)
    uneven = np.zeros(len(drawn))
    step = max(1, _ELEMENTS // max(1, len(labels)))
    for start in range(0, len(drawn), step):
        rows = drawn[start : start + step][:, which]
        for side in sides:
            moved = side.astype(np.float64)[rows]
            uneven[start : start + step] += (((moved - moved.mean(axis=1, keepdims=True)) @ member) ** 2).sum(axis=1)
    # Rounding must not decide between equals; of those the first drawn are kept.
    kept = np.argsort(uneven.round(9), kind="stable")[:n]
    return drawn[np.sort(kept)][:, which]


def _families(groups: IntArray, cells: NDArray[Any], conditions: NDArray[Any]) -> list[list[list[IntArray]]]:
    """Return groups by make-up; a group is, for each kind of cell in it, an array of rows (cell, twin)."""
    names = np.unique(conditions.astype(str), return_inverse=True)[1]
    twins: dict[Any, list[int]] = defaultdict(list)
    for item in np.lexsort((np.arange(len(groups)), names)):
        twins[groups[item], cells[item]].append(int(item))
    kinds: dict[Any, dict[tuple[int, ...], list[list[int]]]] = defaultdict(lambda: defaultdict(list))
    for (group, _), items in sorted(twins.items(), key=lambda pair: min(pair[1])):
        kinds[group][tuple(names[items])].append(items)
    families: dict[Any, list[list[IntArray]]] = defaultdict(list)
    for made in kinds.values():
        order = sorted(made)
        make_up = tuple((kind, len(made[kind])) for kind in order)
        families[make_up].append([np.array(made[kind], dtype=np.int64) for kind in order])
    return list(families.values())


@dataclass(frozen=True)
class Evidence:
    """What the shuffles of a task say about its sites; arrays of shape (site,), float64, NaN without shuffles."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    p: FloatArray
    p_adjusted: FloatArray


def evidence(scores: FloatArray, shuffled: FloatArray, *, level: float = 0.95) -> Evidence:
    """Compare the scores of all sites of a task with their shuffles.

    Parameters
    ----------
    scores : array, shape (site,), float64
    shuffled : array, shape (site, shuffle), float64
        Every column is one shuffle, the same at all sites.
    level : float
        Of the band from `low` to `high`.

    Returns
    -------
    Evidence
        ``p = (1 + number of shuffles that score at least as high) / (1 + number of shuffles)`` (Phipson and Smyth
        2010). ``p_adjusted`` counts shuffles whose *best* site scores at least as high, which controls the chance of
        one false site among all; NaN with fewer than 199 shuffles, which could not tell much.
    """
    sites, n = shuffled.shape
    empty = np.full(sites, np.nan)
    if not n or not sites:
        return Evidence(*(empty.copy() for _ in range(5)))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(shuffled, [tail, 1.0 - tail], axis=1)
    # Equal scores count; sums in another order may differ in the last bits.
    reached = scores[:, None] - 1e-9
    p = (1.0 + (shuffled >= reached).sum(axis=1)) / (1.0 + n)
    best = shuffled.max(axis=0)
    adjusted = (1.0 + (best[None] >= reached).sum(axis=1)) / (1.0 + n) if n >= FEWEST_ADJUSTED else empty
    return Evidence(shuffled.mean(axis=1), low, high, p, adjusted)
