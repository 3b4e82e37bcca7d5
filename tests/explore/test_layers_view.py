"""Layers that can be opened: confusions are those of the predictions, work can be stopped, and goes on from there."""

from __future__ import annotations

import gc
import re
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
from vpanalysis.errors import RunError
from vpanalysis.explore.layers_view import LayerExplorer
from vpanalysis.probes import ProbeResult, probe_layers

SCRIPT = "<script>alert(1)</script>"
OPTIONS = {"gender_prediction": ["Female", "Male"], "age_prediction": ["Child", "Young adult", "Elderly adult"]}


class Planted:
    """A Run without a model: the truth is at encoder[1], the words are at text[0], nothing is at encoder[0]."""

    name = "planted"

    def __init__(self, cells: int = 30, options: dict[str, list[str]] | None = None) -> None:
        rng = np.random.default_rng(0)
        rows: list[dict[str, Any]] = []
        self.planted: dict[str, list[np.ndarray[Any, Any]]] = {"encoder[0]": [], "encoder[1]": [], "text[0]": []}
        for task, names in (OPTIONS if options is None else options).items():
            code = {name: 3 * rng.normal(size=6) for name in names}
            for cell in range(cells):
                truth, wrong = names[cell % len(names)], names[(cell + 1) % len(names)]
                for condition, said in (("conflict", wrong), ("congruent", truth)):
                    rows.append(
                        {
                            "id": f"{task}-{cell}-{condition}", "task_name": task, "condition": condition,
                            "cell": f"{task}-{cell}", "speaker": f"s{cell % 10}", "script": f"w{cell % 7}",
                            "truth": truth, "said": [said], "said_level": said, "status": "ok", "choices": names,
                        }
                    )  # fmt: skip
                    self.planted["encoder[0]"].append(rng.normal(size=6))
                    self.planted["encoder[1]"].append(code[truth] + rng.normal(size=6))
                    self.planted["text[0]"].append(code[said] + rng.normal(size=6))
        self.predictions = pd.DataFrame(rows)
        self.read = 0

    @property
    def sites(self) -> list[str]:
        return list(self.planted)

    def reducers(self, site: str) -> list[str]:
        return ["mean", "last"] if site.startswith("text") else ["mean"]

    def states(self, site: str, reducer: str = "mean") -> np.ndarray[Any, Any]:
        self.read += 1
        return np.array(self.planted[site], dtype=np.float32)


HOW: dict[str, Any] = {"shuffles": 4, "n_splits": 3, "progress": False}


@pytest.fixture(scope="module")
def planted() -> Any:
    return Planted()


@pytest.fixture(scope="module")
def found(planted: Any) -> ProbeResult:
    return probe_layers(planted, "both", **HOW)


@pytest.fixture
def shown(found: ProbeResult) -> Iterator[LayerExplorer]:
    made = explore.layers(found)
    yield made
    made.close()


def cells(html: str) -> list[int]:
    """Return the numbers of the first confusion matrix in HTML, row by row."""
    return [int(n) for n in re.findall(r"<td style='[^']*'>(\d+)</td>", html[: html.index("</table>")])]


def test_a_layer_shows_the_confusions_and_the_surest_errors_of_its_predictions(
    shown: LayerExplorer, found: ProbeResult
) -> None:
    shown.target.value = "truth"
    for at, site in enumerate(found.sites):
        shown.points.selected = at
        here = found.predictions.query("task == @shown.task.value and target == 'truth' and site == @site")
        expected = pd.crosstab(here["label"], here["predicted"]).reindex(
            index=OPTIONS[shown.task.value], columns=OPTIONS[shown.task.value], fill_value=0
        )
        assert cells(shown.detail.value) == expected.to_numpy().ravel().tolist()
        wrong = here[~here["correct"].astype(bool)].sort_values("confidence", ascending=False, kind="stable")
        listed = [name for name in re.findall(r">(gender[^<]*)<", shown.detail.value)]
        assert listed == list(wrong["id"][:8])
        assert shown.state["site"] == site and shown.layer.value == site


