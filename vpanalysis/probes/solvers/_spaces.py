"""Where the coefficients of a linear probe live: one per training item, or one per feature.

An L2-penalised linear model never leaves the span of its training rows (the representer theorem), so its weights are
``W = X' A`` with one row of `A` per training item, whatever the number of features. Fitted values are then ``G A`` and
the penalty ``A' G A`` with the Gram matrix ``G = X X'``. With 180 items and 1,280 features that is seven times less of
everything; with many more items than features it is the other way round, and the weights themselves are kept.

Both spaces offer the few operations that a preconditioned solver needs, over a batch of sites (axis 0) and any number
of classes and label sets (the last two axes), and neither knows about losses. The preconditioner is the resolvent
``M = (I + c G)^-1``: the exact inverse Hessian of a loss whose curvature is `c` everywhere. In item space one product
with `M` is all that an iteration costs, for ``G M r = (r - M r) / c`` comes for free.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vpanalysis.probes.solvers._products import product

__all__ = ["FeatureSpace", "ItemSpace", "Space", "matmul_zero_sum", "resolvent", "span_of"]


def matmul_zero_sum(matrix: Float[Tensor, "b m n"], array: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b m k sets"]:
    """Multiply along axis 1, for arrays whose classes (axis 2) sum to zero: the last class is minus the others."""
    b, _, k, sets = array.shape
    out = torch.empty((b, matrix.shape[1], k, sets), dtype=array.dtype, device=array.device)
    head = out[:, :, : k - 1]
    product(matrix, array[:, :, : k - 1].flatten(2), out=head.view(b, -1, (k - 1) * sets))
    torch.neg(head[:, :, 0] if k == 2 else head.sum(2), out=out[:, :, k - 1])
    return out


class Space(Protocol):
    """What a solver needs of the place where coefficients live."""

    size: int
    items: int
    batch: int
    inner: torch.dtype

    def forward(self, coef: Float[Tensor, "b m k sets"]) -> Float[Tensor, "b n k sets"]:
        """Return fitted values, without intercept."""

    def back(self, values: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b m k sets"]:
        """Return the gradient with respect to the coefficients of ``sum(values * fitted)``, as coefficients."""

    def dot(
        self, left: Float[Tensor, "b m k sets"], right: Float[Tensor, "b m k sets"], fitted: Float[Tensor, "b n k sets"]
    ) -> Float[Tensor, "b 1 1 sets"]:
        """Return the inner product of two sets of weights, given the fitted values of the second."""

    def doubt(self, coef: Float[Tensor, "b m k sets"]) -> Float[Tensor, "b 1 1 sets"]:
        """Return what rounding may have done to the inner product of `coef` with itself."""

    def set_curvature(self, c: Float[Tensor, " b"]) -> None:
        """Make the preconditioner for the curvature `c` of each batch entry."""

    def precondition(
        self, coef: Float[Tensor, "b m k sets"]
    ) -> tuple[Float[Tensor, "b m k sets"], Float[Tensor, "b n k sets"]]:
        """Return the preconditioned coefficients and their fitted values."""


def resolvent(gram: Float[Tensor, "b m m"], c: Float[Tensor, " b"]) -> Float[Tensor, "b m m"]:
    """Return ``(I + c G)^-1``."""
    shifted = gram * c[:, None, None]
    shifted.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return torch.cholesky_inverse(torch.linalg.cholesky(shifted))


class ItemSpace:
    """One coefficient per training item.

    Parameters
    ----------
    gram : tensor, shape (batch, item, item), floating
        Inner products of the *centred* training rows.
    inner : torch.dtype, optional
        Precision of the preconditioner and of what it is applied to; default that of `gram`.
    """

    def __init__(self, gram: Float[Tensor, "b n n"], inner: torch.dtype | None = None) -> None:
        self.gram, self.inner = gram, gram.dtype if inner is None else inner
        self.batch, self.size, self.items = gram.shape[0], gram.shape[1], gram.shape[1]
        # Far below this curvature the resolvent is the identity to the last digit and (r - M r) / c is noise.
        self._trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        self._least = 1e-3 / self._trace.clamp_min(1e-30)
        self._gram = gram.to(self.inner)
        self._inverse, self._c = self._gram, torch.ones_like(self._trace, dtype=self.inner)

    def forward(self, coef: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b n k sets"]:
        return matmul_zero_sum(self.gram, coef)

    def back(self, values: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b n k sets"]:
        # The constant vector is in the null space of a centred Gram matrix. Left in, it grows until its rounding hides
        # what is to be solved.
        return values - values.mean(1, keepdim=True)

    def dot(
        self, left: Float[Tensor, "b n k sets"], right: Float[Tensor, "b n k sets"], fitted: Float[Tensor, "b n k sets"]
    ) -> Float[Tensor, "b 1 1 sets"]:
        return (left * fitted).sum((1, 2), keepdim=True)

    def doubt(self, coef: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b 1 1 sets"]:
        # Large coefficients whose effects cancel: the product with the Gram matrix is then rounding.
        scale = torch.finfo(coef.dtype).eps * self._trace
        return scale[:, None, None, None] * coef.square().sum((1, 2), keepdim=True)

    def set_curvature(self, c: Float[Tensor, " b"]) -> None:
        self._c = torch.maximum(c, self._least).to(self.inner)
        self._inverse = resolvent(self._gram, self._c)

    def precondition(
        self, coef: Float[Tensor, "b n k sets"]
    ) -> tuple[Float[Tensor, "b n k sets"], Float[Tensor, "b n k sets"]]:
        solved = matmul_zero_sum(self._inverse, coef)
        return solved, (coef - solved).div_(self._c[:, None, None, None])


class FeatureSpace:
    """One coefficient per feature; `rows` are the training rows."""

    def __init__(self, rows: Float[Tensor, "b n d"]) -> None:
        self.rows, self._columns, self.inner = rows, rows.mT, rows.dtype
        self.batch, self.items, self.size = rows.shape
        self._gram = product(self._columns, rows)
        self._inverse = self._gram

    def forward(self, coef: Float[Tensor, "b d k sets"]) -> Float[Tensor, "b n k sets"]:
        return matmul_zero_sum(self.rows, coef)

    def back(self, values: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b d k sets"]:
        return matmul_zero_sum(self._columns, values)

    def dot(
        self, left: Float[Tensor, "b d k sets"], right: Float[Tensor, "b d k sets"], fitted: Float[Tensor, "b n k sets"]
    ) -> Float[Tensor, "b 1 1 sets"]:
        return (left * right).sum((1, 2), keepdim=True)

    def doubt(self, coef: Float[Tensor, "b d k sets"]) -> Float[Tensor, "b 1 1 sets"]:
        return torch.zeros_like(coef[:, :1, :1])

    def set_curvature(self, c: Float[Tensor, " b"]) -> None:
        self._inverse = resolvent(self._gram, c)

    def precondition(
        self, coef: Float[Tensor, "b d k sets"]
    ) -> tuple[Float[Tensor, "b d k sets"], Float[Tensor, "b n k sets"]]:
        solved = matmul_zero_sum(self._inverse, coef)
        return solved, self.forward(solved)


def span_of(gram: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]:
    """Return the training rows in an orthonormal basis of their span, and the map from there to item coefficients.

    With ``gram = Q S Q'`` the rows are ``Q S^(1/2)``, weights `v` in that basis are ``Q S^(-1/2) v`` as item
    coefficients, and item coefficients `a` are ``rows' a`` in the basis.
    """
    values, vectors = torch.linalg.eigh(gram)
    # Directions whose share of the variance is below rounding hold no data.
    keep = values > 1e-13 * values[-1].clamp_min(1e-300)
    scale = values[keep].sqrt()
    return vectors[:, keep] * scale, vectors[:, keep] / scale
