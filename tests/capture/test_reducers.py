import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis.capture.reducers import Reducer, Spans, make_plan, pooling_of, reduce
from vpanalysis.errors import RunError

SITES = ["encoder.stem", "encoder[0]", "encoder[1]", "tower", "mixed", "text.embed", "text[0]", "gate", "options"]


def padded(lengths, width=3, extra=2, padding="right", seed=0, junk=99.0):
    """Return a padded batch and its valid rows; padding holds junk."""
    rng = np.random.default_rng(seed)
    frames = max(lengths) + extra
    real = [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]
    batch = np.full((len(lengths), frames, width), junk, dtype=np.float32)
    for row, state in enumerate(real):
        if padding == "right":
            batch[row, : len(state)] = state
        else:
            batch[row, frames - len(state) :] = state
    return torch.from_numpy(batch), real


def segments_by_hand(state, parts):
    """The mean over each k-th part of time, by fine sampling of a step function."""
    fine = np.repeat(state.astype(np.float64), parts, axis=0)
    return fine.reshape(parts, len(state), -1).mean(axis=1)


@given(
    lengths=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    parts=st.integers(1, 8),
    padding=st.sampled_from(["right", "left"]),
    junk=st.sampled_from([99.0, np.nan, np.inf]),
    seed=st.integers(0, 5),
)
def test_only_valid_frames_count(lengths, parts, padding, junk, seed):
    batch, real = padded(lengths, padding=padding, junk=junk, seed=seed)
    spans = Spans.per_item(lengths, padding)
    np.testing.assert_allclose(reduce(batch, spans, "mean"), [r.mean(0) for r in real], atol=1e-5)
    np.testing.assert_allclose(
        reduce(batch, spans, Reducer("segments", parts)), [segments_by_hand(r, parts) for r in real], atol=1e-5
    )
    np.testing.assert_array_equal(reduce(batch, spans, "last"), [r[-1] for r in real])
    for got, want in zip(reduce(batch, spans, "frames"), real, strict=True):
        np.testing.assert_array_equal(got, want)


@given(
    windows=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=3),
    parts=st.integers(1, 7),
)
def test_windows_of_a_clip_are_one_sequence(windows, parts):
    flat = [n for rows in windows for n in rows]
    batch, real = padded(flat)
    joined, at = [], 0
    for rows in windows:
        joined.append(np.concatenate(real[at : at + len(rows)]))
        at += len(rows)
    spans = Spans.per_window(windows)
    assert spans.totals == tuple(len(j) for j in joined)
    np.testing.assert_allclose(reduce(batch, spans, "mean"), [j.mean(0) for j in joined], atol=1e-5)
    got = reduce(batch, spans, Reducer("segments", parts))
    np.testing.assert_allclose(got, [segments_by_hand(j, parts) for j in joined], atol=1e-5)
    np.testing.assert_array_equal(reduce(batch, spans, "last"), [j[-1] for j in joined])
    for frames, want in zip(reduce(batch, spans, "frames"), joined, strict=True):
        np.testing.assert_array_equal(frames, want)


@given(
    windows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=4),
    parts=st.integers(1, 4),
    junk=st.sampled_from([99.0, np.nan, np.inf]),
)
def test_sums_with_zeros_on_padding_are_those_row_by_row(windows, parts, junk):
    # The first are what a GPU does, the second what a CPU does.
    batch, _ = padded([n for rows in windows for n in rows], junk=junk)
    pooling = pooling_of(batch, Spans.per_window(windows))
    weights = torch.from_numpy(pooling.spans.segment_weights(parts, batch.shape[1]))
    for given_weights in (None, weights):
        by_row = pooling._sums_by_row(batch, given_weights)
        np.testing.assert_allclose(pooling._sums_masked(batch, given_weights), by_row, atol=1e-5)
        assert torch.isfinite(by_row).all()


@given(length=st.integers(1, 40), parts=st.integers(1, 12))
def test_the_mean_of_equal_parts_is_the_mean(length, parts):
    batch, _ = padded([length], extra=0)
    spans = Spans.per_item([length])
    np.testing.assert_allclose(
        reduce(batch, spans, Reducer("segments", parts)).mean(1), reduce(batch, spans, "mean"), atol=1e-5
    )


def test_order_survives_segments_but_not_the_mean():
    up = torch.arange(12.0).reshape(1, 12, 1)
    spans = Spans.per_item([12])
    assert torch.equal(reduce(up, spans, "mean"), reduce(up.flip(1), spans, "mean"))
    assert reduce(up, spans, "segments(3)")[0, :, 0].tolist() == [1.5, 5.5, 9.5]


def test_half_precision_is_accumulated_in_float32():
    # 4,000 frames of 1.001 in bfloat16: a running bfloat16 sum would stop growing at 256.
    state = torch.full((1, 4000, 1), 1.001, dtype=torch.bfloat16)
    mean = reduce(state, Spans.per_item([4000]), "mean")
    assert mean.dtype == torch.float32 and float(mean) == pytest.approx(float(state[0, 0, 0]), abs=1e-6)


def test_an_item_without_frames_is_nan_not_zero():
    spans = Spans.per_item([0, 2])
    for how in ("mean", "segments(2)", "last"):
        got = reduce(torch.ones(2, 2, 1), spans, how)
        assert torch.isnan(got[0]).all() and torch.equal(got[1], torch.ones_like(got[1]))


def test_spans_that_do_not_fit_are_refused():
    with pytest.raises(RunError, match="2 rows of 3 frames"):
        reduce(torch.ones(2, 3, 1), Spans.per_item([3]), "mean")
    with pytest.raises(RunError, match="at least 4 frames"):
        reduce(torch.ones(1, 3, 1), Spans.per_item([4]), "mean")
    with pytest.raises(RunError, match="windows in different batches"):
        Spans.per_window([[3, 3], [2]]).take(0, 1)


@pytest.mark.parametrize("text", ["mean", "last", "frames", "none", "segments(6)", "segments(1)"])
def test_names_read_back(text):
    reducer = Reducer.parse(text)
    assert str(reducer) == text and Reducer.parse(str(reducer)) == reducer == Reducer.parse(reducer.key)


@pytest.mark.parametrize("text", ["", "median", "segments(0)", "segments(-1)", "mean(2)", "segments(x)"])
def test_unknown_reducers_are_refused(text):
    with pytest.raises(RunError, match="cannot use the reducer"):
        Reducer.parse(text)


def test_default_plan():
    plan = make_plan(SITES)
    assert [str(r) for r in plan["encoder[1]"]] == ["mean", "segments(6)"] == [str(r) for r in plan["mixed"]]
    assert [str(r) for r in plan["text[0]"]] == ["last"] and list(plan) == SITES


def test_plans_from_values_and_mappings():
    assert {str(r) for kept in make_plan(SITES, "encoder[*]", "mean").values() for r in kept} == {"mean"}
    plan = make_plan(SITES, None, {"encoder": ["segments(3)"], "encoder[0]": "frames", "text": "none"})
    assert [str(r) for r in plan["tower"]] == ["segments(3)"] and [str(r) for r in plan["encoder[0]"]] == ["frames"]
    assert "text[0]" not in plan and "mixed" in plan
    with pytest.raises(RunError, match="cannot select sites"):
        make_plan(SITES, None, {"decoder": "mean"})
