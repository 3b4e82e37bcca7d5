"""Sites that are too large to be copied: standardised in slices, wherever a product needs them.

Why it exists. A site of 100,000 items and 1,280 features is half a gigabyte as it was recorded. In float64 it is one
gigabyte, the standardised rows of a fold another, and a site is fitted on five folds. What the solvers need of the rows
are three things only: fitted values ``X w``, gradients ``X' v`` and, once a fold, the inner products ``X' X`` of the
features. Each is a sum or a list over rows, so rows may come in slices of a few megabytes that are cast, centred and
scaled as they pass. The price is that they are, every time; a slice stays in the processor's cache, which makes it
about a third of a product's time.

The idea. `Streamed` holds a site as it was read and knows mean and scale of every training fold
(:class:`~vpanalysis.probes.solvers._scaling.Scaled` for what fits); `StreamedFold` is the operator of one fold;
`StreamedSpace` offers it to the logistic solver, whose steps, objectives and certificates are the same as ever;
:func:`streamed_ridge` solves ridge in the eigenbasis of the features. Only sites with many more items than features are
streamed: with fewer, inner products of items are the smaller problem, and fit.

What it cannot do: leave out single items or groups when a ridge penalty is chosen (generalised cross-validation, the
default of every probe, needs no row twice), or help where the *features* are too many: their inner products take
``8 d^2`` bytes, half a gigabyte for six segments of 1,280.

>>> rng = np.random.default_rng(0)
>>> states = rng.normal(size=(50, 3)).astype(np.float32)
>>> rows = torch.arange(50)
>>> fold = Streamed(states, [(rows[:40], rows[40:])], slice_bytes=8 * 3 * 7).fold(0)
>>> fold.forward(torch.eye(3, dtype=torch.float64)).mean(0).abs().max() < 1e-12
tensor(True)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers._scaling import scale_of
from vpanalysis.probes.solvers._spaces import matmul_zero_sum, resolvent
from vpanalysis.probes.solvers.newton import LogisticFit, solve_logistic, some_weights
from vpanalysis.probes.solvers.ridge import gcv_errors
from vpanalysis.probes.solvers.weighted import conjugate_gradients, precision

__all__ = ["Streamed", "StreamedFold", "StreamedSpace", "solve_streamed", "streamed_ridge"]

SLICE_BYTES = 4e6
"""Of a slice of rows in float64: it stays in a core's cache from the cast to the product."""

_RANK = 1e-13

_FAR, _SMALLEST = 1e3, 1e-30
"""Distance of a mean from zero, in deviations, and deviation, up to which a slice is standardised in float32."""

Rows = Int[Tensor, " n"]


