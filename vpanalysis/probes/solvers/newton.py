"""Multinomial logistic regression, many label sets at once: Newton steps by preconditioned conjugate gradients.

Why it exists. A label-shuffle test with 200 shuffles over 33 sites and 10 folds is 66,000 logistic regressions on 330
different matrices. A general solver starts each of them from nothing. Here all label sets of a site and fold are solved
together: their fitted values are the columns of one product, and the one inverse that makes the iteration short is
shared by all of them.

The idea. The objective is scikit-learn's: ``C * sum_i w_i loss_i + 0.5 |W|^2``, intercept free. A Newton step solves
``(I + X' H X) dW = -gradient`` where `H` holds the curvature ``C w (diag(p) - p p')`` of every item. Were the curvature
the same number for all items, the inverse would be a resolvent of the Gram matrix. It is not, but it is of one size, so
that resolvent is an excellent preconditioner and three to eight conjugate-gradient steps are enough (truncated Newton:
Dembo and Steihaug 1983; one fixed bound for the curvature: Boehning 1992). Steps are tested by Armijo's rule, so every
iterate lowers the objective, from wherever it begins and however separable the data are.

The certificate. With the intercept solved out, the objective is 1-strongly convex in `W`, because of the penalty. So
``0.5 * |gradient|^2`` bounds the distance of the objective from its minimum without knowing the minimum; it is also the
duality gap at the dual point that the residuals define. A problem is finished when that bound is below `tol` times its
objective.

Worked example: 180 items, 1,280 features, 4 classes, C = 0.01, the true labels and 20 shuffles take four Newton steps
with 18 products of a 180 x 180 matrix in all; the relative gap is then below 1e-9.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpanalysis.probes.solvers._spaces import Space

__all__ = ["LogisticFit", "solve_logistic", "some_weights"]

_MASKED = -1e30
_TINY = 1e-300
_ROUNDING, _IDLE, _NOISE = 1e-14, 1e-13, 1e-22
"""Shares of the objective: what rounding changes in it, what a step worth its price gains, what no estimate tells."""


@dataclass(frozen=True)
class LogisticFit:
    """Solutions for a batch of sites and all label sets.

    Attributes
    ----------
    coef : tensor, shape (batch, coefficient, class, label set)
        In the space of the solver; classes sum to zero.
    bias : tensor, shape (batch, 1, class, label set)
        Intercepts; classes sum to zero. ``-1e30`` for classes without training items.
    objective, gap : tensor, shape (batch, label set)
        Objective, and an upper bound of its distance from the minimum.
    newton, products : int
        Newton steps, and conjugate-gradient steps within them, until the last of the batch was done.
    """

    coef: Float[Tensor, "b m k sets"]
    bias: Float[Tensor, "b 1 k sets"]
    objective: Float[Tensor, "b sets"]
    gap: Float[Tensor, "b sets"]
    newton: int
    products: int


@dataclass
class _Work:
    """The label sets still worked on. `cost` is C times the weight; `mask` is 0, or hugely negative without class."""

    columns: Int[Tensor, " sets"]
    onehot: Float[Tensor, "n k sets"]
    cost: Float[Tensor, "n 1 sets"]
    mask: Float[Tensor, "k sets"]
    coef: Float[Tensor, "b m k sets"]
    fitted: Float[Tensor, "b n k sets"]
    bias: Float[Tensor, "b 1 k sets"]
    active: Bool[Tensor, "b sets"]
    aim: Float[Tensor, "b sets"]
    bound: Float[Tensor, "b sets"]

    def take(self, keep: Tensor) -> _Work:
        return _Work(
            self.columns[keep], self.onehot[..., keep], some_weights(self.cost, keep), self.mask[..., keep],
            self.coef[..., keep], self.fitted[..., keep], self.bias[..., keep], self.active[..., keep],
            self.aim[..., keep], self.bound[..., keep],
        )  # fmt: skip

    def evaluate(self, fitted: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (b n k l) and the loss (b 1 1 l)."""
        log_p = torch.log_softmax(fitted + (bias + self.mask), 2)
        loss = (log_p * self.onehot).mul_(self.cost).sum((1, 2), keepdim=True).neg_()
        return log_p.exp_(), loss


