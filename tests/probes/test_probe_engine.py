"""All sites, folds and label sets at once: the same numbers as one pipeline after the other, and nothing leaks."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifierCV, RidgeCV
from sklearn.preprocessing import StandardScaler

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers import DEFAULT_PENALTIES, _plan, _products, engine, fit_many, regress_many
from vpanalysis.probes.solvers._scaling import Scaled
from vpanalysis.probes.solvers._threads import cores, in_threads, single_thread
from vpanalysis.probes.solvers.ridge import contrasts, to_simplex
from vpanalysis.probes.solvers.strength import _within, inner_folds
from vpanalysis.probes.splits import Fold

CLASSES = 3


def scene(
    sites: int = 3, items: int = 60, features: int = 90, sets: int = 4, folds: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    y = np.arange(items) % CLASSES
    X = rng.normal(size=(sites, items, features)) * rng.exponential(size=(sites, 1, features))
    X += np.arange(sites)[:, None, None] * (np.eye(CLASSES)[y] @ rng.normal(size=(CLASSES, features))) * 0.5
    labels = np.stack([y, *(rng.permutation(y) for _ in range(sets - 1))])
    fold_of = rng.permutation(np.arange(items) % folds)
    return (
        X.astype(np.float32),
        labels,
        [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(folds)],
    )


def logistic(X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, C: float, w: Any = None) -> np.ndarray:
    """Return scikit-learn's test probabilities, zero for classes that the training set does not have."""
    scaler = StandardScaler().fit(X[train].astype(float))
    model = LogisticRegression(C=C, tol=1e-12, max_iter=20000)
    model.fit(scaler.transform(X[train].astype(float)), y[train], sample_weight=None if w is None else w[train])
    out = np.zeros((len(test), CLASSES))
    out[:, model.classes_] = model.predict_proba(scaler.transform(X[test].astype(float)))
    return out


@pytest.mark.parametrize("features", [5, 30, 44, 90])
@pytest.mark.parametrize("C", [0.01, 10.0])
def test_logistic_is_the_loop_over_pipelines(features: int, C: float) -> None:
    X, labels, folds = scene(features=features)
    rough, fits = fit_many(X, labels, folds, C=C), fit_many(X, labels, folds, C=C, tol=1e-12)
    assert fits.probabilities.shape == (3, 4, 60, CLASSES)
    assert fits.probabilities.dtype == np.float32
    for site in range(3):
        for number, y in enumerate(labels):
            for train, test in folds:
                wanted = logistic(X[site], y, train, test, C)
                np.testing.assert_allclose(fits.probabilities[site, number, test], wanted, atol=2e-5)
    assert fits.gap.max() <= 1e-12 < rough.gap.max() <= 1e-9
    assert np.abs(rough.probabilities - fits.probabilities).max() < 2e-4
    np.testing.assert_array_equal(fits.penalty, 1 / C)
    np.testing.assert_array_equal(fits.predicted, fits.probabilities.argmax(-1))