def test_clicking_hovering_and_the_slider_open_layers(shown: LayerExplorer, found: ProbeResult) -> None:
    shown.points.selected = 0
    first = shown.detail.value
    shown.points.hovered = 1
    over = shown.detail.value
    assert over != first and "encoder[1]" in over
    # What is hovered is not chosen.
    assert shown.state["site"] == "encoder[0]"
    shown.points.hovered = -1
    assert shown.detail.value == first
    shown.layer.value = "encoder[1]"
    assert shown.points.selected == 1 and shown.detail.value == over
    assert shown.state["site"] == "encoder[1]"
    assert shown.points.names == found.sites


def test_truth_and_claim_are_in_one_picture_and_told_apart_without_colour(shown: LayerExplorer) -> None:
    assert shown.state["show"] == "truth and claim"
    svg = shown.points.svg
    assert "● truth" in svg and "■ claim" in svg
    assert "<circle" in svg and svg.count('stroke-dasharray="5 3"') >= 1
    assert "vp-truth" in shown.detail.value and "vp-claim" in shown.detail.value
    shown.target.value = "claim"
    assert "● truth" not in shown.points.svg and "<circle" not in shown.points.svg
    assert "vp-truth" not in shown.detail.value
    assert shown.points.svg != svg and "■ claim" in shown.static()


def test_the_layer_where_the_words_were_planted_is_where_the_claim_is_found(shown: LayerExplorer) -> None:
    shown.target.value = "claim"
    shown.layer.value = "text[0]"
    matrix = np.array(cells(shown.detail.value)).reshape(2, 2)
    assert np.trace(matrix) > 0.85 * matrix.sum()
    shown.target.value = "truth"
    shown.layer.value = "encoder[1]"
    matrix = np.array(cells(shown.detail.value)).reshape(2, 2)
    assert np.trace(matrix) > 0.85 * matrix.sum()


@pytest.mark.parametrize("name", ["interval", "shuffled labels", "chance", "majority"])
def test_every_band_can_be_hidden(shown: LayerExplorer, name: str) -> None:
    shown.target.value = "truth"
    before = shown.points.svg
    shown.bands[name].value = False
    after = shown.points.svg
    assert len(after) < len(before)
    assert name not in shown.state["bands"]
    shown.bands[name].value = True
    assert shown.points.svg == before


def test_another_task_is_another_picture_at_the_same_layer(shown: LayerExplorer) -> None:
    shown.layer.value = "encoder[1]"
    picture, detail = shown.points.svg, shown.detail.value
    shown.task.value = "age_prediction"
    assert shown.points.svg != picture and shown.detail.value != detail
    assert shown.state["task"] == "age_prediction" and shown.state["site"] == "encoder[1]"
    assert "Elderly adult" in shown.detail.value
    assert "Elderly adult" in shown.static() and shown.points.svg[:200] in shown.static()


def test_poolings_estimators_and_splits_are_chosen_among_the_results(planted: Any, found: ProbeResult) -> None:
    other = probe_layers(planted, "truth", tasks="gender_prediction", estimator="ridge", group_by="speaker",
                         sites="encoder[*]", **HOW)  # fmt: skip
    made = explore.layers([found, other])
    assert list(made.estimator.options) == ["logistic", "ridge"]
    picture = made.points.svg
    made.estimator.value = "ridge"
    assert "No result" in made.note.value and made.points.svg == ""
    made.split.value = "speaker"
    assert made.points.svg not in ("", picture)
    assert made.points.names == ["encoder[0]", "encoder[1]"]
    assert made.state["estimator"] == "ridge" and made.state["split"] == "speaker"
    made.close()


def test_a_run_is_probed_for_the_chosen_task_and_gives_the_result_of_the_verb(planted: Any) -> None:
    made = explore.layers(planted, start=False)
    assert "Not probed" in made.note.value and "Not probed" in made.static()
    made.estimator.value = "ridge"
    made.probe.click()
    made.wait()
    assert made.progress.value == made.progress.max
    assert not made.probe.disabled and made.cancel.disabled
    expected = probe_layers(planted, "both", tasks="gender_prediction", estimator="ridge", progress=False)
    for target in ("truth", "claim"):
        rows = made._curves()[target].table
        pd.testing.assert_frame_equal(
            rows.reset_index(drop=True), expected.of(target).table.reset_index(drop=True), check_dtype=False
        )
    made.task.value = "age_prediction"
    assert "Not probed" in made.note.value
    made.close()