def solve_logistic(
    space: Space,
    onehot: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n 1 sets"],
    *,
    C: float,
    tol: float = 1e-9,
    max_newton: int = 60,
    max_products: int = 300,
    start: LogisticFit | None = None,
) -> LogisticFit:
    """Minimise ``C * sum_i weight_i loss_i + 0.5 |W|^2`` for every site of the batch and every label set.

    Parameters
    ----------
    space : Space
        Holds the training rows of the batch.
    onehot : tensor, shape (item, class, label set), floating
        One at the class of each item. A class without items of positive weight gets probability zero; every label set
        must have at least two classes with such items.
    weight : tensor, shape (item, 1, label set) or (item, 1, 1), floating, not negative
    C : float
        Inverse penalty.
    tol : float
        Largest certified gap, relative to the objective.
    max_newton, max_products : int
        Largest number of Newton steps, and of conjugate-gradient steps within one.
    start : LogisticFit, optional
        Where to begin, such as the solution at another `C`.

    Returns
    -------
    LogisticFit
        Where `gap` exceeds `tol` times `objective`, rounding or the step limits stopped the problem before.
    """
    (_, k, sets), b = onehot.shape, space.batch
    work, share = _begin(space, onehot, weight, C, tol, start)
    coef, bias = torch.empty_like(work.coef), torch.empty_like(work.bias)
    objective, gap = onehot.new_empty((b, sets)), onehot.new_empty((b, sets))
    newton = products = 0
    curvature: Tensor | None = None
    p, loss = work.evaluate(work.fitted, work.bias)
    fresh = True  # fitted values are those of the coefficients to the last digit
    before = loss
    while True:
        total = loss + 0.5 * space.dot(work.coef, work.coef, work.fitted)
        slope = (p - work.onehot).mul_(work.cost)
        rest = ~work.active[:, None, None]
        r, rb = (space.back(slope) + work.coef).neg_(), slope.sum(1, keepdim=True).neg_()
        if bool(rest.any()):
            r, rb = r.masked_fill_(rest, 0.0), rb.masked_fill_(rest, 0.0)
        spread = (p - p * p).mul_(work.cost)  # the diagonal of the curvature
        wanted = spread.mean((1, 2, 3)) * (k / (k - 1))
        if curvature is None or bool(((wanted / curvature).log().abs() > 0.3).any()):
            curvature = wanted.clamp_min(_TINY)
            space.set_curvature(curvature)
        per_class = _BiasScale(spread.sum(1, keepdim=True), work.mask)
        # Of all items and label sets; what follows needs the room, and none of them.
        del slope, spread
        # Directions may be sought in less precision than they are judged in.
        narrow = r.to(space.inner)
        z, fz = space.precondition(narrow)
        zb = per_class(rb)
        decrement = space.dot(narrow, z, fz).to(rb.dtype) + (rb * zb).sum(2, keepdim=True)
        # Half the decrement estimates the distance from the minimum; where it is small enough, that is certified.
        # At rest: nothing left to gain, or a step that promised a gain and had none.
        idle = (before - total <= _IDLE * total) & (decrement > 10 * _IDLE * total) & (not fresh)
        stop = work.active & ((idle | (decrement <= _NOISE * total))[:, 0, 0] | (newton >= max_newton))
        near = stop | (work.active & (decrement <= work.aim[:, None, None] * total)[:, 0, 0])
        if bool(near.any()):
            del p
            polished, sharp, bound = _certify(space, work)
            # What a further Newton step no longer halves is rounding, and stays.
            good = near & (stop | (bound <= tol * sharp) | (bound > 0.5 * work.bound))
            work.bound = torch.where(near, bound, work.bound)
            at = work.columns.expand(b, -1)
            objective.scatter_(1, at, torch.where(good, sharp, objective.gather(1, at)))
            gap.scatter_(1, at, torch.where(good, bound, gap.gather(1, at)))
            work.bias = torch.where(good[:, None, None], polished, work.bias)
            # Where the estimate was too kind, ask for as much less of it as the certificate is short.
            short = (0.5 * tol * sharp / bound.clamp_min(_TINY)).clamp(max=0.5)
            aim = (decrement / total)[:, 0, 0].clamp_min(0.0) * short
            work.aim = torch.where(near, torch.minimum(aim, 0.5 * work.aim), work.aim)
            work.active = work.active & ~good
            done = ~work.active.any(0)
            if bool(done.any()):
                coef[..., work.columns[done]] = work.coef[..., done]
                bias[..., work.columns[done]] = work.bias[..., done] + work.mask[..., done]
                if bool(done.all()):
                    return LogisticFit(coef, bias, objective / share, gap / share, newton, products)
                work = work.take(~done)
            p, loss = work.evaluate(work.fitted, work.bias)
            fresh, before = True, loss
            continue
        enough = torch.maximum(0.1 * work.aim[:, None, None] * total, decrement * _forcing(decrement, total))
        direction = _Direction(space, p, work.cost, (narrow, rb), (z, fz, zb), decrement)
        del p, z, fz
        products += direction.run(per_class, enough, max_products)
        newton += 1
        way = direction.result(space, r.dtype)
        del direction
        p, loss = _advance(space, work, total, r, rb, way)
        del way
        fresh, before = False, total