def test_weights_of_every_shape() -> None:
    X, labels, folds = scene()
    X = X.astype(float)
    rng = np.random.default_rng(3)
    each = rng.exponential(size=(len(folds), *labels.shape)) * (rng.random((len(folds), *labels.shape)) < 0.9)
    fits = fit_many(X, labels, folds, weights=each, tol=1e-12)
    for number in range(4):
        for fold, (train, test) in enumerate(folds):
            keep = train[each[fold, number, train] > 0]
            scaler = StandardScaler().fit(X[2, train])
            model = LogisticRegression(C=0.01, tol=1e-12, max_iter=20000)
            model.fit(scaler.transform(X[2, keep]), labels[number, keep], sample_weight=each[fold, number, keep])
            wanted = model.predict_proba(scaler.transform(X[2, test]))
            np.testing.assert_allclose(fits.probabilities[2, number, test], wanted, atol=2e-5)
    same = fit_many(X, labels, folds, weights=each[0], tol=1e-12)
    np.testing.assert_allclose(same.probabilities[:, :, folds[0][1]], fits.probabilities[:, :, folds[0][1]], atol=1e-5)
    one = fit_many(X, labels, folds, weights=each[0, 1], tol=1e-12)
    np.testing.assert_allclose(one.probabilities[:, 1], same.probabilities[:, 1], atol=1e-5)
    own = [Fold(train, test, each[f, 1, train]) for f, (train, test) in enumerate(folds)]
    by_fold = fit_many(X, labels[1], own, tol=1e-12)
    np.testing.assert_allclose(by_fold.probabilities[:, 0], fits.probabilities[:, 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_label_sets_of_their_own_items_and_classes(kind: str) -> None:
    X, labels, folds = scene()
    labels[1, 40:] = -1
    labels[2] = np.where(labels[2] == 2, 0, labels[2])
    fits = fit_many(X, labels, folds, kind=kind, choose="loo")
    assert (fits.probabilities[:, 2, :, 2] == 0).all()
    np.testing.assert_allclose(fits.probabilities.sum(-1), 1.0, atol=1e-6)
    fold, (train, test) = 0, folds[0]
    keep = train[labels[1, train] >= 0]
    scaler = StandardScaler().fit(X[1, train].astype(float))
    rows, other = scaler.transform(X[1, keep].astype(float)), scaler.transform(X[1, test].astype(float))
    if kind == "logistic":
        model = LogisticRegression(C=0.01, tol=1e-12, max_iter=20000).fit(rows, labels[1, keep])
        np.testing.assert_allclose(fits.probabilities[1, 1, test], model.predict_proba(other), atol=2e-5)
    else:
        model = RidgeClassifierCV(DEFAULT_PENALTIES).fit(rows, labels[1, keep])
        assert fits.penalty[1, fold, 1] == model.alpha_
        np.testing.assert_array_equal(fits.predicted[1, 1, test], model.predict(other))


@pytest.mark.parametrize("features", [20, 90])
def test_ridge_is_the_loop_over_pipelines(features: int) -> None:
    X, labels, folds = scene(features=features)
    fits = fit_many(X, labels, folds, kind="ridge", choose="loo")
    for site in range(3):
        for number, y in enumerate(labels):
            for fold, (train, test) in enumerate(folds):
                scaler = StandardScaler().fit(X[site, train].astype(float))
                model = RidgeClassifierCV(DEFAULT_PENALTIES).fit(scaler.transform(X[site, train]), y[train])
                assert fits.penalty[site, fold, number] == model.alpha_
                scores = (model.decision_function(scaler.transform(X[site, test])) + 1) / 2
                wanted = to_simplex(torch.from_numpy(scores)).numpy()
                np.testing.assert_allclose(fits.probabilities[site, number, test], wanted, atol=1e-5)


def _left_out(rows: np.ndarray, y: np.ndarray, w: np.ndarray, groups: np.ndarray, penalty: float) -> float:
    """Return the weighted squared error of ridge on every group, fitted without it."""
    total = 0.0
    for group in np.unique(groups):
        out = groups == group
        model = Ridge(alpha=penalty, solver="svd").fit(rows[~out], y[~out], sample_weight=w[~out])
        total += float((w[out, None] * (model.predict(rows[out]) - y[out]) ** 2).sum())
    return total


@pytest.mark.parametrize("features", [12, 90])
@pytest.mark.parametrize("weighted", [False, True])
def test_leaving_out_groups_in_closed_form_is_leaving_them_out(features: int, weighted: bool) -> None:
    X, labels, folds = scene(sites=2, features=features, sets=3)
    rng = np.random.default_rng(5)
    groups = rng.integers(13, size=60)
    weights = rng.exponential(size=60) if weighted else np.ones(60)
    penalties = np.logspace(0, 4, 5)
    fits = fit_many(
        X, labels, folds, kind="ridge", choose="groups", groups=groups, weights=weights, penalties=penalties
    )
    train = folds[0][0]
    rows = StandardScaler().fit_transform(X[1, train].astype(float))
    for number in range(3):
        onehot = np.eye(CLASSES)[labels[number, train]]
        errors = [_left_out(rows, onehot, weights[train], groups[train], p) for p in penalties]
        assert fits.penalty[1, 0, number] == penalties[int(np.argmin(errors))]


def test_generalised_cross_validation_is_its_formula() -> None:
    X, labels, folds = scene(sites=1, items=28, features=30, sets=40)
    penalties = np.logspace(0, 3, 60)
    fits = fit_many(X, labels, folds, kind="ridge", choose="gcv", penalties=penalties)
    train = folds[1][0]
    rows = StandardScaler().fit_transform(X[0, train].astype(float))
    n = len(rows)
    for number in range(40):
        y = np.eye(CLASSES)[labels[number, train]]
        scores = []
        for penalty in penalties:
            hat = rows @ np.linalg.solve(rows.T @ rows + penalty * np.eye(30), rows.T) + 1 / n
            scores.append((((y - hat @ y) ** 2).sum()) / (n - np.trace(hat)) ** 2)
        assert fits.penalty[0, 1, number] == penalties[int(np.argmin(scores))]


@pytest.mark.parametrize("features", [20, 90])
def test_many_weights_share_a_factorisation(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels, folds = scene(sites=2, features=features)
    rng = np.random.default_rng(2)
    weights = rng.choice([0.5, 1.5, 4.0], size=labels.shape)
    weights[:, :6] = 0.0
    weights[3, 6:12] = 0.0  # an own set of items, so an own factorisation
    counted: list[int] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (counted.append(len(a)), eigh(a))[1])
    fits = fit_many(X, labels, folds, kind="ridge", weights=weights, choose_weighted=False)
    assert len(counted) == 2 * len(folds)
    plain = fit_many(X, labels, folds, kind="ridge", weights=(weights > 0).astype(float))
    np.testing.assert_array_equal(fits.penalty, plain.penalty)
    for number in range(4):
        train, test = folds[1]
        scaler = StandardScaler().fit(X[1, train].astype(float))
        model = Ridge(alpha=fits.penalty[1, 1, number], solver="svd")
        model.fit(scaler.transform(X[1, train].astype(float)), np.eye(CLASSES)[labels[number, train]],
                  sample_weight=weights[number, train])  # fmt: skip
        scores = model.predict(scaler.transform(X[1, test].astype(float)))
        wanted = to_simplex(torch.from_numpy(scores)).numpy()
        np.testing.assert_allclose(fits.probabilities[1, number, test], wanted, atol=1e-6)


@pytest.mark.parametrize(("spread", "exact"), [(3.0, 2e-6), (1000.0, 1e-7)])
@pytest.mark.parametrize("features", [20, 90])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_weights_of_every_set_are_in_the_fit_whatever_the_scale_of_its_numbers(
    spread: float, exact: float, features: int, scale: float
) -> None:
    X, _, folds = scene(sites=2, features=features)
    rng = np.random.default_rng(4)
    targets = scale * (np.stack([X[1, :, :4].sum(1), rng.normal(size=60)]) + 5.0)
    weights = spread ** rng.random(targets.shape)  # beyond a factor of a hundred it is float64 throughout
    weights[0] *= 1e4  # its own scale is the weights' affair, and the penalty's
    predicted, penalty = regress_many(X, targets, folds, weights=weights, choose_weighted=False)
    for number in range(2):
        for fold, (train, test) in enumerate(folds):
            scaler = StandardScaler().fit(X[1, train].astype(float))
            model = Ridge(alpha=penalty[1, fold, number], solver="svd")
            model.fit(scaler.transform(X[1, train].astype(float)), targets[number, train] / scale,
                      sample_weight=weights[number, train])  # fmt: skip
            wanted = model.predict(scaler.transform(X[1, test].astype(float)))
            apart = np.abs(predicted[1, number, test] / scale - wanted).max()
            assert apart < 10 * exact * np.abs(targets[number] / scale - targets[number].mean() / scale).max()


def test_a_constant_target_is_predicted_at_any_weights() -> None:
    X, _, folds = scene(sites=1)
    weights = np.random.default_rng(0).exponential(size=(2, 60)) + 0.1
    predicted, _ = regress_many(X, np.full((2, 60), 3.5), folds, weights=weights, choose_weighted=False)
    np.testing.assert_allclose(predicted, 3.5, rtol=1e-12)


def test_numbers_by_ridge_regression() -> None:
    X, labels, folds = scene(features=90)
    rng = np.random.default_rng(1)
    targets = np.stack([X[0, :, :5].sum(1) + 0.1 * rng.normal(size=60), rng.normal(size=60)])
    targets[1, 7] = np.nan
    predicted, penalty = regress_many(X, targets, folds, choose="loo")
    assert predicted.shape == (3, 2, 60)
    for fold, (train, test) in enumerate(folds):
        for number in range(2):
            keep = train[~np.isnan(targets[number, train])]
            scaler = StandardScaler().fit(X[0, train].astype(float))
            model = RidgeCV(DEFAULT_PENALTIES).fit(scaler.transform(X[0, keep]), targets[number, keep])
            assert penalty[0, fold, number] == model.alpha_
            np.testing.assert_allclose(
                predicted[0, number, test], model.predict(scaler.transform(X[0, test])), atol=1e-5
            )
    del labels


def test_the_strength_is_chosen_in_inner_folds() -> None:
    X, labels, folds = scene(sites=2, sets=3)
    groups = np.arange(60) // 2
    strengths = [1e-4, 1e-2, 1.0]
    fits = fit_many(X, labels, folds, C=strengths, groups=groups, inner_splits=3)
    fewer = fit_many(X[:, :, :8], labels, folds, C=strengths, groups=groups, inner_splits=3)
    assert len(np.unique(fits.penalty)) > 1
    train, test = folds[1]
    for result, states in ((fits, X[1]), (fewer, X[1, :, :8])):
        rows = StandardScaler().fit_transform(states[train].astype(float))
        for number in range(3):
            y, losses = labels[number, train], []
            for C in strengths:
                loss = 0.0
                for out in inner_folds(groups[train], 3, 1):
                    model = LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(rows[~out], y[~out])
                    loss -= np.log(model.predict_proba(rows[out])[np.arange(out.sum()), y[out]]).sum()
                losses.append(loss)
            best = strengths[int(np.argmin(losses))]
            assert 1 / result.penalty[1, 1, number] == pytest.approx(best)
            wanted = logistic(states, labels[number], train, test, best)
            np.testing.assert_allclose(result.probabilities[1, number, test], wanted, atol=2e-5)


def test_inner_products_of_an_inner_fold_are_about_its_own_mean() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 6)) + np.arange(20)[:, None]
    kept, out = np.arange(12), np.arange(12, 20)
    parts = [torch.from_numpy(part) for part in (rows @ rows.T, kept, out)]
    gram, cross = _within(parts[0][None], True, parts[1], parts[2])
    centred = rows[kept] - rows[kept].mean(0)
    np.testing.assert_allclose(gram[0].numpy(), centred @ centred.T, atol=1e-9)
    coef = np.random.default_rng(1).normal(size=12)
    coef -= coef.mean()
    wanted = (rows[out] - rows[kept].mean(0)) @ centred.T @ coef
    np.testing.assert_allclose(cross[0].numpy() @ coef, wanted, atol=1e-9)


