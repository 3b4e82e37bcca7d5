"""Folds that leak nothing, whatever the data look like, and weights that make the words uninformative."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.errors import RunError
from vpanalysis.probes import splits
from vpanalysis.probes.splits import (
    check_grouping,
    group_ids,
    independence_weights,
    independent_sets,
    make_folds,
    mutual_information,
)

FRAMES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 25), st.integers(0, 5), st.integers(0, 3)), min_size=4, max_size=60
)


def _frame(rows: list[tuple[int, int, int, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["speaker", "cell", "script", "label"])
    return frame.astype({"speaker": str, "cell": str, "script": str})


@settings(deadline=None, max_examples=60)
@given(FRAMES, st.sampled_from(["speaker", "script"]), st.integers(0, 3))
def test_no_group_and_no_cell_is_on_both_sides(rows: list[tuple[int, int, int, int]], column: str, seed: int) -> None:
    frame = _frame(rows)
    labels = np.unique(frame["label"], return_inverse=True)[1]
    folds = make_folds(labels, [group_ids(frame, column)[0]], random_state=seed)
    for fold in folds:
        assert not set(frame[column].iloc[fold.train]) & set(frame[column].iloc[fold.test])
        assert not set(frame["cell"].iloc[fold.train]) & set(frame["cell"].iloc[fold.test])
        assert len(fold.train) + len(fold.test) == len(frame)
        assert len(fold.weights) == len(fold.train)
    if folds:
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(frame)))


@settings(deadline=None, max_examples=60)
@given(FRAMES)
def test_both_shares_neither_speaker_nor_script_and_tests_everything_once(
    rows: list[tuple[int, int, int, int]],
) -> None:
    frame = _frame(rows).drop(columns="cell")
    labels = np.unique(frame["label"], return_inverse=True)[1]
    folds = make_folds(labels, [group_ids(frame, c)[0] for c in ("speaker", "script")], n_splits=3)
    for fold in folds:
        for column in ("speaker", "script"):
            assert not set(frame[column].iloc[fold.train]) & set(frame[column].iloc[fold.test])
    if folds:
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(frame)))


def test_twins_of_a_cell_pull_their_scripts_into_one_group() -> None:
    frame = pd.DataFrame({"cell": ["a", "a", "b", "b"], "script": ["1", "2", "2", "3"]})
    groups, used = group_ids(frame, "script")
    assert used == "script"
    assert len(set(groups)) == 1


@pytest.mark.parametrize(
    ("frame", "used", "count"),
    [
        (pd.DataFrame({"cell": ["a", "a", "b"], "speaker": [None, None, None]}), "cell", 2),
        (pd.DataFrame({"truth": ["x", "y", "z"]}), "item", 3),
        (pd.DataFrame({"cell": [None] * 3, "speaker": ["s", None, None]}), "speaker", 3),
    ],
)
def test_missing_groups_fall_back_and_say_so(frame: pd.DataFrame, used: str, count: int) -> None:
    groups, found = group_ids(frame, "speaker")
    assert (found, len(set(groups))) == (used, count)


def test_folds_are_stratified_where_every_class_is_large_enough() -> None:
    labels = np.repeat([0, 1], 50)
    groups = np.arange(100) // 2
    for fold in make_folds(labels, [groups]):
        assert abs(labels[fold.test].mean() - 0.5) <= 0.11


def test_one_group_gives_no_folds() -> None:
    assert make_folds(np.array([0, 1, 0, 1]), [np.zeros(4, dtype=np.int64)]) == []


def test_folds_repeat_with_the_seed_and_differ_without() -> None:
    labels, groups = np.arange(60) % 2, np.arange(60) // 3

    def tests(seed: int) -> list[list[int]]:
        return [fold.test.tolist() for fold in make_folds(labels, [groups], random_state=seed)]

    assert tests(1) == tests(1)
    assert tests(1) != tests(2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), st.integers(0, 5))
def test_weights_make_words_and_truth_independent(extra: list[tuple[int, int]], seed: int) -> None:
    # All nine combinations occur in every subset that is drawn, so independence can be exact.
    pairs = np.array([(t, w) for t in range(3) for w in range(3)] * 2 + extra)
    truth, words = pairs[:, 0].astype(str), pairs[:, 1].astype(str)
    weights = independence_weights(truth, words)
    assert weights.mean() == pytest.approx(1)
    assert mutual_information(truth, words, weights) == pytest.approx(0, abs=1e-9)
    rows = np.concatenate([np.arange(9), np.random.default_rng(seed).permutation(np.arange(9, len(pairs)))[:5]])
    inside = independence_weights(truth, words, rows)
    assert mutual_information(truth[rows], words[rows], inside) == pytest.approx(0, abs=1e-9)
    for label in range(3):  # a training set is weighted to the frequencies of all items, not to its own
        share = inside[truth[rows] == str(label)].sum() / inside.sum()
        assert share == pytest.approx((truth == str(label)).mean())


def test_four_labels_need_three_conflict_items_to_one_congruent() -> None:
    truth = np.repeat(list("abcd"), 6)
    words = np.concatenate([[t] * 3 + [w for w in "abcd" if w != t] for t in "abcd"])
    weights = independence_weights(truth, words)
    conflict = weights[truth != words].sum()
    assert conflict / weights[truth == words].sum() == pytest.approx(3)


def test_unknown_grouping_is_one_sentence() -> None:
    with pytest.raises(RunError, match="did you mean 'speaker'"):
        check_grouping("speakers")


def test_examples_in_the_module() -> None:
    assert doctest.testmod(splits).failed == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 5))
def test_weights_of_many_label_sets_are_those_of_each(items: int, sets: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, words = rng.integers(0, 3, (sets, items)), rng.integers(0, 4, (sets, items))
    rows = rng.permutation(items)[: max(1, items // 2)]
    for some in (None, rows):
        found = independent_sets(truth, words, some)
        for one, t, w in zip(found, truth, words, strict=True):
            np.testing.assert_allclose(one, independence_weights(t.astype(str), w.astype(str), some))
