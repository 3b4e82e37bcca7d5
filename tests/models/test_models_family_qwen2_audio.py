"""Qwen2-Audio: one window, whose silence is masked but not left out."""

from __future__ import annotations

import family_checks as checks
import numpy as np
import pytest
import torch
from builders import music_flamingo, qwen2_audio
from transformers import WhisperFeatureExtractor

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError
from vpanalysis.models.facade import AudioLLM

SECONDS = (1.0, 1.37, 2.0, 0.5)


@pytest.fixture
def built():
    return qwen2_audio()


def stock_inputs(built):
    return lambda prompts, waves: dict(
        built.processor(text=prompts, audio=list(waves), sampling_rate=16_000, padding=True, return_tensors="pt")
    )


def by_hand(llm, item):
    inputs = stock_inputs(llm)([llm.prompt(item, DEFAULT_PROMPT)], [item.audio.load()])
    paths = checks.layer_paths(4, 3) | {"tower": "model.audio_tower", "projector": "model.multi_modal_projector"}
    states, logits = checks.raw_states(llm.model, paths, inputs)
    positions = -(-int(inputs["feature_attention_mask"].sum()) // 2)
    for site, state in states.items():
        count = None if site.startswith("text") else positions if site.startswith("encoder") else positions // 2
        states[site] = state[0, :count]
    return states, logits


def test_forward_is_stock(built):
    checks.check_forward_is_stock(built, checks.waves_of(*SECONDS), stock_inputs(built))


def test_options_answers_and_the_clip(built):
    waves = checks.waves_of(*SECONDS)
    checks.check_the_clip_matters(built, waves)
    checks.check_options_and_answers(built, waves)


def test_run_and_probe(built, tmp_path):
    checks.check_run(built, (1.0, 0.6, 2.0, 1.2, 0.9, 1.5, 1.4, 0.8), by_hand, tmp_path)


def test_saved_and_loaded(built, tmp_path):
    there = checks.check_saved_and_loaded(built, checks.waves_of(*SECONDS), tmp_path)
    assert there.family.name == "qwen2_audio"


def test_wrong_processors(built):
    other = qwen2_audio().processor
    other.feature_extractor = WhisperFeatureExtractor(feature_size=8, hop_length=320, n_fft=800, chunk_length=2)
    checks.check_wrong_processors(built, [music_flamingo().processor, other])


def test_silence_is_masked_and_kept(built):
    llm = AudioLLM(built.model, built.processor, name="tiny", trim=True)
    assert llm.trim_report == "off" and "silence  encoded" in repr(llm)
    inputs, layout = llm.features(checks.waves_of(1.0))
    tower = llm.frontend.run_tower(inputs, layout)
    noisy = dict(inputs)
    # Two frames behind the clip's last belong to its convolutions.
    noisy["input_features"] = torch.where(torch.arange(100) < 53, inputs["input_features"], torch.randn(1, 16, 100))
    assert torch.equal(llm.frontend.run_tower(noisy, layout)[:, :12], tower[:, :12])
    # Without the mask it would matter.
    heard = {**inputs, "feature_attention_mask": torch.ones_like(inputs["feature_attention_mask"])}
    assert (llm.frontend.run_tower(heard, layout)[:, :12] - tower[:, :12]).abs().max() > 1e-2


def test_clips_beyond_the_window_are_refused(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    whole = np.ones(32_000, dtype=np.float32)
    assert llm.layout([whole]).frames == ((25,),)
    with pytest.raises(AudioError, match=r"clip 1 of the batch.*2\.1 s.*at most 2 s") as caught:
        llm.encode([whole, np.ones(33_600, dtype=np.float32)])
    assert "cut the clip" in str(caught.value)
    with pytest.raises(AudioError, match="too short"):
        llm.encode([whole[:300]])


def test_templates_that_look_for_a_field_find_the_clip(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    wanted = llm.frontend.chat("What is said?")
    assert wanted.count("<|AUDIO|>") == 1
    newer = built.processor.chat_template
    built.processor.chat_template = newer.replace(" or message['type'] == 'audio' or content['type'] == 'audio'", "")
    assert built.processor.chat_template != newer
    assert llm.frontend.chat("What is said?") == wanted


def test_eager_attention_gives_the_same(built):
    waves = checks.waves_of(*SECONDS)
    items = checks.items_of(waves)
    llm = AudioLLM(built.model, built.processor, name="tiny")
    wanted = llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
    built.model.set_attn_implementation("eager")
    inputs = stock_inputs(built)([llm.prompt(item, DEFAULT_PROMPT) for item in items], waves)
    assert torch.equal(llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT)), checks.stock_logits(llm, inputs))
    replayed = llm.prepare(items, None, DEFAULT_PROMPT, encoded=llm.encode(waves))
    torch.testing.assert_close(llm.forward(replayed), wanted, atol=1e-5, rtol=0)
