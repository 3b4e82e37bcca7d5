"""Margins and the two-player division: exact on models that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis.attribution import listening_share, margin, margins_of, share_interval, two_player
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.errors import RunError

VALUES = st.floats(-20, 20)


@given(VALUES, VALUES, VALUES)
def test_an_additive_model_is_divided_exactly(voice: float, words: float, base: float) -> None:
    parts = two_player(both=base + voice + words, words=base + words, voice=base + voice, neither=base)
    assert parts["listen"] == pytest.approx(voice, abs=1e-9)
    assert parts["read"] == pytest.approx(words, abs=1e-9)
    assert parts["interaction"] == pytest.approx(0, abs=1e-9)


@given(VALUES, VALUES, VALUES, VALUES)
def test_an_interaction_is_shared_and_told(voice: float, words: float, both: float, base: float) -> None:
    parts = two_player(both=base + voice + words + both, words=base + words, voice=base + voice, neither=base)
    assert parts["listen"] == pytest.approx(voice + both / 2, abs=1e-9)
    assert parts["read"] == pytest.approx(words + both / 2, abs=1e-9)
    assert parts["interaction"] == pytest.approx(both, abs=1e-9)
    total = parts["listen"] + parts["read"]
    assert total == pytest.approx(voice + words + both, abs=1e-9)


@given(st.lists(VALUES, min_size=2, max_size=6), st.floats(-5, 5))
def test_a_margin_ignores_what_all_logits_share(logits: list[float], shift: float) -> None:
    choices = [f"o{i}" for i in range(len(logits))]
    first = margin(logits, choices, "o0", choices[1:])
    assert margin(np.array(logits) + shift, choices, "o0", choices[1:]) == pytest.approx(first, abs=1e-9)
    rest = np.exp(logits[1:]).sum()
    assert first == pytest.approx(logits[0] - np.log(rest), abs=1e-9)


def test_margins_that_do_not_exist_are_nan() -> None:
    choices = ("a", "b", "c")
    for truth, foils in (("a", ()), ("a", ("a", "b")), ("z", ("b",)), ("a", ("z",))):
        assert np.isnan(margin([0.0, 1.0, 2.0], choices, truth, foils))
    assert np.isnan(margin([0.0, 1.0], choices, "a", ("b",)))


def test_margins_of_a_table_by_id() -> None:
    table = pd.DataFrame(
        {
            "id": ["x", "y", "z"],
            "choices": [["a", "b"]] * 3,
            "truth": ["a", "b", "a"],
            "foils": [["b"], ["a"], ["b"]],
            "option_logprobs": [[-0.1, -2.1], [-0.1, -2.1], None],
        }
    )
    found = margins_of(table)
    assert found["x"] == pytest.approx(2.0)
    assert found["y"] == pytest.approx(-2.0)
    assert np.isnan(found["z"])
    other = margins_of(table, pd.Series({"x": "b"}))
    assert other.isna().all()  # another truth that is the foil, and items without one
    with pytest.raises(RunError, match="option_logprobs"):
        margins_of(table.drop(columns="option_logprobs"))


def test_the_share_is_of_means_and_between_nothing_and_all() -> None:
    assert listening_share(3.0, -1.0) == pytest.approx(0.75)
    assert listening_share(-1.0, -1.0) == 0
    assert listening_share(2.0, 5.0) == 1
    assert np.isnan(listening_share(-1.0, 1.0))


def test_the_interval_of_the_share_covers_it() -> None:
    truth, hits = 0.6, 0
    rng = np.random.default_rng(0)
    for seed in range(100):
        groups = np.repeat(np.arange(30), 4)
        shared = rng.normal(size=30)[groups]
        listen = 3.0 + shared + rng.normal(size=120)
        read = -2.0 + 0.5 * shared + rng.normal(size=120)
        share, low, high = share_interval(listen, read, {"speaker": groups}, draws=400, random_state=seed)
        assert low <= share <= high
        hits += low <= truth <= high
    # 95 of 100 expected; fewer than 85 come by chance in 1 of 10,000 cases.
    assert hits >= 85


def test_one_speaker_has_no_interval() -> None:
    share, low, high = share_interval(np.ones(4), -np.ones(4), {"speaker": np.zeros(4)})
    assert share == 0.5
    assert np.isnan(low)
    assert np.isnan(high)
    assert np.isnan(share_interval(np.zeros(0), np.zeros(0), {})[0])


@pytest.mark.parametrize("speakers", [4, 8])
def test_few_speakers_have_wide_intervals_of_the_share(speakers: int) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(150):
        who = np.repeat(np.arange(speakers), 5)
        listen = 1.0 + rng.normal(0, 0.6, speakers)[who] + rng.normal(0, 0.5, len(who))
        read = -1.0 + rng.normal(0, 0.6, speakers)[who] + rng.normal(0, 0.5, len(who))
        _, low, high = share_interval(listen, read, {"speaker": who}, draws=300, random_state=trial)
        covered.append(low <= 0.5 <= high)
    # Of 95 % intervals; a plain percentile interval covered in about 85 % with four.
    assert np.mean(covered) > 0.91


def test_an_item_without_a_name_is_a_cluster_by_itself() -> None:
    rows = pd.DataFrame({"speaker": ["a", "a", "b", None, None], "script": [None] * 5})
    found = clusters_by_name(rows)
    assert list(found) == ["speaker"]
    codes = found["speaker"]
    assert codes[0] == codes[1] and len(set(codes.tolist())) == 4
    assert list(clusters_by_name(rows.assign(speaker=None))) == ["item"]
