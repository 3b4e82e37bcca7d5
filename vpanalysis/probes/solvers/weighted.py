"""Ridge with weights of their own for every label set, on one factorisation all the same.

Why it exists. The eigenvectors of weighted training rows depend on the weights. Where every shuffle of the labels has
weights of its own (weights that make truth and words independent do: they follow the labels), an exact treatment
factors once per shuffle, and what made ridge cheap is gone.

The idea. The *choice* of a penalty hardly depends on the weights, so it is made by errors that count every item alike,
in the shared eigenbasis, for every fold and label set. The *fit* at that penalty depends on them, and is exact:
conjugate gradients on the weighted normal equations, preconditioned in the eigenbasis, where the unweighted problem is
diagonal. Weights that differ by a factor of ten take some fifteen products of the training rows with all label sets at
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers.ridge import Spectrum, ridge_scores

__all__ = ["weighted_scores"]

_ENOUGH = 1e-16
"""Squared relative residual: predictions are then right to some eight digits."""


def weighted_scores(
    spectrum: Spectrum,
    target: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n sets"],
    penalties: Float[Tensor, " p"],
    *,
    choose: str = "gcv",
    groups: Sequence[Int[Tensor, " g"]] | None = None,
    limit: int = 500,
) -> tuple[Float[Tensor, "b m k sets"], Int[Tensor, "b sets"]]:
    """Choose a penalty by unweighted errors, and fit every target with its own weights.

    Parameters
    ----------
    spectrum : Spectrum
        Of the training rows with weights of one, or zero where *every* label set has weight zero.
    target : tensor, shape (item, output, label set), floating
    weight : tensor, shape (item, label set), floating, positive where the spectrum's weights are one
    penalties, choose, groups
        As in :func:`~vpanalysis.probes.solvers.ridge.ridge_scores`.
    limit : int
        Largest number of conjugate-gradient steps.

    Returns
    -------
    scores : tensor, shape (batch, test item, output, label set)
    chosen : tensor, shape (batch, label set), int64
    """
    _, chosen = ridge_scores(spectrum, target, penalties, choose=choose, groups=groups)
    if spectrum.values.device.type == "cpu" and len(spectrum.values) > 1:
        # One site after the other: what is gone over again and again should stay in the processor's cache.
        alone = [_fit(spectrum, slice(i, i + 1), target, weight, penalties[chosen[i : i + 1]], limit)
                 for i in range(len(chosen))]  # fmt: skip
        return torch.cat(alone), chosen
    return _fit(spectrum, slice(None), target, weight, penalties[chosen], limit), chosen


def _fit(
    spectrum: Spectrum, sites: slice, target: Tensor, weight: Tensor, penalty: Float[Tensor, "b sets"], limit: int
) -> Float[Tensor, "b m k sets"]:
    """Return the test scores of the weighted fits of some sites, at one penalty per label set."""
    values, vectors = spectrum.values[sites], spectrum.vectors[sites]
    size = values.sqrt()
    rows = vectors * size[:, None]  # b n r: training rows in an orthonormal basis
    back = rows.mT
    test = spectrum.test[sites] * torch.where(size > 0, 1.0 / size.clamp_min(1e-300), 0.0)[:, None]
    b, (n, k, sets) = len(rows), target.shape
    w, whole = weight[:, None], weight.sum(0)
    penalty = penalty[:, None, None]

    def mean(values: Tensor) -> Tensor:
        return (values * w).sum(-3, keepdim=True) / whole

    def fitted(coef: Tensor) -> Tensor:
        return product(rows, coef.flatten(2)).view(b, n, k, sets)

    def curve(coef: Tensor) -> Tensor:
        values = fitted(coef)
        values = (values - mean(values)).mul_(w)
        return product(back, values.flatten(2)).view(b, -1, k, sets).addcmul_(penalty, coef)

    typical = whole / (weight > 0).sum(0)
    inverse = 1.0 / (values[:, :, None, None] * typical + penalty)
    right = product(back, ((target - mean(target)) * w).flatten(1)).view(b, -1, k, sets)
    coef = right * inverse
    r = right - curve(coef)
    z = r * inverse
    d, rz = z, (r * z).sum(1, keepdim=True)
    enough = _ENOUGH * (right * right * inverse).sum(1, keepdim=True)
    for _ in range(limit):
        live = rz > enough
        if not bool(live.any()):
            break
        q = curve(d)
        length = (rz / (d * q).sum(1, keepdim=True).clamp_min(1e-300)).masked_fill_(~live, 0.0)
        coef.addcmul_(length, d)
        r.addcmul_(length, q, value=-1.0)
        z = r * inverse
        now = (r * z).sum(1, keepdim=True)
        d = z.addcmul_((now / rz.clamp_min(1e-300)).masked_fill_(~live, 0.0), d)
        rz = now
    bias = mean(target) - mean(fitted(coef))
    return product(test, coef.flatten(2)).view(b, -1, k, sets) + bias
