"""PCLM against the static mixer: paired differences, their tests, and the adjustment over tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from behaviour import assert_well_formed, conflict, drawn, refusal, some, sources, table, texts

from vpanalysis.figures.static_mixer import ENTRY

ALL = "all tasks"
TASKS = 10


def margins(name: str) -> pd.Series:
    """Return log p(truth) - log sum p(foils), from the raw columns."""
    found = {}
    for row in conflict(name).itertuples():
        p = dict(zip(row.choices, np.asarray(row.option_logprobs, dtype=float), strict=True))
        found[row.id] = p[row.truth] - np.log(sum(np.exp(p[foil]) for foil in row.foils))
    return pd.Series(found)


def test_values_and_differences_are_those_of_the_items() -> None:
    data = table("static_mixer")
    assert_well_formed(data)
    assert set(data["name"]) == {"mini-static", "mini-pclm", "mini-pclm-dpo"}
    static = conflict("mini-static").set_index("id")["right"].astype(float)
    for name in ("mini-pclm", "mini-pclm-dpo"):
        rows = data[(data["name"] == name) & (data["what"] == "difference")].set_index(["task", "metric"])
        assert (rows["against"] == "mini-static").all()
        items = conflict(name).set_index("id")
        gap = items["right"].astype(float) - static
        assert rows.loc[(ALL, "acc_gt"), "value"] == pytest.approx(gap.mean())
        by_task = gap.groupby(items["task_name"]).mean()
        far = margins(name) - margins("mini-static")
        assert rows.loc[(ALL, "margin"), "value"] == pytest.approx(far.mean())
        for task, value in by_task.items():
            assert rows.loc[(task, "acc_gt"), "value"] == pytest.approx(value)
            assert rows.loc[(task, "margin"), "value"] == pytest.approx(far[items["task_name"] == task].mean())
    own = data[(data["name"] == "mini-static") & (data["what"] == "value") & (data["task"] == ALL)]
    assert own.set_index("metric")["value"]["acc_gt"] == pytest.approx(static.mean())


def test_p_values_are_adjusted_over_tasks_alone() -> None:
    data = table("static_mixer")
    rows = data[(data["what"] == "difference") & (data["name"] == "mini-pclm-dpo") & (data["metric"] == "margin")]
    tasks = rows[rows["task"] != ALL].sort_values("p")
    assert len(tasks) == TASKS
    # Benjamini and Hochberg, from the largest p down.
    expected, least = [], 1.0
    for rank in range(TASKS, 0, -1):
        least = min(least, tasks["p"].iloc[rank - 1] * TASKS / rank)
        expected.append(least)
    np.testing.assert_allclose(tasks["p_adjusted"], expected[::-1])
    assert rows.loc[rows["task"] == ALL, "p_adjusted"].isna().all()
    assert (data.loc[data["what"] == "value", "p"]).isna().all()


def test_the_picture_names_both_comparisons_and_writes_p() -> None:
    figure = drawn("static_mixer", sources())
    data = table("static_mixer")
    rows = data[(data["what"] == "difference") & (data["metric"] == "margin") & (data["task"] == ALL)]
    written = texts(figure)
    for p in rows["p"]:
        assert ("<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")) in written
    ax = figure.axes[2]
    lines = [one for one in ax.lines if one.get_marker() in ("s", "^") and len(one.get_xdata()) > 1]
    wanted = data[(data["what"] == "difference") & (data["metric"] == "margin")]
    shown = np.concatenate([np.asarray(one.get_xdata(), dtype=float) for one in lines])
    np.testing.assert_allclose(np.sort(shown), np.sort(wanted["value"].to_numpy()))


def test_without_the_control_there_is_no_comparison() -> None:
    error = refusal("static_mixer", some("mini-pclm", "mini-base"))
    assert "static mixers none" in str(error) and "mini-pclm" in str(error)


def test_words_for_who_cannot_see_it() -> None:
    data = table("static_mixer")
    row = data[(data["what"] == "difference") & (data["name"] == "mini-pclm-dpo") & (data["task"] == ALL)]
    value = row[row["metric"] == "margin"]["value"].iloc[0]
    assert f"margin (nats): {value:+.2f}" in ENTRY.alt(data)
