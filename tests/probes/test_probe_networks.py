"""Batched networks: each is the network that a plain training loop on all features gives, and folds stay folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from vpanalysis.errors import RunError
from vpanalysis.probes.mlp import MLPProbe
from vpanalysis.probes.solvers import MLPFits, Recipe, train_many
from vpanalysis.probes.solvers._threads import single_thread
from vpanalysis.probes.solvers.networks import Start, held_out

CLASSES = 3


def scene(
    features: int, sites: int = 2, items: int = 40
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(features)
    y = np.arange(items) % CLASSES
    X = rng.normal(size=(sites, items, features)) + 0.7 * np.eye(CLASSES)[y] @ rng.normal(
        size=(sites, CLASSES, features)
    )
    fold_of = np.arange(items) // 10
    return X, y, [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(4)]


def plain_loop(
    X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, recipe: Recipe, seed: int, weights: np.ndarray
) -> np.ndarray:
    """Train one network on all features, with nothing but torch."""
    scaler = StandardScaler().fit(X[train])
    rows, other = (torch.from_numpy(scaler.transform(X[part])) for part in (train, test))
    label, weight = torch.from_numpy(y[train]), torch.from_numpy(weights[train] / weights[train].sum())
    start = Start(recipe, [seed], CLASSES, torch.float64, torch.device("cpu"))
    sizes = [X.shape[1], *start.sizes]
    W = [start.layer(i, sizes[i])[0].clone().requires_grad_() for i in range(recipe.depth)]
    b = [torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in start.sizes]
    mean, square = [torch.zeros_like(p) for p in W + b], [0.0] * (2 * recipe.depth)

    def outputs(h: torch.Tensor) -> torch.Tensor:
        for i in range(recipe.depth):
            h = (h.relu() if i else h) @ W[i] + b[i]
        return h

    for step in range(1, recipe.max_steps + 1):
        loss = (weight * torch.nn.functional.cross_entropy(outputs(rows), label, reduction="none")).sum()
        gradients = torch.autograd.grad(loss, W + b)
        with torch.no_grad():
            for i, (value, gradient) in enumerate(zip(W + b, gradients, strict=True)):
                mean[i] = 0.9 * mean[i] + 0.1 * gradient
                square[i] = 0.99 * square[i] + 0.01 * float(gradient.square().mean())
                if i < recipe.depth:
                    value.mul_(1 - recipe.learning_rate * recipe.weight_decay)
                size = (square[i] / (1 - 0.99**step)) ** 0.5 + 1e-12
                value.sub_(recipe.learning_rate * mean[i] / (1 - 0.9**step) / size)
    return torch.softmax(outputs(other), -1).detach().numpy()


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("features", [12, 70])
def test_each_network_is_that_of_a_plain_loop(depth: int, features: int) -> None:
    X, y, folds = scene(features)
    recipe = Recipe(depth=depth, width=10, learning_rate=0.005, weight_decay=0.1, max_steps=30, choose_steps=False)
    weights = np.random.default_rng(0).exponential(size=40)
    labels = np.stack([y, np.roll(y, 1)])
    fits = train_many(X, labels, folds, recipe, seeds=[3, 5], weights=weights, dtype="float64")
    assert fits.probabilities.shape == (2, 2, 2, 40, CLASSES)
    for fold in (0, 2):
        train, test = folds[fold]
        for number in range(2):
            for row, seed in enumerate([3, 5]):
                wanted = plain_loop(X[1], labels[number], train, test, recipe, seed, weights)
                np.testing.assert_allclose(fits.probabilities[1, number, row, test], wanted, atol=1e-6)
    assert (fits.steps == 30).all()
    assert fits.settings["seeds"] == [3, 5]
    assert fits.settings["weight_decay"] == 0.1
    np.testing.assert_allclose(fits.mean, fits.probabilities.mean(2), atol=1e-6)


@pytest.mark.parametrize("features", [12, 70])
def test_the_probe_is_one_of_the_networks(features: int) -> None:
    X, y, folds = scene(features)
    recipe = Recipe(depth=3, width=9, learning_rate=0.005, weight_decay=1.0, max_steps=30, choose_steps=False)
    many = train_many(X, y, folds, recipe, seeds=[7], dtype="float64")
    train, test = folds[1]
    one = MLPProbe(3, 9, learning_rate=0.005, weight_decay=1.0, max_steps=30, choose_steps=False, random_state=7).fit(
        X[0, train], y[train]
    )
    np.testing.assert_allclose(one.predict_proba(X[0, test]), many.probabilities[0, 0, 0, test], atol=1e-6)


def test_depth_finds_what_a_linear_probe_cannot() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1, 400, 6))
    y = (X[0, :, 0] * X[0, :, 1] > 0).astype(int)
    folds = [(np.arange(300), np.arange(300, 400))]

    def accuracy(depth: int) -> float:
        fits = train_many(X, y, folds, Recipe(depth=depth, width=64, learning_rate=0.01))
        return float((fits.mean[0, 0, 300:].argmax(-1) == y[300:]).mean())

    assert accuracy(1) < 0.65
    assert accuracy(3) > 0.85
    assert accuracy(5) > 0.85


def _chosen(y_noise: float, seed: int = 0) -> MLPFits:
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=120)
    X = rng.normal(size=(1, 120, 200)) + (np.where(y == 1, 1, -1) * 0.5)[:, None] * (rng.random(200) < 0.1)
    y = np.where(rng.random(120) < y_noise, 1 - y, y)
    return train_many(X, y, [(np.arange(90), np.arange(90, 120))], Recipe(width=32, learning_rate=0.003))


def test_the_number_of_steps_follows_the_data() -> None:
    assert _chosen(0.5).steps[0, 0, 0] < _chosen(0.0).steps[0, 0, 0]


def test_test_items_teach_nothing() -> None:
    X, y, folds = scene(70)
    recipe = Recipe(width=8, max_steps=40, patience=10, learning_rate=0.01)
    before = train_many(X, y, folds, recipe, dtype="float64")
    train, test = folds[0]
    other, wrong = X.copy(), y.copy()
    other[:, test[0]] = 50.0
    wrong[test] = (wrong[test] + 1) % CLASSES
    after = train_many(other, wrong, folds[:1], recipe, dtype="float64")
    assert (after.steps[:, 0] == before.steps[:, 0]).all()
    np.testing.assert_allclose(after.probabilities[..., test[1:], :], before.probabilities[..., test[1:], :], atol=1e-5)
    assert np.isnan(after.probabilities[..., train, :]).all()


def test_twice_the_same_and_sites_by_themselves() -> None:
    X, y, folds = scene(70, sites=3)
    recipe = Recipe(width=8, max_steps=25, choose_steps=False)
    one = train_many(X, y, folds, recipe, seeds=2)
    np.testing.assert_array_equal(one.probabilities, train_many(X, y, folds, recipe, seeds=2).probabilities)
    alone = train_many(X[2:], y, folds, recipe, seeds=2)
    np.testing.assert_allclose(one.probabilities[2:], alone.probabilities, atol=1e-4)
    widths = [X[0], X[1, :, :9], X[2, :, :50]]
    mixed = train_many(widths, y, folds, recipe, seeds=2)
    np.testing.assert_allclose(mixed.probabilities[0], one.probabilities[0], atol=1e-4)


def test_any_number_of_workers_trains_the_same_networks() -> None:
    X, y, folds = scene(12, sites=3)
    recipe = Recipe(width=8, max_steps=20, patience=5)
    with single_thread():
        one = train_many(X, y, folds, recipe, seeds=2)
    two = train_many(X, y, folds, recipe, seeds=2, workers=2)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.steps, two.steps)


def test_groups_are_held_out_whole() -> None:
    members = np.random.default_rng(0).integers(12, size=80)
    out = held_out(members, 0.2, 0)
    assert 0 < out.sum() < 40
    assert not set(members[out]) & set(members[~out])
    assert not held_out(np.arange(4), 0.2, 0).any()
    assert (held_out(members, 0.2, 0) == out).all()
    assert (held_out(members, 0.2, 1) != out).any()


def test_copies_of_an_item_are_not_on_both_sides() -> None:
    """With every item twice and labels of noise, more steps only help who has seen the copy."""
    rng = np.random.default_rng(0)
    X, y = np.repeat(rng.normal(size=(40, 60)), 2, axis=0), np.repeat(rng.integers(2, size=40), 2)
    apart = MLPProbe(width=16, learning_rate=0.01).fit(X, y)
    leaky = MLPProbe(width=16, learning_rate=0.01).fit(X, y, groups=np.arange(80))
    assert apart.n_iter_ < 15 < leaky.n_iter_


def test_classes_and_items_that_are_not_there() -> None:
    X, y, folds = scene(12)
    labels = np.stack([y, np.where(y == 2, 0, y), np.where(np.arange(40) < 35, y, -1)])
    fits = train_many(X, labels, folds, Recipe(width=6, max_steps=10, choose_steps=False))
    assert (fits.probabilities[:, 1, ..., 2] == 0).all()
    assert np.isfinite(fits.probabilities).all()
    labels[1] = np.where(np.isin(np.arange(40), folds[1][1]), 1, 0)
    with pytest.raises(RunError, match="label set 1 in the training items of fold 1"):
        train_many(X, labels, folds)
    empty = train_many(X, labels, folds, Recipe(width=6, max_steps=5), one_class="nan")
    assert (empty.steps[:, 1, 1] == 0).all() and (empty.steps[:, 0] > 0).all()
    assert np.isnan(empty.probabilities[:, 1, 0, folds[1][1]]).all()


@pytest.mark.parametrize(
    "change", [{"depth": 0}, {"width": 0}, {"learning_rate": 0.0}, {"max_steps": 0}, {"patience": 0}]
)
def test_recipes_without_sense(change: dict[str, float]) -> None:
    with pytest.raises(RunError, match=next(iter(change))):
        Recipe(**change)  # type: ignore[arg-type]


def test_arguments_without_sense() -> None:
    X, y, folds = scene(12)
    for more, words in (({"seeds": 0}, "seeds=0"), ({"seeds": [-1]}, "seeds"), ({"dtype": "half"}, "half"),
                        ({"groups": np.zeros(3)}, r"\(3,\)")):  # fmt: skip
        with pytest.raises(RunError, match=words):
            train_many(X, y, folds, Recipe(max_steps=2), **more)  # type: ignore[arg-type]


def test_seeds_of_the_probe() -> None:
    X, y, _ = scene(12)
    one = MLPProbe(width=8, max_steps=20, n_seeds=2, random_state=4).fit(X[0], y)
    assert one.seeds_ == [4, 5]
    parts = [MLPProbe(width=8, max_steps=one.n_iter_, choose_steps=False, random_state=s).fit(X[0], y) for s in (4, 5)]
    np.testing.assert_allclose(one.predict_proba(X[0]), np.mean([p.predict_proba(X[0]) for p in parts], axis=0))
    drawn = MLPProbe(width=8, max_steps=5, random_state=np.random.RandomState(0)).fit(X[0], y)
    assert drawn.seeds_ == MLPProbe(width=8, max_steps=5, random_state=np.random.RandomState(0)).fit(X[0], y).seeds_
