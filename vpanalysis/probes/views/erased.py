"""One label is taken out of the states: what can still be read?

Why it exists. A site may hold the truth (voice) and the claim (words) in one direction or in two. If a probe of the
truth falls to chance once the claim is gone, then what looked like the voice was read off the words' direction; if it
stays, the two are apart, and one can be steered without the other.

The idea. Within every training fold the label is erased from the training items (:class:`~.leace.Eraser`, weighted as
the probe is), the same change is applied to the test items, and both labels are probed before and after by one
logistic regression on one set of folds. Three rows a site and label:

``none``      states as they are;
``label``     the label erased;
``shuffled``  a random permutation of it erased: what losing as many directions costs, whatever they mean.

``change`` is the paired difference from ``none``, with the groups of the folds as the unit. On the training items the
erased label has no covariance left (``residual``, the largest correlation of a feature with it over all folds), so the
probe of it falls back on the commonest class of the *training* fold, which may well be the rarer one in the test fold:
read it against ``majority``, and a value below chance as none.

Worked example::

    table = erasure(run, "claim", "truth", task="emotion_recognition").to_dataframe()
    table[table.site == "text[3]"][["label", "erased", "accuracy", "change", "change_low", "change_high"]]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes.estimator import DEFAULT_C, single_thread
from vpanalysis.probes.solvers.engine import fit_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, make_folds, mutual_information
from vpanalysis.probes.views._input import Sites, is_run, of_arrays
from vpanalysis.probes.views._labels import LabelPair, of_run
from vpanalysis.probes.views._result import ViewResult
from vpanalysis.probes.views.leace import Eraser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ERASED", "Erasure", "erasure"]

ERASED = ("none", "label", "shuffled")
"""What is taken out: nothing, the label, a permutation of it."""


class Erasure(ViewResult):
    """Probe accuracy of two labels before and after one of them is erased.

    Attributes
    ----------
    table : DataFrame
        A row a site, label and state of erasure: site, site_order, label, role (``erased`` or ``other``), erased
        (:data:`ERASED`), accuracy, low, high, change, change_low, change_high, chance, majority, rank (directions
        taken out, the most of any fold), residual (see the module), n, n_groups, group.
    settings : mapping
        ``shared_nats``: mutual information of the two labels under the weights; what they share goes with the erased
        one.
    """

    _NOTE = (
        "change: paired difference from the states as they are; shuffled: a permuted label erased, what losing as many "
        "directions costs."
    )

    def _title(self) -> str:
        return f"{super()._title()}; the labels share {self.settings['shared_nats']:.2f} nats"

    def _summary(self) -> pd.DataFrame:
        columns = ["site", "label", "erased", "accuracy", "low", "high", "change", "change_low", "change_high"]
        return self.table[[*columns, "chance", "majority", "rank", "n", "n_groups"]]

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw accuracies along the sites; see :func:`vpanalysis.plots.erasure_curves`."""
        from vpanalysis.plots.views import erasure_curves

        return erasure_curves(self, ax=ax, **kwargs)


