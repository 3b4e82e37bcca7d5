"""The grid by task holds what the predictions say, and published fragments only where they are of the task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from behaviour import assert_well_formed, conflict, drawn, folder, refusal, renamed, sources, table, texts
from matplotlib.colors import to_hex

from vpanalysis.benchmark.items import TASKS
from vpanalysis.figures import figure_data
from vpanalysis.figures.per_task import ENTRY, _in_lines


def test_shares_are_those_of_the_predictions() -> None:
    data = table("per_task")
    assert_well_formed(data)
    for name in ("mini-base", "mini-pclm-dpo"):
        items = conflict(name)
        for metric, column in (("acc_gt", "right"), ("ala", "read")):
            mine = data[(data["name"] == name) & (data["metric"] == metric)].set_index("task")["value"]
            pd.testing.assert_series_equal(
                mine.sort_index(), items.groupby("task_name")[column].mean().sort_index(), check_names=False
            )
    assert (data["value"] != 0).any()


def test_chance_is_one_over_the_options() -> None:
    data = table("per_task")
    measured = data[data["origin"] == "measured"]
    assert set(measured["task"]) == set(TASKS)
    for task, part in measured.groupby("task"):
        assert set(part["chance"]) == {0.5 if task == "gender_prediction" else 0.25}


def test_published_numbers_stand_by_their_task_without_interval() -> None:
    data = table("per_task")
    printed = data[data["origin"] != "measured"]
    found = {(row.label, row.task): row.value for row in printed.itertuples()}
    assert found["Qwen2-Audio", "total_speaker_counting"] == pytest.approx(0.125)
    assert found["AF3 + PCLM + DPO", "intonation_perception"] == pytest.approx(0.47)
    assert "speaker_identity_recognition" not in set(printed["task"]), "weak digests are not to be used"
    assert printed[["low", "high"]].isna().all().all() and not printed["planted"].any()
    assert set(printed["group"]) == {"published"} and set(printed["origin"]) <= {"paper", "digest"}


def test_published_marks_are_hollow_and_apart() -> None:
    figure = drawn("per_task", sources())
    ax = next(a for a in figure.axes if a.get_title(loc="left") == "Emotion")
    hollow = [line for line in ax.lines if line.get_marker() == "D"]
    filled = [line for line in ax.lines if line.get_marker() in ("o", "s") and len(line.get_xdata())]
    assert len(hollow) == 3 and all(to_hex(line.get_markerfacecolor()) == "#ffffff" for line in hollow)
    assert min(line.get_xdata()[0] for line in hollow) > max(np.max(line.get_xdata()) for line in filled)
    by_marker = {line.get_marker(): line for line in filled}
    data = table("per_task")
    rows = data[(data["task"] == "emotion_recognition") & (data["origin"] == "measured")]
    for marker, metric in (("o", "acc_gt"), ("s", "ala")):
        wanted = rows.loc[rows["metric"] == metric, "value"].to_numpy()
        np.testing.assert_allclose(np.asarray(by_marker[marker].get_ydata(), dtype=float), wanted)


def test_own_models_are_a_group_of_their_own(tmp_path: Path) -> None:
    mine = renamed("mini-pclm", tmp_path / "mine", "somebody/model")
    data = figure_data("per_task", [mine, folder() / "mini-base"])
    assert list(dict.fromkeys(data["name"])) == ["mini-base", "mine", ""], "the organism first"
    assert not data.loc[data["name"] == "mine", "planted"].any()
    written = texts(drawn("per_task", [mine, folder() / "mini-base"]))
    assert "base (planted)" in written and "mine" in written


def test_without_runs_it_says_what_to_do() -> None:
    assert "no Run" in str(refusal("per_task", ()))


def test_long_names_break_before_a_plus() -> None:
    assert _in_lines("AF3 + PCLM + DPO") == "AF3 + PCLM\n+ DPO"
    assert _in_lines("Audio Flamingo 2") == "Audio Flamingo 2"


def test_words_for_who_cannot_see_it() -> None:
    data = table("per_task")
    best = data[(data["metric"] == "acc_gt") & (data["origin"] == "measured")].groupby("label")["value"].mean().max()
    assert f"{best:.2f}" in ENTRY.alt(data) and "9 published numbers" in ENTRY.alt(data)
