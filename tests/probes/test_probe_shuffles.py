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
