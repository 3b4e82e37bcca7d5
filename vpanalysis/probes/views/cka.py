"""Do two places hold the same geometry? Linear CKA and its debiased form, between sites and between Runs.

Why it exists. Two layers of unlike width cannot be compared feature by feature, but what they say about the *items*
can: which clips lie close together. Linear centred kernel alignment (Kornblith et al. 2019) is the cosine of the two
centred matrices of inner products, ``<K, L> / (|K| |L|)``: 1 for a rotated, shifted or scaled copy. With far more
features than items it is close to 1 for pure noise, too (Murphy et al. 2024, "Correcting biased centered kernel
alignment measures in biological and artificial neural networks"). The debiased form puts the unbiased estimator of
the Hilbert-Schmidt independence criterion (Song et al. 2012, eq. 5; used within CKA by Nguyen et al. 2021) in all
three places, is about 0 on independent states, and is the default. It may be negative.

The idea. Both are sums over pairs of items. Without a cluster c of items, the sum over the remaining pairs is
``all - 2 * rows of c + c by c``, so that every jackknife value comes out of one pass over the pairs. Nothing is fitted
again, and nothing but one block of rows is in memory.

Worked example:

>>> import numpy as np
>>> rng = np.random.default_rng(0); a, b = rng.normal(size=(2, 12, 500))
>>> round(linear_cka(a, b), 2), abs(linear_cka(a, b, debiased=True)) < 0.1
(0.98, True)
>>> round(linear_cka(a, 3 * a @ np.linalg.qr(rng.normal(size=(500, 500)))[0] + 1, debiased=True), 6)
1.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vpanalysis.errors import RunError
from vpanalysis.probes.splits import FloatArray, IntArray
from vpanalysis.probes.views._input import Activations, Sites, paired, read
from vpanalysis.probes.views._jackknife import deletions, limits
from vpanalysis.probes.views._result import ViewResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Similarity", "linear_cka", "similarity"]

_SMALLEST = 4
"""The unbiased estimator divides by n (n - 3)."""


class Similarity(ViewResult):
    """CKA of every pair of sites.

    Attributes
    ----------
    table : DataFrame
        A row a pair: site, other, cka, low, high, group (the clustering with the widest interval), n, n_groups. NaN
        where a site is constant, or where taking a cluster away leaves too few items.
    settings : mapping
    """

    def pivot(self) -> pd.DataFrame:
        """Return the values as a matrix, a row a site and a column a site of the other side."""
        wide = self.table.pivot(index="site", columns="other", values="cka")
        return wide.reindex(index=self.sites, columns=list(dict.fromkeys(self.table["other"])))

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the matrix; see :func:`vpanalysis.plots.similarity_map`."""
        from vpanalysis.plots.views import similarity_map

        return similarity_map(self, ax=ax, **kwargs)


def linear_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = False) -> float:
    """Return the linear CKA of two matrices over the same items.

    Parameters
    ----------
    x, y : array_like, shape (item, feature)
        The numbers of features may differ.
    debiased : bool
        With the unbiased estimator; needs four items.

    Returns
    -------
    float
        NaN where a matrix is constant.
    """
    data = read({"x": np.asarray(x, dtype=np.float64), "y": np.asarray(y, dtype=np.float64)})
    _enough(data.items, debiased)
    return float(_pass(data, None, debiased)[0][0, 1])


