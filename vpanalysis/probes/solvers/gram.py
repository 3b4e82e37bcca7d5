"""Logistic regression on inner products: fast first, then in whatever form still lacks its certificate.

There are three ways to the same optimum, and a certificate that says whether one has arrived
(:mod:`vpanalysis.probes.solvers.newton`). So the quickest goes first and answers for nearly everything; what it leaves
uncertified, and only that, is done again in a form that is slower and less particular:

1. one coefficient per item, directions in float32 (steps, objectives and certificates are float64 all the same);
2. one coefficient per item, all in float64;
3. coefficients in an orthonormal basis of the span, in float64. Item coefficients are not unique where training rows
   depend on one another (the same clip twice, fewer features than items): what has no effect on the fit can grow until
   its rounding has one. In an orthonormal basis there is nothing of the kind, at the price of an eigendecomposition and
   twice the products.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vpanalysis.probes.solvers._spaces import FeatureSpace, ItemSpace, span_of
from vpanalysis.probes.solvers.newton import LogisticFit, solve_logistic, some_weights

__all__ = ["solve_gram"]

_EASY, _EASY_TOL = (0.5, 3e4), 1e-10
"""Where directions are sought in float32: range of ``C * weight * trace``, its lower end per item; least tolerance."""


def solve_gram(
    gram: Float[Tensor, "b n n"],
    onehot: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n 1 sets"],
    *,
    C: float,
    tol: float = 1e-9,
    start: LogisticFit | None = None,
) -> LogisticFit:
    """Solve for every site of the batch and every label set, to the certificate.

    Parameters
    ----------
    gram : tensor, shape (batch, item, item), floating
        Inner products of the centred training rows.
    onehot, weight, C, tol, start
        As in :func:`~vpanalysis.probes.solvers.newton.solve_logistic`.

    Returns
    -------
    LogisticFit
        With one coefficient per item.
    """
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    stiff = C * float(weight.mean()) * trace
    easy = bool((stiff < _EASY[1]).all()) and bool((stiff > _EASY[0] * gram.shape[1]).all()) and tol >= _EASY_TOL
    fit = solve_logistic(ItemSpace(gram, torch.float32 if easy else None), onehot, weight, C=C, tol=tol, start=start)
    failed = ~(fit.gap <= tol * fit.objective)
    newton, products = fit.newton, fit.products
    if easy and bool(failed.any()):
        which = failed.any(0).nonzero()[:, 0]
        again = solve_logistic(ItemSpace(gram), onehot[..., which], some_weights(weight, which), C=C, tol=tol)
        fit.coef[..., which], fit.bias[..., which] = again.coef, again.bias
        fit.objective[:, which], fit.gap[:, which] = again.objective, again.gap
        newton, products = newton + again.newton, products + again.products
        failed = ~(fit.gap <= tol * fit.objective)
    for site in failed.any(1).nonzero()[:, 0].tolist():
        which = failed[site].nonzero()[:, 0]
        rows, to_items = span_of(gram[site])
        near = bool((fit.gap[site, which] < fit.objective[site, which]).all())  # false for what is not finite
        at = LogisticFit(
            torch.einsum("nr,nkl->rkl", rows, fit.coef[site][..., which])[None], fit.bias[site : site + 1, ..., which],
            fit.objective, fit.gap, 0, 0,
        )  # fmt: skip
        again = solve_logistic(
            FeatureSpace(rows[None]),
            onehot[..., which],
            some_weights(weight, which),
            C=C,
            tol=tol,
            start=at if near else None,
        )
        better = ~(again.gap[0] > fit.gap[site, which])
        which = which[better]
        fit.coef[site][..., which] = torch.einsum("nr,rkl->nkl", to_items, again.coef[0][..., better])
        fit.bias[site][..., which] = again.bias[0][..., better]
        fit.objective[site, which], fit.gap[site, which] = again.objective[0, better], again.gap[0, better]
        newton, products = newton + again.newton, products + again.products
    return replace(fit, newton=newton, products=products)
