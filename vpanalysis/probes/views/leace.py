"""Taking one label out of states in closed form: LEACE, with item weights and shrinkage.

Why it exists. Where a model hears the voice and reads the words at one place, are these two things or one? Take the
words out and see what a probe of the voice has left. Least-squares concept erasure (Belrose et al. 2023, theorem 4.2)
is the smallest affine change of the states, in the mean square, after which no linear reader does better than a
constant: every covariance of a feature with the label is zero.

The idea. With the centred states ``x``, ``W`` the inverse root of their covariance and ``P`` the projection onto the
columns of ``W cov(x, z)``, where z is the label, one column a class, the states become ``x - W^-1 P W x``. Only the
span of the training rows takes part, so that everything is a product with their singular vectors.

* *Weights.* Means and covariances are weighted, and so what is erased is what a probe with these weights could find.
* *Shrinkage.* Any invertible W gives covariance zero; the covariance's root makes the change smallest. Where there are
  fewer items than features that root is little known, and new items are blown up along directions that hardly vary in
  training. ``shrinkage="oas"`` pulls the covariance towards a sphere by Chen et al. (2010); at 1 what remains is the
  projection orthogonal to the differences of class means.

A promise about the training items only: on new ones the label is as well hidden as the covariance is known.

Worked example:

>>> import numpy as np
>>> rng = np.random.default_rng(0); y = np.arange(60) % 2; x = rng.normal(size=(60, 5)); x[:, 0] += 3 * y
>>> z = Eraser().fit(x, y).transform(x)
>>> gap = abs(z[y == 1].mean(0) - z[y == 0].mean(0)).max(); bool(gap < 1e-12)
True
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes.splits import FloatArray

__all__ = ["Eraser"]

_NOTHING = 1e-10
"""Covariance with the label, in whitened states and relative to the label's own spread, that counts as none."""


class Eraser:
    """LEACE of one label.

    Parameters
    ----------
    shrinkage : float or "oas"
        From 0, exact LEACE, to 1; or chosen by the oracle-approximating formula.

    Attributes
    ----------
    rank_ : int
        Directions taken out; at most one fewer than the classes.
    shrinkage_ : float
    mean_ : array, shape (feature,), float64
    """

    def __init__(self, shrinkage: float | str = 0.0) -> None:
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Eraser:
        """Learn what to take out.

        Parameters
        ----------
        X : array_like, shape (item, feature)
        y : array_like, shape (item,)
            Labels of any type.
        sample_weight : array_like, shape (item,), optional

        Returns
        -------
        Eraser
            Itself. With one class only there is nothing to erase, and rank 0.

        Raises
        ------
        RunError
            For shapes that do not fit, states that are not finite, a shrinkage outside 0 to 1 and weights without sum.
        """
        x, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
        if x.ndim != 2 or labels.shape != x.shape[:1] or not x.size or not np.isfinite(x).all():
            raise RunError(
                "cannot fit the eraser", found=f"states of shape {x.shape} and labels of shape {labels.shape}",
                allowed="finite states (item, feature) and a label for each item",
            )  # fmt: skip
        w = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if w.shape != labels.shape or not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
            raise RunError("cannot fit the eraser", found="weights that are negative, missing or all zero")
        w = w / w.sum()
        classes, codes = np.unique(labels, return_inverse=True)
        self.mean_ = w @ x
        root = np.sqrt(w)[:, None]
        onehot = (codes[:, None] == np.arange(len(classes))).astype(np.float64)
        z = root * (onehot - w @ onehot)
        u, s, vt = np.linalg.svd(root * (x - self.mean_), full_matrices=False)
        kept = s > s.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps
        u, s, vt = u[:, kept], s[kept], vt[kept]
        self.shrinkage_ = self._amount(s, 1.0 / float(np.sum(w**2)), x.shape[1])
        spread = np.sqrt((1 - self.shrinkage_) * s**2 + self.shrinkage_ * np.sum(s**2) / x.shape[1])
        found, size, _ = np.linalg.svd((s / spread)[:, None] * (u.T @ z), full_matrices=False)
        q = found[:, size > _NOTHING * max(float(np.linalg.norm(z)), 1e-300)]
        self.rank_ = q.shape[1]
        # x - x A B: from centred states to what is erased in whitened coordinates, and from there back.
        self._into, self._back = vt.T @ (q / spread[:, None]), (q.T * spread) @ vt
        return self

    def transform(self, X: ArrayLike) -> FloatArray:
        """Return states, shape (item, feature), float64, without what was learnt."""
        x = np.asarray(X, dtype=np.float64)
        return np.asarray(x - ((x - self.mean_) @ self._into) @ self._back, dtype=np.float64)

    def _amount(self, s: NDArray[Any], n: float, d: int) -> float:
        if self.shrinkage != "oas":
            amount = self.shrinkage
            if isinstance(amount, str) or not 0 <= amount <= 1:
                raise RunError("cannot shrink", found=f"shrinkage={amount!r}", allowed="0 to 1, or 'oas'")
            return float(amount)
        # Chen et al. 2010, equation 23, from the trace of the covariance and of its square.
        trace, square = float(np.sum(s**2)), float(np.sum(s**4))
        over = square - trace**2 / d
        if d == 1 or over <= 1e-14 * square or math.isclose(trace, 0.0):
            return 1.0 if d > 1 else 0.0
        return min(1.0, ((1 - 2 / d) * square + trace**2) / ((n + 1 - 2 / d) * over))
