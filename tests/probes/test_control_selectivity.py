"""Hewitt and Liang's control task: what memory gives, on Runs in which it is known what a site remembers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.errors import RunError
from vpanalysis.probes.controls import ProbeSetup, control_labels, selectivity

GENDER, EMOTION = "gender_prediction", "emotion_recognition"


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 30), st.integers(2, 5), st.integers(0, 10_000))
def test_control_labels_belong_to_types_in_the_shares_of_the_labels(types, classes, seed):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"type {t}" for t in range(types)], 3)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=len(names) + classes)])[: len(names)]
    if len(np.unique(labels)) < 2:
        labels[0] = 1 - labels[0]
    made = control_labels(names, labels, draws=5, random_state=seed)
    share = np.bincount(labels, minlength=classes) / len(labels)
    for draw in made:
        of_type = draw.reshape(types, 3)
        assert (of_type == of_type[:, :1]).all()
        assert len(np.unique(draw)) >= 2
        dealt = np.bincount(of_type[:, 0], minlength=classes)
        assert (np.abs(dealt - share * types) <= 1 + 1e-9).all()


def test_control_labels_need_two_types():
    with pytest.raises(RunError, match="1 types"):
        control_labels(np.array(["a", "a"]), np.array([0, 1]), draws=1, random_state=0)


def with_identity(run, column):
    """Plant a site that knows `column` and nothing else."""
    rng = np.random.default_rng(5)
    names = run.predictions[column].astype(str)
    code = {name: rng.normal(size=30) for name in sorted(set(names))}
    frames = np.stack([np.tile(code[name], (6, 1)) for name in names])
    run.planted[f"knows {column}"] = (frames + 0.1 * rng.normal(size=frames.shape)).astype(np.float32)
    return run


def pick(table, site, variant):
    rows = table[(table["site"] == site) & (table["variant"] == variant)]
    return {row["measure"]: row for row in rows.to_dict("records")}


@pytest.fixture(scope="module")
def table(make_run):
    run = make_run(11, tasks=[GENDER], cells=100, speakers=10, scripts=10)
    run = with_identity(with_identity(run, "speaker"), "script")
    return selectivity(run, setup=ProbeSetup(C=1.0))


@pytest.mark.parametrize("kind", ["script", "speaker"])
def test_a_site_that_remembers_is_not_selective(table, kind):
    found = pick(table, f"knows {kind}", kind)
    assert found["control accuracy"]["value"] > 0.97
    assert found["selectivity"]["high"] < 0
    assert found["selectivity"]["q"] < 0.01


@pytest.mark.parametrize("kind", ["script", "speaker"])
def test_a_site_that_knows_the_truth_alone_is_selective(table, kind):
    found = pick(table, "encoder[1]", kind)
    assert found["accuracy"]["value"] > 0.97
    assert 0.35 < found["control accuracy"]["value"] < 0.65
    assert found["selectivity"]["low"] > 0.3
    assert found["selectivity"]["value"] == pytest.approx(
        found["accuracy"]["value"] - found["control accuracy"]["value"]
    )


def test_the_one_memory_is_not_the_other(table):
    assert pick(table, "knows script", "speaker")["control accuracy"]["value"] < 0.65
    assert pick(table, "knows speaker", "script")["control accuracy"]["value"] < 0.65


def test_where_no_type_recurs_the_cell_is_empty_with_a_reason(make_run):
    run = make_run(12, tasks=[EMOTION], cells=40)
    run.predictions["script"] = run.predictions["cell"]
    found = selectivity(run, sites=["tower", "encoder[1]"], types=["script"])
    assert len(found) == 2
    assert found["value"].isna().all()
    assert found["note"].str.contains("no script recurs").all()
    run.predictions = run.predictions.drop(columns="script")
    assert selectivity(run, sites="tower", types=["script"])["note"].item() == "no script is named"


def test_only_recurring_items_are_scored(make_run):
    run = make_run(12, tasks=[GENDER], cells=40, scripts=2)
    rare = run.predictions["cell"].isin(sorted(set(run.predictions["cell"]))[:10])
    run.predictions.loc[rare, "script"] = run.predictions.loc[rare, "cell"]
    found = selectivity(run, sites="tower", types=["script"])
    assert (found["n"] == 60).all()
    assert found["note"].str.contains("60 of 80 items").all()


def test_errors_and_seeds(make_run):
    run = make_run(12, tasks=[GENDER], cells=30)
    with pytest.raises(RunError, match="types='word'"):
        selectivity(run, types=["word"])
    with pytest.raises(RunError, match="draws=0"):
        selectivity(run, draws=0)
    first, second = (selectivity(run, sites="tower", draws=3) for _ in range(2))
    assert first.equals(second)
    other = selectivity(run, sites="tower", draws=3, setup=ProbeSetup(random_state=1))
    assert not first["value"].equals(other["value"])
