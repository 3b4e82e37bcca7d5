"""Standardised rows of a site, learnt from the training items of every fold alone, and their inner products.

A fold's scaling is that of ``StandardScaler().fit(X[train])``: mean and population standard deviation of the training
rows, a scale of one for constant features by scikit-learn's own rule. Means and variances of all folds come from two
products of a fold-by-item matrix with the site's states, so that a fold costs one pass over them and one product.

Where a feature varies so little about its mean that the difference of mean square and squared mean would lose digits,
it takes two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes._finite import finite_rows
from vpanalysis.probes.solvers._products import product

__all__ = ["Scaled", "check_states", "scale_of"]

_DOUBTFUL = 1e-6


def check_states(states: NDArray[np.floating], name: str, items: int) -> None:
    """Refuse states that are not a finite matrix with a row per item.

    Parameters
    ----------
    states : array, shape (item, feature)
    name : str
        Of the site, for the message.
    items : int

    Raises
    ------
    RunError
    """
    if states.ndim != 2 or len(states) != items or not states.shape[1]:
        raise RunError(
            f"cannot probe site {name!r}", found=f"states of shape {states.shape}", allowed=f"({items} items, features)"
        )
    finite = finite_rows(states)
    if not finite.all():
        raise RunError(
            f"cannot probe site {name!r}",
            found=f"{int((~finite).sum())} items with infinite or missing states, first item {int(np.argmin(finite))}",
            fix="record them again, or leave the items out",
        )


def scale_of(
    mean: Float[Tensor, "f d"],
    square: Float[Tensor, "f d"],
    count: Float[Tensor, "f 1"],
    again: Callable[[int, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Float[Tensor, "f d"], Float[Tensor, "f d"]]:
    """Return mean and inverse scale of every fold's training rows, from their means and mean squares.

    Parameters
    ----------
    mean, square : tensor, shape (fold, feature)
    count : tensor, shape (fold, 1)
        Training rows.
    again : callable
        From a fold and some features to their mean and variance, taken in two passes.
    """
    variance = square - mean.square()
    doubtful = variance <= _DOUBTFUL * square
    for fold in doubtful.any(1).nonzero()[:, 0].tolist():
        features = doubtful[fold].nonzero()[:, 0]
        mean[fold, features], variance[fold, features] = again(fold, features)
    eps = torch.finfo(mean.dtype).eps
    rounding = count * eps * variance + (count * eps * mean).square()
    return mean, torch.where(variance <= rounding, 1.0, variance.clamp_min(1e-300).rsqrt())


class Scaled:
    """One site, ready to be standardised for any of its folds.

    Parameters
    ----------
    states : tensor, shape (item, feature), floating, on the device and in the precision of the work
    folds : sequence of (train, test) tensors, shape (rows,), int64
    """

    def __init__(
        self, states: Float[Tensor, "i d"], folds: Sequence[tuple[Int[Tensor, " n"], Int[Tensor, " m"]]]
    ) -> None:
        self._folds, self._states = folds, states
        member = states.new_zeros((len(folds), len(states)))
        for row, (train, _) in zip(member, folds, strict=True):
            row[train] = 1.0
        count = member.sum(1, keepdim=True)

        def again(fold: int, features: Tensor) -> tuple[Tensor, Tensor]:
            columns = states[folds[fold][0]][:, features]
            return columns.mean(0), (columns - columns.mean(0)).square().mean(0)

        mean, square = product(member, states) / count, product(member, states.square()) / count
        self._mean, self._inverse = scale_of(mean, square, count, again)

    @property
    def kind(self) -> tuple[int, ...]:
        """Equal for sites that can be solved in one batch: all with item coefficients, or equally many features."""
        folds = range(len(self._folds))
        return (0,) if all(self.by_items(f) and self.fewer_items(f) for f in folds) else (self._states.shape[1],)

    def by_items(self, fold: int) -> bool:
        """Whether products with item coefficients are the cheaper ones: `n` squared against ``d (d + 2 n)``."""
        n, d = len(self._folds[fold][0]), self._states.shape[1]
        return n * n <= d * (d + 2 * n)

    def fewer_items(self, fold: int) -> bool:
        """Whether there are fewer training items than features."""
        return len(self._folds[fold][0]) <= self._states.shape[1]

    def rows(self, fold: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Return the standardised training rows and test rows of `fold`."""
        train, test = self._folds[fold]
        rows = self._states[torch.cat([train, test])]
        rows.sub_(self._mean[fold]).mul_(self._inverse[fold])
        return rows[: len(train)], rows[len(train) :]

    def gram(self, fold: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, "m n"]]:
        """Return the inner products of the training rows, and of test with training rows, of `fold`."""
        train, test = self.rows(fold)
        return product(train, train.mT), product(test, train.mT)
