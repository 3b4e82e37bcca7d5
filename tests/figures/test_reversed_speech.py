"""Normal against reversed: paired by id, on items that exist both ways, with the truth and claim of each side."""

from __future__ import annotations

import numpy as np
import pytest
from behaviour import assert_well_formed, drawn, refusal, some, sources, table, texts

from vpanalysis import stats
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.benchmark.transforms import mapped_item
from vpanalysis.figures.reversed_speech import ENTRY

ALL = "all tasks"


def pairs(name: str) -> list[tuple[str, bool, bool, bool, bool, str]]:
    """Return (task, right, read, right reversed, read reversed, speaker) of conflict items, item by item."""
    plain = sources().all[name].predictions.set_index("id")
    turned = sources().all[f"{name}-reversed"].predictions.set_index("id")
    out = []
    for key in turned.index:
        one, two = plain.loc[key], turned.loc[key]
        if one["condition"] == "conflict":
            out.append((
                one["task_name"], one["pred_logits"] == one["truth"], one["pred_logits"] in list(one["foils"]),
                two["pred_logits"] == two["truth"], two["pred_logits"] in list(two["foils"]), one["speaker"],
            ))  # fmt: skip
    return out


@pytest.mark.parametrize("name", ["mini-base", "mini-pclm"])
def test_shares_and_changes_are_those_of_the_items(name: str) -> None:
    data = table("reversed_speech")
    assert_well_formed(data)
    rows = data[(data["name"] == name) & (data["task"] == ALL)].set_index(["metric", "audio"])
    found = np.array([[float(v) for v in one[1:5]] for one in pairs(name)])
    for column, (metric, audio) in enumerate([("acc_gt", "normal"), ("ala", "normal"), ("acc_gt", "reversed"),
                                              ("ala", "reversed")]):  # fmt: skip
        assert rows.loc[(metric, audio), "value"] == pytest.approx(found[:, column].mean())
        assert rows.loc[(metric, audio), "n"] == len(found)
    for metric, before, after in (("acc_gt", 0, 2), ("ala", 1, 3)):
        change = rows.loc[(metric, "reversed - normal")]
        assert change["value"] == pytest.approx((found[:, after] - found[:, before]).mean())
        # The larger p of speaker and wording: never below that of speakers alone.
        alone = stats.sign_flip_test(found[:, after] - found[:, before], {"s": [one[5] for one in pairs(name)]}).p
        assert change["p"] >= alone - 1e-12


def test_only_tasks_whose_truth_survives() -> None:
    items = [item for item in load_benchmark("mini", limit=60) if item.condition == "conflict"]
    survive = [item for item in items if mapped_item(item, "reversed") is not None]
    assert 0 < len(survive) < len(items)
    data = table("reversed_speech")
    assert set(data["task"]) - {ALL} == {item.task_name for item in survive}
    assert set(data.loc[data["task"] == ALL, "n"]) == {float(len(survive))}


def test_p_values_are_adjusted_within_their_family() -> None:
    data = table("reversed_speech")
    change = data[data["audio"] == "reversed - normal"]
    over = change[(change["task"] == ALL) & (change["metric"] == "ala")]
    small, large = sorted(over["p"])
    expected = sorted([min(2 * small, large), large])
    np.testing.assert_allclose(sorted(over["p_adjusted"]), expected)
    assert (change["p_adjusted"] >= change["p"] - 1e-12).all()
    assert data.loc[data["audio"] != "reversed - normal", "p"].isna().all()


def test_the_arrow_goes_from_normal_to_reversed() -> None:
    figure = drawn("reversed_speech", sources())
    data = table("reversed_speech")
    rows = data[(data["task"] == ALL) & (data["name"] == "mini-base")].set_index(["audio", "metric"])["value"]
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 2
    assert arrows[0].xyann == pytest.approx((rows["normal", "ala"], rows["normal", "acc_gt"]))
    assert arrows[0].xy == pytest.approx((rows["reversed", "ala"], rows["reversed", "acc_gt"]))
    assert "10 conflict items, 5 tasks" in texts(figure)


def test_only_runs_with_a_reversed_one_are_shown() -> None:
    assert set(table("reversed_speech")["name"]) == {"mini-base", "mini-pclm"}
    assert "mini-base" in str(some("mini-base").names)
    error = refusal("reversed_speech", some("mini-base", "mini-pclm-reversed"))
    assert "no Run of the same weights" in str(error) and 'condition(bench, "reversed")' in error.record


def test_words_for_who_cannot_see_it() -> None:
    data = table("reversed_speech")
    change = data[(data["task"] == ALL) & (data["name"] == "mini-base") & (data["metric"] == "ala")]
    assert f"ALA {change['value'].iloc[2]:+.2f}" in ENTRY.alt(data)
