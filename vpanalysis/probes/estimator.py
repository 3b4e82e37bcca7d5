"""The readers of ``probe_layers``: all sites of a task, all folds, the labels and their shuffles in one call.

The fits are :func:`~vpanalysis.probes.solvers.engine.fit_many` (logistic regression, ridge),
:func:`~vpanalysis.probes.solvers.engine.regress_many` (numbers) and
:func:`~vpanalysis.probes.solvers.train.train_many` (the paper's networks of one, three and five layers). What is added
here is what a task needs of them: the out-of-fold prediction and class probabilities of every item under the true
labels, one score for every shuffle, and a memory of these. The memory goes by content: checkpoints that share a frozen
encoder share its states byte for byte, so that their Runs are probed at the price of one.

``C`` is 0.01 by default: on standardised features it is close to the best for the shapes met here (100 to 1,200 items,
128 to 1,280 features; on planted signals from weak to strong a factor of ten either way costs one to three points of
accuracy), and one constant keeps all layers and tasks comparable. A sequence is searched, inside every training fold.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers import DEFAULT_PENALTIES, Recipe, fit_many, regress_many, train_many
from vpanalysis.probes.solvers._threads import cores, single_thread
from vpanalysis.probes.splits import FloatArray, Fold, IntArray

__all__ = [
    "DEFAULT_C", "ESTIMATORS", "MEMORY_GB", "NETWORKS", "LabelSets", "SiteFit", "each_fit", "fit_predict",
    "fit_sites", "r_squared", "single_thread",
]  # fmt: skip

DEFAULT_C = 0.01
"""Inverse penalty of the logistic regression on standardised features."""

NETWORKS: Mapping[str, int] = MappingProxyType({"mlp1": 1, "mlp3": 3, "mlp5": 5})
"""Layers of the paper's probes: linear, and ReLU networks of three and five layers, all trained by Adam."""

ESTIMATORS = ("logistic", "ridge", *NETWORKS)

MEMORY_GB = 2.0
"""What probing may take at once by default, about, in 1e9 bytes: a quarter each for states that several tasks share and
for those that are being fitted (one site at least), half for the work."""

_HELD_SHARE, _WORK_SHARE = 0.25, 0.5

_SETS = 16
"""Label sets whose weights are there at once, where they are made when they are needed."""

_MEMO_BYTES = 3e7
"""What is remembered of fits, some KB each."""


@dataclass(frozen=True, eq=False)
class LabelSets:
    """What is fitted: the true labels in the first row, a shuffle in every other.

    Attributes
    ----------
    values : array, shape (set, item), int64 or float64
        Class numbers, or numbers for a regression.
    folds : list of Fold
        Whose test sets cover every item once; their own weights are not looked at.
    train_weights : array, shape (fold, set, item), float64, or callable
        Weight of every item in the loss; or a function from the number of a fold and some sets (an array or a slice) to
        their part, for what is too large to be there at once.
    weights : array, shape (set, item), float64
        Weight of every item in the score.
    groups : array, shape (item,), int64
        Items that are left out together when a strength is chosen inside a training fold.
    """

    values: NDArray[Any]
    folds: list[Fold]
    train_weights: FloatArray | Callable[[int, IntArray | slice], FloatArray]
    weights: FloatArray
    groups: IntArray


@dataclass(frozen=True, eq=False)
class SiteFit:
    """What is known of a site.

    Attributes
    ----------
    predicted : array, shape (item,), int64 or float64
        Out-of-fold class numbers, or numbers, under the true labels.
    shuffled : array, shape (shuffle,), float64
        Score of every shuffle.
    probabilities : array, shape (item, class), float32, or None for numbers
        Out-of-fold class probabilities under the true labels.
    """

    predicted: NDArray[Any]
    shuffled: FloatArray
    probabilities: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return sum(array.nbytes for array in (self.predicted, self.shuffled, self.probabilities) if array is not None)

    def copy(self) -> SiteFit:
        """Return a copy whose arrays may be written to."""
        chances = None if self.probabilities is None else self.probabilities.copy()
        return SiteFit(self.predicted.copy(), self.shuffled.copy(), chances)


class _Memo:
    """Fits by the content of what they were made of; the ones that were not asked for longest make room."""

    def __init__(self) -> None:
        self._fits: OrderedDict[str, SiteFit] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._fits)

    def get(self, key: str) -> SiteFit | None:
        if key in self._fits:
            self._fits.move_to_end(key)
        return self._fits.get(key)

    def keep(self, key: str, fit: SiteFit) -> None:
        before = self._fits.pop(key, None)
        self.nbytes += fit.nbytes - (0 if before is None else before.nbytes)
        self._fits[key] = fit
        while self.nbytes > _MEMO_BYTES:
            self.nbytes -= self._fits.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._fits.clear()
        self.nbytes = 0


_MEMO = _Memo()


