"""Shuffles keep what they must keep, whatever the data look like, and p values count."""

from __future__ import annotations

import doctest
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.probes import shuffles
from vpanalysis.probes.shuffles import evidence, shuffled_rows

CELLS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=30
)


def _items(cells: list[tuple[int, int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, groups, cells and conditions: a label for each of one or two twins."""
    rows = [
        (label, group, number, condition)
        for number, (group, first, second, twin) in enumerate(cells)
        for label, condition in [(first, "conflict"), (second, "congruent")][: 1 + twin]
    ]
    labels, groups, names, conditions = (np.array(column) for column in zip(*rows, strict=True))
    return labels, groups, names, conditions


@settings(deadline=None, max_examples=80)
@given(CELLS, st.integers(0, 5))
def test_whole_cells_move_and_every_label_is_kept(cells: list[tuple[int, int, int, bool]], seed: int) -> None:
    labels, groups, names, conditions = _items(cells)
    constant = all(len(set(labels[groups == group])) == 1 for group in set(groups))
    for row in shuffled_rows(labels, [groups], names, conditions, 3, seed):
        if constant:
            # Whole groups trade: still one label in each, and as many groups with each label as before.
            now = {group: set(labels[row][groups == group]) for group in set(groups)}
            assert all(len(found) == 1 for found in now.values())
            before = Counter(labels[groups == group][0] for group in set(groups))
            assert Counter(next(iter(found)) for found in now.values()) == before
            continue
        assert sorted(row) == list(range(len(labels)))
        assert (conditions[row] == conditions).all()
        for cell in set(names):
            assert len(set(names[row][names == cell])) == 1
        # Groups receive from one group each.
        for group in set(groups):
            assert len(set(groups[row][groups == group])) == 1


def test_groups_of_one_cell_trade_and_others_shuffle_inside() -> None:
    groups, names = np.array([0, 1, 2, 3, 3, 3, 3]), np.arange(7)
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    moved = shuffled_rows(labels, [groups], names, np.zeros(7), 60, 0)
    assert set(moved[:, 0]) == {0, 1, 2}
    assert set(moved[:, 3]) == {3, 4, 5, 6}
    np.testing.assert_array_equal(moved, shuffled_rows(labels, [groups], names, np.zeros(7), 60, 0))


def _unevenness(labels: np.ndarray, folds: np.ndarray) -> float:
    wanted = labels.mean()
    return float(sum((labels[folds == fold] - wanted).sum() ** 2 for fold in set(folds)))


def test_shuffles_of_groups_spread_the_labels_over_the_folds() -> None:
    """Ten speakers in five folds, one of each label in each: a free shuffle is as even once in eight."""
    groups = np.repeat(np.arange(10), 3)
    labels, folds = groups % 2, groups // 2
    common = (labels, [groups], np.arange(30), np.zeros(30), 100, 4)
    free, even = shuffled_rows(*common), shuffled_rows(*common, folds=folds)
    before, after = (np.array([_unevenness(labels[row], folds) for row in rows]) for rows in (free, even))
    assert even.shape == (100, 30) and even.dtype == np.int64
    assert np.mean(before == 0) < 0.22 < np.mean(after == 0)
    assert after.max() <= np.median(before)
    # They are still shuffles: whole groups trade, as many of each label as before, and not all the same.
    assert all((np.ptp(labels[row].reshape(10, 3), axis=1) == 0).all() for row in even)
    assert (labels[even].sum(axis=1) == labels.sum()).all()
    assert len({tuple(labels[row]) for row in even}) > 30
    np.testing.assert_array_equal(even, shuffled_rows(*common, folds=folds))


def test_where_folds_cannot_differ_shuffles_are_as_without() -> None:
    groups = np.repeat(np.arange(8), 2)
    labels = np.arange(16) % 2  # every group has both: labels move inside groups, and every fold keeps its own
    common = (labels, [groups], np.arange(16), np.zeros(16), 20, 5)
    np.testing.assert_array_equal(shuffled_rows(*common), shuffled_rows(*common, folds=groups // 2))
    none = shuffled_rows(groups % 2, [groups], np.arange(16), np.zeros(16), 0, 5, folds=groups // 2)
    assert none.shape == (0, 16) and none.dtype == np.int64


def test_numbers_are_spread_by_their_value() -> None:
    groups = np.repeat(np.arange(12), 2)
    values = groups.astype(float) ** 2
    common = (values, [groups], np.arange(24), np.zeros(24), 60, 6)
    folds = groups % 4
    free, even = shuffled_rows(*common), shuffled_rows(*common, folds=folds)
    before, after = (np.mean([_unevenness(values[row], folds) for row in rows]) for rows in (free, even))
    assert after < 0.6 * before


def test_labels_that_belong_to_the_second_grouping_move_with_it() -> None:
    speaker, script = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    labels = script * 5
    for row in shuffled_rows(labels, [speaker, script], np.arange(4), np.zeros(4), 10, 1):
        assert labels[row][0] == labels[row][2] != labels[row][1] == labels[row][3]


def test_p_values_count_and_the_best_site_answers_for_all() -> None:
    rng = np.random.default_rng(0)
    shuffled = rng.uniform(size=(5, 199))
    scores = np.array([2.0, 0.5, float(shuffled[2].max()), -1.0, 0.99])
    found = evidence(scores, shuffled)
    for site in range(5):
        assert found.p[site] == pytest.approx((1 + (shuffled[site] >= scores[site] - 1e-9).sum()) / 200)
    assert found.p[0] == found.p_adjusted[0] == 1 / 200
    assert found.p[2] == 2 / 200
    assert (found.p_adjusted >= found.p).all()
    assert found.p_adjusted[4] > 3 * found.p[4]
    np.testing.assert_allclose(found.mean, shuffled.mean(axis=1))
    assert (found.low < found.mean).all()
    assert (found.mean < found.high).all()
    few = evidence(scores, shuffled[:, :198])
    assert np.isnan(few.p_adjusted).all()
    assert np.isfinite(few.p).all()
    assert np.isnan(evidence(scores, shuffled[:, :0]).p).all()


def test_p_values_are_uniform_where_nothing_is() -> None:
    rng = np.random.default_rng(1)
    p = np.array([evidence(row[:, :1].ravel(), row[:, 1:]).p for row in rng.normal(size=(400, 1, 20))])
    assert abs((p <= 0.1).mean() - 0.1) < 0.05
    assert abs(p.mean() - 0.525) < 0.05


def test_the_example_runs() -> None:
    assert doctest.testmod(shuffles).failed == 0
