"""Whisper's encoder: full windows, of which only the frames of the clip are kept."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from builders_encoders import RATE, noise, raw_states, waveform_extractor, whisper, whisper_extractor
from hypothesis import given
from hypothesis import strategies as st

import vpanalysis as vp
from vpanalysis.capture.recorder import Recorder
from vpanalysis.capture.reducers import Spans, make_plan
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.facade import AudioLLM

SECONDS = (0.7, 1.33, 4.5, 2.0)  # the third takes three windows of 2 s
POSITIONS = ((18,), (34,), (50, 50, 13), (50,))  # of 40 ms, the last one begun


@pytest.fixture(scope="module")
def llm() -> AudioLLM:
    return vp.load_model((whisper(), whisper_extractor()), name="tiny whisper")


def by_hugging_face(llm: AudioLLM, waves: list[Any]) -> list[Any]:
    """States of all sites by raw hooks on Hugging Face's own forward of its own features."""
    pieces = [wave[start : start + 2 * RATE] for wave in waves for start in range(0, len(wave), 2 * RATE)]
    features = llm.feature_extractor(pieces, sampling_rate=RATE, return_tensors="pt")["input_features"]
    model = llm.model
    positions = model.embed_positions.weight

    def stem() -> Any:
        embedded = torch.nn.functional.gelu(model.conv2(torch.nn.functional.gelu(model.conv1(features))))
        return embedded.permute(0, 2, 1) + positions

    states = raw_states([*model.layers, model], lambda: model(features))
    with torch.inference_mode():
        return [stem(), *states[:-1], states[-1].last_hidden_state]


def test_captured_states_are_those_of_raw_hooks(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    with llm.capturing(llm.sites) as states:
        clips = llm.encode(waves, ["tower"])
    assert llm.sites == ("encoder.stem", "encoder[0]", "encoder[1]", "encoder[2]", "tower")
    for site, raw in zip(llm.sites, by_hugging_face(llm, waves), strict=True):
        (state,) = states[site]
        assert torch.equal(state, raw), site
    assert [clip.windows for clip in clips] == list(POSITIONS)
    for clip in clips:
        assert clip.streams["tower"].shape == (sum(clip.windows), 32)


def test_means_are_over_the_clips_frames_alone(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    layout = llm.layout(waves)
    with Recorder(llm.module_of, make_plan(llm.sites)) as recorder:
        recorder.expect({"encoder": Spans.per_window(layout.positions), "tower": Spans.per_window(layout.frames)})
        llm.encode(waves)
        found = recorder.take()
    raw = by_hugging_face(llm, waves)
    rows = [(0, 18), (1, 34), (5, 50)]  # clip 2 owns rows 2 to 4
    for site, state in zip(llm.sites, raw, strict=True):
        means = found[site, "mean"]
        for clip, (row, length) in zip((0, 1, 3), rows, strict=True):
            np.testing.assert_allclose(means[clip], state[row, :length].mean(0).numpy(), atol=1e-5, rtol=0)
        whole = torch.cat([state[2], state[3], state[4, :13]])
        np.testing.assert_allclose(means[2], whole.mean(0).numpy(), atol=1e-5, rtol=0)
        parts = found[site, "segments6"]
        assert parts.shape == (4, 6, 32)
        np.testing.assert_allclose(parts.mean(1), means, atol=1e-5, rtol=0)
        # With the silence behind it the mean would be another.
        assert np.abs(means[0] - state[0].mean(0).numpy()).max() > 0.01


def test_a_batch_changes_nothing(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    together = llm.encode(waves, ["tower"])
    for wave, clip in zip(waves, together, strict=True):
        (alone,) = llm.encode([wave], ["tower"])
        assert alone.windows == clip.windows
        torch.testing.assert_close(alone.streams["tower"], clip.streams["tower"], atol=1e-5, rtol=0)


@given(st.integers(1, 5 * RATE))
def test_frames_are_those_of_the_extractors_mask(samples: int) -> None:
    extractor = whisper_extractor()
    llm = AudioLLM(_MODEL, extractor, check=False)
    pieces = [np.zeros(min(2 * RATE, samples - s), np.float32) for s in range(0, samples, 2 * RATE)]
    mask = extractor(pieces, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")["attention_mask"]
    lengths = _MODEL._get_feat_extract_output_lengths(mask.sum(-1)).tolist()
    assert llm.layout([np.zeros(samples, np.float32)]).row_positions == lengths


_MODEL = whisper().get_encoder()


def test_no_samples_are_too_short(llm: AudioLLM) -> None:
    with pytest.raises(AudioError, match="too short"):
        llm.layout([np.zeros(0, np.float32)])


def test_the_window_cannot_be_cut(llm: AudioLLM) -> None:
    """Hugging Face refuses a shorter window, and one built on purpose gives other states: silence is attended to."""
    (wave,) = noise(0.7)
    inputs, layout = llm.features([wave])
    with pytest.raises(ValueError, match="length 100"):
        llm.model(inputs["input_features"][..., :50])
    short = copy.deepcopy(llm.model)
    short.config.max_source_positions = 25
    short.embed_positions = torch.nn.Embedding(25, 32, _weight=llm.model.embed_positions.weight.detach()[:25])
    frames = layout.row_frames[0]
    with torch.inference_mode():
        whole = llm.model(inputs["input_features"]).last_hidden_state[0, :frames]
        cut = short(inputs["input_features"][..., :50]).last_hidden_state[0, :frames]
    change = float((whole - cut).pow(2).mean().sqrt() / whole.pow(2).mean().sqrt())
    assert change > 0.02
    assert not llm.frontend.trim
    assert llm.trim_report == "off"


def test_times_of_frames(llm: AudioLLM) -> None:
    assert llm.seconds_per_frame == pytest.approx((0.04, 0.04))
    assert llm.max_seconds == 2
    real = vp.load_model((whisper(num_mel_bins=80, max_source_positions=1500), whisper_extractor_of_30_s()))
    assert real.seconds_per_frame == pytest.approx((0.02, 0.02))
    assert real.layout([np.zeros(4 * RATE)]).row_positions == [200]


def whisper_extractor_of_30_s() -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor()


def test_an_extractor_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Wav2Vec2FeatureExtractor; allowed: WhisperFeatureExtractor"):
        vp.load_model((whisper(), waveform_extractor()))
    with pytest.raises(ModelError, match="80 mel bins and a window of 1500 positions; allowed: 16 and 50"):
        vp.load_model((whisper(), whisper_extractor_of_30_s()))