def fit_sites(
    read: Callable[[str], NDArray[np.floating[Any]]],
    sites: Sequence[str],
    sets: LabelSets,
    *,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    seeds: int = 1,
    random_state: int | None = 0,
    memory_gb: float = MEMORY_GB,
    progress: Callable[[float], None] | None = None,
) -> list[SiteFit]:
    """Predict every item, at every site and under every label set, by a probe that has not seen its group.

    Parameters
    ----------
    read : callable
        From the name of a site to its states, shape (item, feature), floating.
    sites : sequence of str
    sets : LabelSets
    estimator : {"logistic", "ridge", "mlp1", "mlp3", "mlp5"}
        Ridge takes its penalty by generalised cross-validation in every fold and set. Networks take their number of
        training steps on held-out groups of the training items, and are trained anew for every label set, so that
        shuffles cost what the labels cost. Numbers are always ridge.
    C : float or sequence of float
        Inverse penalty of the logistic regression.
    seeds : int
        Networks with different initial weights whose probabilities are averaged.
    random_state : int or None
        Seed of the first network; the others follow.
    memory_gb : float
        As in :func:`~vpanalysis.probes.probe_layers`.
    progress : callable, optional
        Called with the number of sites that are done, in fractions.

    Returns
    -------
    list of SiteFit
        Kept by content for the life of the process, so states that several Runs share are fitted once. Scores of
        shuffles are weighted accuracies, or R^2. An item whose training set has one class only is given that class.

    Raises
    ------
    RunError
        For an unknown estimator, fewer than one seed, and states that are not finite.
    """
    found = dict(each_fit(
        read, sites, sets, estimator=estimator, C=C, seeds=seeds, random_state=random_state, memory_gb=memory_gb,
        progress=progress,
    ))  # fmt: skip
    return [found[number] for number in range(len(sites))]


def each_fit(
    read: Callable[[str], NDArray[np.floating[Any]]],
    sites: Sequence[str],
    sets: LabelSets,
    *,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    seeds: int = 1,
    random_state: int | None = 0,
    memory_gb: float = MEMORY_GB,
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[int, SiteFit]]:
    """Yield the fits of :func:`fit_sites` as they come, each with its site's place in `sites`.

    For what keeps less of a fit than the fit: the predictions of 100,000 items are megabytes a site.
    """
    if estimator not in ESTIMATORS:
        raise RunError("cannot fit the probe", found=f"estimator={estimator!r}", allowed=ESTIMATORS, word=estimator)
    if seeds < 1:
        raise RunError("cannot fit the probe", found=f"seeds={seeds}", allowed="1 or more")
    how = _How(estimator, C)
    if estimator in NETWORKS:
        first = int(np.random.default_rng().integers(2**31)) if random_state is None else random_state
        how = _How(estimator, seeds=tuple(range(first, first + seeds)))
    common = _digest_of_sets(sets, how)
    held: dict[int, tuple[str, NDArray[np.floating[Any]]]] = {}
    done = 0

    def flush() -> Iterator[tuple[int, SiteFit]]:
        nonlocal done
        if not held:
            return
        before = done
        tell = None if progress is None else lambda now, total: progress(before + len(held) * now / total)
        names = [sites[number] for number in held]
        fits = _fit([states for _, states in held.values()], names, sets, how, _WORK_SHARE * memory_gb * 1e9, tell)
        for (number, (key, _)), fit in zip(held.items(), fits, strict=True):
            _MEMO.keep(key, fit)
            yield number, fit.copy()
        done += len(held)
        held.clear()

    size = largest = 0
    for number, site in enumerate(sites):
        # Before the next one is read, which is likely as large: two sites at once may be one too many.
        if held and size + largest > _HELD_SHARE * memory_gb * 1e9:
            yield from flush()
            size = 0
        states = read(site)
        key = _digest(states, common)
        known = _MEMO.get(key)
        if known is not None:
            done += 1
            yield number, known.copy()
            continue
        if held and size + states.nbytes > _HELD_SHARE * memory_gb * 1e9:
            yield from flush()
            size = 0
        held[number] = (key, states)
        size += states.nbytes
        largest = max(largest, states.nbytes)
        del states
    yield from flush()
    if progress is not None:
        progress(len(sites))


@dataclass(frozen=True)
class _How:
    """What is fitted, and everything beside the data that its result depends on."""

    estimator: str
    C: float | Sequence[float] = DEFAULT_C
    seeds: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.estimator}{np.asarray(self.C).tolist()!r}{self.seeds}"


