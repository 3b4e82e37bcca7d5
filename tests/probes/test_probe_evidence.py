"""What ``probe_layers`` adds to accuracy: shuffles, strict splits, both targets, numbers, other inputs."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vpanalysis.errors import RunError
from vpanalysis.probes import ProbeResult, inputs, own_accuracy, probe_layers
from vpanalysis.probes.targets import select_task

matplotlib.use("Agg")

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def both(fake_run: Any) -> ProbeResult:
    return probe_layers(fake_run, "both", estimator="ridge", group_by="speaker", progress=False)


# --- shuffles ----------------------------------------------------------------------------------------------------


def test_shuffles_are_at_chance_and_what_was_planted_is_beyond_them(both: ProbeResult) -> None:
    truth = both.of("truth").table.set_index(["task", "site"])
    chance = truth["chance"]
    assert (truth["shuffle_mean"] - chance).abs().max() < 0.06
    assert (truth["shuffle_low"] < truth["shuffle_mean"]).all()
    assert (truth["shuffle_mean"] < truth["shuffle_high"]).all()
    planted = truth.xs("encoder[1]", level="site")
    assert (planted["p_adjusted"] == 1 / 200).all()
    assert planted["q"].tolist() == pytest.approx([1 / 200] * 3)
    assert (truth["p_adjusted"] >= truth["p"]).all()
    words = truth.xs("text[0]", level="site")
    assert (words["p_adjusted"] > 0.05).all()


def test_the_number_of_shuffles_is_as_asked(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"], cells=30)
    assert probe_layers(run, sites="tower", progress=False).settings["shuffles"] == 20
    few = probe_layers(run, sites="tower", shuffles=9, progress=False).table
    assert few["p"].item() == pytest.approx(round(few["p"].item() * 10) / 10)
    assert few["p_adjusted"].isna().all()
    none = probe_layers(run, sites="tower", shuffles=0, progress=False).table
    assert none[["shuffle_mean", "shuffle_low", "shuffle_high", "p", "p_adjusted", "q"]].isna().all(axis=None)
    many = probe_layers(run, sites="tower", adjusted=True, progress=False)
    assert many.settings["shuffles"] == 199
    assert np.isfinite(many.table["p_adjusted"]).all()
    pd.testing.assert_series_equal(none["accuracy"], many.table["accuracy"])


def test_p_values_keep_their_level_where_labels_belong_to_speakers(make_run: Make) -> None:
    """States of the speaker alone, labels of the speaker alone, and no tie between the two."""
    p = []
    for seed in range(24):
        run = make_run(200 + seed, tasks=["gender_prediction"], cells=60, speakers=16, conditions=["neutral"])
        names = sorted(set(run.predictions["speaker"]))
        label = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % 2, strict=True))
        run.predictions["truth"] = run.predictions["speaker"].map(label).map({0: "Female", 1: "Male"})
        found = probe_layers(
            run, sites="encoder.stem", group_by="speaker", estimator="ridge", shuffles=19, progress=False
        )
        p.append(found.table["p"].item())
    # Shuffled by clip instead, more than half of these would be at the smallest p.
    assert np.mean(np.array(p) <= 0.1) <= 0.3
    assert np.mean(p) > 0.3


# --- splits ------------------------------------------------------------------------------------------------------


def test_the_split_is_as_strict_as_the_data_of_all_tasks_allow(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction", "emotion_recognition"], cells=48)
    found = probe_layers(run, sites="encoder[1]", shuffles=0, progress=False)
    assert found.table["group"].eq("speaker and script").all()
    assert "5 x 5 folds by speaker and script" in repr(found)
    assert f"{found.table['n_train'].min()} or more training items" in repr(found)
    assert found.table["n_train"].lt(0.8 * found.table["n"]).all()
    table = run.predictions
    # One task has too few scripts: all tasks do without.
    few = table["task_name"] == "emotion_recognition"
    run.predictions = table.assign(script=table["script"].where(~few, "the same"))
    assert probe_layers(run, shuffles=0, progress=False).table["group"].eq("speaker").all()
    run.predictions = table.assign(speaker="the same")
    assert probe_layers(run, shuffles=0, progress=False).table["group"].eq("script").all()
    run.predictions = table.drop(columns=["speaker", "script"])
    assert probe_layers(run, shuffles=0, progress=False).table["group"].eq("cell").all()
    run.predictions = table
    assert probe_layers(run, "speaker", shuffles=0, progress=False).table["group"].eq("script").all()


def test_one_class_in_a_training_fold_is_an_empty_cell_with_a_reason(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"], cells=40, speakers=2, conditions=["neutral"])
    first = run.predictions["speaker"] == run.predictions["speaker"].iloc[0]
    run.predictions["truth"] = np.where(first, "Female", "Male")
    row = probe_layers(run, sites="tower", group_by="speaker", progress=False).table.iloc[0]
    assert np.isnan(row["accuracy"])
    assert "one class only" in row["note"]
    assert "training items of fold" in row["note"]


# --- truth and claim ---------------------------------------------------------------------------------------------


def test_both_targets_stand_on_one_split(both: ProbeResult, fake_run: Any) -> None:
    assert list(dict.fromkeys(both.table["target"])) == ["truth", "claim"]
    folds = both.predictions.drop_duplicates(["task", "target", "id"]).pivot(
        index=["task", "id"], columns="target", values="fold"
    )
    assert (folds["truth"] == folds["claim"]).all()
    truth, claim = both.of("truth").pivot(), both.of("claim").pivot()
    assert (truth.loc["encoder[1]"] > 0.9).all()
    assert (claim.loc["text[0]"] > 0.9).all()
    assert both.pivot().shape == (5, 6)
    with pytest.raises(RunError, match="did you mean 'claim'"):
        both.of("claims")
    run = type(fake_run)("own", fake_run.predictions.assign(pred_logits=fake_run.predictions["truth"]), {})
    assert own_accuracy(run, both)["accuracy"].eq(1).all()
    ax = both.plot(task="pitch_comparison")
    drawn = {artist.get_gid() for artist in [*ax.lines, *ax.collections]}
    assert {"truth:audio", "claim:text", "shuffle:truth:audio", "shuffle:claim:audio"} <= drawn
    assert "hatched: shuffled labels" in ax.get_xlabel()


def test_without_twins_accuracy_within_each_claim_shows_that_only_words_were_read(make_run: Make) -> None:
    run = make_run(tasks=["emotion_recognition", "gender_prediction"], cells=96, conditions=["conflict"])
    found = probe_layers(run, sites=["encoder[1]", "text[0]"], shuffles=0, group_by="speaker", progress=False)
    notes = found.table.groupby("task")["note"].first()
    assert "not separable" in notes["gender_prediction"]
    assert "not separable" not in notes["emotion_recognition"]
    within = found.within_claims()
    # Two labels: a claim leaves one truth, and nothing is to be told apart.
    assert set(within["task"]) == {"emotion_recognition"}
    assert within["chance"].eq(1 / 3).all()
    by_site = within.groupby("site").apply(lambda part: np.average(part["accuracy"], weights=part["n"]))
    assert by_site["encoder[1]"] > 0.9
    assert abs(by_site["text[0]"] - 1 / 3) < 0.15
    assert (within["low"] <= within["accuracy"]).all()
    with pytest.raises(RunError, match="age_prediction"):
        found.within_claims("age_prediction")


# --- numbers -----------------------------------------------------------------------------------------------------


def test_numbers_are_regressed_on(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"], cells=80)
    states = run.planted["encoder[1]"].mean(axis=1)
    run.predictions["hertz"] = 100 + 20 * states[:, 0].astype(float) + np.random.default_rng(0).normal(size=len(states))
    run.predictions.loc[0, "hertz"] = np.nan
    found = probe_layers(run, "hertz", sites=["encoder.stem", "encoder[1]"], progress=False)
    table = found.table.set_index("site")
    assert table["metric"].eq("R2").all()
    assert table.loc["encoder[1]", "low"] > 0.8
    assert table.loc["encoder[1]", "p"] == 1 / 21
    assert table.loc["encoder.stem", "low"] < 0.2
    assert table["n"].eq(159).all()
    rows = found.predictions[found.predictions["site"] == "encoder[1]"]
    error = ((rows["label"] - rows["predicted"]) ** 2).sum() / ((rows["label"] - rows["label"].mean()) ** 2).sum()
    assert table.loc["encoder[1]", "accuracy"] == pytest.approx(1 - error)
    assert found.plot().get_ylabel() == "R²"
    assert "R2" in repr(found)
    run.predictions["hertz"] = 5.0
    assert "one value only" in probe_layers(run, "hertz", sites="tower", progress=False).table["note"].item()
    run.predictions["hertz"] = np.inf
    with pytest.raises(RunError, match="infinite values"):
        select_task(run, "gender_prediction", "hertz")


# --- arrays and models -------------------------------------------------------------------------------------------


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 4, 10))
    X[:, 2] += 3 * np.eye(3, 10)[y]
    return X, y, np.repeat(np.arange(20), 3)


def test_arrays_from_anywhere_are_probed() -> None:
    X, y, groups = _arrays()
    found = probe_layers(X, y, groups=groups, progress=False)
    table = found.table.set_index("site")
    assert list(table.index) == [f"layer[{i}]" for i in range(4)]
    assert table.loc["layer[2]", "accuracy"] > 0.8 > table["accuracy"].drop("layer[2]").max()
    assert table["group"].eq("group").all()
    assert table["n_groups"].eq(20).all()
    assert found.predictions.assign(g=groups.tolist() * 4).groupby("g")["fold"].nunique().eq(1).all()
    named = probe_layers(X, np.array(["a", "b", "c"])[y], groups=groups, progress=False)
    np.testing.assert_allclose(named.table["accuracy"], table["accuracy"])
    assert {"y:layer"} <= {line.get_gid() for line in found.plot().lines}
    alone = probe_layers(X[:, 2], y, progress=False).table
    assert alone["group"].item() == "item"
    assert probe_layers(X, X[:, 1, 0], groups=groups, progress=False).table["metric"].eq("R2").all()
    with pytest.raises(RunError, match="name a folder"):
        found.save()


def test_data_arrays_may_stand_in_any_order_and_name_their_layers() -> None:
    X, y, groups = _arrays()
    plain = probe_layers(X, y, groups=groups, progress=False).table
    turned = xr.DataArray(X, dims=("item", "layer", "feature")).transpose("layer", "feature", "item")
    same = probe_layers(turned, y, groups=groups, progress=False).table
    pd.testing.assert_frame_equal(same, plain)
    named = turned.assign_coords(layer=["embed", "blocks.0", "blocks.1", "blocks.2"])
    assert list(probe_layers(named, y, progress=False).table["site"]) == ["embed", "blocks.0", "blocks.1", "blocks.2"]
    numbered = turned.assign_coords(layer=[0, 8, 16, 24])
    found = probe_layers(numbered, y, groups=groups, sites="layer[16]", progress=False).table
    assert found["site"].tolist() == ["layer[16]"]
    assert found["accuracy"].item() == same["accuracy"].iloc[2]


@pytest.mark.parametrize(
    ("X", "y", "groups", "message"),
    [
        (np.zeros((4, 2, 3, 5)), [0, 1, 0, 1], None, "pool time first"),
        (np.zeros((4, 2, 3)), [0, 1], None, "4 items and labels"),
        (np.zeros((4, 2, 3)), "truth", None, "4 items and labels"),
        (np.zeros((4, 2, 3)), [0, 1, 0, 1], [1, 2], "4 items and groups"),
        (np.full((6, 2, 3), np.nan), [0, 1, 0, 1, 0, 1], None, "infinite or missing"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(X: np.ndarray, y: Any, groups: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        probe_layers(X, y, groups=groups, progress=False)


def test_three_items_and_constant_states_are_no_silent_number() -> None:
    three = probe_layers(np.eye(3)[:, None], [0, 1, 1], progress=False).table
    assert three["accuracy"].isna().all()
    assert "one class only" in three["note"].item()
    flat = probe_layers(np.ones((60, 1, 5)), np.arange(60) % 2, progress=False).table
    assert flat["accuracy"].item() <= 0.6
    assert flat["p"].item() > 0.05
    assert doctest.testmod(inputs).failed == 0


# --- results -----------------------------------------------------------------------------------------------------


def test_the_dataset_is_the_table(both: ProbeResult) -> None:
    data = both.to_dataset()
    assert dict(data.sizes) == {"target": 2, "task": 3, "site": 5}
    assert list(data["site"].values) == both.sites
    row = both.table.iloc[7]
    cell = data.sel(target=row["target"], task=row["task"], site=row["site"])
    for column in ("accuracy", "low", "shuffle_high", "p", "n"):
        assert float(cell[column]) == pytest.approx(row[column])
    assert str(cell["group"].values) == row["group"]
    assert int(cell["site_order"]) == row["site_order"]
    assert data.attrs["estimator"] == "ridge"
    assert data.to_dataframe()["accuracy"].notna().all()


def test_results_go_home_with_the_hash_of_the_manifest(make_run: Make, tmp_path: Path) -> None:
    run = make_run(tasks=["gender_prediction"], cells=30)
    with pytest.raises(RunError, match="name a folder"):
        probe_layers(run, sites="tower", progress=False).save()
    run.path = tmp_path
    (tmp_path / "manifest.json").write_text("{}")
    found = probe_layers(run, "both", sites="tower", progress=False)
    folder = found.save()
    assert folder.parent == tmp_path / "results"
    assert folder.name.startswith("probe-both-")
    assert json.loads((folder / "probe.json").read_text())["settings"]["manifest_sha"] == found.settings["manifest_sha"]
    back = ProbeResult.load(folder)
    pd.testing.assert_frame_equal(back.table, found.table)
    assert repr(back) == repr(found)
    assert back._repr_html_() == found._repr_html_()
    assert found.save() == folder
    assert probe_layers(run, "both", sites="tower", shuffles=3, progress=False).save() != folder
    (tmp_path / "manifest.json").write_text("{ }")
    with pytest.raises(RunError, match="has changed since"):
        found.save()
