"""Runs that are larger than memory: what is read, what is held, and that the numbers are the same."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from vpanalysis import open_run, stats
from vpanalysis._flips import flip_family
from vpanalysis.attribution import _mixtures
from vpanalysis.errors import RunError
from vpanalysis.probes import estimator, plans, probe_layers, shuffles
from vpanalysis.probes.inputs import Held
from vpanalysis.probes.parts import Parts
from vpanalysis.probes.result import ProbeResult
from vpanalysis.probes.solvers import _streamed, fit_many, regress_many, strength

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = 1e4
"""Bytes that force every site of these tests into slices."""


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        yield __import__("out_of_core")
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("out_of_core", None)


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    return script.write_run(tmp_path_factory.mktemp("small") / "run", 240, 3, 12, block_size=16)


def problem(items=240, features=7, classes=3, sets=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=items)
    states = (rng.normal(size=(2, items, features)) * 3 + 5).astype(np.float32)
    states[1] += rng.normal(size=(classes, features)).astype(np.float32)[y]
    states[:, :, 2] = 1000.0 + 1e-2 * states[:, :, 2]  # hardly varies about its mean
    states[:, :, 3] = 4.0  # not at all
    fold_of = np.arange(items) % 4
    folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(4)]
    labels = np.stack([y, *(rng.permutation(y) for _ in range(sets - 1))])
    weights = rng.uniform(0.3, 3.0, size=(4, sets, items))
    return states, labels, folds, weights


# Reading --------------------------------------------------------------------------------------------------------------


def test_some_rows_are_read_in_their_order_and_nothing_else_is(folder, tmp_path):
    run = open_run(folder)
    whole = run.states("encoder[1]")
    rows = np.array([200, 3, 17, 16, 3, 239])
    np.testing.assert_array_equal(run.states("encoder[1]", rows=rows), whole[rows])
    np.testing.assert_array_equal(run.states("gate", rows=rows), run.states("gate")[rows])
    np.testing.assert_array_equal(run.states("encoder[1]", rows=np.array([], dtype=int)), whole[:0])
    # A block that is damaged hurts only those who read it.
    copy = shutil.copytree(folder, tmp_path / "copy")
    shard = next((copy / "activations.zarr" / "encoder_mean").glob("c.2.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    broken = open_run(copy)
    np.testing.assert_array_equal(broken.states("encoder[1]", rows=np.arange(16)), whole[:16])
    with pytest.raises(RunError, match="block 2"):
        broken.states("encoder[1]", rows=np.arange(30, 40))


def test_rows_of_an_unfinished_run_are_counted_among_the_finished_ones(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "blocks" / "00001.json").unlink()
    run = open_run(copy)
    assert len(run.predictions) == 224
    rows, at = np.array([15, 16, 223]), [15, 32, 239]
    np.testing.assert_array_equal(run.states("encoder[0]", rows=rows), run.states("encoder[0]")[rows])
    np.testing.assert_array_equal(run.states("encoder[0]", rows=rows), open_run(folder).states("encoder[0]")[at])


def test_a_site_that_cannot_be_held_is_read_by_its_rows(folder):
    asked = []

    class Spy:
        name, predictions, sites = "spy", open_run(folder).predictions, ["encoder[0]"]

        def states(self, site, reducer="mean", rows=None):
            asked.append(None if rows is None else len(rows))
            return open_run(folder).states(site, reducer, rows=rows)

    rows = np.arange(10, 20)
    expected = open_run(folder).states("encoder[0]")[rows]
    np.testing.assert_array_equal(Held(Spy(), 100.0).states("encoder[0]", rows=rows), expected)
    assert asked == [1, 10]
    asked.clear()
    held = Held(Spy())
    for _ in range(2):
        np.testing.assert_array_equal(held.states("encoder[0]", rows=rows), expected)
    assert asked == [1, None]  # it fits: read whole, once


# Solving in slices ----------------------------------------------------------------------------------------------------


@pytest.fixture
def slices(monkeypatch):
    """Slices of sixty rows; what was streamed is counted."""
    made = []

    class Counted(_streamed.Streamed):
        def __init__(self, states, folds):
            made.append(len(states))
            super().__init__(states, folds, slice_bytes=8 * 7 * 60)

    monkeypatch.setattr("vpanalysis.probes.solvers._plan.Streamed", Counted)
    return made


@pytest.mark.parametrize("C", [0.01, (0.003, 0.3)], ids=["one C", "chosen C"])
def test_logistic_regression_in_slices_is_the_same(slices, C):
    states, labels, folds, weights = problem()
    options = {"C": C, "weights": weights}
    whole, sliced = (fit_many(states, labels, folds, **options, memory=memory) for memory in (1e9, SMALL))
    assert slices == [240, 240]
    np.testing.assert_allclose(sliced.probabilities, whole.probabilities, atol=2e-5)
    np.testing.assert_allclose(sliced.objective, whole.objective, rtol=1e-8)
    np.testing.assert_array_equal(sliced.penalty, whole.penalty)
    assert sliced.gap.max() < 1e-9


@pytest.mark.parametrize("shuffled_from", [None, 1])
def test_ridge_in_slices_is_the_same(slices, shuffled_from):
    states, labels, folds, weights = problem()
    options = {"kind": "ridge", "weights": weights, "choose_weighted": False, "shuffled_from": shuffled_from}
    whole, sliced = (fit_many(states, labels, folds, **options, memory=memory) for memory in (1e9, SMALL))
    assert slices == [240, 240]
    np.testing.assert_array_equal(sliced.penalty, whole.penalty)
    np.testing.assert_allclose(sliced.probabilities[:, 0], whole.probabilities[:, 0], atol=1e-5)
    np.testing.assert_allclose(sliced.probabilities, whole.probabilities, atol=1e-5 if shuffled_from is None else 5e-3)


def test_numbers_are_regressed_in_slices_and_weights_may_come_fold_by_fold(slices):
    states, labels, folds, weights = problem()
    numbers = labels + states[0, :, 0]
    options = {"choose_weighted": False}
    whole, penalty = regress_many(states, numbers, folds, weights=weights, **options)
    sliced, same = regress_many(
        states, numbers, folds, weights=lambda fold, some: weights[fold][some], memory=SMALL, **options
    )
    assert slices == [240, 240]
    np.testing.assert_array_equal(same, penalty)
    np.testing.assert_allclose(sliced, whole, atol=1e-4)


def test_what_leaves_out_items_and_what_is_wide_is_not_sliced(slices):
    states, labels, folds, _ = problem()
    fit_many(states, labels, folds, kind="ridge", choose="loo", memory=SMALL)
    wide = np.random.default_rng(0).normal(size=(1, 240, 300))
    fit_many(wide, labels, folds, memory=SMALL)
    assert slices == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("far", [False, True], ids=["near zero", "far from zero"])
def test_slices_are_standardised_in_the_precision_that_they_are_wanted_in(dtype, far):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(90, 4)).astype(dtype)
    if far and dtype != np.float16:
        states = states + dtype(3000.0)
    rows = torch.arange(90)
    fold = _streamed.Streamed(states, [(rows[:70], rows[70:])], slice_bytes=8 * 4 * 9).fold(0)
    exact = states.astype(float)
    exact = (exact - exact[:70].mean(0)) / exact[:70].std(0)
    coef = torch.from_numpy(rng.normal(size=(4, 3)))
    for precision, atol in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        narrow = coef.to(precision)
        np.testing.assert_allclose(fold.forward(narrow), exact[:70] @ narrow.numpy(), atol=atol)
        np.testing.assert_allclose(fold.forward(narrow, test=True), exact[70:] @ narrow.numpy(), atol=atol)
        values = fold.forward(narrow)
        np.testing.assert_allclose(fold.back(values), exact[:70].T @ values.numpy(), atol=100 * atol)
    weight = torch.from_numpy(rng.uniform(size=70))
    gram, mean = fold.gram(weight)
    centred = exact[:70] - np.average(exact[:70], axis=0, weights=weight)
    np.testing.assert_allclose(gram, centred.T @ (centred * weight.numpy()[:, None]), atol=1e-9)
    np.testing.assert_allclose(mean, np.average(exact[:70], axis=0, weights=weight), atol=1e-9)


def test_no_more_than_a_slice_is_copied_where_features_hardly_vary():
    most = []

    class Spy(np.ndarray):
        def __getitem__(self, key):
            out = super().__getitem__(key)
            if isinstance(out, np.ndarray) and out.ndim == 2:
                most.append(len(out))
            return out

    rng = np.random.default_rng(0)
    states = (1000.0 + 1e-3 * rng.normal(size=(200, 5))).astype(np.float64)
    rows = torch.arange(200)
    fold = _streamed.Streamed(states.view(Spy), [(rows[:150], rows[150:])], slice_bytes=8 * 5 * 10).fold(0)
    expected = (states - states[:150].mean(0)) / states[:150].std(0)
    np.testing.assert_allclose(fold.forward(torch.eye(5, dtype=torch.float64)), expected[:150], atol=1e-8)
    assert max(most) == 10


def test_ridge_of_a_falling_spectrum_is_exact_where_all_items_count_alike(slices):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    states = rng.normal(size=(400, 7)) @ (np.logspace(0, -5, 7)[:, None] * rng.normal(size=(7, 7)))
    states += 1e-5 * rng.normal(size=(3, 7))[labels]
    folds = [(np.arange(100, 400), np.arange(100))]
    whole, sliced = (
        fit_many(states[None], labels, folds, kind="ridge", penalties=[1e-7], memory=memory) for memory in (1e9, SMALL)
    )
    assert slices == [400]
    np.testing.assert_allclose(sliced.probabilities[:, :, :100], whole.probabilities[:, :, :100], atol=1e-6)


def test_a_fold_is_decomposed_once_however_many_rounds_there_are(slices, monkeypatch):
    states, labels, folds, weights = problem(sets=12)
    made, gram = [], _streamed.StreamedFold.gram

    def counted(fold, weight=None):
        made.append(fold)
        return gram(fold, weight)

    monkeypatch.setattr(_streamed.StreamedFold, "gram", counted)
    options = {"kind": "ridge", "weights": weights, "choose_weighted": False}
    many = fit_many(states[:1], labels, folds, **options, memory=SMALL)
    assert len(made) == len(set(made)) == len(folds)
    whole = fit_many(states[:1], labels, folds, **options)
    np.testing.assert_allclose(many.probabilities, whole.probabilities, atol=1e-5)


def test_no_more_folds_are_worked_at_once_than_there_is_room_for(slices, monkeypatch):
    states, labels, folds, _ = problem()
    at_once, most, solve = [], [], strength.solve_streamed

    def watched(*args, **kwargs):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        return solve(*args, **kwargs)

    monkeypatch.setattr(strength, "solve_streamed", watched)
    one, two = 2 * 6 * 8 * 7**2, 4 * 6 * 8 * 7**2
    fit_many(states, labels, folds, memory=one, workers=4)
    assert max(most) == 1
    most.clear()
    fit_many(states, labels, folds, memory=two, workers=4)
    assert max(most) == 2


# All of it ------------------------------------------------------------------------------------------------------------


def assert_same(one, other):
    numbers = ["accuracy", "low", "high", "shuffle_mean", "p"]
    np.testing.assert_allclose(one.table[numbers].to_numpy(float), other.table[numbers].to_numpy(float), atol=1e-9)
    assert one.table["site"].tolist() == other.table["site"].tolist()
    exact = [c for c in one.predictions.columns if c != "confidence"]
    assert one.predictions[exact].equals(other.predictions[exact])
    np.testing.assert_allclose(one.predictions["confidence"], other.predictions["confidence"], atol=1e-4)
    assert one.by_condition.equals(other.by_condition)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_little_memory_changes_no_number(folder, monkeypatch, kind):
    options = {"estimator": kind, "shuffles": 5, "n_splits": 3, "group_by": "script", "progress": False}
    estimator._MEMO.clear()
    whole = probe_layers(folder, **options)
    estimator._MEMO.clear()
    monkeypatch.setattr(plans, "_LARGE", 1.0)
    monkeypatch.setattr(shuffles, "_ELEMENTS", 300)
    assert_same(whole, probe_layers(folder, **options, memory_gb=1e-5))


def test_predictions_are_made_when_they_are_read(folder):
    result = probe_layers(folder, shuffles=0, n_splits=3, group_by="script", progress=False)
    held = result.__dict__["predictions"]
    assert isinstance(held, Parts) and len(held.parts) == 3 and held.parts[0].predicted.dtype == np.int8
    assert repr(result) and isinstance(result.__dict__["predictions"], Parts)
    table = result.predictions
    assert len(table) == 3 * 240 and result.predictions is table
    shares = table.groupby("site").apply(lambda part: np.average(part["correct"], weights=part["weight"]))
    np.testing.assert_allclose(result.curve("emotion_recognition")["accuracy"], shares[result.sites])


def test_predictions_are_written_site_by_site(folder, tmp_path):
    result = probe_layers(folder, shuffles=0, n_splits=3, group_by="script", progress=False)
    loaded = ProbeResult.load(result.save(tmp_path / "parts"))
    assert isinstance(result.__dict__["predictions"], Parts)
    assert pq.ParquetFile(tmp_path / "parts" / "predictions.parquet").num_row_groups == 3
    pd.testing.assert_frame_equal(loaded.predictions, result.predictions)
    pd.testing.assert_frame_equal(ProbeResult.load(result.save(tmp_path / "whole")).predictions, result.predictions)


def test_draws_are_the_same_however_few_there_are_at_once(folder, monkeypatch):
    run = open_run(folder)
    rng = np.random.default_rng(0)
    d, groups = rng.normal(size=60) + 0.2, {"a": np.arange(60)}

    def found():
        return (
            _mixtures.between_tasks(
                run.states("gate").astype(float), np.arange(240) % 2, run.predictions, level=0.9, draws=50,
                random_state=0,
            ).to_numpy().tolist(),
            stats.sign_flip_test(d, groups).p,
            [part.tolist() for part in flip_family(np.stack([d, -d**3]), groups)],
        )  # fmt: skip

    before = found()
    monkeypatch.setattr(_mixtures, "_DRAWN_BYTES", 1e4)
    monkeypatch.setattr(stats, "_FLIP_BYTES", 1e5)
    monkeypatch.setattr("vpanalysis._flips._BYTES", 1e5)
    assert found() == before


def test_memory_grows_with_a_site_and_not_with_their_number(script, tmp_path):
    """8,000 items x 256 features are 8 MB a site as float32; 24 sites are 197 MB, and twice that in float64.

    The same process takes 10 to 30 MB more or less from one time to the next, by what the allocator keeps; the bars lie
    further than that from what is expected and from what holding all sites would take.
    """
    options = {"group_by": "speaker", "shuffles": 1, "n_splits": 2, "estimator": "ridge"}
    small, large = (script.write_run(tmp_path / str(items), items, 24, 256) for items in (2000, 8000))

    def peak(run, sites, memory_gb=0.02):
        names = [f"encoder[{n}]" for n in range(sites)]
        return script.measure("probe_layers", run, **options, memory_gb=memory_gb, sites=names)["peak_mb"]

    site = 8000 * 256 * 4 / 1e6
    few, all_of_them, held = peak(large, 3), peak(large, 24), peak(large, 24, memory_gb=10.0)
    # 21 more sites are 172 MB as they are stored.
    assert all_of_them - few < 10 * site, (few, all_of_them)
    # Four times the items: the work of one site (some 90 MB), some tables, and nothing that the other 23 would need.
    assert all_of_them - peak(small, 24) < 20 * site
    assert held - all_of_them > 24 * site, (held, all_of_them)
    assert script.measure("score", large)["peak_mb"] - script.measure("score", small)["peak_mb"] < 60


@pytest.mark.parametrize(
    ("options", "word"),
    [({"engine": "rai"}, "ray"), ({"memory_gb": 0}, "memory_gb=0"), ({"workers": 2}, "add engine='ray'"),
     ({"engine": "ray", "workers": 0}, "workers=0")],
)  # fmt: skip
def test_impossible_places_are_refused(folder, options, word):
    with pytest.raises(RunError, match=word):
        probe_layers(folder, **options)


def test_ray_gives_the_same_numbers(folder, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options = {"shuffles": 5, "n_splits": 3, "group_by": "script", "progress": False}
    estimator._MEMO.clear()
    here = probe_layers(folder, **options)
    there = probe_layers(folder, **options, engine="ray", workers=2)
    assert_same(here, there)
    assert not ray.is_initialized()
    rng = np.random.default_rng(0)
    arrays, y = rng.normal(size=(60, 3, 4)), np.arange(60) % 2
    assert_same(
        probe_layers(arrays, y, shuffles=3, progress=False),
        probe_layers(arrays, y, shuffles=3, progress=False, engine="ray", workers=2),
    )


def test_rows_of_an_unfinished_run_are_those_of_the_driver(tmp_path, monkeypatch):
    from fakes import FakeLLM, make_benchmark

    from vpanalysis import _blocks, open_run, run
    from vpanalysis.probes import spreading

    place = tmp_path / "r"
    whole = run(FakeLLM(), make_benchmark(12), place, block_size=4, progress=False, cache=None)
    first = _blocks.marker(place, 0).read_bytes()
    _blocks.forget(place, 0)
    blocks, rows = open_run(place).finished_blocks, np.array([0, 5])
    _blocks.marker(place, 0).write_bytes(first)  # another process finishes it meanwhile
    monkeypatch.setattr(spreading, "each_fit", lambda read, sites, sets, **how: [(0, read(sites[0]))])
    made = spreading._task((None, place, blocks, {"tower": "mean"}, rows, None, {}), ["tower"])
    assert np.array_equal(made[0][1], whole.states("tower")[[4, 9]])


def test_what_cannot_be_sent_leaves_no_cluster_behind(folder, monkeypatch):
    from types import SimpleNamespace

    from vpanalysis.probes import spreading

    def put(value):
        raise TypeError("cannot pickle it")

    left = []
    ray = SimpleNamespace(put=put, cluster_resources=dict, shutdown=lambda: left.append(True))
    monkeypatch.setattr(spreading, "imported", lambda asked: ray)
    monkeypatch.setattr(spreading, "join", lambda *asked: True)
    with pytest.raises(TypeError):
        probe_layers(folder, shuffles=3, progress=False, engine="ray")
    assert left
