"""CLAP's audio branch: stages of growing width, tokens brought into the order of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr
import torch
from builders_encoders import RATE, clap, clap_extractor, noise, raw_states, waveform_extractor
from hypothesis import given
from hypothesis import strategies as st
from transformers import ClapFeatureExtractor

import vpanalysis as vp
from vpanalysis.capture.recorder import Recorder
from vpanalysis.capture.reducers import Spans, make_plan
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.frontends.clap import unfold

WIDTHS = {"encoder.stem": 8, "encoder[0]": 8, "encoder[1]": 16, "encoder[2]": 32, "encoder[3]": 64, "tower": 64}
SECONDS = (0.6, 2.0, 4.9, 1.1)  # the third takes three windows of 2 s


@pytest.fixture(scope="module")
def llm() -> AudioLLM:
    return vp.load_model((clap(), clap_extractor()), name="tiny clap")


@pytest.fixture(scope="module")
def real() -> AudioLLM:
    """The geometry of the released checkpoints: 10 s, 64 mel bins, 64 x 64 patches; only narrower."""
    shape = {"num_mel_bins": 64, "spec_size": 256, "window_size": 8, "depths": (2, 2, 6, 2)}
    return vp.load_model((clap(**shape), ClapFeatureExtractor(truncation="rand_trunc")), name="narrow clap")


def windows_of(llm: AudioLLM, waves: list[Any]) -> list[Any]:
    extractor = llm.feature_extractor
    size = extractor.nb_max_samples
    sounds = [soxr.resample(wave, RATE, extractor.sampling_rate, quality="HQ") for wave in waves]
    return [sound[start : start + size] for sound in sounds for start in range(0, len(sound), size)]


def by_hugging_face(llm: AudioLLM, waves: list[Any]) -> dict[str, Any]:
    """Raw outputs of Hugging Face's modules on its own forward of its own features."""
    encoder = llm.model.audio_encoder
    pieces = windows_of(llm, waves)
    inputs = dict(llm.feature_extractor(pieces, sampling_rate=48_000, return_tensors="pt"))
    inputs["is_longer"] = torch.zeros(len(pieces), 1, dtype=torch.bool)
    modules = [encoder.patch_embed, *(stage.blocks[-1] for stage in encoder.layers), llm.model]
    states = raw_states(modules, lambda: llm.model(**inputs))
    names = ["encoder.stem", *(f"encoder[{i}]" for i in range(len(encoder.layers))), "tower"]
    return dict(zip(names, states, strict=True))


