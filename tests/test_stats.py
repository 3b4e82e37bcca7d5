"""Intervals and tests against statsmodels, against closed forms, and by simulation."""

from __future__ import annotations

import doctest
import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vpanalysis import _hearing, _tables, stats


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (3, 10), (170, 200), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_without_groups_it_is_the_plain_wilson_interval(right: int, n: int, level: float) -> None:
    found = stats.proportion([1] * right + [0] * (n - right), level=level)
    assert (found.low, found.high) == pytest.approx(proportion_confint(right, n, 1 - level, method="wilson"))
    assert (found.group, found.n, found.n_effective, found.df) == ("none", n, n, math.inf)


def test_items_that_stand_and_fall_together_count_once() -> None:
    verdict = (np.random.default_rng(1).random(40) < 0.6).astype(float)
    groups = np.repeat(np.arange(40), 10)
    together = stats.proportion(np.repeat(verdict, 10), {"speaker": groups})
    once = stats.proportion(verdict, {"speaker": np.arange(40)})
    assert (together.low, together.high) == pytest.approx((once.low, once.high), abs=1e-9)
    # Variance p (1 - p) / G x G / (G - 1): one degree of freedom fewer than clusters.
    assert together.n_effective == pytest.approx(39)


def test_the_wider_of_two_groupings_is_kept_and_named() -> None:
    rng = np.random.default_rng(2)
    script = np.repeat(np.arange(30), 8)
    right = np.repeat(rng.random(30) < 0.6, 8)
    speaker = rng.integers(60, size=240)
    both = stats.proportion(right, {"speaker": speaker, "script": script})
    assert both.group == "script"
    assert both == stats.proportion(right, {"script": script})
    assert both.high - both.low > 2 * (lambda e: e.high - e.low)(stats.proportion(right, {"speaker": speaker}))


def test_one_group_says_nothing_but_does_not_hide_another() -> None:
    right, same, own = np.arange(20) % 2, np.zeros(20), np.arange(20)
    assert math.isnan(stats.proportion(right, {"speaker": same}).low)
    assert stats.proportion(right, {"speaker": same, "script": own}).group == "script"
    assert math.isnan(stats.proportion([]).value)


def test_few_failures_do_not_make_certain() -> None:
    groups = np.arange(100) % 20
    lows, sizes = [], []
    for failures in range(7):
        right = np.ones(100)
        right[:failures] = 0
        found = stats.proportion(right, {"speaker": groups})
        lows.append(found.low)
        sizes.append(found.n_effective)
        assert found.low < 1 - failures / 100 < found.high or failures == 0
    # All right: correlation 0.5 within clusters of 5 is taken for granted, so 100 / (1 + 4 x 0.5) observations.
    assert sizes[0] == pytest.approx(100 / 3)
    assert sizes == sorted(sizes)
    assert sizes[5] == 100
    assert max(lows[:6]) - min(lows[:6]) < 0.01


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_intervals_hold_their_estimate_and_stay_in_range(rows: list[tuple[bool, int, int]]) -> None:
    right, speaker, script = (np.array(column) for column in zip(*rows, strict=True))
    found = stats.proportion(right, {"speaker": speaker, "script": script})
    assert found.value == pytest.approx(right.mean())
    if not math.isnan(found.low):
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert 0 < found.n_effective <= found.n
        renamed = stats.proportion(right, {"speaker": [f"s{s}" for s in speaker], "script": -script})
        assert (renamed.low, renamed.high) == pytest.approx((found.low, found.high))
        flipped = stats.proportion(~right, {"speaker": speaker, "script": script})
        assert (1 - flipped.high, 1 - flipped.low) == pytest.approx((found.low, found.high))


