"""Curves, own accuracy and gap of the probing figure are those of the predictions and of the stored definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from behaviour import drawn
from layered import base, labelled, measured, sources, weighted

import vpanalysis as vp
from vpanalysis.figures import LackingError, figure_data
from vpanalysis.figures._layers import part_of, positions


@pytest.fixture(scope="module")
def data():
    return figure_data("probing", base())


def result():
    kept = sources(base()).results("ProbeResult", "mini-base", target="both")
    return next(kept)[1]


def test_curves_are_those_of_the_out_of_fold_predictions(data) -> None:
    measured(data)
    probes = data[data["quantity"] == "probe"]
    assert set(probes["task"]) == {"gender_prediction", "emotion_recognition"} and data["planted"].all()
    for site, part in probes.groupby("site"):
        mine = weighted(result(), site)
        np.testing.assert_allclose(part.set_index("task")["value"].sort_index(), mine.sort_index(), atol=1e-9)
    assert probes["value"].std() > 0.05


def test_own_accuracy_is_that_of_the_answers_on_the_probed_items(data) -> None:
    items = vp.open_run(base()).predictions.set_index("id")
    rows = result().predictions
    one = rows[(rows["site"] == "tower") & (rows["target"] == "truth")]
    for task, part in one.groupby("task"):
        here = items.loc[part["id"]]
        mine = np.average((here["pred_logits"] == here["truth"]).to_numpy(dtype=float), weights=part["weight"])
        got = data[(data["task"] == task) & (data["quantity"] == "own accuracy")]
        assert got["value"].item() == pytest.approx(mine, abs=1e-9)


def test_gap_is_probe_less_model_at_a_site_chosen_within_the_training_items(data) -> None:
    made = vp.probe_controls(vp.open_run(base()), which=["gap"]).table
    made = made[(made["condition"] == "pooled") & made["variant"].str.startswith("best")]
    wide = made.pivot(index="task", columns="measure", values="value")
    gaps = data[data["quantity"] == "gap at the best site"].set_index("task")
    assert len(gaps) == 2
    np.testing.assert_allclose(gaps["value"].sort_index(), (wide["probe"] - wide["model"]).sort_index(), atol=1e-9)
    own = data[data["quantity"] == "own accuracy"].set_index("task")["value"]
    np.testing.assert_allclose(own.sort_index(), wide["model"].sort_index(), atol=1e-9)


def test_a_kept_gap_is_used(tmp_path: Path, data, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vp.open_run(base())
    path = vp.probe_controls(run, which=["gap"]).save()
    import vpanalysis.probes.controls as controls

    def never(*_args, **_kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(controls, "utilization_gap", never)
    again = figure_data("probing", base())
    assert again.equals(data)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def test_every_panel_says_its_gap_and_parts_are_bounded(data) -> None:
    figure = drawn("probing", base())
    for ax in figure.axes:
        said = [text.get_text() for text in ax.texts if text.get_text().startswith("gap")]
        assert len(said) == 1 and "[" in said[0]
    places = positions(list(dict.fromkeys(data.loc[data["quantity"] == "probe", "site"])))
    edges = [line.get_xdata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    for before, after in (("encoder", "interface"), ("interface", "LLM")):
        last = max(x for site, x in places.items() if part_of(site) == before)
        first = min(x for site, x in places.items() if part_of(site) == after)
        assert any(last < edge < first for edge in edges)


def test_labelled_clips_are_no_benchmark_of_this_figure() -> None:
    with pytest.raises(LackingError, match="vpanalysis probe RUN --save"):
        figure_data("probing", labelled())
    with pytest.raises(LackingError):
        figure_data("probing", ())
