"""The sign-flip test of a family: exact where it can count, honest over the family."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vpanalysis._flips import flip_family
from vpanalysis.stats import sign_flip_test


def test_it_counts_what_brute_force_counts() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(6), 3)
    d = rng.normal(size=(4, 18)) + np.array([0, 0.5, 1, 2])[:, None]
    sums = np.stack([np.bincount(clusters, weights=row) for row in d])
    unit = sums / np.sqrt((sums**2).sum(1, keepdims=True))
    seen = np.abs(unit.sum(1)) - 1e-9
    patterns = [np.abs(unit @ np.array(signs)) for signs in itertools.product((1, -1), repeat=6)]
    p, adjusted = flip_family(d, {"g": clusters})
    np.testing.assert_allclose(p, np.mean([found >= seen for found in patterns], axis=0))
    np.testing.assert_allclose(adjusted, np.mean([found.max() >= seen for found in patterns], axis=0))
    assert (adjusted >= p).all()


def test_one_member_is_the_plain_test() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, size=30)
    clusters = np.repeat(np.arange(10), 3)
    p, adjusted = flip_family(d, {"g": clusters})
    assert p[0] == adjusted[0] == pytest.approx(sign_flip_test(d, {"g": clusters}).p)


def test_the_larger_p_of_two_clusterings_counts_and_nothing_is_one() -> None:
    d = np.stack([np.ones(16), np.zeros(16)])
    p, adjusted = flip_family(d, {"item": np.arange(16), "pair": np.repeat([0, 1], 8)}, random_state=3)
    assert p.tolist() == [0.5, 1.0]
    assert adjusted.tolist() == [0.5, 1.0]


def test_a_sampled_test_is_repeatable_and_never_zero() -> None:
    d = np.random.default_rng(2).normal(1, 1, size=(3, 40))
    first, second = (flip_family(d, {"item": np.arange(40)}, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert min(first[0]) >= 1e-4


def test_of_many_useless_members_few_families_have_one_below_five_percent() -> None:
    rng = np.random.default_rng(4)
    hits = []
    for seed in range(200):
        shared = rng.normal(size=12)
        d = shared + rng.normal(size=(15, 12))
        _, adjusted = flip_family(d, {"item": np.arange(12)}, random_state=seed)
        hits.append(adjusted.min() < 0.05)
    # 10 of 200 are expected; 21 or more come by chance in 1 of 1,000 cases.
    assert sum(hits) <= 21
