"""All controls in one call: the table, what it prints, draws and keeps; and once on the bundled model."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vpanalysis.errors import RunError
from vpanalysis.probes.controls import CONTROLS, ControlResult, _picture, controls, random_twin
from vpanalysis.probes.controls._common import KINDS

GENDER, EMOTION = "gender_prediction", "emotion_recognition"


@pytest.fixture(scope="module")
def run(make_run):
    run = make_run(61, tasks=[GENDER, EMOTION], cells=40)
    run.planted["mixed"] = run.planted["encoder[1]"]
    run.predictions["pred_logits"] = run.predictions["truth"].where(run.predictions.index % 2 == 0, "nothing")
    run.manifest = {"model": {"name": "fake"}}
    return run


@pytest.fixture(scope="module")
def result(run):
    return controls(run, sites=["encoder.stem", "encoder[1]"])


def test_every_control_is_there_with_its_columns_and_source(result):
    assert result.controls == list(CONTROLS)
    assert list(result.table.columns) == list(KINDS)
    assert (result.table["source"].str.len() > 5).all()
    empty = result.table["value"].isna()
    assert empty.any()
    assert (result.table.loc[empty, "note"] != "").all()
    made = result.table[~empty & result.table["low"].notna()]
    assert len(made) > 100
    assert (made["low"] <= made["value"] + 1e-12).all()
    assert (made["value"] <= made["high"] + 1e-12).all()
    assert result.settings["run"].startswith("fake") and "manifest_sha" in result.settings


def test_one_seed_gives_one_table(run):
    which = ["selectivity", "noise", "mdl"]
    one, two = (controls(run, EMOTION, "encoder[1]", which).table for _ in range(2))
    assert one.equals(two)


def test_it_prints_and_escapes(run, result):
    assert "ControlResult: truth of fake-61, 2 tasks" in repr(result)
    assert "no audio was given" in repr(result)
    page = result._repr_html_()
    assert "<table" in page
    bad = ControlResult(result.table.assign(task="<script>"), {"run": "<b>"})
    assert "<script>" not in bad._repr_html_()
    assert "<b>" not in bad._repr_html_()


def test_it_is_kept_as_it_is(result, tmp_path):
    folder = result.save(tmp_path / "controls")
    back = ControlResult.load(folder)
    assert back.table.equals(result.table)
    assert back.table.dtypes.equals(result.table.dtypes)
    assert back.settings == result.settings
    (folder / "controls.parquet").unlink()
    with pytest.raises(RunError, match=r"no controls\.parquet"):
        ControlResult.load(folder)
    with pytest.raises(RunError, match="cannot load a ControlResult"):
        ControlResult.load(tmp_path)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_is_drawn_with_its_numbers(result, name):
    ax = result.plot(control=name)
    try:
        rows = result.of(name)
        if name == "noise":
            rows = rows[rows["measure"] == "accuracy"]
            drawn = np.concatenate([line.get_ydata() for line in ax.get_lines()])
            np.testing.assert_allclose(np.sort(drawn), np.sort(rows["value"]))
        elif name != "majority":
            line = next(line for line in ax.get_lines() if line.get_gid() == name)
            headline = {"selectivity": "selectivity", "gap": "gap", "mdl": "compression"}.get(name)
            rows = (
                rows[rows["measure"] == headline]
                if headline
                else rows[rows["measure"].isin(["accuracy", "difference"])]
            )
            assert set(np.round(line.get_xdata()[~np.isnan(line.get_xdata())], 9)) <= set(np.round(rows["value"], 9))
        assert _picture._TITLE[name] in (ax.get_title(loc="left"), ax.get_title())
    finally:
        plt.close(ax.figure)


def test_an_axes_that_is_given_is_used_and_curves_of_losses_can_be_drawn(result):
    figure, ax = plt.subplots()
    assert result.plot(ax, control="mdl", measure="loss", task=GENDER) is ax
    assert len(ax.get_lines()) == 2
    with pytest.raises(RunError, match="allowed"):
        result.plot(ax, task="nothing")
    plt.close(figure)


def test_names_are_checked(run, result):
    with pytest.raises(RunError, match="did you mean 'selectivity'"):
        controls(run, which="selectivty")
    with pytest.raises(RunError, match="allowed"):
        result.of("gap", "gaps")
    with pytest.raises(RunError, match="allowed"):
        result.of("nothing")
    with pytest.raises(RunError, match="group_by"):
        controls(run, which="majority", group_by="voice")
    with pytest.raises(RunError, match="n_splits"):
        controls(run, which="majority", n_splits=1)


def test_three_items_and_one_class_are_empty_cells(make_run):
    run = make_run(62, tasks=[GENDER], cells=2)
    run.predictions["truth"] = "Male"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = controls(run, sites="tower")
    assert found.table["value"].isna().all()
    assert (found.table["note"] == "one class only: 'Male'").all()


def test_states_that_are_not_finite_are_an_error(make_run):
    run = make_run(62, tasks=[GENDER])
    run.planted["tower"][0] = np.nan
    for name in ("selectivity", "mdl", "noise"):
        with pytest.raises(RunError, match="tower"):
            controls(run, which=name)


@pytest.mark.timeout(240)
def test_the_bundled_model_its_twin_and_its_clips(tmp_path):
    import vpanalysis as vp

    bench = vp.load_benchmark("mini", tasks=GENDER, limit=90).select(conditions=["conflict", "congruent"])
    model = vp.load_model("mini")
    twin = random_twin(model, 3)
    again, other = random_twin(model, 3), random_twin(model, 4)
    assert twin.encoder_sha == again.encoder_sha
    assert len({model.encoder_sha, twin.encoder_sha, other.encoder_sha}) == 3
    assert twin.sites == model.sites
    recorded = ["encoder.stem", "encoder[2]", "encoder[5]", "tower", "mixed", "text[3]"]
    run, bare = (
        vp.run(m, bench, tmp_path / m.name, sites=[*recorded, "options"], progress=False, cache=False)
        for m in (model, twin)
    )
    found = controls(run, audio=bench, twin=bare, which=["mel", "text", "random", "gap", "boundary", "majority"])
    table = found.table
    gap = table[(table["measure"] == "gap") & (table["condition"] == "pooled")]
    assert len(gap) == 2
    assert table.loc[table["measure"] == "model", "value"].max() > 0.9
    # The words say nothing of the voice, and the model itself answers nearly always right.
    text = table[table["control"] == "text"].iloc[0]
    assert text["low"] < 0.5
    assert table[(table["control"] == "mel")]["value"].item() > 0.5
    assert set(table.loc[table["control"] == "boundary", "variant"]) >= {"tower -> projector", "projector -> text"}
    added = table[(table["control"] == "random") & (table["measure"] == "difference")]
    assert set(added["site"]) == set(recorded)
    assert (added["low"] <= added["value"]).all()
    assert found.save(run.results / "controls").is_dir()