def test_inner_folds_split_no_group() -> None:
    groups = np.random.default_rng(0).integers(7, size=40)
    folds = inner_folds(groups, 5, 0)
    assert np.sum(folds, axis=0).tolist() == [1] * 40
    for out in folds:
        assert not set(groups[out]) & set(groups[~out])
    with pytest.raises(RunError, match="1 group"):
        inner_folds(np.zeros(4, dtype=np.int64), 5, 0)


@pytest.mark.parametrize("more", [{}, {"C": [0.001, 0.1]}, {"kind": "ridge"}, {"kind": "ridge", "choose": "loo"}])
def test_test_items_teach_nothing(more: dict[str, Any]) -> None:
    X, labels, folds = scene()
    before = fit_many(X, labels, folds, **more)
    train, test = folds[0]
    other = X.copy()
    other[:, test[0]] = 1e3
    wrong = labels.copy()
    wrong[:, test] = (wrong[:, test] + 1) % CLASSES
    after = fit_many(other, wrong, folds[:1], **more)
    np.testing.assert_allclose(after.probabilities[:, :, test[1:]], before.probabilities[:, :, test[1:]], atol=1e-6)
    assert np.isnan(after.probabilities[:, :, train]).all()
    assert (after.predicted[:, :, train] == -1).all()


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_twice_the_same_and_whatever_the_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels, folds = scene(sites=5)
    one = fit_many(X, labels, folds, kind=kind, tol=1e-13)
    np.testing.assert_array_equal(one.probabilities, fit_many(X, labels, folds, kind=kind, tol=1e-13).probabilities)
    monkeypatch.setattr(_plan, "_SITES", 1)
    monkeypatch.setattr(engine, "_LABEL_SETS_BYTES", 1.0)  # one label set at a time
    apart = fit_many(X, labels, folds, kind=kind, tol=1e-13)
    np.testing.assert_allclose(apart.probabilities, one.probabilities, atol=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_any_number_of_workers_gives_the_same_digits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels, folds = scene(sites=5)
    monkeypatch.setattr(_plan, "_SITES", 2)
    weights = np.random.default_rng(1).choice([0.5, 1.5], size=labels.shape)
    told: list[tuple[int, int]] = []
    names: set[str] = set()
    real = _plan.Scaled.gram

    def spy(self: Scaled, fold: int) -> Any:
        names.add(threading.current_thread().name)
        return real(self, fold)

    monkeypatch.setattr(_plan.Scaled, "gram", spy)
    with single_thread():
        one = fit_many(X, labels, folds, kind=kind, weights=weights, choose_weighted=False)
        assert len(names) == 1
        for workers in (2, 3):
            more = fit_many(
                X, labels, folds, kind=kind, weights=weights, choose_weighted=False, workers=workers,
                progress=lambda done, total: told.append((done, total)),
            )  # fmt: skip
            for name in ("probabilities", "penalty", "objective", "gap"):
                np.testing.assert_array_equal(getattr(more, name), getattr(one, name))
    assert len(names) > 1
    assert [done for done, _ in told[:12]] == sorted(done for done, _ in told[:12])
    assert told[-1] == (20, 20)


def test_an_error_in_a_worker_ends_the_work() -> None:
    X, labels, folds = scene(sites=9)
    X[7, 3, 3] = np.nan
    with pytest.raises(RunError, match="'site 7'"):
        fit_many(X, labels, folds, workers=2)
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        return number

    taken: list[int] = []

    def units() -> Iterator[tuple[int]]:
        for number in range(1000):
            taken.append(number)
            yield (number,)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(work, units(), 2))
    assert len(taken) < 20
    assert set(begun) <= set(taken)


