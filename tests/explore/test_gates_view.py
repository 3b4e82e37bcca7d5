"""A gate asked by hand: sliders keep their sum, words move the mixture, and no hook stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import clamped, mixtures_of
from vpanalysis.benchmark.audio import FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError
from vpanalysis.explore._mixing import hundredths, rescaled
from vpanalysis.explore.gates_view import GateExplorer

TASKS = ["intonation_perception", "age_prediction"]
SCRIPT = "<script>alert(1)</script> & <b>bold</b>?"


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=TASKS)
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 4)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture
def live(model: vp.AudioLLM, bench: Benchmark) -> Iterator[GateExplorer]:
    made = explore.gates(model, bench)
    yield made
    made.close()


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


def instances() -> int:
    return len(ipywidgets.widgets.widget._instances)


@pytest.mark.parametrize("moved", range(5))
def test_a_weight_that_is_moved_keeps_the_sum_and_the_shares_of_the_others(moved: int) -> None:
    rng = np.random.default_rng(moved)
    before = rng.dirichlet(np.ones(5))
    for value in (0.0, 0.3, 1.0, before[moved]):
        after = rescaled(before, moved, value)
        assert after[moved] == pytest.approx(value)
        assert after.sum() == pytest.approx(1.0, abs=1e-12)
        others = np.delete(before, moved)
        np.testing.assert_allclose(np.delete(after, moved), (1 - value) * others / others.sum(), atol=1e-12)


@given(npst.arrays(np.float64, st.integers(1, 9), elements=st.floats(0.001, 1)))
def test_hundredths_of_a_mixture_sum_to_one_and_are_near_it(weights: Any) -> None:
    weights = weights / weights.sum()
    found = hundredths(weights)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)
    assert (np.abs(found - weights) < 0.01 + 1e-9).all()
    np.testing.assert_allclose(hundredths(found), found, atol=1e-12)


def test_a_corner_can_be_left_again() -> None:
    np.testing.assert_allclose(rescaled(np.array([1.0, 0.0, 0.0]), 0, 0.4), [0.4, 0.3, 0.3])
    np.testing.assert_allclose(rescaled(np.array([1.0]), 0, 0.2), [1.0])


def test_sliders_sum_to_one_and_show_the_gates_own_weights_until_one_is_moved(
    live: GateExplorer, model: vp.AudioLLM
) -> None:
    own = mixtures_of(model, [live.chosen], DEFAULT_PROMPT)[0]

    def shown() -> Any:
        values = np.array([s.value for s in live.sliders])
        assert values.sum() == pytest.approx(1.0, abs=1e-9)
        # A slider rounds what is between its steps, and would tell the kernel that it was moved.
        np.testing.assert_allclose(100 * values, np.round(100 * values), atol=1e-9)
        return values

    np.testing.assert_allclose(shown(), own, atol=0.01)
    assert live.own.value and live.state["clamped"] is None
    live.sliders[2].value = 0.6
    assert not live.own.value
    assert shown()[2] == pytest.approx(0.6)
    exact, others = np.array(live.state["clamped"]), np.delete(own, 2)
    assert exact[2] == pytest.approx(0.6) and exact.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(np.delete(exact, 2), 0.4 * others / others.sum(), atol=1e-6)
    np.testing.assert_allclose(shown(), exact, atol=0.01)
    live.sliders[0].value = 1.0
    np.testing.assert_allclose([s.value for s in live.sliders], [1, 0, 0, 0, 0], atol=1e-12)
    live.own.value = True
    np.testing.assert_allclose(shown(), own, atol=0.01)
    assert live.state["clamped"] is None


def test_probabilities_are_those_of_the_model_under_own_and_under_set_weights(
    live: GateExplorer, model: vp.AudioLLM
) -> None:
    item = live.chosen
    asker = Asker(model, [item], DEFAULT_PROMPT)
    np.testing.assert_allclose(live.state["probabilities"]["own question"], np.exp(asker.ask()[0]), atol=1e-6)
    before = live.answer_picture.value
    live.sliders[4].value = 0.9
    with clamped(model, np.array(live.state["clamped"])):
        expected = np.exp(asker.ask()[0])
    np.testing.assert_allclose(live.state["probabilities"]["weights by hand"], expected, atol=1e-6)
    assert live.answer_picture.value != before
    truth, foil = (np.log(expected[item.choices.index(option)]) for option in (item.truth, item.foils[0]))
    assert live.state["margins"]["weights by hand"] == pytest.approx(truth - foil, abs=1e-4)
    assert f"weights by hand {live.state['margins']['weights by hand']:+.2f}" in live.note.value
    assert "weights by hand" in live.answer_picture.value and "weights by hand" in live.static()


def test_typing_moves_the_mixture_and_says_how_far_and_which_words_are_unknown(
    live: GateExplorer, model: vp.AudioLLM
) -> None:
    picture, own = live.mixture_picture.value, live.state["own"]
    live.prompt.value = "How old is the zorgon?"
    typed = replace(live.chosen, question="How old is the zorgon?")
    np.testing.assert_allclose(live.state["own"], mixtures_of(model, [typed], DEFAULT_PROMPT)[0], atol=1e-6)
    assert live.mixture_picture.value != picture
    far = np.abs(np.array(live.state["own"]) - np.array(own)).sum() / 2
    assert f"{far:.3f}" in live.note.value and "1 of" in live.note.value
    assert set(live.state["probabilities"]) == {"own question", "typed question"}
    np.testing.assert_allclose([s.value for s in live.sliders], live.state["own"], atol=0.01)
    live.reset.click()
    np.testing.assert_allclose(live.state["own"], own, atol=1e-6)
    assert live.mixture_picture.value == picture


def test_an_empty_prompt_is_no_error(live: GateExplorer) -> None:
    state = dict(live.state)
    live.prompt.value = "  "
    assert "Type a question" in live.note.value
    assert live.state == state


def test_typing_waits_for_a_moment_where_an_event_loop_runs(live: GateExplorer) -> None:
    asked: list[str] = []
    refresh = live._refresh

    def watched() -> None:
        asked.append(live.prompt.value)
        refresh()

    live._refresh = watched  # type: ignore[method-assign]

    async def type_() -> None:
        for text in ("How", "How old", "How old is the speaker?"):
            live.prompt.value = text
        assert asked == []
        await asyncio.sleep(0.3)
        assert asked == ["How old is the speaker?"]
        live.prompt.value = "Who"
        live.close()
        await asyncio.sleep(0.2)
        assert len(asked) == 1

    asyncio.run(type_())


def test_choosing_a_task_and_an_item_asks_that_item(live: GateExplorer, bench: Benchmark) -> None:
    live.sliders[1].value = 0.5
    live.task.value = TASKS[1]
    assert live.chosen.task_name == TASKS[1]
    live.item.value = 2
    item = live.chosen
    assert live.state["item"] == item.id and live.prompt.value == item.question
    # Weights set by hand are kept from item to item.
    assert live.state["clamped"][1] == pytest.approx(0.5)
    for choice in item.choices:
        assert choice in live.answer_picture.value
    assert "truth (voice)" in live.static() and "claim (words)" in live.static()
    assert item.id in live.static()


def test_no_hook_stays_also_when_the_model_fails(
    model: vp.AudioLLM, bench: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hooks(model)
    made = explore.gates(model, bench)
    made.sliders[0].value = 0.5
    assert hooks(model) == before

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(vp.AudioLLM, "forward", fail)
        with pytest.raises(ZeroDivisionError):
            made.sliders[0].value = 0.25
    assert hooks(model) == before
    made.close()
    assert hooks(model) == before
    # Nor does a closed one ask anything.
    made._refresh()


def test_questions_options_and_ids_are_shown_as_text(model: vp.AudioLLM, bench: Benchmark) -> None:
    item = bench[0]
    bad = replace(item, id=SCRIPT, question=SCRIPT, choices=(SCRIPT, *item.choices[1:]), truth=item.choices[1],
                  said=(SCRIPT,), foils=(SCRIPT,), condition="conflict")  # fmt: skip
    made = explore.gates(model, Benchmark([bad], name="bad", source="test"))
    made.sliders[0].value = 0.5
    for html in (made._repr_html_(), made.mixture_picture.value, made.answer_picture.value, made.note.value):
        assert "<script" not in html and "<b>" not in html
    assert "&lt;script&gt;" in made._repr_html_()
    made.close()


def test_an_item_without_a_clip_is_said_so(model: vp.AudioLLM, bench: Benchmark, tmp_path: Path) -> None:
    gone = replace(bench[0], audio=FileAudio(tmp_path / "gone.wav"))
    made = explore.gates(model, Benchmark([gone], name="gone", source="test"))
    assert "cannot be asked" in made.note.value
    assert made.state["probabilities"] == {}
    assert "encoder[0]" in made.static()
    made.close()


def test_explorers_that_are_made_again_and_again_leave_nothing_behind(model: vp.AudioLLM, bench: Benchmark) -> None:
    explore.gates(model, bench[:2]).close()
    gc.collect()
    before = instances()
    for _ in range(25):
        made = explore.gates(model, bench[:2])
        slider = made.sliders[0]
        made.close()
    assert instances() == before
    gone: list[Any] = [weakref.ref(made), weakref.ref(slider)]
    del made, slider
    gc.collect()
    assert [ref() for ref in gone] == [None] * 2


def test_a_run_is_described_and_not_asked(model: vp.AudioLLM, bench: Benchmark, tmp_path: Path) -> None:
    run = vp.run(model, bench, tmp_path / "run", sites="gate", progress=False)
    made = explore.gates(run)
    assert not any(isinstance(w, ipywidgets.FloatSlider) for w in _within(made.root))
    assert "no weight set" in made.static()
    made.task.value, made.against.value = TASKS
    row = made.found.between.iloc[0]
    assert f"{row['variation']:.3f}" in made.picture.value and f"{row['variation']:.3f}" in made.static()
    picture = made.picture.value
    made.against.value = TASKS[0]
    assert made.picture.value != picture and "entropy" in made.picture.value
    assert made.state == {"task": TASKS[0], "against": TASKS[0]}
    made.close()
    again = explore.gates(str(tmp_path / "run"))
    assert again.state["task"] == made.state["task"]
    again.close()
    with pytest.raises(RunError, match="beside a benchmark"):
        explore.gates(run, bench)  # type: ignore[call-overload]


def _within(widget: Any) -> list[Any]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in _within(child))]


def test_every_control_has_a_label(live: GateExplorer) -> None:
    kinds = (ipywidgets.FloatSlider, ipywidgets.Dropdown, ipywidgets.Textarea, ipywidgets.Checkbox, ipywidgets.Button)
    controls = [w for w in _within(live.root) if isinstance(w, kinds)]
    assert len(controls) == 5 + 2 + 1 + 1 + 1
    assert all(control.description and control.tooltip for control in controls)


def test_a_model_without_a_mixer_is_refused(bench: Benchmark) -> None:
    with pytest.raises(RunError, match="without a mixer"):
        explore.gates("mini-base", bench)