def erasure(
    data: Any,
    erase: str | ArrayLike,
    measure: str | ArrayLike,
    *,
    task: str | None = None,
    sites: Sites = None,
    groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
    group_by: str = "speaker",
    n_splits: int = 5,
    C: float = DEFAULT_C,
    shrinkage: float | str = "oas",
    reducer: str = "auto",
    random_state: int | None = 0,
    level: float = 0.95,
) -> Erasure:
    """Erase one label within training folds and measure how well it and another can be read before and after.

    Parameters
    ----------
    data : Run, array of shape (item, layer, feature), DataArray or mapping of str to array
    erase, measure : str, or array_like of shape (item,)
        Of a Run: ``"truth"``, ``"claim"`` or a column. Of arrays: labels, called "label A" and "label B" in the table.
    task : str, optional
        Of a Run; needed where it has several. Conflict and congruent twins are pooled, weighted so that the words
        carry no information about the truth.
    sites, reducer
        As in :func:`~vpanalysis.probes.views.similarity`.
    groups : array_like, shape (item,), or mapping of one or two, optional
        Of arrays: what no fold may have on both sides. Default: every item by itself.
    group_by : {"speaker", "script", "both"}
        The same of a Run.
    n_splits : int
    C : float
        Inverse penalty on standardised features.
    shrinkage : float or "oas"
        Of :class:`Eraser`.
    random_state : int or None
        Seed of folds and permutation.
    level : float

    Returns
    -------
    Erasure

    Raises
    ------
    RunError
        Where a label has one class (in all items or in a training fold), groups are too few, or a label is the
        grouping itself.
    """
    if n_splits < 2:
        raise RunError("cannot cross-validate", found=f"n_splits={n_splits}", allowed="2 or more")
    if is_run(data):
        if not isinstance(erase, str) or not isinstance(measure, str):
            raise RunError("cannot find the labels", found="arrays with a Run", allowed="names of targets or columns")
        pair = of_run(data, erase, measure, task, sites, group_by, reducer)
    else:
        pair = LabelPair.of_arrays(of_arrays(data, groups, sites), erase, measure)
    clusters = list(pair.data.clusters.values()) or [np.arange(pair.data.items, dtype=np.int64)]
    if len(clusters) > 2:
        raise RunError("cannot make folds", found=f"{len(clusters)} groupings", allowed="one or two")
    folds = make_folds(pair.codes[1], clusters, n_splits=n_splits, random_state=random_state, weigh=pair.train_weights)
    if not folds:
        raise RunError(
            "cannot make folds", found=f"{[len(np.unique(c)) for c in clusters]} groups", allowed="2 or more"
        )
    with single_thread():
        correct, ranks, residual = _probe(pair, folds, C, shrinkage, random_state)
    used = " and ".join(pair.data.clusters) or "item"
    table = []
    for order, site in enumerate(pair.data.sites):
        for k, (name, role) in enumerate(zip(pair.names, ("erased", "other"), strict=True)):
            share = np.bincount(pair.codes[k], weights=pair.weights) / pair.weights.sum()
            for e, erased in enumerate(ERASED):
                accuracy, low, high = accuracy_interval(
                    correct[order, e, k], clusters, pair.weights, level=level, chance=1.0 / len(share)
                )
                change = (np.nan,) * 3
                if e:
                    moved = correct[order, e, k] - correct[order, 0, k]
                    change = difference_interval(moved, clusters, pair.weights, level=level)
                table.append(
                    {
                        "site": site, "site_order": order, "label": name, "role": role, "erased": erased,
                        "accuracy": accuracy, "low": low, "high": high, "change": change[0], "change_low": change[1],
                        "change_high": change[2], "chance": 1.0 / len(share), "majority": float(share.max()),
                        "rank": int(ranks[order, e]), "residual": residual[order] if erased == "label" else np.nan,
                        "n": pair.data.items, "n_groups": min(len(np.unique(c)) for c in clusters), "group": used,
                    }
                )  # fmt: skip
    shared = mutual_information(pair.codes[0].astype(str), pair.codes[1].astype(str), pair.weights)
    made = {
        "erase": pair.names[0], "measure": pair.names[1], "note": pair.note, "shared_nats": shared,
        "n_splits": n_splits, "folds": len(folds), "C": C, "shrinkage": shrinkage, "random_state": random_state,
        "level": level, "items": pair.data.items,
    }  # fmt: skip
    return Erasure(pd.DataFrame(table), pair.data.made | made)


def _probe(
    pair: LabelPair, folds: list[Fold], C: float, shrinkage: float | str, random_state: int | None
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return 0 or 1 per (site, erased, label, item), the most directions taken out, and the largest correlation."""
    sites, n = list(pair.data.states.values()), pair.data.items
    correct = np.full((len(sites), len(ERASED), 2, n), np.nan)
    ranks, residual = np.zeros((len(sites), len(ERASED)), dtype=np.int64), np.zeros(len(sites))
    shuffled = pair.codes[0][np.random.default_rng(random_state).permutation(n)]
    for fold in folds:
        states: list[NDArray[np.float64]] = []
        for row, x in enumerate(sites):
            states.append(x)
            for e, label in ((1, pair.codes[0]), (2, shuffled)):
                eraser = Eraser(shrinkage).fit(x[fold.train], label[fold.train], fold.weights)
                after = eraser.transform(x)
                ranks[row, e] = max(ranks[row, e], eraser.rank_)
                if e == 1:
                    residual[row] = max(residual[row], _correlation(after, x, label, fold))
                states.append(after)
        # One fold at a time: the states themselves differ between folds.
        fits = fit_many(states, pair.codes, [fold], C=C)
        right = fits.predicted[:, :, fold.test] == pair.codes[:, fold.test]
        correct[..., fold.test] = right.reshape(len(sites), len(ERASED), 2, -1)
    return correct, ranks, residual


def _correlation(after: FloatArray, before: FloatArray, label: IntArray, fold: Fold) -> float:
    """Return the largest covariance of an erased feature with a class, over their spreads, before it was erased."""
    w = fold.weights / fold.weights.sum()
    classes = np.unique(label[fold.train])
    z = (label[fold.train][:, None] == classes).astype(np.float64)
    z -= w @ z
    x, old = after[fold.train], before[fold.train]
    spread = np.sqrt(w @ (old - w @ old) ** 2)
    size = np.outer(np.where(spread > 0, spread, 1.0), np.sqrt(w @ z**2))
    return float(np.max(np.abs((w[:, None] * (x - w @ x)).T @ z) / np.maximum(size, 1e-300)))
