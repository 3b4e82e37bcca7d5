"""Music Flamingo: Audio Flamingo's windows, between two marks, with rotary times."""

from __future__ import annotations

import family_checks as checks
import numpy as np
import pytest
import torch
from builders import music_flamingo, voxtral
from transformers import WhisperFeatureExtractor

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError
from vpanalysis.models.facade import AudioLLM

SECONDS = (1.0, 1.37, 3.1, 2.0, 0.5)


@pytest.fixture
def built():
    return music_flamingo()


def stock_inputs(built):
    return lambda prompts, waves: dict(built.processor(text=prompts, audio=list(waves)))


def by_hand(llm, item):
    inputs = stock_inputs(llm)([llm.prompt(item, DEFAULT_PROMPT)], [item.audio.load()])
    paths = checks.layer_paths(4, 3) | {"tower": "model.audio_tower", "projector": "model.multi_modal_projector"}
    states, logits = checks.raw_states(llm.model, paths, inputs)
    mels = inputs["input_features_mask"].sum(-1).tolist()
    positions = [-(-n // 2) for n in mels]
    valid = {}
    for site, state in states.items():
        if site.startswith("text"):
            valid[site] = state[0]
        else:
            counts = positions if site.startswith("encoder") else [n // 2 for n in positions]
            valid[site] = torch.cat([state[row, :n] for row, n in enumerate(counts)])
    return valid, logits


def test_forward_is_stock(built):
    checks.check_forward_is_stock(built, checks.waves_of(*SECONDS), stock_inputs(built))


def test_options_answers_and_the_clip(built):
    waves = checks.waves_of(*SECONDS)
    checks.check_the_clip_matters(built, waves)
    checks.check_options_and_answers(built, waves)


def test_run_and_probe(built, tmp_path):
    checks.check_run(built, (1.0, 0.6, 3.1, 1.2, 0.9, 2.5, 1.4, 0.8), by_hand, tmp_path)


def test_saved_and_loaded(built, tmp_path):
    there = checks.check_saved_and_loaded(built, checks.waves_of(*SECONDS), tmp_path)
    assert there.family.name == "musicflamingo"


def test_wrong_processors(built):
    other = music_flamingo().processor
    other.feature_extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=4)
    checks.check_wrong_processors(built, [voxtral().processor, other])


def test_the_prompt_has_marks_around_the_clip(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    waves = checks.waves_of(1.0)
    ids = llm.prepare(checks.items_of(waves), waves, DEFAULT_PROMPT).inputs["input_ids"][0].tolist()
    config = built.model.config
    first, last = ids.index(config.audio_bos_token_id), ids.index(config.audio_eos_token_id)
    assert ids[first + 1 : last] == [config.audio_token_id] * 12


def test_times_count_whole_windows(built):
    # Replayed alone, a clip of two windows keeps the times of its second window.
    llm = AudioLLM(built.model, built.processor, name="tiny")
    waves = checks.waves_of(2.6)
    items = checks.items_of(waves)
    wanted = checks.stock_logits(llm, stock_inputs(built)([llm.prompt(items[0], DEFAULT_PROMPT)], waves))
    encoded = llm.encode(waves)
    assert encoded[0].windows == (25, 7)
    replayed = llm.prepare(items, None, DEFAULT_PROMPT, encoded=encoded)
    torch.testing.assert_close(llm.forward(replayed), wanted, atol=1e-5, rtol=0)
    # Times matter: the second window's frames alone, as a clip of their own, are other audio tokens.
    with llm.capturing(["projector"]) as states:
        llm.forward(replayed)
        llm.forward(llm.prepare(items, [waves[0][32_000:]], DEFAULT_PROMPT))
    second, alone = states["projector"][0][1, :7], states["projector"][1][0, :7]
    assert (second - alone).abs().max() > 1e-2


@pytest.mark.parametrize("samples", [1, 5, 640])
def test_a_last_window_without_a_token_is_left_out(built, samples):
    # Stock gives it no token, and then takes the next clip's first window for its second one, or fails.
    llm = AudioLLM(built.model, built.processor, name="tiny")
    whole, other = checks.waves_of(2.0, 3.0)
    longer = np.concatenate([whole, np.full(samples, 0.05, dtype=np.float32)])
    items = checks.items_of([whole, other])
    assert llm.layout([longer, other]).windows == (1, 2)
    for waves in ([longer, other], [other, longer]):
        cut = [wave[:32_000] if len(wave) == len(longer) else wave for wave in waves]
        wanted = checks.stock_logits(llm, stock_inputs(built)([llm.prompt(i, DEFAULT_PROMPT) for i in items], cut))
        logits = llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)
        replayed = llm.prepare(items, None, DEFAULT_PROMPT, encoded=llm.encode(waves))
        torch.testing.assert_close(llm.forward(replayed), wanted, atol=1e-5, rtol=0)
    prompts = [llm.prompt(item, DEFAULT_PROMPT) for item in items]
    with pytest.raises(IndexError):
        checks.stock_logits(llm, stock_inputs(built)(prompts, [other, longer]))
    # One more mel frame is one more token.
    kept = np.concatenate([whole, np.full(641, 0.05, dtype=np.float32)])
    assert llm.layout([kept]).windows == (2,)


def test_too_short(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    with pytest.raises(AudioError, match="too short"):
        llm.encode([np.zeros(300, dtype=np.float32)])
