"""Ridge with weights of their own for every label set, on one factorisation all the same.

Why it exists. The eigenvectors of weighted training rows depend on the weights. Where every shuffle of the labels has
weights of its own (weights that make truth and words independent do: they follow the labels), an exact treatment
factors once per shuffle, and what made ridge cheap is gone.

The idea. The *choice* of a penalty hardly depends on the weights, so it is made by errors that count every item alike,
in the shared eigenbasis, for every fold and label set. The *fit* at that penalty depends on them, and has them:
conjugate gradients on the weighted normal equations, preconditioned in the eigenbasis, where the unweighted problem is
diagonal (Hestenes and Stiefel 1952; Golub and Van Loan, Matrix Computations, section 11.5). Weights that differ by a
factor of ten take some ten products of the training rows with all label sets at once.

The intercept is one more direction, without a penalty. The steps are taken in float32, which leaves the predictions
six digits and takes half the time; where weights differ by more than a factor of a hundred, they are taken in float64.
Of shuffled labels nothing but an accuracy is ever looked at, so they are left at three digits, after half the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers.ridge import Spectrum, choose_penalty

__all__ = ["conjugate_gradients", "precision", "weighted_scores"]

_ENOUGH, _ENOUGH_SINGLE = 1e-16, 1e-13
"""Squared relative residual, in float64 and in float32: predictions are then right to some eight and six digits."""

_ENOUGH_SHUFFLED = 1e-6
"""The same for shuffled labels: three digits."""

_FEW = 4
"""Label sets, up to which all sites of a block fit into the cache together."""

_NOTHING = 1e-30
"""A squared residual, and a divisor, that is none."""

_ALIKE = 100.0
"""Largest ratio of weights for which float32 has the digits."""


def weighted_scores(
    spectrum: Spectrum,
    target: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n sets"],
    penalties: Float[Tensor, " p"],
    *,
    choose: str = "gcv",
    groups: Sequence[Int[Tensor, " g"]] | None = None,
    limit: int = 500,
    exact: int | None = None,
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
    exact : int, optional
        Label sets from this number on are shuffles, for which three digits are enough. Default: none are.

    Returns
    -------
    scores : tensor, shape (batch, test item, output, label set)
    chosen : tensor, shape (batch, label set), int64
    """
    chosen = choose_penalty(spectrum, target, penalties, choose=choose, groups=groups)
    at = target.shape[-1] if exact is None else exact
    apart = spectrum.values.device.type == "cpu" and len(spectrum.values) > 1
    out = []
    for part, shuffled in ((slice(0, at), False), (slice(at, None), True)):
        sets = len(range(target.shape[-1])[part])
        if not sets:
            continue
        # One site after the other, where what is gone over again and again would else not stay in the cache.
        alone = [slice(i, i + 1) for i in range(len(chosen))] if apart and sets > _FEW else [slice(None)]
        fits = [
            _fit(spectrum, site, target[..., part], weight[:, part], penalties[chosen[site, part]], limit, shuffled)
            for site in alone
        ]
        out.append(torch.cat(fits))
    return torch.cat(out, -1), chosen


def _fit(
    spectrum: Spectrum,
    sites: slice,
    target: Tensor,
    weight: Tensor,
    penalty: Float[Tensor, "b sets"],
    limit: int,
    shuffled: bool,
) -> Float[Tensor, "b m k sets"]:
    """Return the test scores of the weighted fits of some sites, at one penalty per label set."""
    w, typical, dtype, enough = precision(weight, shuffled)
    w = w[:, None]
    mean = (target * w).sum(0) / w.sum(0)
    centred = target - mean
    scale = ((centred.square() * w).sum(0) / w.sum(0)).sqrt().clamp_min(1e-300)
    values, size = spectrum.values[sites], spectrum.values[sites].sqrt()
    unit = torch.where(size > 0, 1.0 / size.clamp_min(1e-300), 0.0)
    # Rows in an orthonormal basis, b n r, and a column of ones for the intercept.
    more = torch.nn.functional.pad
    rows = more(spectrum.vectors[sites] * size[:, None], (0, 1), value=1.0)
    test = more(spectrum.test[sites] * unit[:, None], (0, 1), value=1.0)
    shrink = more((penalty / typical)[:, None].expand(-1, size.shape[1], -1), (0, 0, 0, 1))  # b r sets
    squares = more(values, (0, 1), value=float(len(weight)))
    inverse = 1.0 / (squares[:, :, None] + shrink)
    coef = _solve(
        rows.to(dtype), w.to(dtype), shrink[:, :, None].to(dtype), inverse[:, :, None].to(dtype),
        (centred / scale * w).to(dtype), enough, limit,
    )  # fmt: skip
    scores = product(test, coef.to(test.dtype).flatten(2)).view(len(rows), -1, *target.shape[1:])
    return scores.mul_(scale).add_(mean)


