"""Runs side by side: scores and tests are those of the verbs, flips are counted by hand, filters keep what they say."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis._outcomes import outcome_table
from vpanalysis.errors import RunError
from vpanalysis.explore.compare_view import CompareExplorer, flips

SCRIPT = "<script>alert(1)</script>"


def made_up(seed: int, hears: float, *, tasks: tuple[str, ...] = ("age_prediction", "gender_prediction"),
            option: str = "Male", generated: bool = False) -> pd.DataFrame:  # fmt: skip
    """Return predictions that follow the voice so often, and the words else."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        names = ["Female", option] if task == "gender_prediction" else ["Child", "Young adult", "Elderly adult"]
        for cell in range(20):
            truth, wrong = names[cell % len(names)], names[(cell + 1) % len(names)]
            for condition, said in (("conflict", wrong), ("congruent", truth)):
                pick = truth if rng.random() < hears else said
                rows.append(
                    {
                        "id": f"{task}-{cell}-{condition}", "task_name": task, "condition": condition,
                        "cell": f"{task}-{cell}", "speaker": f"s{cell % 10}", "script": f"w{cell % 7}",
                        "choices": names, "truth": truth, "said": [said], "status": "ok",
                        "pred_logits": names[-1] if rng.random() < 0.05 else pick, "calibration": False,
                    }
                )  # fmt: skip
                if generated:
                    rows[-1]["pred_generated"] = wrong
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def runs() -> dict[str, pd.DataFrame]:
    return {"base": made_up(0, 0.1), "sft": made_up(1, 0.5), "dpo": made_up(2, 0.95)}


@pytest.fixture
def shown(runs: dict[str, pd.DataFrame]) -> Iterator[CompareExplorer]:
    made = explore.compare(runs)
    yield made
    made.close()


def by_hand(runs: dict[str, pd.DataFrame], a: str, b: str) -> pd.DataFrame:
    one, two = (outcome_table(runs[name], "pred_logits", name).set_index("id") for name in (a, b))
    both = one.join(two["outcome"].rename("outcome_b"))
    return both[both["outcome"] != both["outcome_b"]]


def test_scores_are_those_of_the_verb_with_their_intervals(
    shown: CompareExplorer, runs: dict[str, pd.DataFrame]
) -> None:
    found = vp.score(runs)
    for task in ("overall", "age_prediction"):
        shown.shown.value = task
        for name in runs:
            row = found[name].table.query("task == @task and metric == 'acc_gt'").iloc[0]
            told = f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            assert told in shown.scores.value and told in shown.static()


def test_differences_and_tests_are_those_of_the_verb(shown: CompareExplorer, runs: dict[str, pd.DataFrame]) -> None:
    shown.b.value = "dpo"
    picture = shown.points.svg
    for metric in ("acc_gt", "ala", "hearing"):
        shown.metric.value = metric
        table = vp.compare(runs["base"], runs["dpo"]).table.query("metric == @metric")
        for row in table.to_dict("records"):
            told = f"{row['difference']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            assert told in shown.test.value and told in shown.static()
            assert f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" in shown.points.svg
    assert shown.points.svg != picture and "hearing: base less dpo" in shown.points.svg


def test_flips_are_the_items_whose_outcome_changed(shown: CompareExplorer, runs: dict[str, pd.DataFrame]) -> None:
    for a, b in (("base", "dpo"), ("dpo", "base"), ("base", "sft")):
        shown.a.value, shown.b.value = a, b
        expected = by_hand(runs, a, b)
        assert shown.state["flips"] == len(expected) == len(shown._listed)
        assert list(shown._listed["id"]) == list(expected.index)
        gained = ((expected["outcome"] == "read") & (expected["outcome_b"] == "listened")).sum()
        options = [label for label, _ in shown.flip.options]
        assert (f"read → listened ({gained})" in options) == (gained > 0)
        assert f"{len(expected)} flips" in shown.counts.value
        for item in expected.index[: shown.ROWS]:
            assert item in shown.items.value and item in shown.static()