def similarity(
    data: Any,
    other: Any = None,
    *,
    debiased: bool = True,
    sites: Sites = None,
    tasks: str | Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
    group_by: Sequence[str] = ("speaker", "script"),
    reducer: str = "auto",
    level: float = 0.95,
) -> Similarity:
    """Compare all sites of `data` with each other, or with all sites of `other`.

    Parameters
    ----------
    data : Run, array of shape (item, layer, feature), DataArray or mapping of str to array
    other : the same, optional
        Its items are paired with those of `data`: by id between Runs, by row between arrays.
    debiased : bool
        Debiased CKA, or the plain one.
    sites, tasks, conditions, group_by, reducer
        Of Runs; `sites` applies to both.
    groups : array_like, shape (item,), or mapping of str to such, optional
        Of arrays: what belongs together; the widest interval is kept.
    level : float

    Returns
    -------
    Similarity

    Raises
    ------
    RunError
        With too few items, none in common, or states that are not finite.
    """
    options: dict[str, Any] = {
        "sites": sites, "tasks": tasks, "conditions": conditions, "groups": groups, "group_by": group_by,
        "reducer": reducer,
    }  # fmt: skip
    first = read(data, **options)
    made = dict(first.made)
    cut = len(first.sites)
    rows, columns = first.sites, first.sites
    if other is not None:
        second = read(other, **options)
        if "array" in (first.name, second.name) and first.items != second.items:
            raise RunError("cannot pair the items", found=f"{first.items} and {second.items} rows")
        first, second = paired(first, second)
        made |= {"other": second.name, "other_manifest_sha": second.made["manifest_sha"]}
        columns = second.sites
        both = {("a", site): x for site, x in first.states.items()} | {("b", s): x for s, x in second.states.items()}
        stack = Activations(first.name, {"/".join(k): v for k, v in both.items()}, first.ids, first.clusters, {})
    else:
        stack, cut = first, 0
    _enough(stack.items, debiased)
    part = np.s_[: len(rows), cut:]
    found: list[tuple[str, int, FloatArray, FloatArray]] = []
    value = None
    for name, codes in deletions(stack.clusters, stack.items).items():
        total, without = _pass(stack, codes, debiased)
        value = total[part]
        low, high = limits(value, without[:, *part], level=level, low=-1.0 if debiased else 0.0, high=1.0)
        found.append((name, len(without), low, high))
    if value is None:
        value = _pass(stack, None, debiased)[0][part]
        found.append((next(iter(stack.clusters)), 1, np.full(value.shape, np.nan), np.full(value.shape, np.nan)))
    table = []
    for i, j in np.ndindex(*value.shape):
        width = [float(np.nan_to_num(high[i, j] - low[i, j], nan=-1.0)) for _, _, low, high in found]
        group, count, low, high = found[int(np.argmax(width))]
        table.append(
            {
                "site": rows[i], "other": columns[j], "cka": value[i, j], "low": low[i, j], "high": high[i, j],
                "group": group, "n": stack.items, "n_groups": count,
            }
        )  # fmt: skip
    return Similarity(pd.DataFrame(table), made | {"items": stack.items, "debiased": debiased, "level": level})


def _enough(items: int, debiased: bool) -> None:
    least = _SMALLEST if debiased else 2
    if items < least:
        raise RunError("cannot compare states", found=f"{items} items", allowed=f"{least} or more")


def _pass(data: Activations, codes: IntArray | None, debiased: bool) -> tuple[FloatArray, FloatArray]:
    """Return CKA over all items, shape (site, site), and without each cluster, shape (cluster, site, site)."""
    n, count = data.items, len(data.states)
    codes = np.zeros(n, dtype=np.int64) if codes is None else np.unique(codes, return_inverse=True)[1]
    scaled = []
    for states in data.states.values():
        # Neither centre nor scale changes CKA; digits they save, and a constant site is zero exactly.
        rows = states - states.mean(axis=0)
        size = float(np.linalg.norm(rows))
        still = size <= 1e-10 * float(np.linalg.norm(states))
        scaled.append(np.zeros_like(rows) if still else rows / size)
    numbers = np.unique(codes)
    rows_of, within_of, taken = [], [], []
    for number in numbers:
        mine = np.flatnonzero(codes == number)
        block = np.stack([rows[mine] @ rows.T for rows in scaled])  # site, item of c, item
        if debiased:
            block[:, np.arange(len(mine)), mine] = 0.0
        flat, square = block.reshape(count, -1), block[:, :, mine].reshape(count, -1)
        rows_of.append(flat @ flat.T)
        within_of.append(square @ square.T)
        taken.append(block.sum(axis=1))  # what every item loses when c goes
    all_pairs, sums = np.sum(rows_of, axis=0), np.sum(taken, axis=0)
    total = _aligned(all_pairs, sums, n, debiased)
    without = []
    for number, row, within, loss in zip(numbers, rows_of, within_of, taken, strict=True):
        left = codes != number
        without.append(_aligned(all_pairs - 2 * row + within, (sums - loss)[:, left], int(left.sum()), debiased))
    return total, np.stack(without)


def _aligned(pairs: FloatArray, sums: FloatArray, n: int, debiased: bool) -> FloatArray:
    """Return CKA from sums over pairs (site, site) and the row sums (site, item) of the inner products."""
    if n < (_SMALLEST if debiased else 2):
        return np.full(pairs.shape, np.nan)
    cross, whole = sums @ sums.T, sums.sum(axis=1)
    both = np.outer(whole, whole)
    if debiased:
        hsic = pairs + both / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross
    else:
        hsic = pairs + both / n**2 - 2 / n * cross
    own = np.diag(hsic).copy()
    own[own <= 1e-14 * np.diag(pairs)] = np.nan
    scale = np.sqrt(own)
    return np.asarray(np.clip(hsic / np.outer(scale, scale), -1.0, 1.0), dtype=np.float64)
