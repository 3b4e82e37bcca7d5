"""The strength of the penalty of a logistic regression, chosen inside the training fold.

Ridge can leave items out in closed form; logistic regression has to be fitted again. But not from scratch: within a
training fold the inner products of its rows are there already, so an inner fold is a submatrix of them (the scaling is
that of the training fold, which has seen no test item), and along the strengths every solution starts from the one
before. Each label set of each site gets the strength with the smallest weighted log loss on the items left out.

Worked example: five inner folds and five strengths cost about 25 fits of four fifths of the items each, times the share
of Newton steps that a warm start leaves, and 21 label sets still share every product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers._spaces import FeatureSpace
from vpanalysis.probes.solvers._streamed import StreamedFold, solve_streamed
from vpanalysis.probes.solvers.gram import solve_gram
from vpanalysis.probes.solvers.newton import LogisticFit, solve_logistic

__all__ = ["choose_strength", "fit_rows", "inner_folds"]

# A strength is judged by losses of a few digits; what is printed is fitted to the tolerance that was asked for.
_ROUGH = 1e-6


def inner_folds(members: NDArray[np.int64], splits: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return, per inner fold, which training items it leaves out; groups are never split.

    Parameters
    ----------
    members : array, shape (item,), int64
        Group of each training item.
    splits : int
        Largest number of inner folds.
    seed : int

    Returns
    -------
    list of arrays, shape (item,), bool

    Raises
    ------
    RunError
        With fewer than two groups.
    """
    names = np.unique(members)
    count = min(splits, len(names))
    if count < 2:
        raise RunError(
            "cannot choose a penalty", found=f"{len(names)} group and {splits} inner folds", allowed="2 or more"
        )
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    fold_of = dict(zip(names.tolist(), (order % count).tolist(), strict=True))
    number = np.array([fold_of[name] for name in members.tolist()])
    return [number == fold for fold in range(count)]


def fit_rows(
    rows: Float[Tensor, "b n x"] | StreamedFold,
    by_items: bool,
    onehot: Float[Tensor, "n k sets"],
    cost: Float[Tensor, "n 1 sets"],
    *,
    C: float,
    tol: float,
    start: LogisticFit | None = None,
) -> LogisticFit:
    """Solve on inner products of centred rows (`by_items`), on the rows themselves, or on rows that come in slices."""
    if isinstance(rows, StreamedFold):
        return solve_streamed(rows, onehot, cost, C=C, tol=tol, start=start)
    if by_items:
        return solve_gram(rows, onehot, cost, C=C, tol=tol, start=start)
    return solve_logistic(FeatureSpace(rows), onehot, cost, C=C, tol=tol, start=start)


def choose_strength(
    rows: Float[Tensor, "b n x"] | StreamedFold,
    by_items: bool,
    onehot: Float[Tensor, "n k sets"],
    cost: Float[Tensor, "n 1 sets"],
    strengths: Sequence[float],
    folds: Sequence[NDArray[np.bool_]],
) -> Int[Tensor, "b sets"]:
    """Return the number of the best strength for every site and label set.

    Parameters
    ----------
    rows : tensor, shape (site, item, item) or (site, item, feature), or StreamedFold
        Inner products of the centred training rows, or the rows.
    by_items : bool
        Which of the two.
    onehot, cost
        As `onehot` and `weight` of :func:`~vpanalysis.probes.solvers.newton.solve_logistic`.
    strengths : sequence of float
        Values of C, ascending.
    folds : sequence of arrays, shape (item,), bool
        Items that each inner fold leaves out. A label set with one class left does without that fold.

    Returns
    -------
    tensor, shape (site, label set), int64
        The first, so the smallest C, of the best.
    """
    b, (_, k, sets) = 1 if isinstance(rows, StreamedFold) else len(rows), onehot.shape
    loss = onehot.new_zeros((len(strengths), b, sets))
    for left_out in folds:
        out = torch.from_numpy(np.flatnonzero(left_out)).to(onehot.device)
        kept = torch.from_numpy(np.flatnonzero(~left_out)).to(onehot.device)
        inner, weight = onehot[kept], cost[kept]
        exists = (inner * weight).sum(0) > 0
        usable = (exists.sum(0) > 1).nonzero()[:, 0]
        if not len(usable):
            continue
        train: Tensor | StreamedFold
        test: Tensor | None = None
        if isinstance(rows, StreamedFold):
            train = rows.within(kept.numpy(), out.numpy())
        else:
            train, test = _within(rows, by_items, kept, out)
        some = slice(None) if cost.shape[-1] == 1 else usable
        # An item of a class that the inner fold never saw costs the same at every strength.
        judged = (onehot[out][..., usable] * exists[:, usable]) * cost[out][..., some]
        start: LogisticFit | None = None
        for number, strength in enumerate(strengths):
            start = fit_rows(
                train, by_items, inner[..., usable], weight[..., some], C=strength, tol=_ROUGH, start=start
            )
            flat = start.coef.flatten(2)
            fitted = (
                train.forward(flat[0], test=True) if isinstance(train, StreamedFold) else product(_there(test), flat)
            )
            logits = fitted.view(b, len(out), k, len(usable)) + start.bias
            # Classes that do not exist have a log probability of -1e30, which zero weight does not undo.
            log_p = torch.log_softmax(logits, 2).clamp_min(-1e6)
            loss[number][:, usable] -= (judged * log_p).sum((1, 2))
    return loss.argmin(0)


def _there(rows: Tensor | None) -> Tensor:
    assert rows is not None
    return rows


def _within(rows: Tensor, by_items: bool, kept: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of an inner fold: centred inner products, or features."""
    if not by_items:
        return rows[:, kept], rows[:, out]
    gram, cross = rows[:, kept][:, :, kept], rows[:, out][:, :, kept]
    mean = gram.mean(2)
    centred = gram - mean[:, :, None] - mean[:, None, :] + mean.mean(1)[:, None, None]
    # Coefficients sum to zero, so a constant per test row would cancel; it is left out.
    return centred, cross - mean[:, None, :]
