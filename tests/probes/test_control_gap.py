"""The utilization gap and the boundaries, on Runs whose answers and losses are planted."""

from __future__ import annotations

import numpy as np
import pytest

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls import ProbeSetup, boundary_losses, utilization_gap
from vpanalysis.probes.controls._common import matrices, plan_task
from vpanalysis.probes.controls.boundaries import stations
from vpanalysis.probes.controls.gap import BEST, audio_token_site, own_correctness
from vpanalysis.probes.nested import choose_nested, restricted

GENDER, EMOTION = "gender_prediction", "emotion_recognition"
TOKENS = "audio tokens"


def answering(run, share, seed=0):
    """Let the model be right on `share` of the items, at random, and name another option on the rest."""
    rng = np.random.default_rng(seed)
    table = run.predictions
    names = {task: sorted(set(part["truth"])) for task, part in table.groupby("task_name")}
    table["choices"] = [names[task] for task in table["task_name"]]
    right = rng.random(len(table)) < share
    table["pred_logits"] = [
        truth if ok else next(c for c in options if c != truth)
        for truth, options, ok in zip(table["truth"], table["choices"], right, strict=True)
    ]
    return run


def pick(table, measure, variant=TOKENS, condition="pooled"):
    rows = table[(table["measure"] == measure) & (table["variant"] == variant) & (table["condition"] == condition)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_restriction_takes_the_best_offered_class():
    chances = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [np.nan] * 3])
    offered = [["a", "b", "c"], ["c", "b"], ["elsewhere"], ["a"]]
    assert restricted(chances, ("a", "b", "c"), offered).tolist() == [0, 1, -1, -1]
    assert restricted(np.stack([chances, chances]), ("a", "b", "c"), offered).shape == (2, 4)


def test_a_planted_gap_is_found(make_run):
    run = answering(make_run(41, tasks=[GENDER], cells=120, speakers=40), 0.5)
    run.planted["mixed"] = run.planted["encoder[1]"]
    table = utilization_gap(run)
    gap, probe, model = (pick(table, m) for m in ("gap", "probe", "model"))
    assert probe["value"] == 1.0
    assert gap["value"] == pytest.approx(probe["value"] - model["value"])
    assert gap["low"] < 0.5 < gap["high"]
    assert gap["q"] < 0.01
    assert gap["note"] == "answers: pred_logits"
    for condition in ("conflict", "congruent"):
        assert pick(table, "gap", condition=condition)["n"] == 120
    rows = table[table["measure"] == "gap"]
    np.testing.assert_allclose(rows["q"], stats.benjamini_hochberg(rows["p"]))


def test_where_the_model_is_the_better_one_the_gap_is_negative(make_run):
    run = answering(make_run(42, tasks=[GENDER]), 1.0)
    run.planted["mixed"] = run.planted["encoder.stem"]
    table = utilization_gap(run, sites="encoder[*]")
    assert pick(table, "gap")["high"] < 0
    # The best site knows everything and so does the model: no item differs, and the interval says how little that is.
    best = pick(table, "gap", BEST)
    assert best["value"] == 0
    assert best["low"] < -0.02 < 0.02 < best["high"]
    assert best["p"] == 1
    assert "encoder[1] in 5 of 5 folds" in best["note"]


def test_a_model_that_answers_as_the_probe_does_has_no_gap_on_average(make_run):
    """Right as often, on other items: the interval of the gap holds zero in about 95 of 100 Runs."""
    inside = 0
    for seed in range(30):
        run = make_run(seed, tasks=[GENDER], cells=40, speakers=20)
        run.planted = {"mixed": run.planted["encoder.stem"]}
        answering(run, 0.0, seed)
        plan = plan_task(run, GENDER, ProbeSetup())
        # Give the model coin flips of the probe's own expected accuracy under no information.
        rng = np.random.default_rng(1000 + seed)
        run.predictions["pred_logits"] = rng.choice(["Female", "Male"], size=len(run.predictions))
        assert plan.folds
        gap = pick(utilization_gap(run, best=False), "gap")
        inside += bool(gap["low"] <= 0 <= gap["high"])
    assert inside >= 24


def test_the_probe_chooses_among_the_offered_options(make_run):
    run = answering(make_run(43, tasks=[EMOTION]), 0.5)
    run.planted["mixed"] = run.planted["encoder.stem"]
    four = pick(utilization_gap(run, best=False), "probe")["value"]
    table = run.predictions
    other = [next(c for c in options if c != t) for options, t in zip(table["choices"], table["truth"], strict=True)]
    table["choices"] = [[truth, wrong] for truth, wrong in zip(table["truth"], other, strict=True)]
    assert pick(utilization_gap(run, best=False), "probe")["value"] > four + 0.1
    table["choices"] = [[truth] for truth in table["truth"]]
    assert pick(utilization_gap(run, best=False), "probe")["value"] == 1.0


def test_the_best_of_many_useless_sites_is_not_flattered(make_run):
    naive, nested = [], []
    for seed in range(6):
        run = answering(make_run(50 + seed, tasks=[GENDER], cells=40), 0.5)
        rng = np.random.default_rng(seed)
        shape = (len(run.predictions), 6, 12)
        run.planted = {f"encoder[{k}]": rng.normal(size=shape).astype(np.float32) for k in range(15)}
        run.planted["mixed"] = run.planted["encoder[0]"]
        nested.append(pick(utilization_gap(run, sites="encoder[*]"), "probe", BEST)["value"])
        naive.append(max(pick(utilization_gap(run, site=s, best=False), "probe")["value"] for s in run.sites[:15]))
    assert np.mean(naive) > 0.56
    assert abs(np.mean(nested) - 0.5) < 0.06


