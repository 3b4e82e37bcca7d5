"""``LogisticProbe``: L2 multinomial logistic regression as a scikit-learn classifier, solved to a certificate.

Why it exists. Layer-wise probing fits thousands of these at once (:func:`vpanalysis.probes.solvers.fit_many`); this is
one of them, for pipelines, grid searches and anything else that speaks scikit-learn. Both use one solver, and the
objective is that of ``sklearn.linear_model.LogisticRegression``: ``C * sum_i w_i loss_i + 0.5 |W|^2`` with a free
intercept (two classes share one weight vector, as there).

What is different: features are standardised inside (learnt from the training items, as they have to be), work happens
in the span of the training items when there are fewer of them than features, and the fit ends when a bound on its
distance from the optimum is met, not when progress is slow. ``gap_`` says how far from the optimum it can be at most.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> y = np.arange(60) % 3
>>> X = rng.normal(size=(60, 300)) + 2 * np.eye(3)[y] @ rng.normal(size=(3, 300))
>>> probe = LogisticProbe(C=0.01).fit(X, y)
>>> probe.predict_proba(X).shape, bool(probe.gap_ < 1e-10 * probe.objective_), probe.score(X, y)
((60, 3), True, 1.0)
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vpanalysis.probes._contract import ProbeValueError, encode
from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers._spaces import FeatureSpace
from vpanalysis.probes.solvers.gram import solve_gram
from vpanalysis.probes.solvers.newton import solve_logistic

__all__ = ["LogisticProbe"]


class LogisticProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """L2-penalised multinomial logistic regression on standardised features.

    Parameters
    ----------
    C : float
        Inverse penalty, as in scikit-learn. 0.01 suits standardised features of a few hundred dimensions or more.
    standardize : bool
        Scale features to zero mean and unit variance over the training items, by their weights.
    tol : float
        Certified bound on the distance of the objective from its minimum, relative to the objective, at which the fit
        ends.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    classes_ : array, shape (class,)
    coef_ : array, shape (class, feature), or (1, feature) for two classes, float64
        Weights on features *as given* (not standardised).
    intercept_ : array, shape (class,) or (1,), float64
    objective_, gap_ : float
        ``C * weighted loss + 0.5 |W|^2`` at the solution, and the certified bound of its excess.
    mean_, scale_ : array, shape (feature,), float64
    n_iter_ : int
        Newton steps.
    n_features_in_ : int

    Notes
    -----
    Truncated Newton steps with a preconditioner shared by all label sets; see
    :mod:`vpanalysis.probes.solvers.newton`.
    """

    def __init__(self, C: float = 0.01, *, standardize: bool = True, tol: float = 1e-16, device: str = "cpu") -> None:
        self.C = C
        self.standardize = standardize
        self.tol = tol
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LogisticProbe:
        """Fit the probe.

        Parameters
        ----------
        X : array_like, shape (item, feature)
        y : array_like, shape (item,)
        sample_weight : array_like, shape (item,), optional
            Weight of each item in the loss and in the scaling; zero means that the item is not there.

        Returns
        -------
        LogisticProbe
            Itself.

        Raises
        ------
        ProbeValueError
            With one class only, or a `C` that is not positive.
        ValueError
            For data that are not finite.
        """
        if not (np.isfinite(self.C) and self.C > 0):
            raise ProbeValueError("cannot fit the probe", found=f"C={self.C}", allowed="a positive number")
        data = encode(self, X, y, sample_weight, self.standardize)
        classes = len(self.classes_)
        # Item coefficients are about the centre of the rows, whatever the weights; the intercept takes up the rest.
        centre = data.rows.mean(axis=0)
        rows = torch.from_numpy(data.rows - centre).to(self.device)[None]
        labels = torch.from_numpy(data.labels).to(self.device)
        onehot = (labels[:, None] == torch.arange(classes, device=self.device)).to(rows.dtype)[:, :, None]
        weight = torch.from_numpy(data.weights).to(self.device)[:, None, None]
        n, d = data.rows.shape
        if n < d:
            fit = solve_gram(product(rows, rows.mT), onehot, weight, C=float(self.C), tol=self.tol)
            coef = product(rows.mT, fit.coef[..., 0])[0]
        else:
            fit = solve_logistic(FeatureSpace(rows), onehot, weight, C=float(self.C), tol=self.tol)
            coef = fit.coef[0, :, :, 0]
        weights = cast("NDArray[np.float64]", coef.cpu().numpy()).T / data.scale
        bias = cast("NDArray[np.float64]", fit.bias[0, 0, :, 0].cpu().numpy())
        bias = bias - weights @ (data.mean + centre * data.scale)
        if classes == 2:
            weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
        self.coef_, self.intercept_ = weights, bias
        self.mean_, self.scale_ = data.mean, data.scale
        self.objective_, self.gap_, self.n_iter_ = float(fit.objective[0, 0]), float(fit.gap[0, 0]), fit.newton
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return log-odds: of the second class, shape (item,), with two classes; else a column per class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores: NDArray[np.float64] = cast("NDArray[np.float64]", X) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, shape (item, class)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            # Half of the log-odds to either side is the same softmax, and symmetric to the last digit.
            scores = np.stack([-0.5 * scores, 0.5 * scores], axis=1)
        weights: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each item, shape (item,)."""
        scores = self.decision_function(X)
        number = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return cast("NDArray[Any]", self.classes_[number])
