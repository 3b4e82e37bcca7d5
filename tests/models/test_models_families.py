from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis.errors import ModelError
from vpanalysis.models.families import FAMILIES, family_of, register_family


def test_frames_of_the_real_model():
    family = family_of("audioflamingo3")
    assert (family.encoder_frames(3000), family.tower_frames(3000)) == (1500, 750)
    extractor = SimpleNamespace(hop_length=160, sampling_rate=16_000)
    assert family.seconds_per_frame(extractor) == pytest.approx((0.02, 0.04))
    slow = SimpleNamespace(hop_length=320, sampling_rate=16_000)
    assert family.seconds_per_frame(slow) == pytest.approx((0.04, 0.08))


@given(st.integers(4, 3000))
def test_frames_follow_the_stem(mel):
    family = FAMILIES["audioflamingo3_pclm"]
    assert family.encoder_frames(mel) == (mel + 1) // 2
    assert family.tower_frames(mel) == (mel + 1) // 4


def test_rows_are_checked_against_the_model(tiny):
    model = tiny.stock()
    family_of("audioflamingo3").check(model)
    family_of("audioflamingo3_pclm").check(tiny.pclm())
    with pytest.raises(ModelError, match=r"no module 'model\.pclm'"):
        family_of("audioflamingo3_pclm").check(model)
    with pytest.raises(ModelError, match="conv2 with kernel, stride, padding"):
        replace(family_of("audioflamingo3"), stem=(("conv1", (3, 1, 1)), ("conv2", (3, 1, 1)))).check(model)


def test_rows_can_be_added(tiny, monkeypatch):
    monkeypatch.setitem(FAMILIES, "other", FAMILIES["audioflamingo3"])
    row = replace(family_of("audioflamingo3"), name="other", title="Other")
    register_family(row)
    assert family_of("other") is row
    assert tiny.llm(tiny.stock(), family=row).family.title == "Other"
    with pytest.raises(ModelError, match="did you mean 'audioflamingo3'"):
        family_of("audioflamingo4")