def some_weights(weight: Float[Tensor, "n 1 sets"], which: Tensor) -> Float[Tensor, "n 1 some"]:
    """Return the weights of the label sets `which`; of shape (item, 1, 1), where all share them, as they are."""
    return weight if weight.shape[-1] == 1 else weight[..., which]


def _begin(
    space: Space, onehot: Tensor, weight: Tensor, C: float, tol: float, start: LogisticFit | None
) -> tuple[_Work, Tensor]:
    """Return the problems at their starting point, and the share of its objective that each is stated with."""
    (_, k, sets), b = onehot.shape, space.batch
    present = (onehot * weight).sum(0)
    exists = present > 0
    mask = torch.where(exists, 0.0, _MASKED).to(onehot.dtype)
    # With two classes scikit-learn penalises the one vector of their difference: twice the penalty of the two vectors
    # that stand for it here. Halving the loss instead states the same problem.
    share = torch.where(exists.sum(0) == 2, 0.5, 1.0).to(onehot.dtype)
    cost = C * weight * (share[0] if bool((share == share[0]).all()) else share)
    if start is None:
        # Intercepts that reproduce the class frequencies: the solution when nothing can be learnt.
        prior = torch.where(exists, present.clamp_min(_TINY).log(), 0.0)
        bias = torch.where(exists, prior - prior.sum(0) / exists.sum(0), 0.0).expand(b, 1, k, sets).clone()
        coef, fitted = onehot.new_zeros((b, space.size, k, sets)), onehot.new_zeros((b, space.items, k, sets))
    else:
        coef, bias = start.coef.clone(), torch.where(exists, start.bias, 0.0)
        fitted = space.forward(coef)
    columns = torch.arange(sets, device=onehot.device)
    active = torch.ones((b, sets), dtype=torch.bool, device=onehot.device)
    aim, bound = onehot.new_full((b, sets), tol), onehot.new_full((b, sets), torch.inf)
    return _Work(columns, onehot, cost, mask, coef, fitted, bias, active, aim, bound), share


def _forcing(decrement: Tensor, total: Tensor) -> Tensor:
    """Return how much smaller the residual of a Newton system has to get: more when close, for superlinear steps."""
    return (decrement / total.clamp_min(_TINY)).clamp(max=0.01)