def test_units_are_taken_as_workers_are_free() -> None:
    waiting, most = 0, 0

    def units() -> Iterator[tuple[int]]:
        nonlocal waiting, most
        for number in range(30):
            waiting += 1
            most = max(most, waiting)
            yield (number,)

    for _ in in_threads(lambda number: number, units(), 3):
        waiting -= 1
    assert waiting == 0
    assert most <= 6


def test_a_worker_is_one_thread() -> None:
    pools = importlib.import_module("threadpoolctl").threadpool_info

    def threads(_: int) -> list[int]:
        return [torch.get_num_threads(), *(pool["num_threads"] for pool in pools())]

    before = threads(0)
    for found in in_threads(threads, ((number,) for number in range(4)), 2):
        assert set(found) == {1}
    assert threads(0) == before
    assert 1 <= cores() <= 4


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_sites_of_different_width_are_read_once_and_one_after_the_other(kind: str) -> None:
    X, labels, folds = scene(sites=4, features=120)
    widths = [120, 20, 20, 55]

    class Lazy(Sequence[np.ndarray]):
        read: list[int]

        def __len__(self) -> int:
            return 4

        def __getitem__(self, site: Any) -> Any:
            self.read.append(site)
            return X[site, :, : widths[site]]

    lazy = Lazy()
    lazy.read = []
    steps: list[tuple[int, int]] = []
    fits = fit_many(lazy, labels, folds, kind=kind, progress=lambda done, total: steps.append((done, total)))
    assert lazy.read == [0, 1, 2, 3]
    assert steps[-1] == (16, 16)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    for site, width in enumerate(widths):
        alone = fit_many(X[site : site + 1, :, :width], labels, folds, kind=kind)
        np.testing.assert_allclose(fits.probabilities[site], alone.probabilities[0], atol=1e-6)


