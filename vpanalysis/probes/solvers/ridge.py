"""Ridge regression on class indicators: every label set and every penalty from one eigendecomposition.

Why it exists. In the eigenbasis of a site's training rows a ridge regression is a division per direction. So one
decomposition serves all tasks, all shuffles of their labels and all penalties, and a hundred shuffles cost little more
than none. That makes it the probe for label-shuffle distributions, with the penalty chosen anew in every fold and
shuffle, as it has to be.

The idea. For weights `w` the training rows are centred by their weighted mean and multiplied by ``sqrt(w)``; their Gram
matrix is ``Q S Q'``. With ``u = Q' y`` the fit at penalty `a` is ``Q S/(S+a) u`` and the error that leaving an item out
would make is ``(y - fit) / (1 - h)`` with the leverage ``h`` (Allen 1974; the identity is exact, and includes fitting
the intercept anew). For a group of items `g` it is ``(I - H_gg)^-1 (y - fit)_g``: twins and recordings of one speaker
can be held out together at the same price. Generalised cross-validation (Golub, Heath and Wahba 1979) replaces
leverages by their mean and needs no products at all.

Class indicators of `k` classes sum to one, so they are rotated into ``k - 1`` orthonormal contrasts; squared errors
are the same.

Worked example: 180 items, 1,280 features, 4 classes, 11 penalties, the labels and 100 shuffles: one decomposition of a
180 x 180 matrix and, for leave-one-out, one product of it with 3,333 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpanalysis.probes.solvers._products import product

__all__ = ["CHOICES", "Spectrum", "choose_penalty", "contrasts", "gcv_errors", "ridge_scores", "to_simplex"]

CHOICES = ("loo", "groups", "gcv")
"""How a penalty can be chosen: leaving out items, leaving out groups of items, generalised cross-validation."""

_RANK = 1e-13


@dataclass(frozen=True)
class Spectrum:
    """Training rows of a batch of sites in their eigenbasis, for one vector of item weights.

    Attributes
    ----------
    values : tensor, shape (batch, direction)
    vectors : tensor, shape (batch, item, direction)
        Orthonormal; zero for directions without data.
    test : tensor, shape (batch, test item, direction)
        Inner products of centred test rows with the directions, so that predictions are ``test / (values + a) * u``.
    root : tensor, shape (item,)
        Square roots of the weights.
    """

    values: Float[Tensor, "b r"]
    vectors: Float[Tensor, "b n r"]
    test: Float[Tensor, "b m r"]
    root: Float[Tensor, " n"]

    @classmethod
    def of_gram(
        cls, gram: Float[Tensor, "b n n"], cross: Float[Tensor, "b m n"], weight: Float[Tensor, " n"]
    ) -> Spectrum:
        """Decompose inner products: for fewer items than features."""
        share, root = weight / weight.sum(), weight.sqrt()
        mean = gram @ share  # b n: inner products with the weighted mean
        both = (mean @ share)[:, None, None]
        centred = (gram - mean[:, :, None] - mean[:, None, :] + both) * (root[:, None] * root)
        values, vectors = torch.linalg.eigh(centred)
        keep = values > _RANK * values[:, -1:].clamp_min(1e-300)
        values, vectors = torch.where(keep, values, 0.0), vectors * keep[:, None]
        test = (cross - (cross @ share)[:, :, None] - mean[:, None, :] + both) * root
        return cls(values, vectors, product(test, vectors), root)

    @classmethod
    def of_rows(
        cls, rows: Float[Tensor, "b n d"], test: Float[Tensor, "b m d"], weight: Float[Tensor, " n"]
    ) -> Spectrum:
        """Decompose rows: for fewer features than items."""
        share, root = weight / weight.sum(), weight.sqrt()
        mean = (share @ rows)[:, None]
        centred = (rows - mean) * root[:, None]
        values, basis = torch.linalg.eigh(product(centred.mT, centred))
        keep = values > _RANK * values[:, -1:].clamp_min(1e-300)
        values = torch.where(keep, values, 0.0)
        size = values.sqrt()
        vectors = product(centred, basis) * torch.where(keep, 1.0 / size.clamp_min(1e-300), 0.0)[:, None]
        return cls(values, vectors, product(test - mean, basis * size[:, None]), root)


def contrasts(classes: int, like: Tensor) -> Float[Tensor, "k j"]:
    """Return an orthonormal basis of the class vectors that sum to zero (Helmert's), shape (class, class - 1)."""
    basis: Tensor = torch.tril(like.new_ones((classes, classes)), -1).mT[:, 1:]
    basis = basis - torch.diag_embed(torch.arange(classes, dtype=like.dtype, device=like.device))[:, 1:]
    return torch.nn.functional.normalize(basis, dim=0)


def ridge_scores(
    spectrum: Spectrum,
    target: Float[Tensor, "n k sets"],
    penalties: Float[Tensor, " p"],
    *,
    choose: str = "gcv",
    groups: Sequence[Int[Tensor, " g"]] | None = None,
) -> tuple[Float[Tensor, "b m k sets"], Int[Tensor, "b sets"]]:
    """Fit every target at its best penalty and predict the test items.

    Parameters
    ----------
    spectrum : Spectrum
    target : tensor, shape (item, output, label set), floating
        The outputs of a label set share a penalty.
    penalties : tensor, shape (penalty,), positive
    choose : {"loo", "groups", "gcv"}
        With one penalty nothing is chosen.
    groups : sequence of tensors, shape (size,), int64
        For ``"groups"``: the items of each group, together all items.

    Returns
    -------
    scores : tensor, shape (batch, test item, output, label set)
    chosen : tensor, shape (batch, label set), int64
        Number of the penalty: the first of the best.
    """
    mean, y = _centred(spectrum, target)
    u = product(spectrum.vectors.mT, y)  # b r c
    chosen = _choose(spectrum, y, u, penalties, target.shape[2], choose, groups)
    u = u.view(len(u), -1, *target.shape[1:])
    shrunk = u / (spectrum.values[:, :, None] + penalties[chosen][:, None])[:, :, None]
    return product(spectrum.test, shrunk.flatten(2)).view(len(u), -1, *target.shape[1:]) + mean, chosen


def choose_penalty(
    spectrum: Spectrum,
    target: Float[Tensor, "n k sets"],
    penalties: Float[Tensor, " p"],
    *,
    choose: str = "gcv",
    groups: Sequence[Int[Tensor, " g"]] | None = None,
) -> Int[Tensor, "b sets"]:
    """Return the number of the best penalty of every site and label set, without the fit.

    Parameters
    ----------
    spectrum, target, penalties, choose, groups
        As in :func:`ridge_scores`.

    Returns
    -------
    tensor, shape (batch, label set), int64
        The first of the best.
    """
    _, y = _centred(spectrum, target)
    return _choose(spectrum, y, product(spectrum.vectors.mT, y), penalties, target.shape[2], choose, groups)


def _centred(spectrum: Spectrum, target: Tensor) -> tuple[Float[Tensor, "k sets"], Float[Tensor, "n c"]]:
    """Return weighted means of the targets, and what they are the weighted targets' distances from."""
    weight = spectrum.root.square()
    mean = torch.einsum("n,nkl->kl", weight, target) / weight.sum()
    return mean, ((target - mean) * spectrum.root[:, None, None]).flatten(1)


def _choose(
    spectrum: Spectrum,
    y: Tensor,
    u: Tensor,
    penalties: Tensor,
    sets: int,
    choose: str,
    groups: Sequence[Tensor] | None,
) -> Int[Tensor, "b sets"]:
    b = len(u)
    if len(penalties) == 1:
        return torch.zeros((b, sets), dtype=torch.int64, device=y.device)
    left = penalties / (spectrum.values[:, :, None] + penalties)  # b r p: what a penalty leaves unfitted
    error = _errors(spectrum, y, u, left, choose, groups)  # b p c
    return error.view(b, len(penalties), -1, sets).sum(2).argmin(1)


def _errors(
    spectrum: Spectrum, y: Tensor, u: Tensor, left: Tensor, choose: str, groups: Sequence[Tensor] | None
) -> Float[Tensor, "b p c"]:
    """Return the sum of squared errors on items left out, per penalty and target column."""
    q, root = spectrum.vectors, spectrum.root
    if choose == "gcv":
        # With a direction for every item but one, the one that the mean takes, nothing is outside of them.
        some = bool(((spectrum.values > 0).sum(1) < (root > 0).sum() - 1).any())
        outside = (y - product(q, u)).square().sum(1) if some else torch.zeros_like(u[:, 0])
        return _gcv(spectrum.values, u, left, root.square(), outside)
    outside = y - product(q, u)  # what no direction of the rows explains, at any penalty
    share = root / root.norm()
    # In float32 from here: a choice between penalties does not need the seventh digit, and half the time is spent here.
    single, u, outside, narrow = (t.float() for t in (left, u, outside, q))
    errors = []
    if choose == "loo":
        squares = q.square()
        free = (1.0 - share.square() - squares.sum(2))[:, :, None] + squares @ left  # b n p: one minus leverage
        scale = (1.0 / free.clamp_min(1e-12)).float()
        for p in range(left.shape[2]):
            error = product(narrow, single[:, :, p, None] * u)
            errors.append(error.add_(outside).mul_(scale[:, :, p, None]).square_().sum(1))
        return torch.stack(errors, 1)
    assert groups is not None
    size = max(len(g) for g in groups)
    # Groups of unequal size are padded with a row that is nowhere: identity in the block, zero in the error.
    index = torch.stack([torch.cat([g, g.new_full((size - len(g),), -1)]) for g in groups])
    real = (index >= 0).to(q.dtype)
    member = q[:, index] * real[:, :, None]  # b g s r
    edge = share[index] * real
    base = torch.eye(size, dtype=q.dtype, device=q.device) - edge[:, :, None] * edge[:, None, :] - member @ member.mT
    for p in range(left.shape[2]):
        inverse = torch.linalg.inv(base + (member * left[:, None, None, :, p]) @ member.mT)
        error = product(narrow, single[:, :, p, None] * u).add_(outside)[:, index] * real[:, :, None].float()
        errors.append((inverse.float() @ error).square_().sum((1, 2)))
    return torch.stack(errors, 1)


def gcv_errors(
    values: Float[Tensor, "b r"],
    u: Float[Tensor, "b r c"],
    penalties: Float[Tensor, " p"],
    weight: Float[Tensor, " n"],
    outside: Float[Tensor, "b c"],
) -> Float[Tensor, "b p c"]:
    """Return the generalised cross-validation error of every penalty and target column.

    Parameters
    ----------
    values : tensor, shape (batch, direction)
        Of the training rows' inner products; zero for directions without data.
    u : tensor, shape (batch, direction, column)
        Targets along the directions.
    penalties : tensor, shape (penalty,)
    weight : tensor, shape (item,)
    outside : tensor, shape (batch, column)
        Squares of the targets that no direction explains.
    """
    return _gcv(values, u, penalties / (values[:, :, None] + penalties), weight, outside)


def _gcv(values: Tensor, u: Tensor, left: Tensor, weight: Tensor, outside: Tensor) -> Float[Tensor, "b p c"]:
    real = (values > 0).to(left.dtype)
    # A weight of two is an item that is there twice. Weights below one do not make items fewer than they are.
    items = torch.maximum(weight.sum(), (weight > 0).sum())
    free = (items - 1 - real.sum(1))[:, None] + (left * real[:, :, None]).sum(1)
    error = product(left.square().mT, u.square()) + outside[:, None]
    return error / free.square()[:, :, None]


def to_simplex(scores: Float[Tensor, "... k"], exists: Tensor | None = None) -> Float[Tensor, "... k"]:
    """Return the nearest probability vectors (Euclidean projection; Held, Wolfe and Crowder 1974).

    Order is kept, so the most probable class is the one with the largest score. Classes that do not exist get zero.
    """
    if exists is not None:
        scores = torch.where(exists, scores, -torch.inf)
    ordered = scores.sort(dim=-1, descending=True).values
    total = torch.where(ordered.isfinite(), ordered, 0.0).cumsum(-1) - 1.0
    count = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    inside = (ordered * count > total).sum(-1, keepdim=True).clamp_min(1)
    threshold = total.gather(-1, inside - 1) / inside
    return (scores - threshold).clamp_min(0.0)
