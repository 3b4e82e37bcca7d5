"""All sites, folds and label sets at once: out-of-fold probabilities of linear probes.

Why it exists. A layer-wise probe with controls is one small problem, tens of thousands of times: every site, every
fold, the labels and all their shuffles. Solved one by one they are minutes of setting up and forgetting. But the
expensive part, the geometry of a site's training rows, is the same for all label sets, and most of the rest is products
of one matrix with many columns.

The idea. For every site and fold: standardise on the training rows, form their inner products (or keep the features,
where there are fewer of them), factor once, and give the factor all label sets: :mod:`.newton` for logistic regression,
:mod:`.ridge` for ridge. Sites are worked in blocks small enough for the processor's cache, and one block is read at a
time, so that memory does not grow with the number of sites.

Worked example::

    fits = fit_many(states, labels, folds)             # (33, 200, 1280), (21, 200), ten folds
    fits.probabilities.shape                           # (33, 21, 200, 4): site, label set, item, class
    fits.gap.max()                                     # 1e-9: relative distance from the optimum, certified

Everything is deterministic, and on the CPU in float64 unless asked otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._plan import MEMORY, ByFold, Folds, Plan, Progress, checked_labels, fitable
from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers._scaling import Scaled
from vpanalysis.probes.solvers._streamed import Streamed, StreamedFold, streamed_ridge
from vpanalysis.probes.solvers.ridge import Spectrum, contrasts, ridge_scores, to_simplex
from vpanalysis.probes.solvers.strength import choose_strength, fit_rows
from vpanalysis.probes.solvers.weighted import weighted_scores

__all__ = ["DEFAULT_PENALTIES", "Fits", "fit_many", "regress_many"]

DEFAULT_PENALTIES: tuple[float, ...] = tuple(float(10.0 ** (k / 2)) for k in range(-2, 11))
"""Ridge penalties on standardised features: thirteen, half a decade apart, from 0.1 to 100,000."""

_LABEL_SETS_BYTES = 2e7
"""Of one array of fitted values, of which some twenty are alive: label sets beyond that wait for the next round."""


@dataclass(frozen=True, eq=False)
class Fits:
    """Out-of-fold predictions, and how far to trust them.

    Attributes
    ----------
    probabilities : array, shape (site, label_set, item, class), float32
        NaN for items in no test set and for label sets that could not be fitted.
    penalty : array, shape (site, fold, label_set), float64
        Ridge penalty, or ``1 / C`` of the logistic regression, chosen within the fold where there are several.
    objective : array, shape (site, fold, label_set), float64
        Minimised ``C * weighted loss + 0.5 |W|^2``; NaN for ridge, which is solved in closed form.
    gap : array, shape (site, fold, label_set), float64
        Certified bound of the objective's distance from its minimum, relative to it; 0 for ridge.
    seconds : float
        Of processor time.
    """

    probabilities: NDArray[np.float32]
    penalty: NDArray[np.float64]
    objective: NDArray[np.float64]
    gap: NDArray[np.float64]
    seconds: float

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class, shape (site, label_set, item), int64; -1 where there is no prediction."""
        missing = np.isnan(self.probabilities).any(axis=-1)
        return np.where(missing, -1, np.nan_to_num(self.probabilities).argmax(axis=-1)).astype(np.int64)


