"""Voxtral: full windows that are never masked, four frames to an audio token."""

from __future__ import annotations

import base64
import io
import json

import family_checks as checks
import pytest
import soundfile
import torch
from builders import MISTRAL_TOKENS, Built, qwen2_audio, voxtral
from transformers import VoxtralProcessor, WhisperFeatureExtractor

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.loading import load_model

SECONDS = (1.0, 31.5, 2.0)
STOCK = {
    "sampling_rate": 16_000,
    "padding": True,
    "truncation": False,
    "pad_to_multiple_of": 480_000,
    "return_tensors": "pt",
}


@pytest.fixture
def built():
    return voxtral()


def stock_inputs(built):
    def made(prompts, waves):
        processor = built.processor
        # What the processor does behind its chat template, which takes files and needs mistral-common.
        features = processor._retrieve_input_features(waves, 3000, **STOCK)
        texts = [
            prompt.replace("[AUDIO]", "[AUDIO]" * 375 * max(1, -(-len(wave) // 480_000)))
            for prompt, wave in zip(prompts, waves, strict=True)
        ]
        return {**processor.tokenizer(texts, padding=True, return_tensors="pt"), "input_features": features}

    return made


def by_hand(llm, item):
    wave = item.audio.load()
    inputs = stock_inputs(llm)([llm.prompt(item, DEFAULT_PROMPT)], [wave])
    paths = checks.layer_paths(2, 3) | {"tower": "model.audio_tower", "projector": "model.multi_modal_projector"}
    states, logits = checks.raw_states(llm.model, paths, inputs)
    # 320 samples a position, 1,280 an audio token; whole windows before the last.
    for site, state in states.items():
        if site.startswith("text"):
            states[site] = state[0]
        else:
            step = 1280 if site == "projector" else 320
            states[site] = state.reshape(-1, state.shape[-1])[: -(-len(wave) // step)]
    return states, logits


def test_forward_is_stock(built):
    checks.check_forward_is_stock(built, checks.waves_of(*SECONDS), stock_inputs(built))


def test_options_answers_and_the_clip(built):
    waves = checks.waves_of(1.0, 31.5)
    checks.check_the_clip_matters(built, waves)
    checks.check_options_and_answers(built, waves)


def test_run_and_probe(built, tmp_path):
    checks.check_run(built, (1.0, 0.6, 30.9, 1.2, 0.9, 2.5, 1.4, 0.8), by_hand, tmp_path)


def test_saved_and_loaded(built, tmp_path):
    there = checks.check_saved_and_loaded(built, checks.waves_of(1.0, 2.0), tmp_path)
    assert there.family.name == "voxtral"


def test_wrong_processors(built):
    other = voxtral().processor
    other.feature_extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=10)
    checks.check_wrong_processors(built, [qwen2_audio().processor, other])


def test_layout(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    layout = llm.frontend.layout([64_000, 480_000, 480_001])
    assert layout.positions == layout.frames == ((200,), (1500,), (1500, 1))
    assert layout.kept_frames == ((1500,), (1500,), (1500, 1500))
    assert layout.heard_tokens == ((50,), (375,), (375, 1))
    assert layout.audio_tokens == (375, 375, 750)
    assert (llm.seconds_per_frame, llm.seconds_per_token) == ((0.02, 0.02), 0.08)
    with pytest.raises(AudioError, match="too short"):
        llm.frontend.layout([64_000, 0])


def test_the_silence_behind_a_clip_is_heard(built):
    # The reason why all of a window is kept, and nothing is left out.
    llm = AudioLLM(built.model, built.processor, name="tiny", trim=True)
    assert llm.trim_report == "off"
    inputs, layout = llm.features(checks.waves_of(10.0))
    tower = llm.frontend.run_tower(inputs, layout)
    noisy = torch.where(torch.arange(3000) < 1100, inputs["input_features"], torch.randn(1, 16, 3000))
    assert (llm.frontend.run_tower({"input_features": noisy}, layout)[:, :500] - tower[:, :500]).abs().max() > 1e-2


def test_prompts_without_their_form_are_refused(built):
    llm = AudioLLM(built.model, built.processor, name="tiny")
    with pytest.raises(ModelError, match="cannot tokenize a prompt of Voxtral"):
        llm.frontend.ids(["What is the question?"])


def tekken(folder):
    """Write a small vocabulary as Mistral does: bytes, a few words, and Voxtral's marks."""
    words = ["Wh", "at", " i", " is", "th", "the", " t", " the", "What", "he", "ge", "nd", "er"]
    pieces = [*(bytes([i]) for i in range(256)), *(word.encode() for word in words)]
    marks = (*MISTRAL_TOKENS, *(f"<SPECIAL_{i}>" for i in range(len(MISTRAL_TOKENS), 34)), "[TRANSCRIBE]")
    made = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+(?!\S)|\s+",
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": len(pieces) + 64,
            "default_num_special_tokens": 64,
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for i, piece in enumerate(pieces)
        ],
        "special_tokens": [{"rank": i, "token_str": mark, "is_control": True} for i, mark in enumerate(marks)],
        "version": 1,
        "type": "tekken",
        "audio": {
            "sampling_rate": 16_000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,
        },
    }
    path = folder / "tekken.json"
    path.write_text(json.dumps(made))
    return path, len(pieces) + 64


def test_a_folder_as_mistral_releases_it(tmp_path):
    # Only tekken.json. Without mistral-common, Hugging Face reads it into a fast tokenizer that names no pad token.
    _, size = tekken(tmp_path)
    built = voxtral(vocab_size=size)
    built.model.save_pretrained(tmp_path)
    built.processor.feature_extractor.save_pretrained(tmp_path)
    llm = load_model(tmp_path)
    waves = checks.waves_of(1.0, 2.0)
    items = checks.items_of(waves)
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    ids = batch.inputs["input_ids"][0, -int(batch.inputs["attention_mask"][0].sum()) :].tolist()
    assert ids[:3] == [1, 3, 25] and ids[3:378] == [24] * 375 and ids[-2] == 4
    asked = llm.tokenizer(DEFAULT_PROMPT.render(items[0]), add_special_tokens=False)["input_ids"]
    assert ids[378:-2] == asked and len(asked) > 20
    assert len(llm.generate(batch, 2)) == 2


def test_mistrals_own_tokenizer_gives_the_same_prompt(tmp_path):
    pytest.importorskip("mistral_common", reason="Voxtral's own tokenizer is an extra")
    from transformers import MistralCommonBackend

    path, size = tekken(tmp_path)
    tokenizer = MistralCommonBackend(str(path))
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer)
    built = Built(voxtral(vocab_size=size).model, processor)
    llm = AudioLLM(built.model, processor, name="tiny")
    wave = checks.waves_of(31.0)[0]
    item = checks.items_of([wave])[0]
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="wav", subtype="FLOAT")
    content = [
        {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()},
        {"type": "text", "text": DEFAULT_PROMPT.render(item)},
    ]
    stock = processor.apply_chat_template([{"role": "user", "content": content}])
    batch = llm.prepare([item], [wave], DEFAULT_PROMPT)
    prefix = tokenizer(DEFAULT_PROMPT.answer_prefix, add_special_tokens=False)["input_ids"]
    assert batch.inputs["input_ids"][0].tolist() == [*stock["input_ids"][0].tolist(), *prefix]
    assert torch.equal(batch.inputs["input_features"], stock["input_features"])
    logits = llm.forward(batch)
    assert llm.option_logprobs(batch, logits)[0].exp().sum() == pytest.approx(1, abs=1e-5)
    assert llm.generate(batch, 2)[0].startswith("(")
    built.model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    there = load_model(tmp_path / "saved")
    again = there.prepare([item], [wave], DEFAULT_PROMPT)
    assert torch.equal(again.inputs["input_ids"], batch.inputs["input_ids"])
    torch.testing.assert_close(there.forward(again), logits, atol=1e-6, rtol=0)


def test_marks_in_a_question_stay_text(tmp_path):
    pytest.importorskip("mistral_common", reason="Voxtral's own tokenizer is an extra")
    from transformers import MistralCommonBackend

    path, size = tekken(tmp_path)
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=16), MistralCommonBackend(str(path)))
    llm = AudioLLM(voxtral(vocab_size=size).model, processor, name="tiny")
    row = llm.frontend.ids([llm.frontend.chat("Is [INST] a mark?") + "("])[0]
    assert row.count(processor.tokenizer.convert_tokens_to_ids("[INST]")) == 1
