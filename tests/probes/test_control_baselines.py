"""Guessing, the spectrogram, the words, a random twin: on Runs in which it is known what each of them gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from transformers import WhisperFeatureExtractor

from vpanalysis.errors import RunError
from vpanalysis.probes.controls import (
    ProbeSetup,
    majority_and_chance,
    mel_baseline,
    mel_features,
    random_weights,
    text_baseline,
)
from vpanalysis.stats import benjamini_hochberg

GENDER, EMOTION = "gender_prediction", "emotion_recognition"


def value(table, measure, **where):
    rows = table[table["measure"] == measure]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def test_majority_and_chance_are_what_counting_gives(make_run):
    run = make_run(1, tasks=[EMOTION])
    table = majority_and_chance(run)
    assert value(table, "chance") == 0.25
    # The design has as many cells of each emotion, and the weights do not change the share of a label.
    assert value(table, "majority") == pytest.approx(0.25)
    assert value(table, "accuracy") < 0.4


def test_majority_of_a_skewed_task(make_run):
    run = make_run(1, tasks=[GENDER])
    table = run.predictions
    male = table["cell"].isin(sorted(set(table.loc[table["truth"] == "Male", "cell"]))[:20])
    run.predictions = table[~male].reset_index(drop=True)
    run.planted = {site: states[(~male).to_numpy()] for site, states in run.planted.items()}
    counted = run.predictions[run.predictions["condition"] != "neutral"]["truth"].value_counts(normalize=True)
    found = majority_and_chance(run)
    assert value(found, "majority") == pytest.approx(counted.max(), abs=0.02)
    assert value(found, "accuracy") == pytest.approx(counted.max(), abs=0.02)


def test_mel_features_are_the_statistics_of_whispers_own_features():
    rng = np.random.default_rng(0)
    wave = rng.normal(size=8000).astype(np.float32)
    mel = WhisperFeatureExtractor()(wave, sampling_rate=16000, padding="do_not_pad", return_tensors="np")
    mel = mel["input_features"][0].astype(np.float64)
    found = mel_features(wave, segments=2)
    half = mel.shape[1] // 2
    assert mel.shape == (80, 50)
    np.testing.assert_allclose(found[:80], mel.mean(1))
    np.testing.assert_allclose(found[80:160], mel.std(1))
    np.testing.assert_allclose(found[160:], np.concatenate([mel[:, :half].mean(1), mel[:, half:].mean(1)]))


@pytest.mark.parametrize("samples", [1, 100, 401])
def test_mel_features_of_the_shortest_clips_are_finite(samples):
    assert np.isfinite(mel_features(np.full(samples, 0.1, np.float32))).all()


def test_mel_features_refuse_nothing():
    with pytest.raises(RunError, match="0 samples"):
        mel_features(np.zeros(0, np.float32))


def test_the_mel_baseline_hears_a_tone_and_no_more(make_run):
    run = make_run(2, tasks=[GENDER])
    rng = np.random.default_rng(0)
    time = np.arange(4000) / 16000
    heard, noise = {}, {}
    for item, truth in zip(run.predictions["id"], run.predictions["truth"], strict=True):
        pitch = (220 if truth == "Male" else 400) * (1 + 0.02 * rng.normal())
        noise[item] = rng.normal(size=4000).astype(np.float32) * 0.1
        heard[item] = (noise[item] * 0.1 + np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    assert value(mel_baseline(run, heard), "accuracy") == 1.0
    deaf = mel_baseline(run, noise)
    assert deaf["low"].item() < 0.5 < deaf["high"].item()


def test_without_audio_the_cell_is_empty_and_says_so(make_run):
    table = mel_baseline(make_run(2, tasks=[GENDER]), None)
    assert np.isnan(table["value"].item())
    assert "no audio" in table["note"].item()


def test_a_missing_clip_is_named(make_run):
    with pytest.raises(RunError, match="test/gender_prediction/0/conflict"):
        mel_baseline(make_run(2, tasks=[GENDER]), {})


def worded(run):
    wording = ["I am {} yes", "people call me {}", "that is {} for you", "{} I am told"]
    said = [s if s is not None else "nobody" for s in run.predictions["said_level"]]
    rng = np.random.default_rng(8)
    run.predictions["transcript"] = [wording[rng.integers(4)].format(s) for s in said]
    return run


def test_the_text_baseline_reads_the_claim_and_not_the_truth(make_run):
    run = worded(make_run(3, tasks=[GENDER, EMOTION], cells=80))
    claim = text_baseline(run, setup=ProbeSetup(target="claim"))
    assert (claim["value"] == 1.0).all()
    truth = text_baseline(run)
    # Weighted so that words know nothing of the truth: no better than chance.
    for row, chance in zip(truth.to_dict("records"), (0.5, 0.25), strict=True):
        assert row["value"] < chance + 0.1
        assert row["low"] < chance


def test_text_falls_back_to_the_script_and_says_what_is_missing(make_run):
    run = make_run(3, tasks=[GENDER])
    assert text_baseline(run)["variant"].item() == "n-grams of script"
    run.predictions = run.predictions.drop(columns="script")
    empty = text_baseline(run)
    assert np.isnan(empty["value"].item())
    assert "no transcript or script" in empty["note"].item()
    with pytest.raises(RunError, match="did you mean"):
        text_baseline(run, column="speker")


def test_a_random_twin_shows_what_training_added(make_run):
    run, twin = make_run(4, tasks=[GENDER]), make_run(4, tasks=[GENDER])
    rng = np.random.default_rng(0)
    twin.planted["encoder[1]"] = rng.normal(size=twin.planted["encoder[1]"].shape).astype(np.float32)
    del twin.planted["text[0]"]
    table = random_weights(run, twin)
    assert value(table, "accuracy", site="encoder[1]") == 1.0
    assert value(table, "difference", site="encoder[1]") > 0.3
    added = table[(table["site"] == "encoder[1]") & (table["measure"] == "difference")]
    assert added["low"].item() > 0
    assert added["p"].item() < 0.001
    # The same states give the same probes, so nothing was added there.
    same = table[(table["site"] == "tower") & (table["measure"] == "difference")]
    assert same["value"].item() == 0
    assert same["p"].item() == 1
    assert same["low"].item() < 0 < same["high"].item()
    lost = table[table["site"] == "text[0]"]
    assert "no such site" in lost["note"].item()
    np.testing.assert_allclose(table["q"], benjamini_hochberg(table["p"]))


def test_twins_are_matched_by_id_not_by_row(make_run):
    run, twin = make_run(4, tasks=[GENDER]), make_run(4, tasks=[GENDER])
    order = np.random.default_rng(1).permutation(len(twin.predictions))
    twin.predictions = twin.predictions.iloc[order].reset_index(drop=True)
    twin.planted = {site: states[order] for site, states in twin.planted.items()}
    table = random_weights(run, twin)
    assert (table.loc[table["measure"] == "difference", "value"] == 0).all()
    twin.predictions = twin.predictions.assign(id=[f"x{i}" for i in twin.predictions["id"]])
    with pytest.raises(RunError, match="items that it lacks"):
        random_weights(run, twin)


def test_without_a_twin_cells_are_empty(make_run):
    table = random_weights(make_run(4, tasks=[GENDER]), None, sites="tower")
    assert np.isnan(table["value"].item())
    assert "twin" in table["note"].item()


def test_guessing_covers_its_own_accuracy(make_run):
    """A baseline without information has chance within its interval in about 95 % of Runs."""
    inside = 0
    for seed in range(40):
        run = make_run(seed, tasks=[GENDER], cells=30)
        rng = np.random.default_rng(seed)
        noise = {i: rng.normal(size=800).astype(np.float32) for i in run.predictions["id"]}
        table = mel_baseline(run, noise, segments=1)
        inside += bool(table["low"].item() <= 0.5 <= table["high"].item())
    assert binomtest(inside, 40, 0.95).pvalue > 0.001
