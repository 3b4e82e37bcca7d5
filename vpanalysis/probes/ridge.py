"""``RidgeProbe``: ridge regression on class indicators as a scikit-learn classifier, penalty chosen inside.

Why it exists. It is the probe for label-shuffle distributions: one eigendecomposition serves all labels and penalties
(:func:`vpanalysis.probes.solvers.fit_many` with ``kind="ridge"``). This is one of those fits, for anything that speaks
scikit-learn. With ``choose="loo"`` it is ``StandardScaler() + RidgeClassifierCV(penalties)``; ``choose="groups"``
leaves out whole groups (twins, a speaker's recordings) instead of single items, in closed form, so that a penalty is
not chosen for recognising a voice that is on both sides.

Its probabilities are those of the linear probability model: the fitted indicators, moved to the nearest point of the
probability simplex. They can be exactly zero or one; for log losses use
:class:`~vpanalysis.probes.logistic.LogisticProbe`.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> y = np.arange(60) % 3
>>> X = rng.normal(size=(60, 300)) + 2 * np.eye(3)[y] @ rng.normal(size=(3, 300))
>>> probe = RidgeProbe().fit(X, y)
>>> probe.predict_proba(X).shape, probe.score(X, y)
((60, 3), 1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vpanalysis.probes._contract import ProbeValueError, encode
from vpanalysis.probes.solvers._products import product
from vpanalysis.probes.solvers.engine import DEFAULT_PENALTIES
from vpanalysis.probes.solvers.ridge import CHOICES, Spectrum, contrasts, ridge_scores, to_simplex

__all__ = ["RidgeProbe"]


class RidgeProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge classifier on standardised features.

    Parameters
    ----------
    penalties : sequence of float
        Candidates; one is used as it is.
    choose : {"loo", "groups", "gcv"}
        How to choose: smallest squared error leaving out single items or whole groups, or generalised
        cross-validation (Golub, Heath and Wahba 1979).
    standardize : bool
        Scale features to zero mean and unit variance over the training items, by their weights.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    classes_ : array, shape (class,)
    penalty_ : float
        The chosen penalty.
    coef_ : array, shape (class, feature), or (1, feature) for two classes, float64
        Weights on features *as given*, for indicators coded -1 and 1 as in scikit-learn's ``RidgeClassifier``.
    intercept_ : array, shape (class,) or (1,), float64
    mean_, scale_ : array, shape (feature,), float64
    n_features_in_ : int
    """

    def __init__(
        self,
        penalties: Sequence[float] | float = DEFAULT_PENALTIES,
        *,
        choose: str = "gcv",
        standardize: bool = True,
        device: str = "cpu",
    ) -> None:
        self.penalties = penalties
        self.choose = choose
        self.standardize = standardize
        self.device = device

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> RidgeProbe:
        """Fit the probe.

        Parameters
        ----------
        X : array_like, shape (item, feature)
        y : array_like, shape (item,)
        sample_weight : array_like, shape (item,), optional
            Weight of each item in the squared error and in the scaling; zero means that the item is not there.
        groups : array_like, shape (item,), optional
            For ``choose="groups"``.

        Returns
        -------
        RidgeProbe
            Itself.

        Raises
        ------
        ProbeValueError
            With one class only, penalties that are not positive, or groups that are missing or one.
        ValueError
            For data that are not finite.
        """
        penalties = np.atleast_1d(np.asarray(self.penalties, dtype=np.float64))
        if not penalties.size or not (np.isfinite(penalties) & (penalties > 0)).all():
            raise ProbeValueError(
                "cannot fit the probe", found=f"penalties={self.penalties}", allowed="positive numbers"
            )
        if self.choose not in CHOICES:
            raise ProbeValueError(
                "cannot choose a penalty", found=f"choose={self.choose!r}", allowed=CHOICES, word=str(self.choose)
            )
        data = encode(self, X, y, sample_weight, self.standardize)
        rows = torch.from_numpy(data.rows).to(self.device)[None]
        weight = torch.from_numpy(data.weights).to(self.device)
        n, d = data.rows.shape
        if n < d:
            gram = product(rows, rows.mT)
            spectrum = Spectrum.of_gram(gram, gram, weight)
        else:
            spectrum = Spectrum.of_rows(rows, rows, weight)
        share = weight / weight.sum()
        centre = share @ rows[0]
        # Predictions for the unit vectors of feature space are the weights themselves.
        centred = (rows - centre) * spectrum.root[:, None]
        spectrum = replace(spectrum, test=product(centred.mT, spectrum.vectors))
        labels = torch.from_numpy(data.labels).to(self.device)
        onehot = (labels[:, None] == torch.arange(len(self.classes_), device=self.device)).to(rows.dtype)
        basis = contrasts(len(self.classes_), onehot)
        slopes, chosen = ridge_scores(
            spectrum,
            (onehot @ basis)[:, :, None],
            torch.from_numpy(penalties).to(self.device),
            choose=self.choose,
            groups=self._groups(groups, data.kept, len(np.asarray(X))),
        )
        prior = share @ onehot
        slope = slopes[0, :, :, 0] - prior @ basis  # the solver adds the mean that test rows are measured from
        weights = cast("NDArray[np.float64]", (2.0 * slope @ basis.mT).cpu().numpy()).T / data.scale
        bias = (2.0 * prior - 1.0).cpu().numpy() - weights @ (data.mean + centre.cpu().numpy() * data.scale)
        if len(self.classes_) == 2:
            weights, bias = weights[1:], bias[1:]
        self.coef_, self.intercept_ = weights, bias
        self.mean_, self.scale_ = data.mean, data.scale
        self.penalty_ = float(penalties[int(chosen[0, 0])])
        return self

    def _groups(self, groups: ArrayLike | None, kept: NDArray[np.int64], items: int) -> list[torch.Tensor] | None:
        if self.choose != "groups":
            return None
        if groups is None or np.asarray(groups).shape != (items,):
            raise ProbeValueError(
                "cannot leave out groups",
                found="no groups" if groups is None else f"groups of shape {np.asarray(groups).shape}",
                allowed=f"shape ({items},)",
                fix="pass groups= to fit, one value an item",
            )
        here = np.unique(np.asarray(groups)[kept], return_inverse=True)[1].reshape(-1)
        if here.max() == 0:
            raise ProbeValueError("cannot leave out groups", found="one group", allowed="two groups or more")
        return [torch.from_numpy(np.flatnonzero(here == g)).to(self.device) for g in range(here.max() + 1)]

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return fitted indicators (-1, 1): of the second class, shape (item,), with two classes; else all of them."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = cast("NDArray[np.float64]", X) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the fitted indicators as the nearest probabilities, shape (item, class)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([-scores, scores], axis=1)
        return cast("NDArray[np.float64]", to_simplex(torch.from_numpy((scores + 1.0) / 2.0)).numpy())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the largest indicator of each item, shape (item,)."""
        scores = self.decision_function(X)
        number = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return cast("NDArray[Any]", self.classes_[number])