def test_flips_are_filtered_by_task_and_kind_and_turned_page_by_page(
    shown: CompareExplorer, runs: dict[str, pd.DataFrame]
) -> None:
    shown.b.value = "dpo"
    expected = by_hand(runs, "base", "dpo")
    shown.task.value = "gender_prediction"
    here = expected[expected["task_name"] == "gender_prediction"]
    assert shown.state["flips"] == len(here)
    shown.flip.value = "read → listened"
    chosen = here[(here["outcome"] == "read") & (here["outcome_b"] == "listened")]
    assert shown.state["flips"] == len(chosen) > 0
    assert all(item in shown.items.value for item in chosen.index[: shown.ROWS])
    assert "age_prediction-" not in shown.items.value
    shown.task.value = ""
    # The kind is kept where it occurs.
    assert shown.flip.value == "read → listened"
    shown.flip.value = ""
    assert shown.page.max == -(-len(expected) // shown.ROWS) > 1
    shown.page.value = 2
    second = expected.index[shown.ROWS : 2 * shown.ROWS]
    assert all(item in shown.items.value for item in second)
    assert expected.index[0] not in shown.items.value
    shown.flip.value = "read → listened"
    assert shown.page.value == 1


def test_pointing_at_a_task_filters_the_flips(shown: CompareExplorer) -> None:
    assert shown.points.names == ["all tasks", "Age", "Gender"]
    before = shown.items.value
    shown.points.selected = 2
    assert shown.task.value == "gender_prediction" == shown.state["task"]
    assert shown.items.value != before
    shown.task.value = "age_prediction"
    assert shown.points.selected == 1
    shown.points.selected = 0
    assert shown.state["task"] is None and shown.items.value == before


def test_a_run_beside_itself_has_no_flip(shown: CompareExplorer) -> None:
    shown.b.value = "base"
    assert shown.state["flips"] == 0
    assert "No item changes" in shown.items.value and "0 flips" in shown.counts.value


def test_only_predictions_that_all_runs_hold_can_be_chosen() -> None:
    one, two = made_up(0, 0.1, generated=True), made_up(1, 0.9, generated=True)
    made = explore.compare({"a": one, "b": two})
    assert list(made.prediction.options) == ["pred_logits", "pred_generated"]
    before = made.scores.value
    assert made.state["flips"] > 0
    made.prediction.value = "pred_generated"
    assert made.scores.value != before and made.state["flips"] == 0
    made.close()
    mixed = explore.compare({"a": one, "b": made_up(1, 0.9)})
    assert list(mixed.prediction.options) == ["pred_logits"]
    mixed.close()
    with pytest.raises(RunError, match="no kind of prediction"):
        explore.compare({"a": one.drop(columns="pred_logits"), "b": made_up(1, 0.9)})


def test_items_that_only_one_has_are_left_out_and_counted(runs: dict[str, pd.DataFrame]) -> None:
    made = explore.compare({"base": runs["base"], "few": runs["dpo"].iloc[6:]})
    assert "6 items" in made.note.value
    assert not set(runs["base"]["id"][:6]) & set(made._listed["id"])
    made.close()
    other = runs["dpo"].assign(id=[f"x{k}" for k in range(len(runs["dpo"]))])
    made = explore.compare({"base": runs["base"], "other": other})
    assert "no item in both" in made.note.value and made.points.svg == ""
    assert "base" in made.static()
    made.close()


def test_flips_of_scores_say_what_was_picked(runs: dict[str, pd.DataFrame]) -> None:
    found = vp.score(runs)
    table = flips(found["base"], found["dpo"])
    for row in table.to_dict("records"):
        one = runs["base"].set_index("id").loc[row["id"]]
        assert row["a"] == one["pred_logits"] and row["truth"] == one["truth"]
        assert row["a"] != row["b"]


def test_real_runs_are_taken_by_folder(tmp_path: Path) -> None:
    bench = vp.load_benchmark("mini", tasks=["intonation_perception"])
    few = bench.filter(lambda item: int(str(item.cell)[-4:]) < 4)
    how: dict[str, Any] = {"sites": "tower", "reducers": "none", "progress": False, "cache": tmp_path / "clips"}
    for name in ("mini-base", "mini-pclm-dpo"):
        vp.run(name, few, tmp_path / name, **how)
    made = explore.compare([str(tmp_path / "mini-base"), vp.open_run(tmp_path / "mini-pclm-dpo")])
    assert list(made.a.options) == ["mini-base", "mini-pclm-dpo"]
    assert "read → listened" in made.items.value
    made.close()


def test_names_and_options_are_shown_as_text() -> None:
    one, two = (made_up(seed, hears, option=SCRIPT) for seed, hears in ((0, 0.1), (1, 0.9)))
    one["id"] = two["id"] = [f"<i>{k}</i>" for k in range(len(one))]
    made = explore.compare({SCRIPT: one, "<b>two</b>": two})
    for html in (made._repr_html_(), made.points.svg, made.items.value, made.counts.value, made.scores.value,
                 made.test.value):  # fmt: skip
        assert SCRIPT not in html and "<b>two" not in html and "<i>" not in html
    assert "&lt;script&gt;" in made.items.value
    made.close()


def test_too_few_and_equal_names_are_refused(runs: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(RunError, match="two or more"):
        explore.compare({"base": runs["base"]})
    with pytest.raises(RunError, match="two or more"):
        explore.compare(runs["base"])  # type: ignore[arg-type]
    with pytest.raises(RunError, match="more than once"):
        explore.compare([runs["base"], runs["dpo"]])


def test_every_control_has_a_label(shown: CompareExplorer) -> None:
    kinds = (ipywidgets.Dropdown, ipywidgets.BoundedIntText)
    controls = [value for value in vars(shown).values() if isinstance(value, kinds)]
    assert len(controls) == 8
    assert all(control.description and control.tooltip for control in controls)


def test_explorers_that_are_made_again_and_again_leave_nothing_behind(runs: dict[str, pd.DataFrame]) -> None:
    few = {name: runs[name].iloc[:24] for name in ("base", "dpo")}
    explore.compare(few).close()
    gc.collect()
    before = len(ipywidgets.widgets.widget._instances)
    for _ in range(20):
        explore.compare(few).close()
    assert len(ipywidgets.widgets.widget._instances) == before
    made = explore.compare(few)
    gone: list[Any] = [weakref.ref(made), weakref.ref(made.points), weakref.ref(made.note)]
    made.close()
    del made
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