class Streamed:
    """One site as it was read, with the scaling of every training fold.

    Parameters
    ----------
    states : array, shape (item, feature), floating
        Not copied.
    folds : sequence of (train, test) tensors, shape (rows,), int64
    slice_bytes : float
        Of a slice in float64.
    """

    def __init__(
        self, states: NDArray[np.floating[Any]], folds: Sequence[tuple[Rows, Rows]], slice_bytes: float = SLICE_BYTES
    ) -> None:
        self._states, self._folds = states, [(a.numpy(), b.numpy()) for a, b in folds]
        self.features = states.shape[1]
        self._step = max(1, int(slice_bytes / (8 * self.features)))
        member = np.zeros((len(folds), len(states)))
        for row, (train, _) in zip(member, self._folds, strict=True):
            row[train] = 1.0
        count = torch.from_numpy(member.sum(1, keepdims=True))
        total, square = (np.zeros((len(folds), self.features)) for _ in range(2))
        for start in range(0, len(states), self._step):
            part = states[start : start + self._step].astype(np.float64)
            total += member[:, start : start + self._step] @ part
            square += member[:, start : start + self._step] @ np.square(part, out=part)
        self._mean, self._inverse = scale_of(
            torch.from_numpy(total) / count, torch.from_numpy(square) / count, count, self._again
        )

    @property
    def kind(self) -> tuple[int, ...]:
        """As in :class:`~vpanalysis.probes.solvers._scaling.Scaled`; a streamed site is a block of its own."""
        return (-1, self.features)

    def _again(self, fold: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of some features over the training rows of `fold`, in two passes."""
        rows, some = self._folds[fold][0], features.numpy()
        starts = range(0, len(rows), self._step)
        mean, variance = (np.zeros(len(some)) for _ in range(2))
        for start in starts:
            mean += self._states[rows[start : start + self._step]][:, some].sum(0, dtype=np.float64)
        mean /= len(rows)
        for start in starts:
            part = self._states[rows[start : start + self._step]][:, some].astype(np.float64)
            part -= mean
            variance += np.square(part, out=part).sum(0)
        return torch.from_numpy(mean), torch.from_numpy(variance / len(rows))

    def fold(self, number: int) -> StreamedFold:
        """Return the operator of one fold."""
        train, test = self._folds[number]
        scaling = self._mean[number].numpy(), self._inverse[number].numpy()
        return StreamedFold(self._states, train, test, scaling, self._step)


class StreamedFold:
    """Standardised rows of one fold, as what can be multiplied by them."""

    def __init__(
        self,
        states: NDArray[np.floating[Any]],
        train: NDArray[np.int64],
        test: NDArray[np.int64],
        scaling: tuple[NDArray[np.float64], NDArray[np.float64]],
        step: int,
    ) -> None:
        self._states, self._train, self._test, self._step = states, train, test, step
        self._mean, self._inverse = scaling
        self._spectrum: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.items, self.tested, self.features = len(train), len(test), states.shape[1]
        # What float32 makes of the mean moves all rows alike, which an intercept undoes; by a share of a deviation that
        # is too large to be left to it, or where a scale has no float32, slices are standardised before they are cast.
        far = (np.abs(self._mean) * self._inverse).max()
        self._narrow = states.dtype.itemsize <= 4 and bool(far < _FAR and self._inverse.max() < 1.0 / _SMALLEST)

    def _slices(self, rows: NDArray[np.int64], dtype: torch.dtype, times: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Yield standardised rows, `times` as many as usual; the next slice takes the place of the one before."""
        narrow = dtype == torch.float32 and self._narrow
        held = np.empty((min(times * self._step, len(rows)), self.features), np.float32 if narrow else np.float64)
        mean, inverse = (one.astype(held.dtype) for one in (self._mean, self._inverse))
        for start in range(0, len(rows), len(held)):
            here = rows[start : start + len(held)]
            part = np.subtract(self._states[here], mean, out=held[: len(here)])
            part *= inverse
            yield slice(start, start + len(part)), torch.from_numpy(part).to(dtype)

    def forward(self, coef: Float[Tensor, "d c"], *, test: bool = False) -> Float[Tensor, "n c"]:
        """Return the training (or test) rows times `coef`, in the precision of `coef`."""
        rows = self._test if test else self._train
        out = coef.new_empty((len(rows), coef.shape[1]))
        for here, part in self._slices(rows, coef.dtype):
            out[here] = product(part, coef)
        return out

    def back(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "d c"]:
        """Return the transposed training rows times `values`."""
        out = values.new_zeros((self.features, values.shape[1]))
        for here, part in self._slices(self._train, values.dtype):
            out += product(part.mT, values[here])
        return out

    def within(self, kept: NDArray[np.int64], out: NDArray[np.int64]) -> StreamedFold:
        """Return some of the training rows as a fold of their own, in the same scaling: `kept` trains, `out` tests."""
        scaling = self._mean, self._inverse
        return StreamedFold(self._states, self._train[kept], self._train[out], scaling, self._step)

    def spectrum(self, weight: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return eigenvalues (none below rounding), eigenvectors and the mean of `gram`; the last one is remembered."""
        if self._spectrum is None or not torch.equal(self._spectrum[0], weight):
            self._spectrum = None
            gram, mean = self.gram(weight)
            values, basis = torch.linalg.eigh(gram)
            keep = values > _RANK * values[-1:].clamp_min(1e-300)
            self._spectrum = weight, torch.where(keep, values, 0.0), basis, mean
        return self._spectrum[1:]

    @cached_property
    def products(self) -> Float[Tensor, "d d"]:
        """Inner products of the features about their mean."""
        return self.gram()[0]

    def gram(self, weight: Float[Tensor, " n"] | None = None) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
        """Return the (weighted) inner products of the features over training rows, about the mean, and that mean."""
        gram = torch.zeros((self.features, self.features), dtype=torch.float64)
        total = torch.zeros(self.features, dtype=torch.float64)
        heavy = torch.ones(self.items, dtype=torch.float64) if weight is None else weight
        root = heavy.sqrt()
        # A matrix times itself is half the work of a product, from which a longer slice gains.
        for here, part in self._slices(self._train, torch.float64, times=4):
            total += heavy[here] @ part
            if weight is not None:
                part *= root[here, None]
            gram += product(part.mT, part)
        mean = total / heavy.sum()
        # The rows are standardised, so their weighted mean is small and nothing is lost by taking it off afterwards.
        return gram - torch.outer(mean, total), mean


class StreamedSpace:
    """One coefficient per feature, as :class:`~vpanalysis.probes.solvers._spaces.FeatureSpace`, in a batch of one.

    Parameters
    ----------
    fold : StreamedFold
    gram : tensor, shape (feature, feature), float64
        Inner products of the features.
    inner : torch.dtype
        Precision in which directions are sought.
    """

    def __init__(self, fold: StreamedFold, gram: Float[Tensor, "d d"], inner: torch.dtype = torch.float64) -> None:
        self._fold, self._gram, self.inner = fold, gram[None], inner
        self.batch, self.size, self.items = 1, fold.features, fold.items
        self._inverse = self._gram

    def forward(self, coef: Float[Tensor, "b d k sets"]) -> Float[Tensor, "b n k sets"]:
        return self._of_all_but_last(self._fold.forward, coef)

    def back(self, values: Float[Tensor, "b n k sets"]) -> Float[Tensor, "b d k sets"]:
        return self._of_all_but_last(self._fold.back, values)

    @staticmethod
    def _of_all_but_last(multiply: Any, array: Tensor) -> Tensor:
        """Multiply along axis 1; classes (axis 2) sum to zero, so the last is minus the others."""
        k, sets = array.shape[2:]
        head = multiply(array[0, :, : k - 1].reshape(array.shape[1], -1)).view(1, -1, k - 1, sets)
        return torch.cat([head, -head.sum(2, keepdim=True)], 2)

    def dot(
        self, left: Float[Tensor, "b d k sets"], right: Float[Tensor, "b d k sets"], fitted: Float[Tensor, "b n k sets"]
    ) -> Float[Tensor, "b 1 1 sets"]:
        return (left * right).sum((1, 2), keepdim=True)

    def doubt(self, coef: Float[Tensor, "b d k sets"]) -> Float[Tensor, "b 1 1 sets"]:
        return torch.zeros_like(coef[:, :1, :1])

    def set_curvature(self, c: Float[Tensor, " b"]) -> None:
        self._inverse = resolvent(self._gram, c).to(self.inner)

    def precondition(
        self, coef: Float[Tensor, "b d k sets"]
    ) -> tuple[Float[Tensor, "b d k sets"], Float[Tensor, "b n k sets"]]:
        solved = matmul_zero_sum(self._inverse, coef)
        return solved, self.forward(solved)


def solve_streamed(
    fold: StreamedFold,
    onehot: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n 1 sets"],
    *,
    C: float,
    tol: float = 1e-9,
    start: LogisticFit | None = None,
) -> LogisticFit:
    """Solve for one site and every label set: directions in float32 first, and in float64 what that leaves uncertified.

    Parameters
    ----------
    fold : StreamedFold
    onehot, weight, C, tol, start
        As in :func:`~vpanalysis.probes.solvers.newton.solve_logistic`.

    Returns
    -------
    LogisticFit
        With one coefficient per feature.
    """
    space = StreamedSpace(fold, fold.products, torch.float32)
    fit = solve_logistic(space, onehot, weight, C=C, tol=tol, start=start)
    failed = ~(fit.gap <= tol * fit.objective)[0]
    if bool(failed.any()):
        which = failed.nonzero()[:, 0]
        exact = StreamedSpace(fold, fold.products)
        again = solve_logistic(exact, onehot[..., which], some_weights(weight, which), C=C, tol=tol)
        fit.coef[..., which], fit.bias[..., which] = again.coef, again.bias
        fit.objective[:, which], fit.gap[:, which] = again.objective, again.gap
    return fit


def streamed_ridge(
    fold: StreamedFold,
    target: Float[Tensor, "n k sets"],
    weight: Float[Tensor, "n sets"],
    penalties: Float[Tensor, " p"],
    *,
    shared: Float[Tensor, " n"],
    exact: int,
) -> tuple[Float[Tensor, "b m k sets"], Int[Tensor, "b sets"]]:
    """Choose a penalty by generalised cross-validation under `shared` weights, and fit every target with its own.

    Parameters
    ----------
    fold : StreamedFold
    target : tensor, shape (item, output, label set), floating
    weight : tensor, shape (item, label set), floating
        Of the fit.
    penalties : tensor, shape (penalty,)
    shared : tensor, shape (item,)
        Of the choice, and zero only where every label set's is.
    exact : int
        Label sets from this number on are shuffles, for which three digits are enough.

    Returns
    -------
    scores : tensor, shape (1, test item, output, label set)
    chosen : tensor, shape (1, label set), int64
    """
    k, sets = target.shape[1:]
    values, basis, centre = fold.spectrum(shared)
    keep, size = values > 0, values.sqrt()
    unit = torch.where(keep, 1.0 / size.clamp_min(1e-300), 0.0)
    mean = torch.einsum("n,nkl->kl", shared, target) / shared.sum()
    heavy = ((target - mean) * shared[:, None, None]).flatten(1)
    u = (unit[:, None] * product(basis.mT, fold.back(heavy) - torch.outer(centre, heavy.sum(0))))[None]
    total = ((target - mean).square() * shared[:, None, None]).sum(0).flatten()
    # What no direction explains, by the theorem of Pythagoras: directions are orthonormal.
    outside = (total - u[0].square().sum(0)).clamp_min(0.0)[None]
    errors = gcv_errors(values[None], u, penalties, shared, outside)
    chosen = errors.view(1, len(penalties), k, sets).sum(2).argmin(1)
    scores = []
    if bool((weight == shared[:, None]).all()):
        # The weights of the choice are those of the fit, which is then a division per direction.
        coef = u[0].view(-1, k, sets) * (size * keep)[:, None, None] / (values[:, None] + penalties[chosen[0]])[:, None]
        moved = product(basis, coef.flatten(1))
        found = fold.forward(moved, test=True) - centre @ moved
        return (found.view(-1, k, sets) + mean)[None], chosen
    for part, shuffled in ((slice(0, exact), False), (slice(exact, None), True)):
        if not target[..., part].shape[-1]:
            continue
        aim = target[..., part]
        w, typical, dtype, enough = precision(weight[:, part], shuffled)
        shift = (aim * w[:, None]).sum(0) / w.sum(0)
        centred = aim - shift
        spread = ((centred.square() * w[:, None]).sum(0) / w.sum(0)).sqrt().clamp_min(1e-300)
        # In the eigenbasis, about the shared mean, with a direction of ones for the intercept.
        turn = torch.cat([basis * keep, -(centre @ basis * keep)[None]]).to(dtype)

        def forward(coef: Tensor, turn: Tensor = turn, test: bool = False) -> Tensor:
            flat = coef[0].flatten(1)
            moved = product(turn, flat[:-1])
            return (fold.forward(moved[:-1].contiguous(), test=test) + (moved[-1] + flat[-1])).view(
                1, -1, *coef.shape[2:]
            )

        def back(values: Tensor, turn: Tensor = turn) -> Tensor:
            flat = values[0].flatten(1)
            ones = flat.sum(0, keepdim=True)
            seen = product(turn.mT, torch.cat([fold.back(flat), ones]))
            return torch.cat([seen, ones]).view(1, -1, *values.shape[2:])

        shrink = torch.nn.functional.pad(
            (penalties[chosen[:, part]] / typical)[:, None].expand(-1, len(values), -1), (0, 0, 0, 1)
        )
        squares = torch.nn.functional.pad(values, (0, 1), value=float(fold.items))[None, :, None]
        inverse = 1.0 / (squares + shrink).clamp_min(1e-300)
        coef = conjugate_gradients(
            forward, back, w[:, None].to(dtype), shrink[:, :, None].to(dtype), inverse[:, :, None].to(dtype),
            (centred / spread * w[:, None])[None].to(dtype), enough,
        )  # fmt: skip
        found = forward(coef.to(torch.float64), turn.to(torch.float64), test=True)
        scores.append(found.mul_(spread).add_(shift))
    return torch.cat(scores, -1), chosen
