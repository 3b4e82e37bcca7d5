"""The linear reader against scikit-learn on the full problem, and its memory."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vpanalysis.probes import estimator
from vpanalysis.probes.estimator import cross_val_predict, fit_predict, span_coordinates
from vpanalysis.probes.splits import Fold


def _data(features: int, classes: int = 3, items: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(features)
    labels = np.arange(items) % classes
    centres = rng.normal(size=(classes, features)) * 2 / np.sqrt(features)
    train = centres[labels] + rng.normal(size=(items, features))
    test = centres[rng.integers(classes, size=200)] + rng.normal(size=(200, features))
    return train.astype(np.float32), labels.astype(np.int64), test.astype(np.float32)


@pytest.mark.parametrize("features", [5, 59, 60, 61, 300])
def test_the_span_keeps_all_inner_products(features: int) -> None:
    train, _, test = _data(features)
    train = train.astype(np.float64)
    train -= train.mean(0)
    a, b = span_coordinates(train, test.astype(np.float64))
    assert a.shape[1] <= min(60, features)
    np.testing.assert_allclose(a @ a.T, train @ train.T, atol=1e-8)
    np.testing.assert_allclose(b @ a.T, test @ train.T, atol=1e-6)


@pytest.mark.parametrize("features", [20, 300])
@pytest.mark.parametrize("C", [0.001, 0.01, 1.0])
def test_predictions_are_those_of_the_full_problem(features: int, C: float) -> None:
    train, labels, test = _data(features)
    weights = np.linspace(0.5, 1.5, len(labels))
    scaler = StandardScaler().fit(train.astype(np.float64))
    full = LogisticRegression(C=C, tol=1e-10, max_iter=5000)
    full.fit(scaler.transform(train.astype(np.float64)), labels, sample_weight=weights)
    probability = full.predict_proba(scaler.transform(test.astype(np.float64)))
    top = np.sort(probability, axis=1)
    clear = top[:, -1] - top[:, -2] > 0.02  # at a tie either answer is right
    ours = fit_predict(train, labels, test, C=C, weights=weights)
    np.testing.assert_array_equal(ours[clear], probability.argmax(1)[clear])
    assert (ours == probability.argmax(1)).mean() > 0.98


def test_scaling_is_learnt_from_the_training_items_alone() -> None:
    train, labels, test = _data(20)
    alone = fit_predict(train, labels, test[:1])
    assert alone[0] == fit_predict(train, labels, np.concatenate([test[:1], test[1:] * 1e4]))[0]


def test_degenerate_states() -> None:
    constant = np.ones((12, 40), dtype=np.float32)
    labels = np.array([0] * 8 + [1] * 4)
    assert set(fit_predict(constant, labels, constant)) == {0}
    assert set(fit_predict(constant, np.full(12, 3), constant)) == {3}
    wide = np.concatenate([constant, np.arange(12, dtype=np.float32)[:, None] ** 3], axis=1)
    assert set(fit_predict(wide, labels, wide, C=1.0)) == {0, 1}


def test_shared_states_are_fitted_once_and_other_states_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator._MEMO.clear()
    train, labels, _ = _data(20)
    rows = np.arange(60)
    folds = [Fold(rows[rows % 2 != k], rows[rows % 2 == k], np.ones(30)) for k in (0, 1)]
    calls: list[int] = []
    real = estimator.fit_predict

    def counted(*args: np.ndarray, **kwargs: float) -> np.ndarray:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(estimator, "fit_predict", counted)
    first = cross_val_predict(train, labels, folds)
    again = cross_val_predict(train.copy(), labels, folds)
    assert len(calls) == 2
    np.testing.assert_array_equal(first, again)
    again[:] = -5  # what is handed out is a copy
    np.testing.assert_array_equal(first, cross_val_predict(train, labels, folds))
    other = train.copy()
    other[0, 0] += 1e-3
    cross_val_predict(other, labels, folds)
    cross_val_predict(train, labels, folds, C=0.02)
    cross_val_predict(train, labels, list(reversed(folds)))
    assert len(calls) == 8