def precision(
    weight: Float[Tensor, "n sets"], shuffled: bool
) -> tuple[Float[Tensor, "n sets"], Float[Tensor, " sets"], torch.dtype, float]:
    """Return weights of mean one, what they were divided by, and the precision and squared residual of the steps.

    With the penalty divided as well, and targets of size one, float32 has no scales to carry.
    """
    heavy = weight > 0
    typical = weight.sum(0) / heavy.sum(0)
    w = weight / typical
    least = torch.where(heavy, w, torch.inf).amin(0)
    dtype, enough = torch.float64, _ENOUGH
    if bool((w.amax(0) <= _ALIKE * least).all()):
        dtype, enough = torch.float32, _ENOUGH_SINGLE
    return w, typical, dtype, _ENOUGH_SHUFFLED if shuffled else enough


def _solve(
    rows: Float[Tensor, "b n r"],
    weight: Float[Tensor, "n 1 sets"],
    shrink: Float[Tensor, "b r 1 sets"],
    inverse: Float[Tensor, "b r 1 sets"],
    target: Float[Tensor, "n k sets"],
    enough: float,
    limit: int,
) -> Float[Tensor, "b r k sets"]:
    """Minimise ``sum(weight * (rows @ coef - target / weight)^2) + sum(shrink * coef^2)`` by conjugate gradients.

    They end when the squared residual, in the norm of the preconditioner `inverse`, is `enough` of what it was.
    """
    b, turned, (_, k, sets) = len(rows), rows.mT, target.shape

    def forward(coef: Tensor) -> Tensor:
        return product(rows, coef.flatten(2)).view(b, -1, k, sets)

    def back(values: Tensor) -> Tensor:
        return product(turned, values.flatten(2)).view(b, -1, k, sets)

    return conjugate_gradients(forward, back, weight, shrink, inverse, target[None], enough, limit)


def conjugate_gradients(
    forward: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    weight: Float[Tensor, "n 1 sets"],
    shrink: Float[Tensor, "b r 1 sets"],
    inverse: Float[Tensor, "b r 1 sets"],
    target: Float[Tensor, "b n k sets"],
    enough: float,
    limit: int = 500,
) -> Float[Tensor, "b r k sets"]:
    """Minimise as above, with rows of which only the products with coefficients and with fitted values are known."""
    r = back(target)
    coef, d = torch.zeros_like(r), r * inverse
    rz = (r * d).sum(1, keepdim=True)
    aim = (rz * enough).clamp_min_(_NOTHING)
    for _ in range(limit):
        if not bool((rz > aim).any()):
            break
        q = back(forward(d).mul_(weight)).addcmul_(shrink, d)
        # A system that is solved goes on in ever smaller steps, which do no harm.
        length = rz / (d * q).sum(1, keepdim=True).clamp_min_(_NOTHING)
        coef.addcmul_(length, d)
        r.addcmul_(length, q, value=-1.0)
        z = torch.mul(r, inverse, out=q)
        now = (r * z).sum(1, keepdim=True)
        d = z.addcmul_(now / rz.clamp_min_(_NOTHING), d)
        rz = now
    return coef
