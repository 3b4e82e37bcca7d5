"""Intervals take the group as the unit."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from vpanalysis.probes._intervals import accuracy_interval, difference_interval


def test_many_independent_items_give_the_plain_wilson_interval() -> None:
    correct = (np.random.default_rng(0).random(4000) < 0.7).astype(float)
    estimate, low, high = accuracy_interval(correct, [np.arange(4000)], np.ones(4000), level=0.95, chance=None)
    expected = proportion_confint(int(correct.sum()), 4000, method="wilson")
    assert (estimate, low, high) == (
        correct.mean(),
        pytest.approx(expected[0], abs=1e-4),
        pytest.approx(expected[1], abs=1e-4),
    )


def test_items_that_stand_and_fall_together_count_once() -> None:
    verdict = (np.random.default_rng(1).random(40) < 0.6).astype(float)
    groups = np.repeat(np.arange(40), 10)
    together = accuracy_interval(np.repeat(verdict, 10), [groups], np.ones(400), level=0.95)
    once = accuracy_interval(verdict, [np.arange(40)], np.ones(40), level=0.95)
    assert together == pytest.approx(once, abs=1e-9)
    both = accuracy_interval(np.repeat(verdict, 10), [np.arange(400), groups], np.ones(400), level=0.95)
    assert both == pytest.approx(together)


def test_all_right_is_not_certain_and_one_group_says_nothing() -> None:
    estimate, low, high = accuracy_interval(np.ones(100), [np.arange(100) // 5], np.ones(100), level=0.95)
    assert (estimate, high) == (1.0, pytest.approx(1.0))
    assert 0.75 < low < 0.9
    assert np.isnan(accuracy_interval(np.ones(5), [np.zeros(5, dtype=np.int64)], np.ones(5), level=0.95)[1])
    assert np.isnan(difference_interval(np.ones(5), [np.zeros(5, dtype=np.int64)], np.ones(5), level=0.95)[1])


def test_uneven_weights_widen_the_interval() -> None:
    correct = np.arange(200) % 2 * 1.0
    weights = np.where(np.arange(200) < 20, 10.0, 0.1)
    even = accuracy_interval(correct, [np.arange(200)], np.ones(200), level=0.95)
    uneven = accuracy_interval(correct, [np.arange(200)], weights, level=0.95)
    assert uneven[2] - uneven[1] > 2 * (even[2] - even[1])


def test_paired_difference_covers_its_mean() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        shift = np.repeat(rng.normal(0.1, 0.2, size=30), 6)
        _, low, high = difference_interval(
            shift + rng.normal(0, 0.3, 180), [np.repeat(np.arange(30), 6)], np.ones(180), level=0.95
        )
        inside += low <= 0.1 <= high
    assert 0.91 <= inside / 300 <= 0.985


def test_probes_that_guess_have_wider_intervals_than_one_fixed_model() -> None:
    groups = np.repeat(np.arange(24), 8)
    # Labels belong to the group: a probe that guesses is right on a whole group or on none of it.
    correct = (np.arange(24) % 2)[groups].astype(float)
    ones = np.ones(len(correct))
    folds = accuracy_interval(correct, [groups], ones, level=0.95)
    fixed = accuracy_interval(correct, [groups], ones, level=0.95, chance=None)
    assert folds[0] == fixed[0]
    assert folds[2] - folds[1] > 1.1 * (fixed[2] - fixed[1])
    # Where next to nothing is guessed, next to nothing covaries.
    right = np.where(np.arange(len(correct)) % 40 == 0, 0.0, 1.0)
    sure = [accuracy_interval(right, [groups], ones, level=0.95, chance=by) for by in (0.5, None)]
    assert sure[0][2] - sure[0][1] < 1.05 * (sure[1][2] - sure[1][1])
