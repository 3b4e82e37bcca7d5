"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: clips end to end, projected inside the tower."""

from __future__ import annotations

import json
from types import SimpleNamespace

import family_checks as checks
import numpy as np
import pytest
import torch
from builders import BUILDERS, qwen2_5_omni, qwen2_audio, qwen3_omni
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5OmniConfig, Qwen3OmniMoeConfig, WhisperFeatureExtractor

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.families import FAMILIES
from vpanalysis.models.loading import load_model

SECONDS = (1.0, 1.37, 3.1, 2.0, 0.5)
NAMES = ("qwen2_5_omni", "qwen3_omni_moe")
WHOLE = {"qwen2_5_omni": Qwen2_5OmniConfig, "qwen3_omni_moe": Qwen3OmniMoeConfig}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def built(name):
    return BUILDERS[name]()


def stock_inputs(built):
    if not hasattr(built.processor, "load_audio_from_video"):
        # Older releases ask how pictures would be counted, also where there are none.
        built.processor.image_processor = built.processor.video_processor = SimpleNamespace(merge_size=2)
    return lambda prompts, waves: dict(
        built.processor(text=prompts, audio=list(waves), padding=True, return_tensors="pt")
    )


def by_hand(llm, item):
    inputs = stock_inputs(llm)([llm.prompt(item, DEFAULT_PROMPT)], [item.audio.load()])
    projector = "proj" if llm.family.name.startswith("qwen2_5") else "proj2"
    # Older releases of transformers have no base model around the towers.
    old = hasattr(llm.model, "audio_tower")
    tower, language = ("audio_tower", "model") if old else ("model.audio_tower", "model.language_model")
    paths = checks.layer_paths(4, 3, tower, language) | {
        "tower": f"{tower}.ln_post",
        "projector": f"{tower}.{projector}",
    }
    states, logits = checks.raw_states(llm.model, paths, inputs)
    return {site: state[0] if state.ndim == 3 else state for site, state in states.items()}, logits


def test_forward_is_stock(name, built):
    # The stock forward of Qwen3-Omni depends on the batch for clips below a second; see the test of it.
    seconds = SECONDS if name == "qwen2_5_omni" else (*SECONDS[:-1], 1.1)
    checks.check_forward_is_stock(built, checks.waves_of(*seconds), stock_inputs(built))


def test_options_answers_and_the_clip(built):
    waves = checks.waves_of(*SECONDS[:-1])
    checks.check_the_clip_matters(built, waves)
    checks.check_options_and_answers(built, waves)


def test_run_and_probe(built, tmp_path):
    checks.check_run(built, (1.0, 1.6, 3.1, 1.2, 1.9, 2.5, 1.4, 1.8), by_hand, tmp_path)


def test_saved_and_loaded(name, built, tmp_path):
    there = checks.check_saved_and_loaded(built, checks.waves_of(*SECONDS), tmp_path)
    assert there.family.name == f"{name}_thinker"