def test_products_are_the_same_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels, folds = scene(sites=2)

    def of_torch(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return left @ right if out is None else out.copy_(left @ right)

    rng = np.random.default_rng(0)
    left, right = (torch.from_numpy(rng.normal(size=shape)) for shape in ((2, 5, 7), (2, 7, 4)))
    into = torch.zeros((2, 5, 9), dtype=torch.float64)
    _products.product(left, right, out=into[:, :, 2:6])
    torch.testing.assert_close(into[:, :, 2:6], of_torch(left, right))
    assert (into[:, :, :2] == 0).all()
    ours = fit_many(X, labels, folds).probabilities
    monkeypatch.setattr("vpanalysis.probes.solvers._spaces.product", of_torch)
    monkeypatch.setattr("vpanalysis.probes.solvers._scaling.product", of_torch)
    np.testing.assert_allclose(fit_many(X, labels, folds).probabilities, ours, atol=1e-6)


def test_constant_sites_know_nothing() -> None:
    X, labels, folds = scene(sites=2)
    X[0] = 4.2
    X[1, folds[0][0]] = 1.0  # constant in one training set, not in its test set
    for kind in ("logistic", "ridge"):
        fits = fit_many(X, labels, folds, kind=kind)
        for train, test in folds:
            share = np.bincount(labels[0, train], minlength=CLASSES) / len(train)
            np.testing.assert_allclose(fits.probabilities[0, 0, test], np.tile(share, (len(test), 1)), atol=1e-6)
        train, test = folds[0]
        share = np.bincount(labels[0, train], minlength=CLASSES) / len(train)
        np.testing.assert_allclose(fits.probabilities[1, 0, test], np.tile(share, (len(test), 1)), atol=1e-6)


def test_scaling_is_standard_scalers_whatever_the_offset() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 12)) * 10.0 ** rng.integers(-6, 6, size=12) + 10.0 ** rng.integers(-6, 6, size=12)
    X = np.concatenate([X, np.tile(np.random.default_rng(1).normal(size=20) / 3, (40, 1))], axis=1)  # constants
    X[:30, 1] = 7.0 + 1e-9 * rng.normal(size=30)  # varies in training by a hair, and is far away in testing
    X[30:, 1] = -1e4
    train, test = np.arange(30), np.arange(30, 40)
    scaled = Scaled(torch.from_numpy(X), [(torch.from_numpy(train), torch.from_numpy(test))])
    scaler = StandardScaler().fit(X[train])
    for ours, theirs in zip(scaled.rows(0), (scaler.transform(X[train]), scaler.transform(X[test])), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-6)


