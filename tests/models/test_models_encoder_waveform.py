"""HuBERT and WavLM: clips whole, and alone where padding would change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders_encoders import RATE, noise, raw_states, waveform, waveform_extractor, whisper_extractor
from hypothesis import given
from hypothesis import strategies as st

import vpanalysis as vp
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.facade import AudioLLM

SECONDS = (0.5, 1.37, 0.25)
FRAMES = (24, 68, 12)
KINDS = [("hubert", "group"), ("hubert", "layer"), ("wavlm", "group"), ("wavlm", "layer")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def llm(request: pytest.FixtureRequest) -> AudioLLM:
    return loaded(*request.param)


def loaded(name: str, norm: str, **fields: Any) -> AudioLLM:
    return vp.load_model((waveform(name, norm, **fields), waveform_extractor()), name=f"{name}-{norm}")


def by_hugging_face(llm: AudioLLM, wave: Any) -> list[Any]:
    """States of all sites by raw hooks on Hugging Face's own forward of one clip, by its own extractor."""
    values = llm.feature_extractor([wave], sampling_rate=RATE, return_tensors="pt")["input_values"]
    received: list[Any] = []

    def keep(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        received.append(args[0] if args else kwargs["hidden_states"])

    layers = llm.model.encoder.layers
    handle = layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        states = raw_states([*layers, llm.model], lambda: llm.model(values))
    finally:
        handle.remove()
    # WavLM's layers put out a pair, with the bias of positions.
    own = [state[0] if isinstance(state, tuple) else state for state in states[:-1]]
    return [received[0], *own, states[-1].last_hidden_state]


def test_captured_states_are_those_of_raw_hooks_on_each_clip_alone(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    alone = llm.frontend.alone
    assert alone == llm.name.endswith("group")
    with llm.capturing(llm.sites) as states:
        clips = llm.encode(waves, ["tower"])
    assert [clip.windows for clip in clips] == [(n,) for n in FRAMES]
    for i, (wave, frames) in enumerate(zip(waves, FRAMES, strict=True)):
        for site, raw in zip(llm.sites, by_hugging_face(llm, wave), strict=True):
            assert raw.shape == (1, frames, 32)
            if alone:
                # One forward a clip, in the order of the batch: bit for bit what the model makes of it alone.
                assert len(states[site]) == len(waves)
                assert torch.equal(states[site][i], raw), site
            else:
                (batch,) = states[site]
                torch.testing.assert_close(batch[i, :frames], raw[0], atol=2e-5, rtol=0)
        assert torch.equal(
            clips[i].streams["tower"], (states["tower"][i][0] if alone else states["tower"][0][i])[:frames]
        )


@pytest.mark.parametrize(("name", "norm"), KINDS)
def test_padding_is_why(name: str, norm: str) -> None:
    """A padded batch without more ado gives other frames: of the base models always, of the large ones unmasked."""
    llm = loaded(name, norm)
    waves = noise(*SECONDS)
    inputs, _ = llm.features(waves)
    with torch.inference_mode():
        masked = llm.model(**inputs).last_hidden_state[0, : FRAMES[0]]
        unmasked = llm.model(inputs["input_values"]).last_hidden_state[0, : FRAMES[0]]
    alone = by_hugging_face(llm, waves[0])[-1][0]
    assert float((unmasked - alone).abs().max()) > 0.05
    if norm == "group":
        assert float((masked - alone).abs().max()) > 0.05
    else:
        assert float((masked - alone).abs().max()) < 2e-5


@pytest.mark.parametrize(
    ("name", "fields"), [("hubert", {"conv_pos_batch_norm": True}), ("wavlm", {"add_adapter": True})]
)
def test_other_parts_that_reach_into_padding(name: str, fields: dict[str, Any]) -> None:
    llm = loaded(name, "layer", **fields)
    if "add_adapter" in fields:
        # Three convolutions of stride 2 behind the last layer: the tower's frames are 160 ms.
        assert llm.seconds_per_frame == pytest.approx((0.02, 0.16))
    waves = noise(*SECONDS)
    together = llm.encode(waves, ["tower"])
    layout = llm.layout(waves)
    assert layout.row_positions == list(FRAMES)
    inputs, _ = llm.features(waves)
    with torch.inference_mode():
        padded = llm.model(**inputs).last_hidden_state
    change = 0.0
    for i, (wave, clip) in enumerate(zip(waves, together, strict=True)):
        tower = by_hugging_face(llm, wave)[-1]
        assert tower.shape[1] == layout.row_frames[i]
        assert torch.equal(clip.streams["tower"], tower[0])
        change = max(change, float((padded[i, : tower.shape[1]] - tower[0]).abs().max()))
    assert change > 0.05


@given(st.one_of(st.integers(1, 2000), st.integers(1, 60 * RATE)))
def test_frames_are_those_of_hugging_faces_rule(samples: int) -> None:
    for model in _MODELS:
        llm = AudioLLM(model, waveform_extractor(), check=False)
        adapter = {"add_adapter": False} if "add_adapter" in model.config.to_dict() else {}
        positions = int(model._get_feat_extract_output_lengths(torch.tensor(samples), **adapter))
        if positions < 1:
            with pytest.raises(AudioError, match="too short"):
                llm.layout([range(samples)])
            continue
        layout = llm.layout([range(samples)])
        assert layout.row_positions == [positions]
        assert layout.row_frames == [int(model._get_feat_extract_output_lengths(torch.tensor(samples)))]


_MODELS = [
    waveform("hubert"),
    waveform("wavlm", "layer", add_adapter=True),
    waveform("hubert", conv_stride=(5, 4, 2, 2, 2, 2, 1)),
]


def test_too_short_and_too_long(llm: AudioLLM) -> None:
    assert llm.layout([np.zeros(400)]).row_positions == [1]
    with pytest.raises(AudioError, match="too short for a single frame; allowed: at least 400 samples"):
        llm.layout([np.zeros(399)])
    assert llm.layout([np.zeros(60 * RATE)]).row_positions == [2999]
    with pytest.raises(AudioError, match=r"60\.1 s; allowed: at most 60 s: this encoder has no window"):
        llm.layout([np.zeros(60 * RATE), np.zeros(60 * RATE + 1600)])
    assert llm.max_seconds == 60


def test_a_clip_is_normalized_by_itself() -> None:
    """Also when it stands beside a louder and longer one."""
    llm = loaded("wavlm", "layer")
    quiet, loud = noise(0.5)[0], 50 * noise(1.0, seed=1)[0] + 3
    inputs, _ = llm.features([quiet, loud])
    for row, wave in zip(inputs["input_values"], (quiet, loud), strict=True):
        wanted = llm.feature_extractor([wave], sampling_rate=RATE, return_tensors="pt")["input_values"][0]
        assert torch.equal(row[: len(wave)], wanted)
        assert abs(float(row[: len(wave)].mean())) < 1e-4
    plain = vp.load_model((waveform("wavlm", "layer"), waveform_extractor(do_normalize=False)))
    assert torch.equal(plain.features([quiet])[0]["input_values"][0], torch.from_numpy(quiet))
    # Normalized or not is another encoder to the cache.
    assert plain.encoder_sha != llm.encoder_sha


def test_the_tower_of_a_stable_norm_is_normed_and_of_the_base_model_the_last_layer() -> None:
    (wave,) = noise(0.5)
    for norm, same in (("group", True), ("layer", False)):
        llm = loaded("hubert", norm)
        with llm.capturing(["encoder[2]", "tower"]) as states:
            llm.encode([wave])
        assert torch.equal(states["encoder[2]"][0], states["tower"][0]) == same
        if not same:
            normed = llm.model.encoder.layer_norm(states["encoder[2]"][0])
            assert torch.equal(normed, states["tower"][0])


def test_an_extractor_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"WhisperFeatureExtractor.*allowed: Wav2Vec2FeatureExtractor"):
        vp.load_model((waveform("hubert"), whisper_extractor()))
