"""The probes as scikit-learn estimators: its own hundred checks, and errors in the project's words."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vpanalysis.errors import RunError
from vpanalysis.probes.logistic import LogisticProbe
from vpanalysis.probes.mlp import MLPProbe
from vpanalysis.probes.ridge import RidgeProbe

PROBES = [LogisticProbe(), RidgeProbe(), MLPProbe(depth=2, width=8, max_steps=60, learning_rate=0.01, patience=10)]


@parametrize_with_checks(
    [
        *PROBES,
        LogisticProbe(C=1.0, standardize=False),
        RidgeProbe(penalties=1.0, standardize=False),
        MLPProbe(depth=1, max_steps=60, learning_rate=0.01, choose_steps=False),
    ]
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def _data(classes: int = 3, items: int = 60, features: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(items) % classes
    return rng.normal(size=(items, features)) + 1.5 * np.eye(classes)[y] @ rng.normal(size=(classes, features)), y


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("classes", [2, 4])
def test_they_work_where_estimators_do(probe: Any, classes: int) -> None:
    X, y = _data(classes)
    names = np.array(["d", "a", "c", "b"])[y]
    assert cross_val_score(probe, X, names, cv=3).mean() > 0.8
    fitted = clone(probe).fit(X, names)
    assert fitted.predict_proba(X).shape == (60, classes)
    np.testing.assert_allclose(fitted.predict_proba(X).sum(1), 1.0)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[fitted.predict_proba(X).argmax(1)])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(clone(probe).fit(X, names).predict_proba(X), fitted.predict_proba(X))


def test_parameters_can_be_searched() -> None:
    X, y = _data()
    found = GridSearchCV(LogisticProbe(), {"C": [1e-6, 0.01]}, cv=3, scoring="neg_log_loss").fit(X, y)
    assert found.best_params_ == {"C": 0.01}


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_what_cannot_be_fitted_says_so(probe: Any) -> None:
    X, y = _data()
    with pytest.raises(RunError, match="one class only, 1"):
        clone(probe).fit(X, np.ones(60, dtype=int))
    with pytest.raises(ValueError, match="one class only, 0"):  # the others have no weight
        clone(probe).fit(X, y, sample_weight=(y == 0).astype(float))
    with pytest.raises(ValueError, match="NaN"):
        clone(probe).fit(np.where(np.arange(100) == 3, np.nan, X), y)
    with pytest.raises(ValueError, match="Negative"):
        clone(probe).fit(X, y, sample_weight=-np.ones(60))


@pytest.mark.parametrize(
    ("probe", "more", "words"),
    [
        (LogisticProbe(C=0.0), {}, "C=0.0"),
        (LogisticProbe(C=np.inf), {}, "C=inf"),
        (RidgeProbe(penalties=[1.0, -1.0]), {}, "penalties"),
        (RidgeProbe(penalties=[]), {}, "penalties"),
        (RidgeProbe(choose="gvc"), {}, "did you mean 'gcv'"),
        (RidgeProbe(choose="groups"), {}, "pass groups="),
        (RidgeProbe(choose="groups"), {"groups": np.zeros(60)}, "one group"),
        (MLPProbe(), {"groups": np.zeros(3)}, r"shape \(3,\)"),
        (MLPProbe(depth=0), {}, "depth=0"),
        (MLPProbe(holdout=1.0), {}, "holdout=1.0"),
    ],
)
def test_parameters_without_sense(probe: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        probe.fit(*_data(), **more)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("constant", [3.7, 1e-9, 1e6 / 3, 0.0])
@pytest.mark.filterwarnings("error")
def test_constant_features_with_weights_are_no_cause_for_warnings(probe: Any, constant: float) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = np.full((40, 5), constant)
    fitted = None
    for _ in range(5):  # whether rounding takes a variance below zero depends on the weights
        weights = rng.exponential(size=40)
        fitted = clone(probe).fit(X, y, sample_weight=weights)
        assert fitted.scale_.tolist() == [1.0] * 5
        chances = fitted.predict_proba(X)
        np.testing.assert_allclose(chances, np.broadcast_to(chances[:1], chances.shape))
        if not isinstance(probe, MLPProbe):  # which stops before it has learnt even that
            share = np.bincount(y, weights=weights) / weights.sum()
            np.testing.assert_allclose(chances[0], share, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_scaling_is_standard_scalers(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    X, y = _data()
    X = X * 10.0 ** rng.integers(-6, 6, size=100) + 10.0 ** rng.integers(-3, 3, size=100)
    X[:, 7] = 1 / 3
    weights = rng.exponential(size=60) if weighted else None
    wanted, ours = StandardScaler().fit(X, sample_weight=weights), LogisticProbe().fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(ours.mean_, wanted.mean_, rtol=1e-9)
    np.testing.assert_allclose(ours.scale_, wanted.scale_, rtol=1e-6)


@pytest.mark.parametrize("features", [10, 100])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_scikit_learns(features: int, classes: int, weighted: bool) -> None:
    X, y = _data(classes, features=features, seed=features)
    X *= np.random.default_rng(0).exponential(size=features)
    weights = np.random.default_rng(1).exponential(size=60) if weighted else None
    penalties = np.logspace(-1, 4, 11)
    ours = RidgeProbe(penalties, choose="loo").fit(X, y, sample_weight=weights)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    theirs = RidgeClassifierCV(penalties).fit(scaler.transform(X), y, sample_weight=weights)
    assert ours.penalty_ == theirs.alpha_
    new = _data(classes, features=features, seed=9)[0]
    np.testing.assert_allclose(ours.decision_function(new), theirs.decision_function(scaler.transform(new)), atol=1e-8)


def test_weights_of_the_logistic_probe_are_on_features_as_given() -> None:
    X, y = _data(2)
    X[:, 3] = 5.0
    probe = LogisticProbe(C=0.1).fit(X, y)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-12, max_iter=20000)).fit(X, y)
    assert probe.coef_.shape == (1, 100)
    assert probe.coef_[0, 3] == 0.0
    np.testing.assert_allclose(probe.coef_[0] * probe.scale_, theirs[-1].coef_[0], atol=1e-7)
    np.testing.assert_allclose(probe.decision_function(X), theirs.decision_function(X), atol=1e-6)
