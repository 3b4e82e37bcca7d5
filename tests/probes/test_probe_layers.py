"""``probe_layers`` finds what was planted, where it was planted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vpanalysis.probes as probes
from vpanalysis.errors import RunError
from vpanalysis.probes import ProbeResult, compare_sites, probe_layers, select_site
from vpanalysis.probes.layers import choose_sites, reducer_for
from vpanalysis.probes.result import COLUMNS
from vpanalysis.probes.targets import select_task

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def truth(fake_run: Any) -> ProbeResult:
    return probe_layers(fake_run, group_by="speaker", progress=False)


@pytest.fixture(scope="module")
def claim(fake_run: Any) -> ProbeResult:
    return probe_layers(fake_run, "claim", group_by="speaker", progress=False)


def test_the_truth_is_found_where_it_was_planted_and_nowhere_else(truth: ProbeResult) -> None:
    wide = truth.pivot()
    assert (wide.loc["encoder[1]"] > 0.95).all()
    assert (wide.loc["tower"] < wide.loc["encoder[1]"] - 0.05).all()
    for site in ("encoder.stem", "text[0]"):
        rows = truth.table[truth.table["site"] == site]
        assert (rows["accuracy"] < rows["chance"] + 0.2).all()
        assert (rows["low"] <= rows["chance"] + 0.05).all()


def test_the_words_are_found_where_they_were_planted_and_nowhere_else(claim: ProbeResult) -> None:
    wide = claim.pivot()
    assert (wide.loc["text[0]"] > 0.95).all()
    chance = claim.table.groupby("task")["chance"].first().reindex(wide.columns)
    assert (wide.loc["encoder[1]"] < chance + 0.2).all()
    # The claimed level of a pattern task, not the option texts: three classes.
    assert chance["pitch_comparison"] == pytest.approx(1 / 3)


def test_words_alone_beat_chance_on_conflict_items_with_two_labels(make_run: Make) -> None:
    """The trap that pooled twins are there for: on conflict items the words give the other label away."""
    run = make_run(tasks=["gender_prediction"])
    naive = probe_layers(run, sites="text[0]", conditions=["conflict"], progress=False)
    pooled = probe_layers(run, sites="text[0]", progress=False)
    assert naive.table["accuracy"].item() > 0.95
    assert "not separable" in naive.table["note"].item()
    assert pooled.table["accuracy"].item() < 0.7
    assert pooled.table["note"].item() == ""


def test_probes_that_find_nothing_are_at_chance_not_below(make_run: Make) -> None:
    """Balanced designs push a null probe below chance unless every training set is weighted by itself."""
    gaps = []
    for seed in range(8):
        table = probe_layers(make_run(50 + seed, tasks=["emotion_recognition"]), sites="text[0]", progress=False).table
        gaps.append(table["accuracy"].item() - 0.25)
    assert abs(np.mean(gaps)) < 0.06


def test_table_has_the_promised_columns_and_facts(truth: ProbeResult, fake_run: Any) -> None:
    table = truth.to_dataframe()
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 5
    assert "gate" not in set(table["site"])
    assert table["n"].eq(120).all()  # conflict and congruent, not neutral
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert table.groupby("task")["chance"].first().to_dict() == pytest.approx(
        {"gender_prediction": 1 / 2, "emotion_recognition": 1 / 4, "pitch_comparison": 1 / 6}
    )
    assert (table["majority"] >= table["chance"] - 1e-9).all()
    speakers = fake_run.predictions.groupby("task_name")["speaker"].nunique()
    assert table.groupby("task")["n_groups"].first().to_dict() == speakers.to_dict()
    table.loc[:, "accuracy"] = 0
    assert truth.table["accuracy"].max() > 0


def test_order_tasks_keep_time_and_text_is_read_at_the_answer(make_run: Make) -> None:
    run = make_run(cells=30)
    result = probe_layers(run, sites=["encoder[1]", "text[0]"], progress=False)
    used = result.table.set_index(["task", "site"])["reducer"]
    assert used["pitch_comparison", "encoder[1]"] == "segments"
    assert used["gender_prediction", "encoder[1]"] == "mean"
    assert used["pitch_comparison", "text[0]"] == "last"
    assert set(run.asked) == {("encoder[1]", "mean"), ("encoder[1]", "segments"), ("text[0]", "last")}
    averaged = probe_layers(run, tasks="pitch_comparison", sites="encoder[1]", reducer="mean", progress=False)
    assert averaged.table["accuracy"].item() < 0.45  # an average is the same for all six orders
    assert reducer_for("encoder[1]", "a_new_task") == "mean"


@pytest.mark.parametrize("group_by", ["speaker", "script", "both"])
def test_every_item_is_tested_once_and_twins_stay_together(make_run: Make, group_by: str) -> None:
    # One script a cell and many of them, so that grouping by script has something to group.
    run = make_run(cells=48, scripts=12, tasks=["gender_prediction"])
    result = probe_layers(run, sites="encoder[1]", group_by=group_by, progress=False)
    rows = result.predictions.merge(run.predictions[["id", "cell", "speaker", "script"]], on="id")
    assert rows["id"].is_unique
    assert len(rows) == 96
    if group_by == "both":
        assert result.table["n_groups"].item() > 1
    else:
        assert rows.groupby(group_by)["fold"].nunique().eq(1).all()
    assert rows.groupby("cell")["fold"].nunique().eq(1).all()
    assert result.table["accuracy"].item() > 0.9


def test_a_leak_through_speakers_is_closed_by_grouping(make_run: Make) -> None:
    """Truth fixed per speaker and states that hold the speaker alone: a fold that knows the speaker knows it all."""
    run = make_run(tasks=["gender_prediction"], cells=120, speakers=16)
    table = run.predictions.copy()
    number = table["speaker"].str.extract(r"(\d+)")[0].astype(int)
    table["truth"] = np.where(number % 2 == 0, "Female", "Male")
    run.predictions = table
    fair = probe_layers(run, sites="encoder.stem", conditions=["neutral"], progress=False)
    leaky = probe_layers(run, sites="encoder.stem", conditions=["neutral"], group_by="script", progress=False)
    assert leaky.table["accuracy"].item() > 0.9
    assert fair.table["accuracy"].item() < 0.8


def test_accuracy_by_condition_adds_up(truth: ProbeResult) -> None:
    assert set(truth.by_condition["condition"]) == {"conflict", "congruent"}
    rows = truth.predictions[(truth.predictions["task"] == "pitch_comparison") & (truth.predictions["site"] == "tower")]
    for condition, part in rows.groupby("condition"):
        shown = truth.by_condition.query(
            f"task == 'pitch_comparison' and site == 'tower' and condition == {condition!r}"
        )
        assert shown["accuracy"].item() == pytest.approx(part["correct"].mean())
    whole = truth.curve("pitch_comparison").set_index("site").loc["tower", "accuracy"]
    assert whole == pytest.approx(np.average(rows["correct"], weights=rows["weight"]))
    assert (rows["correct"] == (rows["label"] == rows["predicted"])).all()


def test_metadata_columns_are_targets(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"], cells=80, speakers=6)
    result = probe_layers(run, "speaker", sites=["encoder.stem", "encoder[1]"], group_by="script", progress=False)
    wide = result.pivot()["gender_prediction"]
    assert wide["encoder.stem"] > 0.9
    assert wide["encoder[1]"] < 0.5
    assert result.table["n_classes"].eq(6).all()


def test_failed_items_and_broken_twins_are_left_out(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"])
    run.predictions.loc[0, "status"] = "failed"
    for states in run.planted.values():
        states[0] = np.nan
    items = select_task(run, "gender_prediction")
    assert len(items.rows) == 118  # the failed clip and its twin
    assert np.isfinite(probe_layers(run, progress=False).table["accuracy"]).all()


def test_states_that_are_not_finite_are_an_error_with_the_item(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction"])
    run.planted["tower"][3, 0, 0] = np.inf
    with pytest.raises(RunError, match=r"'tower'.*'test/gender_prediction/1/conflict'"):
        probe_layers(run, progress=False)


def test_what_cannot_be_probed_is_an_empty_cell_with_a_reason(make_run: Make) -> None:
    run = make_run(tasks=["gender_prediction", "emotion_recognition"], cells=20)
    table = run.predictions.copy()
    one = table["task_name"] == "gender_prediction"
    table.loc[one, "truth"] = "Female"
    table.loc[~one, "speaker"] = "the only one"
    run.predictions = table
    result = probe_layers(run, group_by="speaker", progress=False)
    assert result.table["accuracy"].isna().all()
    notes = result.table.groupby("task")["note"].first()
    assert "one class only: 'Female'" in notes["gender_prediction"]
    assert "too few groups" in notes["emotion_recognition"]
    assert "not probed" in repr(result)
    silent = make_run(tasks=["gender_prediction"], conditions=["neutral"])
    empty = probe_layers(silent, "claim", progress=False)
    assert empty.table["n"].eq(0).all()
    assert empty.table["note"].eq("no items with this label").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "thruth"}, "did you mean 'truth'"),
        ({"target": "speaker", "group_by": "speaker"}, "use group_by='script'"),
        ({"tasks": "gender"}, "'gender_prediction'"),
        ({"sites": "encoder[9]"}, "encoder"),
        ({"sites": lambda name: name == "x"}, "a predicate"),
        ({"conditions": ["conflicts"]}, "did you mean 'conflict'"),
        ({"group_by": "voice"}, "'auto', 'speaker', 'script', 'both'"),
        ({"n_splits": 1}, "n_splits=1"),
        ({"C": 0.0}, "C=0.0"),
        ({"C": [0.1, -1.0]}, "a positive number"),
        ({"estimator": "ridg"}, "did you mean 'ridge'"),
        ({"shuffles": -1}, "shuffles=-1"),
        ({"shuffles": 20, "adjusted": True}, "199 or more"),
        ({"groups": [1, 2]}, "labels or groups beside a Run"),
    ],
)
def test_bad_arguments_are_one_sentence(fake_run: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message.replace("[", r"\[")):
        probe_layers(fake_run, progress=False, **arguments)


def test_sites_are_names_patterns_or_predicates() -> None:
    names = ["encoder.stem", "encoder[0]", "encoder[1]", "encoder[10]", "tower", "gate", "options"]
    assert choose_sites(names, None) == names[:-2]
    assert choose_sites(names, "encoder[*]") == ["encoder[0]", "encoder[1]", "encoder[10]"]
    assert choose_sites(names, "encoder[1]") == ["encoder[1]"]  # brackets are no character class
    assert choose_sites(names, ["tower", "encoder[0]"]) == ["encoder[0]", "tower"]
    assert choose_sites(names, lambda name: name.startswith("enc")) == names[:4]


def test_two_calls_agree_bit_for_bit(make_run: Make) -> None:
    from vpanalysis.probes import estimator

    first = probe_layers(make_run(cells=24), random_state=3, progress=False)
    estimator._MEMO.clear()
    again = probe_layers(make_run(cells=24), random_state=3, progress=False)
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    pd.testing.assert_frame_equal(first.predictions, again.predictions, check_exact=True)


def test_result_survives_the_disk(truth: ProbeResult, tmp_path: Path) -> None:
    folder = truth.save(tmp_path / "probe")
    back = ProbeResult.load(folder)
    for name in ("table", "by_condition", "predictions"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(truth, name))
    assert (back.target, back.settings) == (truth.target, truth.settings)
    (folder / "table.parquet").unlink()
    with pytest.raises(RunError, match=r"no table\.parquet"):
        ProbeResult.load(folder)


def test_reprs_tell_the_story_and_escape(truth: ProbeResult) -> None:
    text = repr(truth)
    assert "encoder[1]" in text
    assert "5 folds by speaker" in text
    assert "optimistic" in text
    odd = ProbeResult(truth.table, truth.by_condition, truth.predictions, "truth", {"run": "<script>"})
    assert "<script>" not in odd._repr_html_()
    assert "<table" in odd._repr_html_()


def test_a_site_chosen_on_validation_beats_the_tower_on_test(fake_run: Any, make_run: Make) -> None:
    validation = make_run(7, prefix="validation")
    chosen = select_site(probe_layers(validation, tasks="pitch_comparison", progress=False), "pitch_comparison")
    assert chosen == "encoder[1]"
    compared = compare_sites(fake_run, "pitch_comparison", chosen, "tower", train_run=validation)
    assert compared.difference > 0.1
    assert compared.low > 0
    assert compared.difference == pytest.approx(compared.accuracy_a[0] - compared.accuracy_b[0])
    assert compared.n_train == 120
    assert "paired" in repr(compared)
    row = compared.to_dataframe().iloc[0]
    assert row["accuracy_a"] == compared.accuracy_a[0]
    inside = compare_sites(fake_run, "pitch_comparison", chosen, "tower")
    assert inside.n_train == 0
    same = compare_sites(fake_run, "pitch_comparison", "tower", "encoder[0]")
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)


def test_training_items_that_share_a_speaker_are_dropped(fake_run: Any, make_run: Make) -> None:
    other = make_run(8, speakers=20)  # the same speaker names as the test Run, and more cells
    with pytest.raises(RunError, match="0 of 120 items"):
        compare_sites(fake_run, "gender_prediction", "encoder[1]", "tower", train_run=other)
    table = other.predictions.copy()
    fresh = table["cell"].isin(sorted(set(table["cell"]))[::2])  # every other cell is spoken by somebody else
    table.loc[fresh, "speaker"] = "fresh-" + table.loc[fresh, "speaker"]
    table["id"] = "other/" + table["id"]
    other.predictions = table
    compared = compare_sites(fake_run, "gender_prediction", "encoder[1]", "tower", train_run=other)
    assert 0 < compared.n_train < 120
    assert "training items dropped: shared speaker" in compared.note


def test_select_site_refuses_what_was_not_probed(truth: ProbeResult) -> None:
    with pytest.raises(RunError, match="allowed"):
        select_site(truth, "age_prediction")
    with pytest.raises(RunError, match="cannot select sites"):
        select_site(truth, "pitch_comparison", sites="streams[*]")


def test_the_package_lists_its_names() -> None:
    assert all(hasattr(probes, name) for name in probes.__all__)