def fit_many(
    X: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]],
    labels: NDArray[np.integer[Any]],
    folds: Folds,
    *,
    kind: str = "logistic",
    C: float | Sequence[float] = 0.01,
    penalties: Sequence[float] | NDArray[np.float64] = DEFAULT_PENALTIES,
    choose: str = "gcv",
    choose_weighted: bool = True,
    shuffled_from: int | None = None,
    weights: NDArray[np.floating[Any]] | ByFold | None = None,
    groups: NDArray[Any] | None = None,
    inner_splits: int = 5,
    n_classes: int | None = None,
    one_class: str = "raise",
    tol: float = 1e-9,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    workers: int = 1,
    memory: float = MEMORY,
    progress: Progress | None = None,
) -> Fits:
    """Predict every test item of every fold, for all sites and label sets.

    Parameters
    ----------
    X : array, shape (site, item, feature), or sequence of arrays, shape (item, feature), floating
        States. Sites of a sequence may differ in width, and are read one block at a time (a lazy sequence is fine).
    labels : array, shape (label_set, item) or (item,), integer
        Class numbers; -1 for items that a label set does not use in training. They are predicted all the same.
    folds : sequence of (train, test) or of :class:`~vpanalysis.probes.splits.Fold`
        Row numbers. An item may be tested once. A `Fold`'s own weights apply where `weights` is None.
    kind : {"logistic", "ridge"}
    C : float or sequence of float
        Inverse penalty of the logistic regression; of several the one with the smallest log loss in `inner_splits`
        inner folds of the training items is taken, for every site, fold and label set.
    penalties : sequence of float
        Of ridge; where there are several, one is chosen in every fold and label set.
    choose : {"loo", "groups", "gcv"}
        How: by leaving out single training items (as ``RidgeClassifierCV``), whole `groups`, or by generalised
        cross-validation, whose price does not grow with the number of label sets.
    choose_weighted : bool
        Weigh the items in that choice, too. Then ridge factors once per *different* vector of weights; with False
        only once per fold, however many label sets have weights of their own (the fit is weighted exactly, anyway).
    shuffled_from : int, optional
        Label sets from this number on are shuffles, of which only an accuracy is wanted: ridge with weights of their
        own fits them to three digits instead of six. Default: none are.
    weights : array, shape (item,), (label_set, item) or (fold, label_set, item), floating, or callable, optional
        Weight of each item in the loss; not negative. A function gives those of a fold (its number) and some label
        sets (numbers, or a slice), float64 of shape (label_set, item).
    groups : array, shape (item,), optional
        Items that are left out together when a penalty is chosen: by ``choose="groups"``, or in inner folds.
    inner_splits : int
        Inner folds for several `C`; fewer where there are fewer groups.
    n_classes : int, optional
        Length of the class axis; default one more than the largest label.
    one_class : {"raise", "nan"}
        What to do where a label set has fewer than two classes in a training set.
    tol : float
        Largest relative gap of the logistic regression.
    names : sequence of str, optional
        Names of the sites, for messages.
    device : str
        ``"cpu"`` or ``"cuda"``; float64 on both.
    workers : int
        Threads that work on sites and folds side by side, each with one thread of BLAS; on the CPU only. The results
        are the same, bit for bit, for any number above one, and for one where BLAS has one thread.
    memory : float
        Bytes that the work may take, about, beside the states of a site as they were read and the results. A site
        whose standardised copies would take more than half of it, with many more items than features, is worked in
        slices (:mod:`._streamed`), which needs ``choose="gcv"`` and the CPU.
    progress : callable, optional
        Called with the number of finished and of all pairs of site and fold.

    Returns
    -------
    Fits

    Raises
    ------
    RunError
        For states that are not finite, one class in training, and arguments that do not fit together.
    """
    if kind not in ("logistic", "ridge"):
        raise RunError("cannot fit probes", found=f"kind={kind!r}", allowed=("logistic", "ridge"), word=kind)
    strengths = np.unique(np.asarray(C, dtype=np.float64))
    if not len(strengths) or not (np.isfinite(strengths) & (strengths > 0)).all():
        raise RunError("cannot fit probes", found=f"C={C}", allowed="positive numbers")
    table, classes = checked_labels(labels, n_classes)
    plan = Plan(X, table.shape, folds, weights, groups, penalties, choose, names, device, progress, workers, memory)
    allowed = plan.weighing(table >= 0)
    possible = fitable(table, plan, allowed, one_class)
    shape = (plan.sites, len(plan.folds), len(table))
    out = np.full((plan.sites, *table.shape, classes), np.nan, dtype=np.float32)
    penalty, objective, gap = (np.full(shape, np.nan) for _ in range(3))
    numbers = torch.arange(classes, device=plan.device)[:, None]
    basis = contrasts(classes, numbers.to(torch.float64))

    @torch.inference_mode()
    def work(sites: list[int], scaled: list[Scaled] | list[Streamed], fold: int) -> None:
        train, test = plan.folds[fold]
        geometry = _Geometry(scaled, fold, kind)
        fits_in = max(1, int(plan.room(scaled, _LABEL_SETS_BYTES) / (8 * len(train) * classes * len(sites))))
        used = np.flatnonzero(possible[fold])
        for some in np.array_split(used, -(-len(used) // fits_in)) if len(used) else []:
            chosen = torch.from_numpy(table[some][:, train].T.copy()).to(plan.device)  # n l
            onehot = (chosen[:, None] == numbers).to(torch.float64)
            weight = allowed(fold, some)[:, train]
            at = np.ix_(np.array(sites), np.array([fold]), some)
            if kind == "logistic":
                inner = plan.inner_folds(fold, inner_splits) if len(strengths) > 1 else []
                probability, number, value, excess = _logistic(geometry, onehot, weight, strengths, inner, tol)
                penalty[at] = 1.0 / strengths[number.cpu().numpy()][:, None]
                objective[at] = value[:, None].cpu().numpy()
                gap[at] = (excess / value.clamp_min(1e-300))[:, None].cpu().numpy()
            else:
                scores, number = _ridge(
                    geometry,
                    torch.einsum("nkl,kj->njl", onehot, basis),
                    weight,
                    fold,
                    plan,
                    choose_weighted,
                    len(table) if shuffled_from is None else int((some < shuffled_from).sum()),
                )
                exists = torch.from_numpy(weight.T.copy()).to(plan.device)[:, None].mul(onehot).sum(0).mT > 0
                scores = torch.einsum("bmjl,kj->blmk", scores, basis) + 1.0 / classes
                probability = to_simplex(scores, exists[:, None])
                penalty[at] = plan.penalties[number.cpu().numpy()][:, None]
                gap[at] = 0.0
            values = probability.to(torch.float32).cpu().numpy()
            for row, site in enumerate(sites):
                out[site][np.ix_(some, test)] = values[row]

    start = time.process_time()
    plan.run(work, len(table) * classes, iterates=kind == "logistic")
    return Fits(out, penalty, objective, gap, time.process_time() - start)


def regress_many(
    X: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]],
    targets: NDArray[np.floating[Any]],
    folds: Folds,
    *,
    penalties: Sequence[float] | NDArray[np.float64] = DEFAULT_PENALTIES,
    choose: str = "gcv",
    choose_weighted: bool = True,
    shuffled_from: int | None = None,
    weights: NDArray[np.floating[Any]] | ByFold | None = None,
    groups: NDArray[Any] | None = None,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    workers: int = 1,
    memory: float = MEMORY,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict numbers out of fold by ridge regression, for all sites and sets of targets.

    Parameters
    ----------
    X, folds, penalties, choose, choose_weighted, shuffled_from, weights, groups, names, device, workers, memory,
    progress
        As in :func:`fit_many`.
    targets : array, shape (target_set, item) or (item,), floating
        NaN for items that a set does not use in training.

    Returns
    -------
    predicted : array, shape (site, target_set, item), float64
        NaN for items in no test set.
    penalty : array, shape (site, fold, target_set), float64

    Raises
    ------
    RunError
        As :func:`fit_many`, and for infinite targets.
    """
    table = np.atleast_2d(np.asarray(targets, dtype=np.float64))
    if table.ndim != 2 or not table.size or np.isinf(table).any():
        raise RunError("cannot regress", found=f"targets of shape {table.shape}", allowed="finite, (target_set, item)")
    plan = Plan(X, table.shape, folds, weights, groups, penalties, choose, names, device, progress, workers, memory)
    allowed = plan.weighing(~np.isnan(table))
    out = np.full((plan.sites, *table.shape), np.nan)
    penalty = np.full((plan.sites, len(plan.folds), len(table)), np.nan)
    for fold, (train, _) in enumerate(plan.folds):
        if not all((allowed(fold, np.array([one]))[0, train] > 0).any() for one in range(len(table))):
            raise RunError("cannot regress", found=f"a set of targets without a training item in fold {fold}")

    @torch.inference_mode()
    def work(sites: list[int], scaled: list[Scaled] | list[Streamed], fold: int) -> None:
        train, test = plan.folds[fold]
        geometry = _Geometry(scaled, fold, "ridge")
        fits_in = (
            max(1, int(plan.room(scaled, np.inf) / (8 * len(train) * len(sites)))) if geometry.sliced else len(table)
        )
        for some in np.array_split(np.arange(len(table)), -(-len(table) // fits_in)):
            target = torch.from_numpy(np.nan_to_num(table[some][:, train]).T.copy())[:, None].to(plan.device)
            exact = len(some) if shuffled_from is None else int((some < shuffled_from).sum())
            scores, number = _ridge(geometry, target, allowed(fold, some)[:, train], fold, plan, choose_weighted, exact)
            penalty[np.ix_(np.array(sites), np.array([fold]), some)] = plan.penalties[number.cpu().numpy()][:, None]
            for row, site in enumerate(sites):
                out[site][np.ix_(some, test)] = scores[row, :, 0].mT.cpu().numpy()

    plan.run(work, len(table), iterates=False)
    return out, penalty


class _Geometry:
    """Training and test rows of a block of sites for one fold: as inner products, or as features where those are fewer.

    Attributes
    ----------
    by_items : bool
    train : tensor, shape (site, item, item) or (site, item, feature), or StreamedFold
    test : tensor, shape (site, test item, item) or (site, test item, feature), or StreamedFold
    batch, tested : int
        Sites, and test items.
    """

    train: Tensor | StreamedFold
    test: Tensor | StreamedFold

    def __init__(self, scaled: list[Scaled] | list[Streamed], fold: int, kind: str) -> None:
        first, self.batch = scaled[0], len(scaled)
        self.sliced = isinstance(first, Streamed)
        if isinstance(first, Streamed):
            self.by_items, self.train = False, first.fold(fold)
            self.test, self.tested = self.train, self.train.tested
            return
        self.by_items = first.by_items(fold) if kind == "logistic" else first.fewer_items(fold)
        whole = cast("list[Scaled]", scaled)
        pairs = [one.gram(fold) if self.by_items else one.rows(fold) for one in whole]
        train, test = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        self.train, self.test, self.tested = train, test, test.shape[1]

    def predict(self, coef: Tensor) -> Tensor:
        """Return fitted values (site, test item, column) for coefficients (site, coefficient, column)."""
        if isinstance(self.test, StreamedFold):
            return self.test.forward(coef[0], test=True)[None]
        return product(self.test, coef)


def _logistic(
    geometry: _Geometry,
    onehot: Tensor,
    weight: NDArray[np.float64],
    strengths: NDArray[np.float64],
    inner: list[NDArray[np.bool_]],
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return test probabilities (b l m k), and per site and label set number of C, objective and gap."""
    some = weight[:1] if bool((weight == weight[:1]).all()) else weight
    cost = torch.from_numpy(some.T.copy())[:, None].to(onehot.device)
    b, (_, k, sets) = geometry.batch, onehot.shape
    number = torch.zeros((b, sets), dtype=torch.int64, device=onehot.device)
    if len(strengths) > 1:
        number = choose_strength(geometry.train, geometry.by_items, onehot, cost, strengths.tolist(), inner)
    probability = onehot.new_empty((b, geometry.tested, k, sets))
    objective, gap = onehot.new_empty((b, sets)), onehot.new_empty((b, sets))
    for one in sorted(set(number.flatten().tolist())):
        chosen = number == one
        columns = chosen.any(0).nonzero()[:, 0]
        fit = fit_rows(
            geometry.train, geometry.by_items, onehot[..., columns],
            cost if cost.shape[-1] == 1 else cost[..., columns], C=float(strengths[one]), tol=tol,
        )  # fmt: skip
        logits = geometry.predict(fit.coef.flatten(2)).view(b, -1, k, len(columns)) + fit.bias
        mine = chosen[:, columns]
        now = torch.softmax(logits, 2)
        probability[..., columns] = torch.where(mine[:, None, None], now, probability[..., columns])
        objective[:, columns] = torch.where(mine, fit.objective, objective[:, columns])
        gap[:, columns] = torch.where(mine, fit.gap, gap[:, columns])
    return probability.permute(0, 3, 1, 2), number, objective, gap


def _ridge(
    geometry: _Geometry,
    target: Tensor,
    weight: NDArray[np.float64],
    fold: int,
    plan: Plan,
    choose_weighted: bool,
    exact: int,
) -> tuple[Tensor, Tensor]:
    """Return test scores (b m k l) and the numbers of the penalties (b l)."""
    penalties = torch.from_numpy(plan.penalties).to(plan.device)
    k, sets = target.shape[1:]
    b, m = geometry.batch, geometry.tested
    scores = target.new_empty((b, m, k, sets))
    number = torch.empty((b, sets), dtype=torch.int64, device=plan.device)
    decompose = Spectrum.of_gram if geometry.by_items else Spectrum.of_rows
    shared = weight if choose_weighted else (weight > 0).astype(np.float64)
    different, which = np.unique(shared, axis=0, return_inverse=True)
    for row, vector in enumerate(different):
        mine = np.flatnonzero(which.reshape(-1) == row)
        columns = torch.from_numpy(mine).to(plan.device)
        some, groups = target[..., columns], plan.groups(fold)
        own = torch.from_numpy(weight[mine].T.copy()).to(plan.device)
        shuffles_from = int((mine < exact).sum())
        if isinstance(geometry.train, StreamedFold) or isinstance(geometry.test, StreamedFold):
            assert isinstance(geometry.train, StreamedFold)
            scores[..., columns], number[:, columns] = streamed_ridge(
                geometry.train, some, own, penalties, shared=torch.from_numpy(vector), exact=shuffles_from
            )
            continue
        spectrum = decompose(geometry.train, geometry.test, torch.from_numpy(vector).to(plan.device))
        if bool((weight[mine] == vector).all()):
            found = ridge_scores(spectrum, some, penalties, choose=plan.choose, groups=groups)
        else:
            found = weighted_scores(
                spectrum, some, own, penalties, choose=plan.choose, groups=groups, exact=shuffles_from
            )
        scores[..., columns], number[:, columns] = found
    return scores, number
