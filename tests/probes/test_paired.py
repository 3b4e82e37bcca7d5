"""Paired tests between probes, the honest best site, and curves over the number of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vpanalysis.errors import RunError
from vpanalysis.probes import probe_layers
from vpanalysis.probes.nested import BestSites, best_site
from vpanalysis.probes.paired import ProbeComparison, compare_probes
from vpanalysis.probes.sizes import LearningCurves, learning_curves, smaller

GENDER, EMOTION = "gender_prediction", "emotion_recognition"
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(71, tasks=[GENDER, EMOTION], cells=60)


@pytest.fixture(scope="module")
def probed(run):
    return probe_layers(run, shuffles=0, **QUIET)


def test_every_site_against_one(probed) -> None:
    found = compare_probes(probed, reference="encoder.stem")
    table = found.to_dataframe().set_index(["task", "site"])
    assert "encoder.stem" not in set(found.table["site"])
    planted = table.loc[(EMOTION, "encoder[1]")]
    curve = probed.curve(EMOTION).set_index("site")["accuracy"]
    assert planted["difference"] == pytest.approx(curve["encoder[1]"] - curve["encoder.stem"])
    assert planted["low"] > 0.2
    assert planted["p_adjusted"] < 0.01
    assert planted["q"] < 0.01
    weak = compare_probes(probed, reference="encoder.stem", sites=["text[0]"]).table.iloc[0]
    assert weak["low"] < 0 < weak["high"]
    assert (table["p_adjusted"] >= table["p"]).all()
    assert (table["q"] >= table["p_adjusted"] - 1e-12).all()
    assert (table["note"] == "").all()


def test_runs_are_matched_by_item_whatever_the_order(make_run, run, probed) -> None:
    other = make_run(71, tasks=[GENDER, EMOTION], cells=60, strength=0.0)
    order = np.random.default_rng(0).permutation(len(other.predictions))
    other.predictions = other.predictions.iloc[order].reset_index(drop=True)
    other.planted = {site: states[order] for site, states in other.planted.items()}
    weak = probe_layers(other, shuffles=0, **QUIET)
    found = compare_probes(probed, weak, tasks=GENDER, sites="encoder[1]").table.iloc[0]
    assert found["n"] == 120
    assert found["low"] > 0.1
    back = compare_probes(weak, probed, tasks=GENDER, sites="encoder[1]").table.iloc[0]
    assert back["difference"] == pytest.approx(-found["difference"])
    assert back["p"] == pytest.approx(found["p"], abs=0.01)
    paired = compare_probes(probed, weak, sites={"encoder[1]": "encoder[0]", "tower": "encoder[0]"})
    assert list(dict.fromkeys(paired.table["against"])) == ["encoder[0]"]


def test_the_same_twice_differs_by_nothing(probed) -> None:
    table = compare_probes(probed, probed).table
    assert (table["difference"] == 0).all()
    assert (table["p"] == 1).all()
    assert (table["low"] < 0).all()  # nothing that differs is no proof that nothing could


def test_the_pairing_is_by_group(make_run) -> None:
    run = make_run(72, tasks=[GENDER], cells=60)
    by_speaker = probe_layers(run, shuffles=0, group_by="speaker", **QUIET)
    both = probe_layers(run, shuffles=0, group_by="both", **QUIET)
    assert (by_speaker.predictions["second_group"] == -1).all()
    assert (both.predictions["second_group"] >= 0).all()
    one = compare_probes(by_speaker, reference="tower").table.iloc[0]
    assert one["n_groups"] == by_speaker.table["n_groups"].iloc[0]
    crossed = compare_probes(both, by_speaker, sites="encoder[1]").table.iloc[0]
    assert "not on the same folds" in crossed["note"]


def test_numbers_are_compared_by_explained_variance(run) -> None:
    table = run.predictions
    frames = run.planted["encoder[1]"].mean(axis=1)
    table["hz"] = 100 + 20 * frames[:, 0]
    found = probe_layers(run, "hz", tasks=GENDER, shuffles=0, **QUIET)
    row = compare_probes(found, reference="encoder.stem", sites="encoder[1]").table.iloc[0]
    curve = found.curve(GENDER).set_index("site")["accuracy"]
    assert row["metric"] == "R2"
    assert row["difference"] == pytest.approx(curve["encoder[1]"] - curve["encoder.stem"])
    assert row["low"] > 0.3


def test_what_cannot_be_compared_is_said(run, probed, make_run) -> None:
    with pytest.raises(RunError, match="no reference"):
        compare_probes(probed)
    with pytest.raises(RunError, match="towr"):
        compare_probes(probed, reference="towr")
    with pytest.raises(RunError, match="encoder"):
        compare_probes(probed, probed, sites="encoder[9]")
    with pytest.raises(RunError, match="pitch"):
        compare_probes(probed, probed, tasks="pitch")
    tiny = probe_layers(make_run(70, tasks=[GENDER], cells=2, conditions=("conflict",)), shuffles=0, **QUIET)
    with pytest.raises(RunError, match=r"without predictions .*one class only"):
        compare_probes(tiny, reference="tower")
    elsewhere = probe_layers(make_run(73, tasks=[GENDER], cells=30, prefix="x"), shuffles=0, **QUIET)
    elsewhere.predictions["id"] = "x" + elsewhere.predictions["id"]
    with pytest.raises(RunError, match="no item in common"):
        compare_probes(probed, elsewhere, tasks=GENDER)


def test_comparisons_print_plot_and_keep(probed, tmp_path: Path) -> None:
    found = compare_probes(probed, reference="tower")
    assert "sites of fake" in repr(found)
    assert "<table" in found._repr_html_()
    assert len(found.plot(task=EMOTION).get_yticks()) == len(set(found.table["site"]))
    assert len(compare_probes(probed, reference="tower", sites="encoder[1]").plot().get_yticks()) == 2
    with pytest.raises(RunError, match="agee"):
        found.plot(task="agee")
    pd.testing.assert_frame_equal(ProbeComparison.load(found.save(tmp_path)).table, found.table)


def test_the_best_site_is_found_and_its_accuracy_is_honest(make_run) -> None:
    found = best_site(make_run(74, tasks=[GENDER, EMOTION], cells=60), group_by="speaker", **QUIET)
    assert set(found.table["site"]) <= {"encoder[1]", "tower"}
    assert (found.table["accuracy"] <= found.table["optimistic"] + 1e-12).all()
    honest, picked = [], []
    for seed in range(6):
        run = make_run(80 + seed, tasks=[GENDER], cells=40)
        shape = (len(run.predictions), 6, 12)
        rng = np.random.default_rng(seed)
        run.planted = {f"encoder[{k}]": rng.normal(size=shape).astype(np.float32) for k in range(12)}
        row = best_site(run, group_by="speaker", **QUIET).table.iloc[0]
        honest.append(row["accuracy"])
        picked.append(row["optimistic"])
    assert np.mean(picked) > 0.56
    assert abs(np.mean(honest) - 0.5) < 0.06


def test_pooling_and_strength_are_candidates_too(make_run, tmp_path: Path) -> None:
    run = make_run(75, tasks=["pitch_comparison"], cells=48)
    found = best_site(
        run, sites="encoder[1]", reducers=("mean", "segments"), C=(0.001, 0.1), n_splits=3, group_by="speaker", **QUIET
    )
    assert found.table["site"].iloc[0] == "encoder[1] (segments)"
    again = best_site(
        run, sites="encoder[1]", reducers=("mean", "segments"), C=(0.001, 0.1), n_splits=3, group_by="speaker", **QUIET
    )
    pd.testing.assert_frame_equal(found.predictions, again.predictions)
    mean = best_site(run, sites="encoder[1]", reducers=("mean",), n_splits=3, group_by="speaker", **QUIET)
    compared = compare_probes(found, mean).table.iloc[0]
    assert compared["difference"] > 0
    assert "pitch_comparison" in repr(found)
    assert "<table" in found._repr_html_()
    assert found.plot() is not None
    kept = BestSites.load(found.save(tmp_path))
    pd.testing.assert_frame_equal(kept.table, found.table)
    with pytest.raises(RunError, match="estimator"):
        best_site(run, estimator="mlp", **QUIET)
    with pytest.raises(RunError, match="inner_splits"):
        best_site(run, inner_splits=1, **QUIET)


def test_a_task_without_groups_to_choose_in_is_an_empty_row(make_run) -> None:
    run = make_run(76, tasks=[GENDER], cells=20)
    run.predictions["speaker"] = ["one" if i % 3 else "two" for i in run.predictions.groupby("cell").ngroup()]
    found = best_site(run, group_by="speaker", **QUIET)
    row = found.table.iloc[0]
    with pytest.raises(RunError, match="too few groups"):
        compare_probes(found, found)
    assert np.isnan(row["accuracy"])
    assert "too few groups" in row["note"]


def test_more_training_items_help_where_there_is_something_to_learn(make_run, tmp_path: Path) -> None:
    run = make_run(77, tasks=[EMOTION], cells=120, speakers=40, strength=0.8)
    found = learning_curves(run, sites=["encoder.stem", "encoder[1]"], group_by="speaker", **QUIET)
    table = found.to_dataframe().set_index(["site", "share"])
    for site in ("encoder.stem", "encoder[1]"):
        assert table.loc[site]["n_train"].is_monotonic_increasing
    rising = table.loc["encoder[1]"]
    assert rising.loc[1.0, "accuracy"] > rising.loc[0.125, "accuracy"] + 0.05
    assert rising.loc[0.25, "gain"] == pytest.approx(rising.loc[0.25, "accuracy"] - rising.loc[0.125, "accuracy"])
    flat = table.loc["encoder.stem"]
    assert flat.loc[1.0, "gain_low"] < 0 < flat.loc[1.0, "gain_high"]
    whole = probe_layers(run, sites=["encoder[1]"], group_by="speaker", shuffles=0, **QUIET)
    assert rising.loc[1.0, "accuracy"] == pytest.approx(whole.table["accuracy"].iloc[0])
    again = learning_curves(run, sites=["encoder.stem", "encoder[1]"], group_by="speaker", **QUIET)
    pd.testing.assert_frame_equal(found.table, again.table)
    assert "LearningCurves" in repr(found)
    assert "<table" in found._repr_html_()
    assert len(found.plot().get_lines()) >= 2
    pd.testing.assert_frame_equal(LearningCurves.load(found.save(tmp_path)).table, found.table)


def test_smaller_training_sets_are_nested_whole_groups_with_all_classes(make_run) -> None:
    from vpanalysis.probes.plans import make_plan
    from vpanalysis.probes.targets import select_task

    items = select_task(make_run(78, tasks=[EMOTION], cells=60), EMOTION)
    plan = make_plan(items, ("speaker",), n_splits=4, random_state=0)
    half, quarter = (smaller(plan, share, 1, 0) for share in (0.5, 0.25))
    for fold, large, small in zip(plan.folds, half, quarter, strict=True):
        assert set(small.train) < set(large.train) < set(fold.train)
        np.testing.assert_array_equal(small.test, fold.test)
        assert len(set(items.labels[small.train])) == 4
        kept = set(plan.clusters[0][large.train])
        assert not kept & set(plan.clusters[0][np.setdiff1d(fold.train, large.train)])


def test_bad_sizes_are_refused(run) -> None:
    with pytest.raises(RunError, match="shares"):
        learning_curves(run, shares=[0.0], **QUIET)
    with pytest.raises(RunError, match="repeats"):
        learning_curves(run, repeats=0, **QUIET)