def chosen_by(states, plan):
    return choose_nested(states, plan.items, list(plan.clusters.values()), plan.folds)


def test_the_choice_of_a_site_never_sees_the_test_labels(make_run):
    run = make_run(44, tasks=[GENDER])
    setup = ProbeSetup()
    plan = plan_task(run, GENDER, setup)
    states = matrices(run, ["encoder.stem", "encoder[0]", "encoder[1]", "text[0]"], plan.items, setup)
    before = chosen_by(states, plan)
    for number, fold in enumerate(plan.folds):
        changed = [s.copy() for s in states]
        for s in changed:
            s[fold.test] = 1e6
        labels = plan.items.labels.copy()
        plan.items.labels[fold.test] = 1 - labels[fold.test]
        assert chosen_by(changed, plan)[number] == before[number] == 2
        plan.items.labels[:] = labels


def test_what_is_missing_is_said(make_run):
    run = make_run(45, tasks=[GENDER])
    with pytest.raises(RunError, match="audio tokens"):
        utilization_gap(run)
    run.planted["projector"] = run.planted["tower"]
    run.predictions["pred_logits"] = None
    with pytest.raises(RunError, match="pred_logits"):
        utilization_gap(run)
    answering(run, 0.5)
    with pytest.raises(RunError, match="target='claim'"):
        utilization_gap(run, setup=ProbeSetup(target="claim"))
    assert audio_token_site(["projector", "mixed"]) == "mixed"
    right, column = own_correctness(run, plan_task(run, GENDER, ProbeSetup()).items)
    assert column == "pred_logits"
    assert right.shape == (120,)


def test_a_task_without_folds_is_an_empty_cell(make_run):
    run = answering(make_run(45, tasks=[GENDER], speakers=1), 0.5)
    run.planted["mixed"] = run.planted["tower"]
    table = utilization_gap(run)
    assert table["value"].isna().all()
    assert "too few groups" in table["note"].item()
    assert boundary_losses(run)["value"].isna().all()


def with_stations(run):
    run.planted = {
        "encoder.stem": run.planted["encoder[1]"],
        "encoder[0]": run.planted["encoder[1]"],
        "tower": run.planted["tower"],
        "mixed": run.planted["tower"],
        "text[0]": run.planted["encoder.stem"],
    }
    return run


def test_losses_are_found_where_they_were_planted(make_run):
    table = boundary_losses(with_stations(make_run(46, tasks=[GENDER, EMOTION], strength=1.0, cells=100)))
    losses = table[table["measure"] == "difference"]
    for task in (GENDER, EMOTION):
        step = losses[losses["task"] == task].set_index("variant")
        # Nothing is lost before the tower or between it and the projector, for there the states are the same.
        for same in ("stem -> middle", "tower -> projector"):
            assert step.loc[same, "value"] == 0
            assert step.loc[same, "p"] == 1
            assert step.loc[same, "low"] < 0 < step.loc[same, "high"]
        assert step.loc["middle -> tower", "high"] < 0
        assert step.loc["middle -> tower", "q"] < 0.01
        reached = table[(table["task"] == task) & (table["measure"] == "accuracy")].set_index("variant")["value"]
        for variant, row in step.iterrows():
            before, after = variant.split(" -> ")
            assert row["value"] == pytest.approx(reached[after] - reached[before])
    np.testing.assert_allclose(losses["q"], stats.benjamini_hochberg(losses["p"]))
    assert set(losses["site"]) >= {"tower -> mixed"}


def test_without_losses_tests_are_rarely_significant(make_run):
    """Two sites that know equally much, in other noise: about one test in twenty is below 0.05."""
    low = []
    for seed in range(40):
        run = make_run(200 + seed, tasks=[GENDER], cells=30, conditions=("conflict", "congruent"))
        rng = np.random.default_rng(seed)
        truth = (run.predictions["truth"] == "Male").to_numpy()[:, None, None]
        shape = (len(truth), 6, 12)
        run.planted = {s: (0.4 * truth + rng.normal(size=shape)).astype(np.float32) for s in ("tower", "mixed")}
        found = boundary_losses(run)
        low.append(found.loc[found["measure"] == "difference", "p"].item() < 0.05)
    assert np.mean(low) <= 0.15


def test_stations_are_those_that_were_recorded():
    assert stations(["encoder[0]", "encoder[1]", "encoder[10]", "encoder[2]", "tower", "text[9]", "text[10]"]) == {
        "middle": "encoder[2]",
        "tower": "tower",
        "text": "text[10]",
    }


def test_boundaries_refuse_a_single_station(make_run):
    run = make_run(47, tasks=[GENDER])
    run.planted = {"tower": run.planted["tower"]}
    with pytest.raises(RunError, match="two at least"):
        boundary_losses(run)
    with pytest.raises(RunError, match="nowhere"):
        boundary_losses(run, at={"one": "tower", "two": "nowhere"})
