"""The logistic solver against scikit-learn at its most patient, on data of every kind that breaks solvers."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vpanalysis.probes.logistic import LogisticProbe
from vpanalysis.probes.solvers import gram as by_items
from vpanalysis.probes.solvers import newton
from vpanalysis.probes.solvers._spaces import FeatureSpace, ItemSpace, span_of
from vpanalysis.probes.solvers.gram import solve_gram
from vpanalysis.probes.solvers.newton import LogisticFit, solve_logistic

KINDS = ("noise", "separable", "collinear", "constant", "repeated", "heavy tails", "binary", "falling spectrum")


def draw(kind: str, items: int, features: int, classes: int, sets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states of a kind and label sets, the first class of which may be tiny."""
    rng = np.random.default_rng([seed, items, features, classes])
    X = rng.normal(size=(items, features))
    if kind == "collinear":
        few = max(1, features // 4)
        X = X[:, :few] @ rng.normal(size=(few, features))
    elif kind == "constant":
        X[:, rng.random(features) < 0.5] = 3.7
    elif kind == "repeated":
        X = X[rng.integers(items, size=items)]
    elif kind == "heavy tails":
        X = rng.standard_t(1, size=(items, features))
    elif kind == "binary":
        X = (X > 1).astype(float)
    elif kind == "falling spectrum":
        X = (X / np.arange(1, features + 1)) @ rng.normal(size=(features, features))
    labels = []
    for _ in range(sets):
        share = rng.dirichlet(np.full(classes, rng.choice([0.3, 5.0])))
        y = rng.choice(classes, size=items, p=share)
        y[rng.permutation(items)[:2]] = [0, 1]
        labels.append(y)
    if kind == "separable":
        X[:, 0] += 10 * labels[0]
    return X, np.array(labels)


def tensors(labels: np.ndarray, classes: int, weights: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    onehot = torch.from_numpy((labels.T[:, None] == np.arange(classes)[:, None]).astype(float))
    weight = np.ones((1, labels.shape[1])) if weights is None else weights
    return onehot, torch.from_numpy(weight.T[:, None].copy())


class Oracle:
    """scikit-learn's solution of one label set, and its objective in scikit-learn's own parametrisation."""

    def __init__(self, X: np.ndarray, y: np.ndarray, C: float, weights: np.ndarray | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model = LogisticRegression(C=C, tol=1e-12, max_iter=20000).fit(X, y, sample_weight=weights)
        self.X, self.C, self.weights = X, C, np.ones(len(X)) if weights is None else weights
        self.y = np.searchsorted(self.model.classes_, y)
        self.p = self.model.predict_proba(X)
        self.objective = self.value(self.model.coef_, self.model.intercept_)

    def value(self, coef: np.ndarray, bias: np.ndarray) -> float:
        scores = self.X @ coef.T + bias
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        log_p = scores - scores.max(1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
        loss = -(self.weights * log_p[np.arange(len(self.y)), self.y]).sum()
        return float(self.C * loss + 0.5 * (coef**2).sum())


def solved(X: np.ndarray, labels: np.ndarray, classes: int, C: float, weights: np.ndarray | None, tol: float) -> Any:
    """Return the fit, weights (set, class, feature) and biases (set, class), in the space with fewer coefficients."""
    onehot, weight = tensors(labels, classes, weights)
    centre = X.mean(0)
    rows = torch.from_numpy(X - centre)[None]
    if X.shape[1] < len(X):
        fit = solve_logistic(FeatureSpace(rows), onehot, weight, C=C, tol=tol)
        coef = fit.coef[0].numpy()
    else:
        fit = solve_gram(rows @ rows.mT, onehot, weight, C=C, tol=tol)
        coef = np.einsum("nd,nkl->dkl", rows[0].numpy(), fit.coef[0].numpy())
    coef = coef.transpose(2, 1, 0)
    return fit, coef, fit.bias[0, 0].numpy().T - coef @ centre


def compare(
    X: np.ndarray, labels: np.ndarray, classes: int, C: float, weights: np.ndarray | None, tol: float = 1e-11
) -> None:
    fit, coef, bias = solved(X, labels, classes, C, weights, tol)
    for number, y in enumerate(labels):
        oracle = Oracle(X, y, C, None if weights is None else weights[number])
        here = oracle.model.classes_
        w, b = coef[number][here], bias[number][here]
        scores = X @ w.T + b
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        if len(here) == 2:
            w, b = w[1:] - w[:1], b[1:] - b[:1]
        ours = oracle.value(w, b)
        assert np.abs(p - oracle.p).max() < 1e-3
        assert ours <= oracle.objective * (1 + 10 * tol)
        # What the solver says about itself is true: its objective, and that nothing lies below the bound.
        assert float(fit.objective[0, number]) == pytest.approx(ours, rel=1e-9)
        gap = float(fit.gap[0, number])
        assert gap <= tol * ours * (1 + 1e-6)
        assert ours - gap <= oracle.objective * (1 + 1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    items=st.sampled_from([3, 7, 40, 120]),
    features=st.sampled_from([1, 3, 30, 150]),
    classes=st.integers(2, 5),
    sets=st.integers(1, 4),
    power=st.floats(-2, 2),
    weighted=st.booleans(),
    tol=st.sampled_from([1e-9, 1e-11]),
    seed=st.integers(0, 99),
)
def test_it_is_the_optimum_that_scikit_learn_seeks(
    kind: str, items: int, features: int, classes: int, sets: int, power: float, weighted: bool, tol: float, seed: int
) -> None:
    X, labels = draw(kind, items, features, classes, sets, seed)
    X = StandardScaler().fit_transform(X)
    weights = None
    if weighted:
        rng = np.random.default_rng(seed)
        weights = rng.exponential(size=labels.shape) * (rng.random(labels.shape) < 0.9)
        for row, y in zip(weights, labels, strict=True):
            for k in np.unique(y):  # scikit-learn keeps classes whose items have no weight
                if row[y == k].sum() == 0:
                    row[y == k] = 1.0
    compare(X, labels, classes, float(10**power), weights, tol)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    ("kind", "items", "features"),
    [
        ("noise", 180, 1280),
        ("noise", 12, 2000),
        ("separable", 60, 400),
        ("separable", 200, 3),
        ("collinear", 120, 64),
        ("constant", 50, 80),
        ("repeated", 80, 160),
        ("falling spectrum", 100, 300),
    ],
)
def test_named_hard_cases(kind: str, items: int, features: int, C: float) -> None:
    X, labels = draw(kind, items, features, 4, 2, 0)
    labels[1, :] = np.where(np.arange(items) == 0, 1, 0)  # one item is a class of its own
    compare(StandardScaler().fit_transform(X), labels, 4, C, None)


def test_the_estimator_says_the_same_as_the_pipeline() -> None:
    X, labels = draw("separable", 90, 200, 4, 1, 3)
    for C in (0.01, 100.0):
        scaler = StandardScaler().fit(X[:60])
        theirs = LogisticRegression(C=C, tol=1e-12, max_iter=20000).fit(scaler.transform(X[:60]), labels[0, :60])
        ours = LogisticProbe(C=C).fit(X[:60], labels[0, :60])
        np.testing.assert_allclose(
            ours.predict_proba(X[60:]), theirs.predict_proba(scaler.transform(X[60:])), atol=1e-5
        )
        assert ours.gap_ <= 1e-16 * ours.objective_


def test_an_unfinished_fit_admits_it() -> None:
    X, labels = draw("noise", 60, 90, 3, 2, 1)
    X = StandardScaler().fit_transform(X)
    onehot, weight = tensors(labels, 3)
    fit = solve_logistic(ItemSpace(torch.from_numpy(X @ X.T)[None]), onehot, weight, C=10.0, tol=1e-12, max_newton=2)
    for number, y in enumerate(labels):
        best = Oracle(X, y, 10.0).objective
        here, gap = float(fit.objective[0, number]), float(fit.gap[0, number])
        assert gap > 1e-12 * here
        assert here - gap <= best < here


def test_sites_and_label_sets_do_not_touch_one_another() -> None:
    grams, sets = [], []
    for seed in range(3):
        X, labels = draw("noise", 50, 80, 3, 4, seed)
        X = StandardScaler().fit_transform(X)
        grams.append(torch.from_numpy(X @ X.T))
        sets.append(labels)
    labels = sets[0]
    labels[2, labels[2] == 2] = 0  # this one has two classes only
    onehot, weight = tensors(labels, 3)
    together = solve_gram(torch.stack(grams), onehot, weight, C=1.0, tol=1e-13)
    for site, gram in enumerate(grams):
        for number in range(4):
            alone = solve_gram(gram[None], onehot[..., number : number + 1], weight, C=1.0, tol=1e-13)
            fitted = [g[site] @ f.coef[i, :, :, j] for g, f, i, j in
                      ((grams, together, site, number), (grams, alone, 0, 0))]  # fmt: skip
            torch.testing.assert_close(fitted[0], fitted[1], atol=1e-5, rtol=0)
            assert float(together.objective[site, number]) == pytest.approx(float(alone.objective[0, 0]), rel=1e-11)
    assert (torch.softmax(together.bias[:, 0, :, 2], 1)[:, 2] == 0).all()


def test_a_warm_start_saves_steps_and_changes_nothing() -> None:
    X, labels = draw("noise", 60, 200, 4, 5, 2)
    X = StandardScaler().fit_transform(X)
    gram = torch.from_numpy(X @ X.T)[None]
    onehot, weight = tensors(labels, 4)
    before = solve_gram(gram, onehot, weight, C=0.1)
    cold = solve_gram(gram, onehot, weight, C=0.12, tol=1e-12)
    warm = solve_gram(gram, onehot, weight, C=0.12, tol=1e-12, start=before)
    assert warm.newton < cold.newton
    torch.testing.assert_close(warm.objective, cold.objective, rtol=1e-11, atol=0)


def test_repeated_items_are_solved_in_their_span(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spy(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(gram))
        return span_of(gram)

    monkeypatch.setattr(by_items, "span_of", spy)
    X, labels = draw("repeated", 80, 160, 4, 3, 0)
    compare(StandardScaler().fit_transform(X), labels, 4, 100.0, None)
    assert asked
    asked.clear()
    for kind in ("noise", "falling spectrum"):
        X, labels = draw(kind, 80, 160, 4, 3, 0)
        compare(StandardScaler().fit_transform(X), labels, 4, 100.0, None)
    assert not asked


def test_a_certificate_counts_what_rounding_may_hide() -> None:
    X, labels = draw("noise", 40, 60, 3, 1, 0)
    X[1] = X[0]
    X = StandardScaler().fit_transform(X)
    gram = torch.from_numpy(X @ X.T)[None]
    onehot, weight = tensors(labels, 3)
    best = solve_gram(gram, onehot, weight, C=1.0, tol=1e-13)
    coef = best.coef.clone()
    # The same weights by other coefficients: the two items are one, so what one loses the other may have.
    coef[:, 0, 0], coef[:, 1, 0] = coef[:, 0, 0] + 1e9, coef[:, 1, 0] - 1e9
    coef[:, :2, 2] = -coef[:, :2, :2].sum(2)
    space = ItemSpace(gram)
    assert abs(float(space.dot(coef, coef, space.forward(coef)))) < float(space.doubt(coef))
    same = solve_logistic(space, onehot, weight, C=1.0, max_newton=0, start=dataclasses.replace(best, coef=coef))
    assert float(best.gap) <= 1e-13 * float(best.objective)
    assert float(same.gap) > 1e-3 * float(same.objective)


def test_a_certificate_is_of_the_coefficients_and_not_of_what_was_carried_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = newton._Direction.result

    def drifting(self: Any, space: Any, dtype: torch.dtype) -> Any:
        step, fitted, bias = result(self, space, dtype)
        return step, fitted * (1 + 1e-6), bias

    monkeypatch.setattr(newton._Direction, "result", drifting)
    X, labels = draw("noise", 40, 60, 3, 2, 0)
    compare(StandardScaler().fit_transform(X), labels, 3, 1.0, None)


@pytest.mark.parametrize("kind", ["noise", "repeated", "falling spectrum"])
@pytest.mark.parametrize("C", [0.01, 100.0])
def test_directions_in_float32_are_judged_in_float64(kind: str, C: float, monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels = draw(kind, 80, 160, 4, 3, 0)
    X = StandardScaler().fit_transform(X)
    monkeypatch.setattr(by_items, "_EASY", (0.0, np.inf))  # also where they are no good, and have to be given up
    compare(X, labels, 4, C, None, 1e-9)
    asked: list[torch.dtype] = []

    class Spy(ItemSpace):
        def set_curvature(self, c: torch.Tensor) -> None:
            asked.append(self.inner)
            super().set_curvature(c)

    monkeypatch.setattr(by_items, "ItemSpace", Spy)
    compare(X, labels, 4, C, None, 1e-9)
    assert asked[0] == torch.float32
    asked.clear()
    monkeypatch.setattr(by_items, "_EASY", (0.0, 0.0))
    compare(X, labels, 4, C, None, 1e-9)
    assert set(asked) == {torch.float64}


def test_the_span_is_orthonormal_and_maps_back() -> None:
    X = np.random.default_rng(0).normal(size=(30, 8)) @ np.random.default_rng(1).normal(size=(8, 50))
    gram = torch.from_numpy(X @ X.T)
    rows, to_items = span_of(gram)
    assert rows.shape == (30, 8)
    torch.testing.assert_close(rows @ rows.mT, gram)
    basis = torch.from_numpy(X).mT @ to_items
    torch.testing.assert_close(basis.mT @ basis, torch.eye(8, dtype=torch.float64))


def test_few_steps_for_what_people_do() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([rng.permutation(np.arange(180) % 4) for _ in range(21)])
    rows = torch.from_numpy(StandardScaler().fit_transform(rng.normal(size=(180, 1280))))
    fit = solve_gram((rows @ rows.mT)[None], *tensors(labels, 4), C=0.01)
    assert isinstance(fit, LogisticFit)
    assert fit.newton <= 5
    assert fit.products <= 20