def _speakers(rng: np.random.Generator, p: float, icc: float, groups: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw n right/wrong items of speakers whose own accuracies vary so that items correlate by `icc`."""
    own = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, size=groups)
    speaker = rng.integers(groups, size=n)
    return (rng.random(n) < own[speaker]).astype(float), speaker


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_cluster_intervals_cover_and_plain_ones_do_not(p: float) -> None:
    rng = np.random.default_rng(3)
    inside, plain = 0, 0
    for _ in range(400):
        right, speaker = _speakers(rng, p, 0.3, 40, 160)
        inside += (lambda e: e.low <= p <= e.high)(stats.proportion(right, {"speaker": speaker}))
        plain += (lambda e: e.low <= p <= e.high)(stats.proportion(right))
    assert inside / 400 >= 0.92
    assert plain / 400 < inside / 400 - 0.03


# --- accuracies from cross-validation


def test_at_chance_the_covariance_between_folds_is_what_a_sign_keeps_of_a_product() -> None:
    """For independent items the variance grows by 2 / pi, for items that stand and fall together likewise."""
    coin = np.arange(2000) % 2
    single = stats.proportion(coin, {"item": np.arange(2000)}, chance=0.5)
    assert single.n_effective == pytest.approx(2000 / (1 + 2 / math.pi), rel=1e-3)
    twins = stats.proportion(np.repeat(coin, 5), {"cell": np.repeat(np.arange(2000), 5)}, chance=0.5)
    assert twins.n_effective == pytest.approx(single.n_effective, rel=1e-3)
    # Speakers whose items hang together loosely: nearly twice the variance, most of it not rounding.
    rng = np.random.default_rng(8)
    right, speaker = _speakers(rng, 0.5, 0.2, 400, 8000)
    plain, folds = (stats.proportion(right, {"speaker": speaker}, chance=c) for c in (None, 0.5))
    assert 1.8 < plain.n_effective / folds.n_effective < 2.0
    assert folds.value == plain.value


def test_what_is_known_does_not_depend_on_the_fold() -> None:
    widths = []
    for p in (0.5, 0.7, 0.9, 0.97):
        right, speaker = _speakers(np.random.default_rng(9), p, 0.1, 200, 4000)
        plain, folds = (stats.proportion(right, {"speaker": speaker}, chance=c) for c in (None, 0.5))
        widths.append((folds.high - folds.low) / (plain.high - plain.low))
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 1.3 and widths[-1] < 1.01
    groups = {"speaker": np.repeat(np.arange(20), 10)}
    assert stats.proportion(np.ones(200), groups, chance=0.5) == stats.proportion(np.ones(200), groups)


def test_of_more_classes_fewer_answers_are_guesses() -> None:
    right, speaker = _speakers(np.random.default_rng(10), 0.6, 0.2, 30, 300)
    widths = []
    for classes in (2, 4, 6):
        found = stats.proportion(right, {"speaker": speaker}, chance=1 / classes)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    plain = stats.proportion(right, {"speaker": speaker})
    assert widths[-1] > plain.high - plain.low


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40), st.sampled_from([0.1, 0.5]))
def test_out_of_fold_intervals_hold_their_estimate(rows: list[tuple[bool, int]], chance: float) -> None:
    right, speaker = (np.array(column) for column in zip(*rows, strict=True))
    found = stats.proportion(right, {"speaker": speaker}, chance=chance)
    if not math.isnan(found.low):
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.n_effective > 0


@pytest.mark.parametrize(("a", "b", "together"), [(0.5, 0.6, True), (0.9, 0.95, False), (0.02, 0.98, True)])
def test_combinations_cover(a: float, b: float, together: bool) -> None:
    """0.75 a + 0.25 b - 0.25, the hearing index of four options, with twins that share their speaker."""
    rng = np.random.default_rng(4)
    truth, inside = 0.75 * a + 0.25 * b - 0.25, 0
    for _ in range(300):
        own = rng.beta(2, 2, size=40)
        other = own if together else 1 - own
        speaker = rng.integers(40, size=120)
        # Uniform thresholds that depend on the speaker, with the right share on average.
        x = np.concatenate([_with_share(rng, own[speaker], a), _with_share(rng, other[speaker], b)])
        found = stats.combination(
            x, np.repeat([0, 1], 120), [0.75, 0.25], {"speaker": np.tile(speaker, 2)}, constant=-0.25
        )
        inside += found.low <= truth <= found.high
    assert inside / 300 >= 0.92


def _with_share(rng: np.random.Generator, tendency: np.ndarray, share: float) -> np.ndarray:
    """Return items that are right with probability share on average, more often where the tendency is high."""
    room = min(share, 1 - share)
    return (rng.random(len(tendency)) < share + 1.5 * room * (tendency - 0.5)).astype(float)


def test_a_combination_of_one_part_is_the_proportion() -> None:
    right, speaker = _speakers(np.random.default_rng(5), 0.7, 0.3, 30, 90)
    one = stats.proportion(right, {"speaker": speaker})
    same = stats.combination(right, np.zeros(90, dtype=int), [1.0], {"speaker": speaker})
    assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high))
    turned = stats.combination(right, np.zeros(90, dtype=int), [-1.0], {"speaker": speaker}, constant=1.0)
    assert (turned.low, turned.high) == pytest.approx((1 - one.high, 1 - one.low))


def test_a_large_combination_is_the_delta_method() -> None:
    rng = np.random.default_rng(6)
    right, speaker = _speakers(rng, 0.5, 0.2, 2000, 8000)
    part = rng.integers(2, size=8000)
    found = stats.combination(right, part, [0.75, 0.25], {"speaker": speaker})
    sizes, p = np.bincount(part), np.array([right[part == k].mean() for k in (0, 1)])
    influence = np.array([0.75, 0.25])[part] * (right - p[part]) / sizes[part]
    se = math.sqrt(2000 / 1999 * np.sum(np.bincount(speaker, weights=influence) ** 2))
    assert (found.high - found.low) / 2 == pytest.approx(1.961 * se, rel=0.01)


def test_twins_that_move_together_widen_a_sum_and_narrow_a_difference() -> None:
    right, speaker = _speakers(np.random.default_rng(7), 0.6, 0.4, 30, 120)
    part, twice, groups = np.repeat([0, 1], 120), np.tile(right, 2), {"speaker": np.tile(speaker, 2)}
    one = stats.proportion(right, {"speaker": speaker})
    total = stats.combination(twice, part, [0.5, 0.5], groups)
    gap = stats.combination(twice, part, [1.0, -1.0], groups)
    assert total.high - total.low == pytest.approx(one.high - one.low)
    assert gap.value == 0
    assert gap.high - gap.low < 0.2 * (one.high - one.low)
    assert math.isnan(stats.combination(right, np.zeros(120, dtype=int), [1.0, -1.0], {"speaker": speaker}).value)


def test_means_of_differences_have_t_intervals() -> None:
    d = np.array([0.1, -0.2, 0.4, 0.3, 0.0, 0.2])
    found = stats.mean(np.repeat(d, 3), {"speaker": np.repeat(np.arange(6), 3)})
    half = 2.570582 * d.std(ddof=1) / math.sqrt(6)
    assert (found.value, found.low, found.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    assert found.se == pytest.approx(d.std(ddof=1) / math.sqrt(6))
    # 80 % power: t(0.975) + t(0.8), both with five degrees of freedom.
    assert found.minimum_detectable_effect == pytest.approx((2.570582 + 0.919544) * found.se, rel=1e-5)


def test_what_is_detectable_is_detected_four_times_in_five() -> None:
    rng = np.random.default_rng(8)
    effect = stats.mean(rng.normal(0, 1, 4000), {}).minimum_detectable_effect
    hits = [(lambda e: e.low > 0 or e.high < 0)(stats.mean(rng.normal(effect, 1, 4000), {})) for _ in range(400)]
    assert 0.74 <= np.mean(hits) <= 0.86


def test_sign_flips_are_counted_exactly_for_few_clusters() -> None:
    # Clusters sum to 3, 2, 1: of eight patterns the observed one and its mirror are as extreme.
    found = stats.sign_flip_test([1, 1, 1, 1, 1, 1, 0], {"speaker": [0, 0, 0, 1, 1, 2, 3]})
    assert (found.p, found.n_groups, found.exact) == (0.25, 3, True)
    assert stats.sign_flip_test([0.0, 0.0], {"speaker": [0, 1]}).p == 1.0
    # Equal sums in floating point must tie: 0.1 + 0.2 against 0.3.
    assert stats.sign_flip_test([0.1, 0.2, -0.3], {"speaker": [0, 1, 2]}).p == 1.0


def test_flipping_items_instead_of_clusters_would_be_wrong() -> None:
    d, speaker = np.repeat([1, 1, 1, -1, 1, 1], 20), np.repeat(np.arange(6), 20)
    by_cluster = stats.sign_flip_test(d, {"speaker": speaker})
    by_item = stats.sign_flip_test(d)
    assert by_cluster.p == pytest.approx(14 / 64)
    assert by_item.p < 0.001
    assert stats.sign_flip_test(d, {"item": np.arange(120), "speaker": speaker}) == by_cluster


def test_sampled_flips_agree_with_exact_ones_and_repeat() -> None:
    d = np.random.default_rng(9).normal(0.4, 1, 12)
    exact = stats.sign_flip_test(d, {"speaker": np.arange(12)})
    sampled = stats.sign_flip_test(d, {"speaker": np.arange(12)}, exact_up_to=2, random_state=1)
    assert (exact.exact, sampled.exact) == (True, False)
    assert sampled.p == pytest.approx(exact.p, abs=0.015)
    assert sampled == stats.sign_flip_test(d, {"speaker": np.arange(12)}, exact_up_to=2, random_state=1)
    assert stats.sign_flip_test(np.ones(60), draws=99).p == 0.01


def test_sign_flips_keep_their_level() -> None:
    rng = np.random.default_rng(10)
    speaker = np.repeat(np.arange(12), 10)
    small = [
        stats.sign_flip_test(
            np.repeat(rng.normal(0, 1, 12), 10) + rng.normal(0, 1, 120), {"speaker": speaker}
        ).p <= 0.05
        for _ in range(400)
    ]  # fmt: skip
    assert np.mean(small) < 0.08


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_that_of_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    table = [[int(np.sum(a & b)), int(np.sum(a & ~b))], [int(np.sum(~a & b)), int(np.sum(~a & ~b))]]
    found = stats.mcnemar_exact(a, b)
    assert found == stats.mcnemar_exact(b, a)
    assert found == pytest.approx(float(mcnemar(table, exact=True).pvalue) if (a != b).any() else 1.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_false_discovery_rate_is_that_of_statsmodels(p: list[float]) -> None:
    assert stats.benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_unknown_p_values_stay_unknown_and_do_not_count() -> None:
    found = stats.benjamini_hochberg([0.01, math.nan, 0.04])
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])


@pytest.mark.parametrize("module", [stats, _hearing, _tables])
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