def test_the_thinker_of_a_whole_checkpoint(name, built, tmp_path):
    built.model.save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    tensors = {f"thinker.{key}": tensor for key, tensor in load_file(tmp_path / "model.safetensors").items()}
    speaks = {"talker.model.weight": torch.zeros(2)}
    speaks["token2wav.weight" if name == "qwen2_5_omni" else "code2wav.weight"] = torch.zeros(2)
    save_file({**tensors, **speaks}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    WHOLE[name](thinker_config=built.model.config.to_dict()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == name
    there = load_model(tmp_path)
    assert there.family.name == f"{name}_thinker"
    waves = checks.waves_of(1.2)
    items = checks.items_of(waves)
    here = AudioLLM(built.model, built.processor, name="tiny")
    wanted = here.forward(here.prepare(items, waves, DEFAULT_PROMPT))
    logits = there.forward(there.prepare(items, waves, DEFAULT_PROMPT))
    torch.testing.assert_close(logits, wanted, atol=1e-6, rtol=0)
    assert there.weights_sha == here.weights_sha
    # What is missing is still missed.
    lost = {key: tensor for key, tensor in tensors.items() if key != "thinker.audio_tower.ln_post.weight"}
    save_file({**lost, **speaks}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys:.*ln_post\.weight"):
        load_model(tmp_path)


def test_wrong_processors(built):
    other = built.processor
    wrong = type(other)(
        WhisperFeatureExtractor(feature_size=8, hop_length=320, n_fft=800, chunk_length=4), other.tokenizer
    )
    checks.check_wrong_processors(built, [qwen2_audio().processor, wrong])


def test_tower_and_projector(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    waves = checks.waves_of(*SECONDS)
    with llm.capturing(["tower", "projector"]) as states, torch.no_grad():
        inputs, layout = llm.features(waves)
        handed_on = llm.model.get_audio_features(**inputs).last_hidden_state
    tower, projector = states["tower"][0], states["projector"][0]
    assert tower.shape[0] == projector.shape[0] == sum(layout.audio_tokens)
    assert torch.equal(projector, handed_on)
    with torch.no_grad():
        assert torch.equal(llm.frontend.handed_on(tower), handed_on)
    for clip, piece in zip(llm.encode(waves), tower.split(layout.row_frames), strict=True):
        torch.testing.assert_close(clip.streams["tower"], piece, atol=1e-5, rtol=0)


def test_features_end_behind_the_longest_clip():
    built = qwen2_5_omni()
    llm = AudioLLM(built.model, built.processor, name="tiny")
    for seconds in ((1.0, 1.37), (4.0,), (3.99, 0.2)):
        waves = checks.waves_of(*seconds)
        short, layout = llm.frontend.features(waves, short=True)
        whole, same = llm.frontend.features(waves)
        assert layout == same
        assert whole["input_features"].shape[-1] == 200
        mels = short["input_features"].shape[-1]
        assert mels == min(200, -(-int(max(seconds) * 16_000) // 320) + 3)
        valid = whole["feature_attention_mask"].bool()
        assert torch.equal(short["feature_attention_mask"], whole["feature_attention_mask"][:, :mels])
        for row in range(len(waves)):
            torch.testing.assert_close(
                short["input_features"][row, :, : int(valid[row].sum())],
                whole["input_features"][row][:, valid[row]],
                atol=1e-6,
                rtol=0,
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1000, 64_000), min_size=1, max_size=4), st.sampled_from(NAMES))
def test_counts_are_the_models(lengths, name):
    llm = LLMS[name]
    hop = llm.feature_extractor.hop_length
    layout = llm.frontend.layout(lengths)
    mels = torch.tensor([-(-n // hop) for n in lengths])
    if name == "qwen2_5_omni":
        positions, frames = llm.frontend.tower._get_feat_extract_output_lengths(mels)
    else:
        from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

        positions = frames = _get_feat_extract_output_lengths(mels)
    assert layout.row_positions == positions.tolist()
    assert layout.row_frames == frames.tolist()
    # The stand-in of a replay has other mel frames, and as many positions.
    mask = llm.frontend.stand_in(layout)["feature_attention_mask"]
    assert [llm.frontend._positions(int(n)) for n in mask.sum(-1)] == layout.row_positions


LLMS = {name: AudioLLM(BUILDERS[name]().model, BUILDERS[name]().processor, name="tiny") for name in NAMES}


def test_clips_of_any_length_only_where_the_processor_takes_them():
    with pytest.raises(AudioError, match=r"clip 1 of the batch.*4\.1 s.*at most 4 s"):
        LLMS["qwen2_5_omni"].layout([np.zeros(16_000), np.zeros(65_600)])
    assert LLMS["qwen3_omni_moe"].layout([np.zeros(160_000)]).frames == ((130,),)
    for llm in LLMS.values():
        with pytest.raises(AudioError, match="too short"):
            llm.layout([np.zeros(0)])


def test_a_clip_below_a_second_depends_on_its_batch_in_stock_qwen3_omni():
    built = qwen3_omni()
    llm = AudioLLM(built.model, built.processor, name="tiny")
    short, long = checks.waves_of(0.5, 1.5)
    items = checks.items_of([short, long])
    prompts = [llm.prompt(item, DEFAULT_PROMPT) for item in items]
    alone = checks.stock_logits(llm, stock_inputs(built)(prompts[:1], [short]))[0]
    together = checks.stock_logits(llm, stock_inputs(built)(prompts, [short, long]))[0]
    assert (alone - together).abs().max() > 1e-4
    assert torch.equal(llm.forward(llm.prepare(items[:1], [short], DEFAULT_PROMPT))[0], alone)
    assert torch.equal(llm.forward(llm.prepare(items, [short, long], DEFAULT_PROMPT))[0], together)


def test_paths_of_older_releases():
    # Stand-ins with the same parts at the places where transformers 5.20 had them.
    model = LLMS["qwen2_5_omni"].model
    row = FAMILIES["qwen2_5_omni_thinker"]
    if hasattr(model, "audio_tower"):
        pytest.skip("this is an older release")
    older = nn.Module()
    older.audio_tower, older.model, older.lm_head = model.model.audio_tower, model.model.language_model, model.lm_head
    assert row.fitted(model) is row
    fitted = row.fitted(older)
    fitted.check(older)
    assert (fitted.tower_output, fitted.text_layers) == ("audio_tower.ln_post", "model.layers")
    assert fitted.find(older, fitted.language_model) is model.model.language_model
    with pytest.raises(ModelError, match=r"no module 'model\.audio_tower'"):
        row.check(older)


def test_steps():
    assert LLMS["qwen2_5_omni"].seconds_per_frame == pytest.approx((0.04, 0.08))
    assert LLMS["qwen3_omni_moe"].seconds_per_frame == pytest.approx((1 / 13, 1 / 13))
    assert LLMS["qwen3_omni_moe"].seconds_per_token == pytest.approx(1 / 13)
