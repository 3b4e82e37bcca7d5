"""The online code: whole groups, lengths that an independent count confirms, and noise that saves nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vpanalysis.errors import RunError
from vpanalysis.probes.controls import ProbeSetup, description_length, online_blocks
from vpanalysis.probes.splits import group_ids
from vpanalysis.probes.targets import select_task

GENDER, EMOTION = "gender_prediction", "emotion_recognition"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(0, 1000))
def test_blocks_hold_every_item_once_and_part_no_group(groups, seed):
    ids = np.array(groups)
    blocks = online_blocks(ids, random_state=seed)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(ids)))
    assert all(len(block) for block in blocks)
    seen = [set(ids[block].tolist()) for block in blocks]
    assert sum(len(s) for s in seen) == len(set(groups))


def test_blocks_double_where_groups_are_small():
    assert [len(b) for b in online_blocks(np.arange(64))] == [4, 4, 8, 16, 32]


@pytest.mark.parametrize("portions", [(), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0)])
def test_portions_ascend_to_one(portions):
    with pytest.raises(RunError, match="portions"):
        online_blocks(np.arange(5), portions)


def of(table, site, measure):
    return table[(table["site"] == site) & (table["measure"] == measure)].iloc[0]


@pytest.fixture(scope="module")
def coded(make_run):
    return description_length(make_run(21, tasks=[EMOTION]), tolerance=0.2, setup=ProbeSetup(C=0.1))


def test_the_length_is_what_scikit_learn_gives_block_by_block(make_run, coded):
    run = make_run(21, tasks=[EMOTION])
    items = select_task(run, EMOTION)
    groups, _ = group_ids(items.frame, "speaker")
    states = run.states("encoder[1]")[items.rows].astype(np.float64)
    lengths = []
    for seed in range(5):
        blocks = online_blocks(groups, random_state=seed)
        nats = float(items.weights[blocks[0]].sum()) * math.log(4)
        for number in range(1, len(blocks)):
            train, test = np.concatenate(blocks[:number]), blocks[number]
            scaler = StandardScaler().fit(states[train])
            model = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000)
            model.fit(scaler.transform(states[train]), items.labels[train], sample_weight=items.train_weights(train))
            p = np.zeros((len(test), 4))
            p[:, model.classes_] = model.predict_proba(scaler.transform(states[test]))
            p = (len(train) * p + 1) / (len(train) + 4)
            nats -= float(items.weights[test] @ np.log(p[np.arange(len(test)), items.labels[test]]))
        lengths.append(nats)
    assert of(coded, "encoder[1]", "code length")["value"] == pytest.approx(np.mean(lengths), rel=1e-3)


def test_a_site_that_knows_is_shorter_and_noise_saves_nothing(coded):
    uniform = 120 * math.log(4)
    length = {site: of(coded, site, "code length")["value"] for site in ("encoder.stem", "tower", "encoder[1]")}
    assert of(coded, "tower", "uniform code")["value"] == pytest.approx(uniform)
    assert length["encoder[1]"] < 0.5 * uniform
    assert length["encoder[1]"] < length["tower"] < length["encoder.stem"]
    assert length["encoder.stem"] > 0.95 * uniform
    assert of(coded, "encoder[1]", "saved")["low"] > 0
    assert of(coded, "encoder[1]", "saved")["q"] < 0.01
    assert of(coded, "encoder.stem", "saved")["low"] < 0
    found = of(coded, "encoder[1]", "compression")
    assert found["value"] == pytest.approx(uniform / length["encoder[1]"])
    assert 1 < found["low"] < found["value"] < found["high"]


def test_the_loss_falls_with_the_data_and_the_surplus_is_below_the_length(coded):
    rows = coded[(coded["site"] == "encoder[1]") & (coded["measure"] == "loss")].sort_values("at")
    assert rows["at"].iloc[0] == 0
    assert rows["value"].iloc[0] == pytest.approx(math.log(4))
    assert rows["value"].iloc[-1] < 0.4
    surplus, length = (of(coded, "encoder[1]", m)["value"] for m in ("surplus", "code length"))
    assert length - 0.2 * 120 - 1e-6 <= surplus < length


def test_lengths_of_a_two_label_task_and_of_folds_by_both(make_run):
    run = make_run(22, tasks=[GENDER])
    found = description_length(run, sites="encoder[1]", orders=2)
    assert of(found, "encoder[1]", "uniform code")["value"] == pytest.approx(120 * math.log(2))
    # Twenty speakers who read twelve scripts hang together: nothing is left to code from.
    both = description_length(run, sites="encoder[1]", setup=ProbeSetup(group_by="both"))
    assert both["value"].isna().all()
    assert "one group only" in both["note"].item()


def test_it_repeats_and_refuses(make_run):
    run = make_run(22, tasks=[GENDER])
    one, two = (description_length(run, sites="tower", orders=1) for _ in range(2))
    assert one.equals(two)
    with pytest.raises(RunError, match="orders=0"):
        description_length(run, orders=0)