class _BiasScale:
    """Preconditioner of the intercepts: the diagonal of their Hessian, on intercepts that sum to zero over classes."""

    def __init__(self, diagonal: Float[Tensor, "b 1 k sets"], mask: Float[Tensor, "k sets"]) -> None:
        self._inverse = diagonal.clamp_min(_TINY).reciprocal_().clamp_(max=1e30).masked_fill_(mask != 0, 0.0)
        self._share = self._inverse / self._inverse.sum(2, keepdim=True)

    def __call__(self, values: Float[Tensor, "b 1 k sets"]) -> Float[Tensor, "b 1 k sets"]:
        scaled = values * self._inverse.to(values.dtype)
        return scaled.sub_(self._share.to(values.dtype) * scaled.sum(2, keepdim=True))


class _Direction:
    """Conjugate gradients on one Newton system, over coefficients and intercepts together.

    `r`, `rb` is the residual, `z`, `zb` the preconditioned one, `d`, `db` the search direction, `step` the solution so
    far; an ``f`` before a name marks fitted values of the same quantity.
    """

    def __init__(
        self,
        space: Space,
        p: Tensor,
        cost: Tensor,
        r: tuple[Tensor, Tensor],
        z: tuple[Tensor, Tensor, Tensor],
        rz: Tensor,
    ) -> None:
        inner = space.inner
        self.space, self.p, self.cost, self.rz = space, p.to(inner), cost.to(inner), rz.to(inner)
        self.r, self.rb = r[0].clone(), r[1].to(inner, copy=True)
        self.d, self.fd, self.db = z[0], z[1], z[2].to(inner)
        self._tiny = max(_TINY, torch.finfo(inner).tiny)
        self.step, self.fstep, self.bstep = (torch.zeros_like(t) for t in (self.d, self.fd, self.db))

    def run(self, per_class: _BiasScale, enough: Float[Tensor, "b 1 1 sets"], limit: int) -> int:
        """Iterate until the squared residual is about `enough` everywhere; return the number of iterations.

        The residual that counts is the preconditioned one, whose price is an iteration's. How much smaller it has
        become is therefore taken from the plain one; what is left after the Newton step is certified anyway.
        """
        first = self._plain().clamp_min(self._tiny)
        aim = enough.to(self.rz.dtype) / self.rz.clamp_min(self._tiny) * first
        for count in range(1, limit + 1):
            u = self.fd + self.db
            h = self.p * u
            h.addcmul_(self.p, h.sum(2, keepdim=True), value=-1.0).mul_(self.cost)
            q, qb = self.space.back(h) + self.d, h.sum(1, keepdim=True)
            curvature = self.space.dot(self.d, self.d, self.fd) + u.mul_(h).sum((1, 2), keepdim=True)
            # In exact arithmetic it is positive; where it is not, rounding is all that is left.
            length = (self.rz / curvature.clamp_min(self._tiny)).masked_fill_(curvature <= 0, 0.0)
            self.step.addcmul_(length, self.d)
            self.fstep.addcmul_(length, self.fd)
            self.bstep.addcmul_(length, self.db)
            self.r.addcmul_(length, q, value=-1.0)
            self.rb.addcmul_(length, qb, value=-1.0)
            # A solved system takes no further part (its steps become zero): iterating on would only collect rounding.
            solved = (self._plain() <= aim) | (length <= 0)
            if bool(solved.all()):
                return count
            z, fz = self.space.precondition(self.r)
            zb = per_class(self.rb)
            rz = self.space.dot(self.r, z, fz) + (self.rb * zb).sum(2, keepdim=True)
            turn = (rz / self.rz.clamp_min(self._tiny)).masked_fill_(solved, 0.0)
            self.d, self.fd = z.addcmul_(turn, self.d), fz.addcmul_(turn, self.fd)
            self.db = zb.addcmul_(turn, self.db)
            self.rz = rz.masked_fill_(solved, 0.0)
        return limit

    def _plain(self) -> Float[Tensor, "b 1 1 sets"]:
        return self.r.square().sum((1, 2), keepdim=True) + self.rb.square().sum(2, keepdim=True)

    def result(self, space: Space, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return the step for coefficients, fitted values and intercepts."""
        if self.step.dtype == dtype:
            return self.step, self.fstep, self.bstep
        step = self.step.to(dtype)
        # Classes that sum to zero are taken to do so to the last digit.
        step[:, :, -1] = -step[:, :, :-1].sum(2)
        return step, space.forward(step), self.bstep.to(dtype)


def _advance(
    space: Space, work: _Work, total: Tensor, r: Tensor, rb: Tensor, way: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Go along the step as far as the objective falls enough; return probabilities and loss there."""
    step, fstep, bstep = way
    falls = space.dot(r, step, fstep) + (rb * bstep).sum(2, keepdim=True)
    length = work.active[:, None, None].to(total.dtype)
    for _ in range(60):
        coef = torch.addcmul(work.coef, length, step)
        fitted = torch.addcmul(work.fitted, length, fstep)
        bias = torch.addcmul(work.bias, length, bstep)
        p, loss = work.evaluate(fitted, bias)
        penalty = space.dot(coef, coef, fitted)
        # `not <=` also catches a step into infinities, and a negative square is one of rounding alone.
        enough = loss + 0.5 * penalty <= total - 1e-4 * length * falls + _ROUNDING * total
        bad = ~(enough & (penalty >= 0))
        if not bool(bad.any()):
            break
        length = torch.where(bad, 0.5 * length, length)
    work.coef, work.fitted, work.bias = coef, fitted, bias
    return p, loss


def _certify(space: Space, work: _Work) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best intercepts for the weights as they are, the objective there, and the bound of its excess.

    The fitted values are recomputed from the coefficients first: those that the iteration carries along collect
    rounding, and a certificate must not.
    """
    work.fitted = space.forward(work.coef)
    bias = work.bias.clone()
    exists = (work.mask == 0).mT.to(bias.dtype)  # l k
    for _ in range(8):
        p, loss = work.evaluate(work.fitted, bias)
        slope = (p - work.onehot).mul_(work.cost)
        push = slope.sum(1).mT  # b l k
        if bool((push.abs() <= 1e-10 * work.cost.sum(0).mT).all()):
            break
        weighted = (p * work.cost).permute(0, 3, 2, 1)
        hessian = torch.diag_embed(weighted.sum(-1)) - weighted @ p.permute(0, 3, 1, 2)
        # Scaled to a unit diagonal, for a rare class has next to no curvature. Intercepts are determined up to a
        # constant, which the rank-one term fixes; classes that do not exist stay where they are.
        unit = hessian.diagonal(dim1=-2, dim2=-1).clamp_min(_TINY).sqrt() * exists
        inverse = torch.where(unit > 0, 1.0 / unit.clamp_min(_TINY), 0.0)
        hessian = hessian * (inverse[..., :, None] * inverse[..., None, :]) + torch.diag_embed(1.0 - exists)
        same = unit / unit.norm(dim=-1, keepdim=True).clamp_min(_TINY)
        hessian = hessian + same[..., :, None] * same[..., None, :]
        step, _ = torch.linalg.solve_ex(hessian, (inverse * push)[..., None])
        bias = bias - torch.nan_to_num(inverse * step[..., 0]).mT[:, None]
    coef = space.back(slope) + work.coef
    square = (space.dot(coef, coef, space.forward(coef)).clamp_min(0.0) + space.doubt(coef))[:, 0, 0]
    total = loss + 0.5 * space.dot(work.coef, work.coef, work.fitted)
    return bias, total[:, 0, 0], 0.5 * square
