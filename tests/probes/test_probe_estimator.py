"""The linear reader against scikit-learn on the full problem, and its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vpanalysis.errors import RunError
from vpanalysis.probes import estimator
from vpanalysis.probes.estimator import ESTIMATORS, NETWORKS, LabelSets, SiteFit, fit_predict, fit_sites, r_squared
from vpanalysis.probes.solvers import Recipe, fit_many, train_many
from vpanalysis.probes.splits import Fold


def _data(features: int, classes: int = 3, items: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(features)
    labels = np.arange(items) % classes
    centres = rng.normal(size=(classes, features)) * 2 / np.sqrt(features)
    train = centres[labels] + rng.normal(size=(items, features))
    test = centres[rng.integers(classes, size=200)] + rng.normal(size=(200, features))
    return train.astype(np.float32), labels.astype(np.int64), test.astype(np.float32)


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


def _sets(labels: np.ndarray, folds: list[Fold], shuffles: int = 0) -> LabelSets:
    rng = np.random.default_rng(0)
    values = np.stack([labels, *(rng.permutation(labels) for _ in range(shuffles))])
    ones = np.ones((len(folds), *values.shape))
    return LabelSets(values, folds, ones, ones[0], np.arange(len(labels)))


def _halves(items: int) -> list[Fold]:
    rows = np.arange(items)
    return [Fold(rows[rows % 2 != k], rows[rows % 2 == k], np.ones(items // 2)) for k in (0, 1)]


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_all_sites_and_shuffles_at_once_are_the_fits_one_by_one(kind: str) -> None:
    estimator._MEMO.clear()
    states = {"a": _data(20)[0], "b": _data(300)[0], "c": np.ones((60, 7), np.float32)}
    labels = _data(20)[1]
    sets = _sets(labels, _halves(60), 4)
    fits = fit_sites(states.__getitem__, list(states), sets, estimator=kind)
    for (name, matrix), fit in zip(states.items(), fits, strict=True):
        for number, values in enumerate(sets.values):
            alone = fit_many(matrix[None], values, [(f.train, f.test) for f in sets.folds], kind=kind).predicted[0, 0]
            share = float((alone == values).mean())
            if number == 0:
                assert (alone == fit.predicted).mean() > 0.98, name
            else:
                assert fit.shuffled[number - 1] == pytest.approx(share, abs=0.02)
    assert (fits[0].predicted == labels).mean() > fits[0].shuffled.max()


def test_numbers_are_regressed_on_and_shuffles_know_nothing() -> None:
    rng = np.random.default_rng(5)
    states = rng.normal(size=(80, 30)).astype(np.float32)
    numbers = states[:, :3].sum(axis=1) + 0.1 * rng.normal(size=80)
    fit = fit_sites(lambda _: states, ["a"], _sets(numbers, _halves(80), 19))[0]
    assert r_squared(numbers, fit.predicted, np.ones(80)) > 0.8
    assert fit.shuffled.max() < 0.3
    assert r_squared(numbers, np.full(80, numbers.mean()), np.ones(80)) == pytest.approx(0.0)


def test_a_shuffle_with_one_class_in_training_predicts_that_class() -> None:
    states, folds = _data(20)[0][:8], _halves(8)
    values = np.array([[0, 1, 1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1]])
    ones = np.ones((2, 2, 8))
    fit = fit_sites(lambda _: states, ["a"], LabelSets(values, folds, ones, ones[0], np.arange(8)))[0]
    assert fit.shuffled.tolist() == [0.0]
    lonely = LabelSets(values[1:], folds, ones[:, 1:], ones[0, 1:], np.arange(8))
    for kind in ESTIMATORS:
        fit = fit_sites(lambda _: states, ["a"], lonely, estimator=kind)[0]
        assert fit.predicted.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
        assert fit.probabilities is not None
        assert fit.probabilities[:, 1].tolist() == [1.0, 0.0] * 4


@pytest.mark.parametrize("kind", ["logistic", "ridge", "mlp1"])
def test_chances_of_the_true_labels_are_kept(kind: str) -> None:
    estimator._MEMO.clear()
    states, labels, _ = _data(20)
    sets = _sets(labels, _halves(60), 2)
    fit = fit_sites(lambda _: states, ["a"], sets, estimator=kind)[0]
    assert fit.probabilities is not None
    assert fit.probabilities.shape == (60, 3)
    assert fit.probabilities.dtype == np.float32
    np.testing.assert_allclose(fit.probabilities.sum(1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(fit.probabilities.argmax(1), fit.predicted)
    if kind != "mlp1":
        pairs = [(f.train, f.test) for f in sets.folds]
        alone = fit_many(states[None], labels, pairs, kind=kind).probabilities[0, 0]
        np.testing.assert_allclose(fit.probabilities, alone, atol=1e-4)
    numbers = fit_sites(lambda _: states, ["a"], _sets(states[:, 0].astype(float), _halves(60)), estimator=kind)[0]
    assert numbers.probabilities is None


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_the_papers_networks_are_trained_for_every_label_set(kind: str) -> None:
    states, labels, _ = _data(20)
    sets = _sets(labels, _halves(60), 1)
    rng = np.random.default_rng(2)
    weights = rng.choice([0.5, 2.0], size=sets.train_weights.shape)
    sets = LabelSets(sets.values, sets.folds, weights, sets.weights, np.arange(60) // 3)
    fit = fit_sites(lambda _: states, ["a"], sets, estimator=kind, seeds=2, random_state=5)[0]
    pairs = [(f.train, f.test) for f in sets.folds]
    wanted = train_many(
        states[None], sets.values, pairs, Recipe(depth=NETWORKS[kind]), seeds=[5, 6], weights=weights,
        groups=sets.groups,
    )  # fmt: skip
    np.testing.assert_allclose(fit.probabilities, wanted.mean[0, 0], atol=1e-6)
    shuffled = wanted.mean[0, 1].argmax(1)
    assert fit.shuffled.tolist() == [pytest.approx((shuffled == sets.values[1]).mean())]
    assert (fit.predicted == labels).mean() > fit.shuffled[0]


def test_seeds_of_the_networks_are_what_their_digits_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator._MEMO.clear()
    monkeypatch.setattr(estimator, "Recipe", lambda depth: Recipe(depth=depth, max_steps=15, width=8))
    states, labels, _ = _data(20)
    sets = _sets(labels, _halves(60))

    def chances(**more: Any) -> Any:
        return fit_sites(lambda _: states, ["a"], sets, estimator="mlp3", **more)[0].probabilities

    first = chances()
    np.testing.assert_array_equal(first, chances(random_state=0))
    estimator._MEMO.clear()
    np.testing.assert_array_equal(first, chances(random_state=0))
    assert (first != chances(random_state=1)).any()
    np.testing.assert_allclose(chances(seeds=2), (first + chances(random_state=1)) / 2, atol=1e-2)
    assert (chances(random_state=None) != chances(random_state=None)).any()
    linear = fit_sites(lambda _: states, ["a"], sets, random_state=1)[0].probabilities
    np.testing.assert_array_equal(linear, fit_sites(lambda _: states, ["a"], sets)[0].probabilities)


@pytest.mark.parametrize(("more", "words"), [({"estimator": "mlp4"}, "did you mean 'mlp"), ({"seeds": 0}, "seeds=0")])
def test_arguments_without_sense(more: dict[str, Any], words: str) -> None:
    states, labels, _ = _data(20)
    with pytest.raises(RunError, match=words):
        fit_sites(lambda _: states, ["a"], _sets(labels, _halves(60)), **more)


def test_the_memory_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    memo = estimator._Memo()
    fits = [SiteFit(np.zeros(100, np.int64), np.zeros(20), np.zeros((100, 2), np.float32)) for _ in range(4)]
    assert fits[0].nbytes == 800 + 160 + 800
    monkeypatch.setattr(estimator, "_MEMO_BYTES", 3 * fits[0].nbytes)
    for name, fit in zip("abc", fits, strict=False):
        memo.keep(name, fit)
    assert memo.get("a") is fits[0]
    memo.keep("d", fits[3])  # "b" was not asked for longest
    assert memo.get("b") is None
    assert [memo.get(name) is not None for name in "acd"] == [True] * 3
    memo.keep("d", fits[2])
    assert (len(memo), memo.nbytes) == (3, 3 * fits[0].nbytes)
    memo.clear()
    assert (len(memo), memo.nbytes) == (0, 0)


def test_shared_states_are_fitted_once_and_other_states_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator._MEMO.clear()
    train, labels, _ = _data(20)
    sets = _sets(labels, _halves(60), 2)
    calls: list[int] = []
    real = estimator.fit_many

    def counted(states: list[np.ndarray], *args: Any, **kwargs: Any) -> Any:
        calls.append(len(states))
        return real(states, *args, **kwargs)

    monkeypatch.setattr(estimator, "fit_many", counted)

    def fit(states: np.ndarray, sets: LabelSets = sets, **kwargs: Any) -> Any:
        return fit_sites(lambda _: states, ["a"], sets, **kwargs)[0]

    first = fit(train)
    again = fit(train.copy())
    assert calls == [1]
    np.testing.assert_array_equal(first.predicted, again.predicted)
    np.testing.assert_array_equal(first.shuffled, again.shuffled)
    again.predicted[:] = -5  # what is handed out is a copy
    np.testing.assert_array_equal(first.predicted, fit(train).predicted)
    other = train.copy()
    other[0, 0] += 1e-3
    fit(other)
    fit(train, C=0.02)
    fit(train, estimator="ridge")
    fit(train, _sets(labels, list(reversed(_halves(60))), 2))
    fit(train, _sets(labels, _halves(60), 3))
    assert calls == [1] * 6
    both = fit_sites(lambda site: train if site == "known" else other + 1, ["new", "known"], sets)
    assert calls == [1] * 7
    np.testing.assert_array_equal(both[1].predicted, first.predicted)


def test_many_states_are_held_a_part_at_a_time() -> None:
    estimator._MEMO.clear()
    train, labels, _ = _data(20)
    whole = fit_sites(lambda site: train + int(site), ["1", "2", "3"], _sets(labels, _halves(60), 2))
    estimator._MEMO.clear()
    room = 10 * train.nbytes / 1e9  # a quarter of it for states that are being fitted: two sites and a half
    seen: list[float] = []
    parts = fit_sites(
        lambda site: train + int(site), ["1", "2", "3"], _sets(labels, _halves(60), 2), memory_gb=room,
        progress=seen.append,
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == 3
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.predicted, other.predicted)
        np.testing.assert_allclose(one.shuffled, other.shuffled)