def test_three_items() -> None:
    X, _, _ = scene(items=3)
    folds = [(np.array([0, 1]), np.array([2]))]
    for kind in ("logistic", "ridge"):
        fits = fit_many(X, np.array([0, 1, 0]), folds, kind=kind)
        assert np.isfinite(fits.probabilities[:, :, 2]).all()
    wanted = LogisticRegression(C=0.01, tol=1e-12).fit(StandardScaler().fit_transform(X[1, :2].astype(float)), [0, 1])
    scaled = StandardScaler().fit(X[1, :2].astype(float)).transform(X[1, 2:].astype(float))
    fits = fit_many(X, np.array([0, 1, 0]), folds)
    np.testing.assert_allclose(fits.probabilities[1, 0, 2], wanted.predict_proba(scaled)[0], atol=1e-5)


def test_one_class_in_training() -> None:
    X, labels, folds = scene()
    labels[2] = np.where(np.isin(np.arange(60), folds[1][1]), 1, 0)  # fold 1 tests all there is of class 1
    with pytest.raises(RunError, match="one class only, 0, in label set 2 in the training items of fold 1"):
        fit_many(X, labels, folds)
    fits = fit_many(X, labels, folds, one_class="nan")
    empty = np.isnan(fits.probabilities).any(-1)
    assert empty[:, 2, folds[1][1]].all()
    assert empty.sum() == 3 * len(folds[1][1])
    assert np.isnan(fits.gap[:, 1, 2]).all() and np.isfinite(fits.gap).sum() == 3 * 15


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_states_that_are_not_finite_are_named(bad: float) -> None:
    X, labels, folds = scene()
    X[1, 17, 3] = bad
    with pytest.raises(RunError, match=r"site 'encoder\[1\]': found 1 items .* first item 17"):
        fit_many(X, labels, folds, names=["stem", "encoder[1]", "tower"])
    with pytest.raises(RunError, match="'site 1'"):
        regress_many(X, X[0, :, 0], folds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "svm"}, "kind='svm'"),
        ({"C": -1.0}, "C=-1.0"),
        ({"C": []}, "C="),
        ({"C": [1.0, np.nan]}, "positive numbers"),
        ({"kind": "ridge", "penalties": [0.0]}, "penalties"),
        ({"kind": "ridge", "choose": "lou"}, "did you mean 'loo'"),
        ({"kind": "ridge", "choose": "groups"}, "found none"),
        ({"kind": "ridge", "choose": "groups", "groups": np.zeros(60)}, "one group in the training items"),
        ({"groups": np.zeros(5)}, r"shape \(5,\)"),
        ({"one_class": "drop"}, "one_class='drop'"),
        ({"weights": -np.ones(60)}, "not negative"),
        ({"weights": np.ones((2, 60))}, "shape"),
        ({"n_classes": 2}, "labels up to 2"),
        ({"names": ["one"]}, "1 names"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_arguments_without_sense(change: dict[str, Any], words: str) -> None:
    X, labels, folds = scene()
    with pytest.raises(RunError, match=words):
        fit_many(X, labels, folds, **change)


def test_folds_and_labels_without_sense() -> None:
    X, labels, folds = scene()
    for wrong, words in (
        ([], "no folds"),
        ([folds[0], folds[0]], "tested in two folds"),
        ([(np.arange(60), np.arange(3))], "disjoint"),
        ([(np.arange(30), np.array([60]))], "disjoint"),
        ([(np.arange(30), np.array([], dtype=int))], "at least one on each side"),
    ):
        with pytest.raises(RunError, match=words):
            fit_many(X, labels, wrong)
    for bad in (labels.astype(float), labels - 2, labels[None]):
        with pytest.raises(RunError, match="class numbers from 0"):
            fit_many(X, bad, folds)
    with pytest.raises(RunError, match="labels up to 0"):
        fit_many(X, np.zeros(60, dtype=int), folds)
    with pytest.raises(RunError, match=r"states of shape \(60, 90\)"):
        fit_many(X, labels[:, :50], [(np.arange(30), np.arange(30, 50))])
    with pytest.raises(RunError, match="targets"):
        regress_many(X, np.full(60, np.inf), folds)
    with pytest.raises(RunError, match="without a training item"):
        regress_many(X, np.full(60, np.nan), folds)


def test_contrasts_and_the_simplex() -> None:
    for classes in (2, 3, 6):
        basis = contrasts(classes, torch.zeros(0, dtype=torch.float64))
        torch.testing.assert_close(basis.mT @ basis, torch.eye(classes - 1, dtype=torch.float64))
        torch.testing.assert_close(basis.sum(0), torch.zeros(classes - 1, dtype=torch.float64))
    scores = torch.randn((200, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = to_simplex(scores)
    torch.testing.assert_close(p.sum(-1), torch.ones(200, dtype=torch.float64))
    assert (p >= 0).all()
    assert (p.argmax(-1) == scores.argmax(-1)).all()
    # The nearest point: no step towards a corner brings it closer.
    corner = torch.eye(5, dtype=torch.float64)
    assert ((scores - p)[:, None] * (corner - p[:, None])).sum(-1).max() < 1e-12
    half = to_simplex(scores, torch.tensor([True, True, False, True, True]))
    assert (half[:, 2] == 0).all()
    torch.testing.assert_close(half[:, [0, 1, 3, 4]], to_simplex(scores[:, [0, 1, 3, 4]]))
