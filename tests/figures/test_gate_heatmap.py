"""Weights by task and stream against the Run's own, equal gates once, and how far rewording moves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from behaviour import assert_well_formed, drawn, folder, refusal, renamed, some, sources, table, texts

from vpanalysis.figures import figure_data
from vpanalysis.figures.gate_heatmap import ENTRY, _equal, _is_fixed


def weights(name: str) -> object:
    run = sources().all[name]
    task = run.predictions.set_index("id")["task_name"]
    return run.gates.groupby(task.reindex(run.gates.index)).mean()


def test_means_are_those_of_the_run() -> None:
    data = table("gate_heatmap")
    assert_well_formed(data)
    for name in ("mini-static", "mini-pclm"):
        mine = data[(data["name"] == name) & (data["what"] == "weight")]
        wide = mine.pivot(index="task", columns="column", values="value")
        wanted = weights(name)
        np.testing.assert_allclose(wide.loc[wanted.index, wanted.columns], wanted, atol=1e-6)
        np.testing.assert_allclose(wide.sum(axis=1), 1.0, atol=1e-5)


def test_equal_gates_are_shown_once_after_a_check() -> None:
    data = table("gate_heatmap")
    assert set(data["name"]) == {"mini-static", "mini-pclm"}
    assert set(data.loc[data["name"] == "mini-pclm", "same"]) == {"+ PCLM + DPO"}
    one, two = (sources().all[name].gates for name in ("mini-pclm", "mini-pclm-dpo"))
    assert _equal({"a": one, "b": two}) == {"a": ["b"]}
    changed = two.copy()
    changed.iloc[3, 0] += 0.01
    assert _equal({"a": one, "b": changed}) == {"a": [], "b": []}
    assert _equal({"a": one, "b": two.rename(columns={"tower": "else"})}) == {"a": [], "b": []}
    assert _equal({"a": one.iloc[:5], "b": two.iloc[5:]}) == {"a": [], "b": []}, "nothing shared shows nothing"


def test_one_question_has_no_interval_and_several_have() -> None:
    data = table("gate_heatmap")
    rows = data[(data["name"] == "mini-pclm") & (data["what"] == "weight")]
    asked = sources().all["mini-pclm"].predictions.groupby("task_name")["question"].nunique()
    for task, part in rows.groupby("task"):
        assert set(part["n_groups"]) == {float(asked[task])}
        assert part["low"].isna().all() == (asked[task] == 1)


def test_movement_is_that_of_the_kept_result() -> None:
    data = table("gate_heatmap")
    moved = data[data["what"] == "variation"]
    assert set(moved["name"]) == {"mini-pclm"}
    kept = sources().one("ParaphraseResult", "mini-pclm").mixtures.set_index(["wording", "task"])
    for row in moved.itertuples():
        found = kept.loc[(row.column, "all" if row.task == "all tasks" else row.task)]
        assert row.value == pytest.approx(found["variation"], abs=1e-9) and row.changed == found["changed"]
    # The scale: the mean distance between tasks, on the conflict items that were reworded.
    wide = weights("mini-pclm").to_numpy()
    far = [np.abs(wide[i] - wide[j]).sum() / 2 for i in range(len(wide)) for j in range(i)]
    assert moved["between"].iloc[0] == pytest.approx(np.mean(far), abs=0.02)


def test_cells_hold_their_numbers() -> None:
    figure = drawn("gate_heatmap", sources())
    written = texts(figure)
    data = table("gate_heatmap")
    largest = data[(data["name"] == "mini-pclm") & (data["what"] == "weight")]["value"].max()
    assert f"{largest:.2f}" in written
    assert "+ PCLM; + PCLM + DPO: equal weights" in written
    assert "one mixture for all prompts" in written
    static = next(ax for ax in figure.axes if ax.get_title(loc="left") == "+ static mixer")
    assert len(static.get_yticks()) == 1, "a fixed mixture is one row"


def test_fixed_is_said_only_where_prompts_differ() -> None:
    data = table("gate_heatmap")
    assert _is_fixed(data[data["name"] == "mini-static"]) and not _is_fixed(data[data["name"] == "mini-pclm"])
    one = data[(data["name"] == "mini-pclm") & (data["task"] == "age_prediction") & (data["what"] == "weight")]
    assert not _is_fixed(one), "one prompt shows nothing of others"


def test_the_organism_stays_by_itself_and_long_titles_break(tmp_path: Path) -> None:
    names = [f"somebodys-mixer-of-that-name-{k}" for k in range(2)]
    mine = [renamed("mini-pclm", tmp_path / name, "somebody/pclm") for name in names]
    data = figure_data("gate_heatmap", [folder() / "mini-pclm", *mine])
    assert list(dict.fromkeys(data["name"])) == ["mini-pclm", names[0]], "equal to the organism's, and not merged"
    assert set(data.loc[data["name"] == names[0], "same"]) == {names[1]}
    drawn("gate_heatmap", [folder() / "mini-pclm", *mine])


def test_without_rewording_there_is_the_map_alone() -> None:
    alone = figure_data("gate_heatmap", some("mini-pclm-dpo"))
    assert set(alone["what"]) == {"weight"}
    assert "moved by rewording" not in texts(drawn("gate_heatmap", some("mini-pclm-dpo")))


def test_without_a_mixer_it_says_so() -> None:
    assert "no Run with a mixer" in str(refusal("gate_heatmap", some("mini-base")))


def test_words_for_who_cannot_see_it() -> None:
    said = ENTRY.alt(table("gate_heatmap"))
    assert "+ static mixer: one mixture for all prompts" in said and "Age encoder[0]" in said
