"""How many directions does a site use, and do they all point one way? Effective rank and isotropy per layer.

Why it exists. A site whose states differ along three directions cannot hold ten independent properties, and one whose
states all point the same way makes every cosine look large. Three numbers, each of which is textbook:

* *Effective rank* (Roy and Vetterli 2007): ``exp`` of the entropy of the singular values of the centred states, scaled
  to sum to one. 1 for states on a line, d for states spread evenly over d directions.
* *IsoScore* (Rudman et al. 2022): 0 where one direction has all the variance, 1 where all have the same. Written out it
  is ``(r - 1) / (d - 1)`` with the participation ratio ``r = (sum of variances)^2 / sum of squared variances`` over the
  d principal components, and so it is computed.
* *Mean cosine* of two different items, uncentred (Ethayarajh 2019): 0 for isotropic states, near 1 in a narrow cone.

Ranks and IsoScore cannot exceed n - 1 directions and grow with the number of items: compare sites and Runs over the
same items. Intervals leave clusters out (:mod:`._jackknife`), joined into at most twenty groups.

Worked example:

>>> import numpy as np
>>> square = np.array([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]])
>>> round(effective_rank(square), 6), round(isoscore(square), 6)
(2.0, 0.5)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vpanalysis.errors import RunError
from vpanalysis.probes.splits import FloatArray
from vpanalysis.probes.views._input import Sites, read
from vpanalysis.probes.views._jackknife import deletions, joined, limits
from vpanalysis.probes.views._result import ViewResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MEASURES", "Geometry", "effective_rank", "geometry", "isoscore", "mean_cosine"]

MEASURES = ("effective_rank", "isoscore", "mean_cosine")
"""Measures of :func:`geometry`."""

_MOST_GROUPS = 20


class Geometry(ViewResult):
    """Effective rank and isotropy per site.

    Attributes
    ----------
    table : DataFrame
        A row a site and measure (:data:`MEASURES`): site, site_order, measure, value, low, high, n, n_groups, group,
        features. NaN where the states are constant.
    settings : mapping
    """

    _NOTE = "Ranks and IsoScore grow with the number of items: compare over the same items only."

    def pivot(self) -> pd.DataFrame:
        """Return the values with a row a site and a column a measure."""
        return self.table.pivot(index="site", columns="measure", values="value").reindex(self.sites)[list(MEASURES)]

    def _summary(self) -> pd.DataFrame:
        return self.table.drop(columns="site_order")

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw one measure along the sites; see :func:`vpanalysis.plots.geometry_curve`."""
        from vpanalysis.plots.views import geometry_curve

        return geometry_curve(self, ax=ax, **kwargs)


def effective_rank(x: ArrayLike) -> float:
    """Return the effective rank of states, shape (item, feature), about their mean; NaN for constant states."""
    return _measures(np.asarray(x, dtype=np.float64))[0]


def isoscore(x: ArrayLike) -> float:
    """Return the IsoScore of states, shape (item, feature); NaN for constant states or one feature."""
    return _measures(np.asarray(x, dtype=np.float64))[1]


def mean_cosine(x: ArrayLike) -> float:
    """Return the mean cosine of two different items of states, shape (item, feature), without items of length 0."""
    return _measures(np.asarray(x, dtype=np.float64))[2]


def _measures(x: FloatArray) -> tuple[float, float, float]:
    n, d = x.shape
    rows = x - x.mean(axis=0)
    small = rows @ rows.T if n <= d else rows.T @ rows
    variances = np.linalg.eigvalsh(small)[::-1]
    # Below that they are rounding, of which the square roots would count.
    variances = variances[variances > variances[0] * max(n, d) * np.finfo(np.float64).eps]
    still = not len(variances) or variances.sum() <= 1e-20 * float(np.sum(x**2))
    rank = iso = np.nan
    if not still:
        share = np.sqrt(variances)
        share = share / share.sum()
        rank = float(np.exp(-np.sum(share * np.log(share))))
        ratio = variances.sum() ** 2 / np.sum(variances**2)
        iso = float((ratio - 1) / (d - 1)) if d > 1 else np.nan
    length = np.linalg.norm(x, axis=1)
    unit = x[length > 0] / length[length > 0, None]
    m = len(unit)
    cosine = float((np.sum(unit.sum(axis=0) ** 2) - m) / (m * (m - 1))) if m > 1 else np.nan
    return rank, iso, cosine


def geometry(
    data: Any,
    *,
    sites: Sites = None,
    tasks: str | Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
    group_by: Sequence[str] = ("speaker", "script"),
    reducer: str = "auto",
    random_state: int | None = 0,
    level: float = 0.95,
) -> Geometry:
    """Measure effective rank, IsoScore and mean cosine of every site.

    Parameters
    ----------
    data : Run, array of shape (item, layer, feature), DataArray or mapping of str to array
    sites, tasks, conditions, group_by, reducer
        Of a Run, as in :func:`~vpanalysis.probes.views.similarity`.
    groups : array_like, shape (item,), or mapping of str to such, optional
        Of arrays: what belongs together; the widest interval is kept.
    random_state : int or None
        Seed by which more than twenty clusters are joined.
    level : float

    Returns
    -------
    Geometry

    Raises
    ------
    RunError
        With fewer than three items, or states that are not finite.
    """
    found = read(
        data, sites=sites, tasks=tasks, conditions=conditions, groups=groups, group_by=group_by, reducer=reducer
    )
    if found.items < 3:
        raise RunError("cannot measure the geometry", found=f"{found.items} items", allowed="3 or more")
    plans = {
        name: joined(codes, _MOST_GROUPS, random_state)
        for name, codes in deletions(found.clusters, found.items).items()
    }
    table = []
    for order, (site, states) in enumerate(found.states.items()):
        value = np.array(_measures(states))
        best = [("", 1, np.nan, np.nan)] * len(MEASURES)
        top = np.array([float(min(found.items - 1, states.shape[1])), 1.0, 1.0])
        for name, codes in plans.items():
            numbers = np.unique(codes)
            without = np.array([_measures(states[codes != number]) for number in numbers])
            for k in range(len(MEASURES)):
                low, high = limits(value[k], without[:, k], level=level, low=(1.0, 0.0, -1.0)[k], high=top[k])
                # The widest is kept; a comparison with NaN is false, so that any interval replaces none.
                if np.isfinite(high - low) and not high - low <= best[k][3] - best[k][2]:
                    best[k] = (name, len(numbers), float(low), float(high))
        for measure, one, (name, count, lower, upper) in zip(MEASURES, value, best, strict=True):
            table.append(
                {
                    "site": site, "site_order": order, "measure": measure, "value": one, "low": lower, "high": upper,
                    "n": found.items, "n_groups": count, "group": name, "features": states.shape[1],
                }
            )  # fmt: skip
    return Geometry(
        pd.DataFrame(table), found.made | {"items": found.items, "level": level, "random_state": random_state}
    )