def _fit(
    states: list[NDArray[np.floating[Any]]],
    names: list[str],
    sets: LabelSets,
    how: _How,
    memory: float,
    progress: Callable[[int, int], None] | None,
) -> Iterator[SiteFit]:
    pairs = [(fold.train, fold.test) for fold in sets.folds]
    values = sets.values
    weights = sets.train_weights
    if callable(weights) and how.estimator in NETWORKS:
        weights = np.stack([weights(fold, slice(None)) for fold in range(len(sets.folds))])
    classes = int(values.max()) + 1 if values.dtype.kind != "f" else 1
    # Of the room for the work, what labels and predictions take is no longer there: 200 sets of 100,000 items are much.
    memory = max(0.3 * memory, memory - (values.itemsize + 4.0 * classes) * values.size)
    common: dict[str, Any] = {
        "weights": weights, "names": names, "progress": progress, "workers": cores(),
    }  # fmt: skip
    # Penalties are chosen with equal weights, so that one factorisation serves all shuffles; the fits have their own.
    linear = {**common, "penalties": DEFAULT_PENALTIES, "choose_weighted": False, "shuffled_from": 1, "memory": memory}
    if values.dtype.kind == "f":
        numbers, _ = regress_many(states, values, pairs, **linear)
        yield from (SiteFit(one[0].copy(), r_squared(values[1:], one[1:], sets.weights[1:])) for one in numbers)
        return
    if how.estimator in NETWORKS:
        recipe = Recipe(depth=NETWORKS[how.estimator])
        chances = train_many(
            states, values, pairs, recipe, seeds=how.seeds, groups=sets.groups, one_class="nan", **common
        ).mean
    else:
        groups = sets.groups if how.estimator == "logistic" and np.size(how.C) > 1 else None
        chances = fit_many(
            states, values, pairs, kind=how.estimator, C=how.C, one_class="nan", groups=groups, **linear
        ).probabilities
    for chance in chances:
        # Set by set: a row of this table is small, all of it is as large as the site itself.
        share = np.empty(len(values))
        for number in range(len(values)):
            lacking = np.isnan(chance[number])
            if lacking.any():
                single = np.eye(chance.shape[-1], dtype=np.float32)[_only_class(values[number], sets.folds)]
                chance[number] = np.where(lacking, single, chance[number])
            right = (chance[number].argmax(axis=-1) == values[number]).astype(np.float64)
            share[number] = (right * sets.weights[number]).sum() / sets.weights[number].sum()
        yield SiteFit(chance[0].argmax(axis=-1).astype(np.int64), share[1:], chance[0].copy())


def _only_class(values: IntArray, folds: Sequence[Fold]) -> IntArray:
    """Return the first training class of every item's fold: the prediction where there is no other."""
    out = np.full(values.shape, -1, dtype=np.int64)
    for fold in folds:
        out[fold.test] = values[fold.train[0]]
    return out


def r_squared(truth: FloatArray, predicted: FloatArray, weights: FloatArray) -> FloatArray:
    """Return one minus the weighted squared error over that of the weighted mean, along the last axis."""
    mean = (truth * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
    error: FloatArray = (weights * (truth - predicted) ** 2).sum(-1) / (weights * (truth - mean) ** 2).sum(-1)
    return 1.0 - error


def fit_predict(
    train: NDArray[np.floating[Any]],
    labels: IntArray,
    test: NDArray[np.floating[Any]],
    *,
    C: float | Sequence[float] = DEFAULT_C,
    weights: FloatArray | None = None,
) -> IntArray:
    """Fit a logistic probe on `train` and predict `test`.

    Parameters
    ----------
    train, test : array, shape (item, feature), floating
        States; scaling is learnt from `train` alone.
    labels : array, shape (train item,), int64
        Class number of each training item. With one class only that class is predicted.
    C : float or sequence of float
        Inverse penalty.
    weights : array, shape (train item,), float64, optional
        Weight of each training item in the loss.

    Returns
    -------
    array, shape (test item,), int64
        Predicted class numbers.
    """
    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0], dtype=np.int64)
    size = len(train)
    whole = np.concatenate([labels, np.full(len(test), -1)]).astype(np.int64)
    weighed = np.concatenate([np.ones(size) if weights is None else weights, np.ones(len(test))])
    fold = (np.arange(size), np.arange(size, size + len(test)))
    return fit_many(np.concatenate([train, test])[None], whole, [fold], C=C, weights=weighed).predicted[0, 0, size:]


def _digest_of_sets(sets: LabelSets, how: _How) -> bytes:
    digest = hashlib.blake2b(f"{how}{sets.values.dtype}".encode(), digest_size=16)
    parts = [part for fold in sets.folds for part in (fold.train, fold.test)]
    weights = sets.train_weights
    by_fold: Iterable[FloatArray] = (weights,) if not callable(weights) else (
        weights(fold, slice(start, start + _SETS))
        for fold in range(len(sets.folds)) for start in range(0, len(sets.values), _SETS)
    )  # fmt: skip
    for array in itertools.chain((sets.values, sets.weights, sets.groups), by_fold, parts):
        # The shape goes in as well, or two lists of folds could run together to one string of bytes.
        digest.update(f"|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _digest(states: NDArray[np.floating[Any]], common: bytes) -> str:
    digest = hashlib.blake2b(common + f"{states.dtype}{states.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(states).data)
    return digest.hexdigest()
