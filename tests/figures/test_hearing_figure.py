"""The hearing index and the two accuracies behind it, against the formula on the raw predictions."""

from __future__ import annotations

import numpy as np
import pytest
from behaviour import LIMIT, assert_well_formed, drawn, refusal, sources, table, texts

import vpanalysis as vp
from vpanalysis.figures import figure_data
from vpanalysis.figures.hearing import ACROSS, ENTRY

ALL = "all tasks"


def accuracies(name: str, task: str) -> tuple[float, float]:
    items = sources().all[name].predictions
    items = items[items["task_name"] == task]
    right = items["pred_logits"] == items["truth"]
    return tuple(float(right[items["condition"] == c].mean()) for c in ("conflict", "congruent"))  # type: ignore[return-value]


def test_index_follows_from_the_two_accuracies() -> None:
    data = table("hearing")
    assert_well_formed(data)
    # Two options: m = r = 1. Four options, one claim, all of them true somewhere in so small a sample or not: the best
    # blind rule picks evenly among unclaimed options that are ever true.
    for name in ("mini-base", "mini-pclm-dpo"):
        rows = data[(data["name"] == name) & (data["task"] == "gender_prediction")].set_index("metric")["value"]
        conflict, congruent = accuracies(name, "gender_prediction")
        assert (rows["conflict"], rows["congruent"]) == pytest.approx((conflict, congruent))
        assert rows["hearing index"] == pytest.approx(conflict + congruent - 1)
        items = sources().all[name].predictions
        items = items[items["task_name"] == "age_prediction"]
        ever = set(items["truth"])
        chances = {
            c: np.mean([
                1 / len([o for o in row.choices if o in ever and (o in list(row.said)) == (c == "congruent")])
                for row in items[items["condition"] == c].itertuples()
            ])
            for c in ("conflict", "congruent")
        }  # fmt: skip
        conflict, congruent = accuracies(name, "age_prediction")
        m, r = chances["conflict"], chances["congruent"]
        rows = data[(data["name"] == name) & (data["task"] == "age_prediction")].set_index("metric")["value"]
        assert rows["hearing index"] == pytest.approx((conflict / m + congruent / r - 1) / (1 / m + 1 / r - 1))


def test_over_all_tasks_the_index_is_the_mean_over_tasks() -> None:
    data = table("hearing")
    rows = data[(data["name"] == "mini-pclm") & (data["metric"] == "hearing index")].set_index("task")["value"]
    assert rows[ALL] == pytest.approx(rows.drop(ALL).mean())


def test_a_reader_has_no_index_and_a_wide_pair() -> None:
    data = table("hearing").set_index(["name", "task", "metric"])["value"]
    assert data["mini-base", ALL, "hearing index"] < 0.2 < data["mini-pclm-dpo", ALL, "hearing index"]
    assert data["mini-base", ALL, "congruent"] - data["mini-base", ALL, "conflict"] > 0.5


def test_marks_are_where_the_table_says() -> None:
    figure = drawn("hearing", sources())
    data = table("hearing")
    names = list(dict.fromkeys(data["name"]))
    visible = [ax for ax in figure.axes if ax.get_visible()]
    assert len(visible) == 2 * len(names)
    for number, name in enumerate(names):
        line = next(
            one for one in visible[number].lines if one.get_marker() == "^" and len(np.atleast_1d(one.get_xdata())) > 1
        )
        rows = data[(data["name"] == name) & (data["metric"] == "hearing index")]
        np.testing.assert_allclose(
            np.sort(np.asarray(line.get_xdata(), dtype=float)), np.sort(rows["value"].to_numpy())
        )
        for marker, what in (("o", "conflict"), ("s", "congruent")):
            pair = next(one for one in visible[len(names) + number].lines if one.get_marker() == marker)
            rows = data[(data["name"] == name) & (data["metric"] == what)]
            shown = np.asarray(pair.get_xdata(), dtype=float)
            np.testing.assert_allclose(np.sort(shown), np.sort(rows["value"].to_numpy()))
    assert "organism (planted)" in texts(figure)


def test_more_checkpoints_than_fit_go_into_another_band() -> None:
    from matplotlib.figure import Figure

    data = table("hearing")
    one = data[data["name"] == "mini-base"]
    many = [one.assign(name=f"run {k}", label=f"run {k}") for k in range(ACROSS + 2)]
    import pandas as pd

    figure = Figure(layout="constrained")
    whole = pd.concat(many, ignore_index=True)
    ENTRY.draw(whole, figure)
    assert sum(ax.get_visible() for ax in figure.axes) == 2 * (ACROSS + 2)
    assert {f"run {k}" for k in range(ACROSS + 2)} <= set(texts(figure))
    assert ENTRY.size(whole)[1] > ENTRY.size(data)[1]


def test_without_congruent_twins_there_is_none(tmp_path: object) -> None:
    bench = vp.load_benchmark("mini", limit=LIMIT).select(conditions="conflict", limit=10)
    run = vp.run("mini-base", bench, f"{tmp_path}/conflict", progress=False)
    assert "no congruent twins in conflict" in str(refusal("hearing", run))
    with pytest.raises(vp.errors.RunError):
        figure_data("hearing", run)


def test_words_for_who_cannot_see_it() -> None:
    data = table("hearing")
    value = data[(data["name"] == "mini-pclm") & (data["task"] == ALL) & (data["metric"] == "hearing index")]["value"]
    assert f"+ PCLM {value.iloc[0]:.2f}" in ENTRY.alt(data)
