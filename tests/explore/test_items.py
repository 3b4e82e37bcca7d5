"""The items of Runs: filters keep what they say, twins are found, the right clip plays, markup stays text."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis._outcomes import outcome_table
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import RunError
from vpanalysis.explore.items_view import ItemsExplorer

TASKS = ["intonation_perception", "emotion_recognition"]
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Made:
    """A Run without a folder."""

    def __init__(self, name: str, predictions: pd.DataFrame, benchmark: dict[str, Any] | None = None) -> None:
        self.name, self.predictions = name, predictions
        self.manifest = {"benchmark": benchmark or {"name": "made", "source": "made"}}


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=TASKS)
    return whole.filter(lambda item: int(str(item.cell)[-4:]) < 4)


@pytest.fixture(scope="module")
def runs(bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> list[vp.Run]:
    folder = tmp_path_factory.mktemp("runs")
    how: dict[str, Any] = {"sites": ["tower"], "reducers": "none", "progress": False, "cache": folder / "clips"}
    return [vp.run(name, bench, folder / name, **how) for name in ("mini-base", "mini-pclm-dpo")]


@pytest.fixture
def shown(runs: list[vp.Run]) -> Iterator[ItemsExplorer]:
    made = explore.items(*runs)
    yield made
    made.close()


def ids(shown: ItemsExplorer) -> set[str]:
    return {value for label, value in shown.item.options if "outside" not in label}


def test_the_first_item_is_shown_with_its_clip_and_everyones_probabilities(
    shown: ItemsExplorer, runs: list[vp.Run], bench: Benchmark
) -> None:
    first = bench[0]
    assert shown.state["item"] == first.id and shown.state["found"] == len(bench)
    assert shown.player.clip["seconds"] == pytest.approx(first.duration_s)
    table = shown.table.value
    for run in runs:
        row = run.predictions.iloc[0]
        assert f"{100 * np.exp(row['option_logprobs'][0]):.1f} %" in table and run.name in table
    assert table.count("truth (voice)") == 1 and table.count("claim (words)") == len(first.claims)
    assert first.question in shown.head.value and table in shown._repr_html_()


@pytest.mark.parametrize("outcome", ["listened", "read", "other"])
def test_the_filter_of_outcomes_agrees_with_the_score(shown: ItemsExplorer, runs: list[vp.Run], outcome: str) -> None:
    judged = {run.name: outcome_table(run.predictions, "pred_logits", run.name) for run in runs}
    name = runs[0].name
    shown.checkpoint.value, shown.outcome.value = name, outcome
    wanted = set(judged[name].loc[judged[name]["outcome"] == outcome, "id"])
    assert ids(shown) == wanted and shown.state["found"] == len(wanted)


def test_filters_of_task_condition_and_search_are_combined(shown: ItemsExplorer, bench: Benchmark) -> None:
    shown.task.value, shown.condition.value = TASKS[0], "congruent"
    wanted = {i.id for i in bench if i.task_name == TASKS[0] and i.condition == "congruent"}
    assert ids(shown) == wanted and shown.state["item"] in wanted
    shown.search.value = "TEST-0002"
    assert ids(shown) == {i for i in wanted if "test-0002" in i}
    shown.search.value = "no such thing"
    assert not ids(shown) and "no item passes" in shown.count.value and "outside the filters" in shown.item.label


def test_checkpoints_that_disagree_are_those_with_other_answers(shown: ItemsExplorer, runs: list[vp.Run]) -> None:
    a, b = (run.predictions["pred_logits"] for run in runs)
    shown.agreement.value = "disagree"
    assert ids(shown) == set(runs[0].predictions.loc[a != b, "id"])
    assert ids(shown)  # a reader and a listener
    shown.agreement.value = "agree"
    assert ids(shown) == set(runs[0].predictions.loc[a == b, "id"])


def test_next_and_previous_change_picture_sound_and_static_twin(shown: ItemsExplorer, bench: Benchmark) -> None:
    before = (shown.head.value, shown.player.clip["wav"], shown._repr_html_())
    shown.next.click()
    assert shown.state["item"] == bench[1].id
    after = (shown.head.value, shown.player.clip["wav"], shown._repr_html_())
    assert all(a != b for a, b in zip(before, after, strict=True))
    shown.previous.click()
    shown.previous.click()
    assert shown.state["item"] == bench[len(bench) - 1].id


def test_buttons_lead_to_the_twins_of_the_cell_even_outside_the_filters(shown: ItemsExplorer) -> None:
    shown.condition.value = "conflict"
    here = shown.asked[shown.state["item"]]
    assert shown.twins["conflict"].disabled and not shown.twins["neutral"].disabled
    shown.twins["neutral"].click()
    twin = shown.asked[shown.state["item"]]
    assert (twin.cell, twin.condition, twin.task) == (here.cell, "neutral", here.task)
    assert "outside the filters" in shown.item.label and shown.twins["neutral"].disabled
    shown.twins["conflict"].click()
    assert shown.state["item"] == here.id and "outside" not in shown.item.label


def test_all_controls_have_a_visible_label(shown: ItemsExplorer) -> None:
    controls = (shown.task, shown.condition, shown.outcome, shown.checkpoint, shown.agreement, shown.search, shown.item)
    assert all(control.description and control.tooltip for control in controls)
    assert all(button.description for button in (shown.previous, shown.next, *shown.twins.values()))


def _made(question: str, **changes: Any) -> tuple[Item, pd.DataFrame]:
    item = Item(
        id=f"a{question[:8]}", task_name="task", question=question, choices=(question, "other"), letters=("A", "B"),
        truth=question, said=("other",), condition="conflict", foils=("other",), transcript=question,
        audio=ArrayAudio(np.zeros(800, dtype=np.float32)),
    )  # fmt: skip
    columns = (
        "id",
        "task_name",
        "condition",
        "question",
        "choices",
        "letters",
        "truth",
        "said",
        "claims",
        "transcript",
    )
    row: dict[str, Any] = {"cell": None, **{column: getattr(item, column) for column in columns}}
    row |= {"pred_logits": question, "option_logprobs": np.log([0.75, 0.25]), "status": "ok", "reason": None} | changes
    return item, pd.DataFrame([row])


def test_markup_from_a_dataset_is_text() -> None:
    item, table = _made(MARKUP, reason=MARKUP)
    made = explore.items(Made(MARKUP, table), benchmark=Benchmark([item], name=MARKUP, source="x"))
    for html in (made.head.value, made.table.value, made.count.value, made._repr_html_()):
        assert "<script>" not in html and "<img" not in html
    assert "&lt;script&gt;" in made.head.value and "&lt;script&gt;" in made.table.value and made.player.clip
    made.close()


def test_failed_and_unparsed_items_say_so() -> None:
    _, table = _made("what?", status="failed", reason="the clip is empty", pred_logits=None, option_logprobs=None)
    made = explore.items(Made("run", table), benchmark=Benchmark([], name="none", source="x"))
    assert "failed" in made.table.value and "the clip is empty" in made.table.value and " %" not in made.table.value
    assert made.player.clip == {} and made.player.note.startswith("No clip") and "has no item" in made._repr_html_()
    made.close()
    _, table = _made("what?", pred_logits=None)
    assert "unparsed" in explore.items(Made("run", pd.concat([table, _made("else")[1]]))).table.value


def test_a_clip_of_another_question_or_of_another_benchmark_is_not_played(runs: list[vp.Run], bench: Benchmark) -> None:
    other = Benchmark([replace(i, question="Another?") for i in bench], name="other", source="x")
    made = explore.items(runs[0], benchmark=other)
    assert made.player.clip == {} and "asked otherwise" in made.player.note
    made.close()
    _, table = _made("what?")
    made = explore.items(Made("run", table, {"name": "mini:reversed", "source": "mini", "revision": "test-1"}))
    assert made.player.clip == {} and "mini:reversed" in made.player.note
    made.close()
    made = explore.items(Made("run", table, {"name": "gone", "source": "/no/such/place.json"}))
    assert "cannot be loaded" in made.player.note
    made.close()


def test_bad_input_gets_one_clear_error(runs: list[vp.Run]) -> None:
    with pytest.raises(RunError, match="no run"):
        explore.items()
    with pytest.raises(RunError, match="a int"):
        explore.items(3)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="more than once"):
        explore.items(runs[0], runs[0])
    with pytest.raises(RunError, match="unknown"):
        explore.items(runs[0], item="unknown")
    with pytest.raises(RunError, match="pred_generated"):
        explore.items(runs[0], prediction="pred_generated")
    _, one = _made("what?")
    _, two = _made("what?", truth="other", said=(), claims=())
    with pytest.raises(RunError, match="other questions"):
        explore.items(Made("a", one), Made("b", two))


def test_runs_may_be_folders_and_an_item_may_be_asked_for(runs: list[vp.Run], bench: Benchmark) -> None:
    made = explore.items(str(runs[0].path), Path(runs[1].path), item=bench[5].id)
    assert made.state["item"] == bench[5].id and made.item.value == bench[5].id
    with pytest.raises(RunError, match="nowhere"):
        made.open("nowhere")
    made.close()


def test_hundred_explorers_leave_no_widget_behind(runs: list[vp.Run], bench: Benchmark) -> None:
    before = len(widgets.widgets.widget._instances)
    made = []
    for _ in range(100):
        one = explore.items(runs[0], benchmark=bench)
        one.close()
        made.append(weakref.ref(one))
    assert len(widgets.widgets.widget._instances) == before
    del one
    gc.collect()
    assert not [ref for ref in made if ref() is not None]