def test_probing_starts_by_itself_and_can_be_stopped(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import vpanalysis.probes as probes

    calls: list[Any] = []
    real = probes.probe_layers

    def watched(run: Any, target: str, **asked: Any) -> Any:
        calls.append(asked["sites"])
        made.cancel.click()
        return real(run, target, **asked, shuffles=0)

    monkeypatch.setattr(probes, "probe_layers", watched)
    made = explore.layers(planted, start=False)
    made.start()
    made.wait()
    assert len(calls) == 1
    assert "Stopped" in made.note.value and made.points.svg == ""
    assert not made.probe.disabled
    made.close()
    monkeypatch.undo()
    made = explore.layers(planted, task="age_prediction")
    assert made._thread is not None
    # Closing stops it.
    made.close()
    made.wait(60)
    assert not made._thread.is_alive()


def test_what_cannot_be_probed_is_said(planted: Any) -> None:
    made = explore.layers(planted, start=False)
    made.pooling.value = "last"
    made.target.value = "truth"
    made.run = Planted(cells=1)
    made.start()
    made.wait()
    assert made.note.value and not made.probe.disabled
    assert "0 of" not in made.detail.value
    made.close()


def test_kept_results_of_a_run_are_shown_at_once(tmp_path: Path) -> None:
    bench = vp.load_benchmark("mini", tasks=["intonation_perception"])
    few = bench.filter(lambda item: item.condition != "neutral" and int(str(item.cell)[-4:]) < 16)
    run = vp.run("mini-base", few, tmp_path / "run", sites=["tower", "encoder[0]"], reducers="mean", progress=False,
                 cache=False)  # fmt: skip
    probe_layers(run, "truth", reducer="mean", estimator="ridge", **HOW).save()
    made = explore.layers(run.path)
    assert made._thread is None
    assert made.state["estimator"] == "ridge" and made.state["pooling"] == "mean"
    assert "<polyline" in made.points.svg
    made.close()


def test_labels_ids_and_sites_are_shown_as_text() -> None:
    bad = Planted(cells=24, options={SCRIPT: [SCRIPT, "<b>x</b>", "plain"]})
    bad.predictions["id"] = [f"<i>{k}</i>" for k in range(len(bad.predictions))]
    made = explore.layers(probe_layers(bad, "both", **HOW))
    for html in (made._repr_html_(), made.points.svg, made.detail.value, made.note.value):
        assert SCRIPT not in html and "<b>x" not in html and "<i>" not in html
    assert "&lt;script&gt;" in made.detail.value
    made.close()


def test_numbers_have_no_confusions(planted: Any) -> None:
    run = Planted(options={"gender_prediction": OPTIONS["gender_prediction"]})
    run.predictions["f0"] = np.random.default_rng(1).normal(size=len(run.predictions))
    made = explore.layers(probe_layers(run, "f0", **HOW))
    assert "nothing is confused" in made.detail.value and "R²" in made.points.svg
    made.close()


def test_what_is_not_there_is_refused(found: ProbeResult) -> None:
    with pytest.raises(RunError, match="no probe result"):
        explore.layers([])
    with pytest.raises(RunError, match="gender"):
        explore.layers(found, task="gender")


def test_explorers_that_are_made_again_and_again_leave_nothing_behind(found: ProbeResult) -> None:
    explore.layers(found).close()
    gc.collect()
    before = len(ipywidgets.widgets.widget._instances)
    for _ in range(40):
        explore.layers(found).close()
    assert len(ipywidgets.widgets.widget._instances) == before
    made = explore.layers(found)
    gone: list[Any] = [weakref.ref(made), weakref.ref(made.points), weakref.ref(made.note)]
    made.close()
    del made
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_sites_are_written_apart_and_streams_are_not_joined() -> None:
    from vpanalysis.explore._layer_curves import _columns

    sites = ["encoder[0]", "encoder[1]", "tower", "streams[0]", "text[0]", "text[1]"]
    xs = _columns(sites)
    assert xs[1] - xs[0] == 1 and xs == sorted(set(xs))
    assert xs[2] - xs[1] > 1