def slowly_unfolded(state: Any, side: int, folds: int) -> Any:
    """The order of time, token by token, as `ClapAudioEncoder.reshape_mel2img` folds it."""
    clips, _, width = state.shape
    rows = side // folds
    out = torch.zeros(clips, folds * side, width)
    for row in range(side):
        for column in range(side):
            out[:, (row // rows) * side + column] += state[:, row * side + column] / rows
    return out


def test_captured_states_are_those_of_raw_hooks_in_the_order_of_time(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    with llm.capturing(llm.sites) as states:
        clips = llm.encode(waves, ["tower"])
    raw = by_hugging_face(llm, waves)
    assert list(raw) == list(llm.sites) == list(WIDTHS)
    for site, width in WIDTHS.items():
        (state,) = states[site]
        assert state.shape == (6, 128, width)
        if site == "tower":
            wanted = raw[site].last_hidden_state.mean(2).transpose(1, 2)
        else:
            tokens = raw[site] if site == "encoder.stem" else raw[site][0]
            wanted = slowly_unfolded(tokens, round(tokens.shape[1] ** 0.5), 4)
        wanted = wanted.repeat_interleave(128 // wanted.shape[1], dim=1)
        torch.testing.assert_close(state, wanted, atol=2e-6, rtol=1e-5)
    # Hugging Face's own stages put out the merged state first, of the next stage's width; that is not taken.
    assert llm.model.audio_encoder.layers[0].downsample is not None
    assert [clip.windows for clip in clips] == [(38,), (128,), (128, 128, 58), (70,)]
    assert torch.equal(clips[2].streams["tower"], torch.cat([*states["tower"][0][2:4], states["tower"][0][4, :58]]))


def test_a_hooked_forward_puts_out_the_same_bits(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    inputs, _ = llm.features(waves)
    with torch.inference_mode():
        bare = llm.model(**inputs).last_hidden_state
        with llm.capturing(llm.sites):
            hooked = llm.model(**inputs).last_hidden_state
    assert torch.equal(bare, hooked)


@pytest.mark.parametrize("at", [0.03, 0.2, 0.3, 0.55, 0.7, 0.97])
@pytest.mark.parametrize("name", ["llm", "real"])
def test_a_click_moves_the_steps_of_its_time(name: str, at: float, request: pytest.FixtureRequest) -> None:
    llm: AudioLLM = request.getfixturevalue(name)
    quiet = 0.001 * np.random.default_rng(0).standard_normal(int(llm.max_seconds * RATE)).astype(np.float32)
    click = quiet.copy()
    place = int(at * len(quiet))
    click[place - 40 : place + 40] += np.random.default_rng(1).standard_normal(80).astype(np.float32)
    step = llm.seconds_per_frame[0]
    with llm.capturing(llm.sites) as states:
        llm.encode([quiet, click])
    for site in llm.sites:
        without, with_click = states[site][0]
        change = (without - with_click).norm(dim=-1)
        moved = int(change.argmax())
        # The first of the repeated steps of a coarse one; its middle is the time of that one.
        coarse = 1 if site == "encoder.stem" else 2 ** min(3, llm.sites.index(site) - 1)
        middle = (moved // coarse + 0.5) * coarse * step
        assert abs(middle - at * llm.max_seconds) <= (0.5 * coarse + 1) * step, site


def test_the_mean_of_a_full_window_is_the_models_own_pooled_output(real: AudioLLM) -> None:
    (wave,) = noise(10.0)
    inputs, layout = real.features([wave])
    assert layout.row_positions == [256]
    assert real.seconds_per_frame == pytest.approx((0.0391, 0.0391), abs=1e-4)
    with torch.inference_mode():
        pooled = real.model(**inputs).pooler_output
    (clip,) = real.encode([wave], ["tower"])
    assert float(pooled.std()) > 0.1
    torch.testing.assert_close(clip.streams["tower"].mean(0), pooled[0], atol=1e-5, rtol=0)


def test_only_the_first_copy_of_a_short_clip_counts(llm: AudioLLM) -> None:
    """A clip of 0.5 s is heard four times; its four equal quarters are no segments of the clip."""
    (wave,) = noise(0.5)
    layout = llm.layout([wave])
    assert layout.row_positions == [32]
    with llm.capturing(["encoder.stem"]) as states:
        llm.encode([wave])
    (state,) = states["encoder.stem"]
    # The copies are really there: later quarters nearly repeat the first.
    assert float((state[0, 64:92] - state[0, 32:60]).abs().mean()) < 0.2 * float(state[0].abs().mean())
    with Recorder(llm.module_of, make_plan(llm.sites)) as recorder:
        recorder.expect({"encoder": Spans.per_window(layout.positions), "tower": Spans.per_window(layout.frames)})
        llm.encode([wave])
        found = recorder.take()
    mean = state[0, :32].mean(0).numpy()
    np.testing.assert_allclose(found["encoder.stem", "mean"][0], mean, atol=1e-5)
    # The clip gets louder: its halves differ, as halves of four copies would not.
    halves = found["encoder.stem", "segments6"][0]
    assert np.abs(halves[:3].mean(0) - halves[3:].mean(0)).max() > 0.1
    assert found["encoder[3]", "segments6"].shape == (1, 6, 64)


def test_segments_of_coarse_stages_weigh_cut_steps_by_what_is_inside(llm: AudioLLM) -> None:
    """38 steps are four coarse steps of 8 and six eighths of a fifth."""
    (wave,) = noise(0.6)
    layout = llm.layout([wave])
    raw = by_hugging_face(llm, [wave])["tower"].last_hidden_state.mean(2)[0].T
    with Recorder(llm.module_of, make_plan(llm.sites, "tower")) as recorder:
        recorder.expect({"tower": Spans.per_window(layout.frames)})
        llm.encode([wave])
        mean = recorder.take()["tower", "mean"][0]
    weights = torch.tensor([8.0, 8, 8, 8, 6]) / 38
    np.testing.assert_allclose(mean, (weights[:, None] * raw[:5]).sum(0).numpy(), atol=1e-5)


def test_a_batch_changes_nothing(llm: AudioLLM) -> None:
    waves = noise(*SECONDS)
    together = llm.encode(waves, ["tower"])
    for wave, clip in zip(waves, together, strict=True):
        (alone,) = llm.encode([wave], ["tower"])
        assert alone.windows == clip.windows
        torch.testing.assert_close(alone.streams["tower"], clip.streams["tower"], atol=1e-4, rtol=1e-5)


def test_a_long_clip_takes_windows_and_nothing_is_random(llm: AudioLLM) -> None:
    (wave,) = noise(4.9)
    first = llm.encode([wave], ["tower"])[0]
    again = llm.encode([wave], ["tower"])[0]
    assert torch.equal(first.streams["tower"], again.streams["tower"])
    parts = [wave[: 2 * RATE], wave[2 * RATE : 4 * RATE], wave[4 * RATE :]]
    apart = torch.cat([clip.streams["tower"] for clip in llm.encode(parts, ["tower"])])
    assert apart.shape == first.streams["tower"].shape
    # Alike but for the resampler, which does not see across a cut.
    assert float((apart - first.streams["tower"]).abs().mean()) < 0.05 * float(apart.std())


def test_a_fused_checkpoint_is_not_fused_and_not_random() -> None:
    llm = vp.load_model((clap(fusion=True), clap_extractor(fusion=True)), name="fused")
    waves = noise(0.6, 1.1, 4.9)
    np.random.seed(5)
    inputs, _ = llm.features(waves)
    untouched = np.random.randint(1 << 30)
    np.random.seed(5)
    assert np.random.randint(1 << 30) == untouched
    assert inputs["input_features"].shape[1] == 4
    assert not inputs["is_longer"].any()
    with llm.capturing(["encoder[3]"]) as states:
        clips = llm.encode(waves, ["tower"])
        again = llm.encode(waves, ["tower"])
    for clip, other in zip(clips, again, strict=True):
        assert torch.equal(clip.streams["tower"], other.streams["tower"])
    raw = by_hugging_face(llm, waves)["encoder[3]"][0]
    assert torch.equal(states["encoder[3]"][0][:, ::8], unfold(raw, (4, 4), 4))


@given(st.integers(1, 10 * RATE))
def test_valid_steps_are_those_whose_centre_is_in_the_clip(samples: int) -> None:
    llm = AudioLLM(_REAL, ClapFeatureExtractor(truncation="rand_trunc"), check=False)
    # The 1,001 mel frames of 10 ms are stretched to 1,024 columns, a step is four of them.
    centres = (4 * np.arange(256) + 1.5) * (1000 / 1023) * 0.01
    wanted = int((centres < samples / RATE).sum())
    if wanted:
        assert llm.layout([range(samples)]).row_positions == [wanted]
    else:
        with pytest.raises(AudioError, match="too short"):
            llm.layout([range(samples)])


_REAL = clap(num_mel_bins=64, spec_size=256, window_size=8)


def test_a_last_window_without_a_step_is_left_out(llm: AudioLLM) -> None:
    waves = [np.zeros(2 * RATE + 10, np.float32), noise(0.5)[0]]
    layout = llm.layout(waves)
    assert layout.windows == (1, 1)
    inputs, made = llm.features(waves)
    assert made == layout
    assert inputs["input_features"].shape[0] == 2


def test_states_are_looked_at_and_not_replaced(llm: AudioLLM) -> None:
    handle = llm.module_of("encoder[1]").register_forward_hook(lambda _module, _args, state: state * 0)
    with pytest.raises(ModelError, match="cannot replace a state of CLAP"):
        llm.encode(noise(0.5))
    handle.remove()
    llm.encode(noise(0.5))
    with pytest.raises(ModelError, match="cannot run a site"):
        llm.module_of("tower")(torch.zeros(1))


def test_an_extractor_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Wav2Vec2FeatureExtractor; allowed: ClapFeatureExtractor"):
        vp.load_model((clap(), waveform_extractor()))
    with pytest.raises(ModelError, match="64 mel bins and a window of 1001 frames; allowed: 32 and at most 512"):
        vp.load_model((clap(), ClapFeatureExtractor(truncation="rand_trunc")))
    with pytest.raises(ModelError, match="truncation 'fusion'; allowed: 'rand_trunc', for an unfused model"):
        vp.load_model((clap(), clap_extractor(fusion=True)))
