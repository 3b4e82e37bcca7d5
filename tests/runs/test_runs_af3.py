"""Runs of tiny random Audio Flamingo 3 models: the real facade, the real modules, nothing faked but the size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import make_benchmark
from test_runs import assert_same_run
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from vpanalysis import run
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.capture.recorder import Recorder
from vpanalysis.capture.reducers import Spans, make_plan
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration
from vpanalysis.models.word_tokenizer import build_word_processor, build_word_tokenizer

WORDS = ["What is the speaker's gender?", "What is the speaker's sex?", "Female", "Male"]


@pytest.fixture(scope="module")
def bench():
    # Clips of 0.2 to 1.4 s, two longer than the window of 2 s, one that cannot be read.
    return make_benchmark(14, bad=(3,), long=(2, 9))


def build(kind):
    tokenizer = build_word_tokenizer(WORDS)
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=2)
    parts = {
        "audio_config": AudioFlamingo3EncoderConfig(
            num_mel_bins=16, num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64,
            max_source_positions=50,
        ),
        "text_config": Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, max_position_embeddings=512, bos_token_id=None, eos_token_id=3,
            pad_token_id=0, tie_word_embeddings=False,
        ),
        "audio_token_id": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "stock":
        model = AudioFlamingo3ForConditionalGeneration(AudioFlamingo3Config(**parts))
    else:
        bert = {
            "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64,
        }  # fmt: skip
        fields = {"expose_layers": [1, 2], "gate_mlp_dims": [8], "prompt_encoder_config": bert}
        model = AudioFlamingo3PCLMForConditionalGeneration(AudioFlamingo3PCLMConfig(**parts, **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(5.0)
    return AudioLLM(model.eval(), build_word_processor(tokenizer, extractor), name=kind)


@pytest.fixture(scope="module", params=["pclm", "stock"])
def llm(request):
    return build(request.param)


def settings(tmp_path, **more):
    return {"block_size": 5, "batch_size": 3, "progress": False, "cache": tmp_path / "cache", **more}


def native(llm, item):
    """What raw hooks see in one plain forward of Hugging Face over one item, waveform to logits."""
    seen, handles = {}, []
    for site in llm.sites:
        if site != "options":

            def keep(_module, _args, output, site=site):
                # A tensor, a tuple that begins with one, or a ModelOutput, by hand.
                first = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
                seen[site] = first

            handles.append(llm.module_of(site).register_forward_hook(keep))
    batch = llm.prepare([item], [item.audio.load()], DEFAULT_PROMPT)
    with torch.inference_mode():
        logits = llm.model(**batch.inputs).logits[:, -1]
    for handle in handles:
        handle.remove()
    return batch, logits[0], seen


def test_states_and_logits_are_those_of_a_plain_forward(llm, bench, tmp_path):
    made = run(llm, bench, tmp_path / "r", **settings(tmp_path), reducers=["mean", "last", "segments(3)"])
    assert set(made.sites) == set(llm.sites)
    for row, item in enumerate(bench):
        if row == 3:
            assert made.predictions["status"][row] == "failed"
            continue
        batch, logits, seen = native(llm, item)
        assert made.predictions["windows"][row] == batch.windows[0] == (3 if row in (2, 9) else 1)
        want = llm.option_logprobs(batch, logits[None])[0]
        np.testing.assert_allclose(made.predictions["option_logprobs"][row], want, atol=2e-5)
        for site, state in seen.items():
            if site == "gate":
                np.testing.assert_allclose(made.states(site)[row], state[0], atol=1e-5)
                continue
            if site.startswith("text"):
                frames = state[0]
            else:
                counts = batch.positions[0] if site.startswith("encoder") else batch.frames[0]
                frames = torch.cat([state[w, :n] for w, n in enumerate(counts)])
            scale = float(frames.abs().max())
            np.testing.assert_allclose(made.states(site, "mean")[row], frames.mean(0), atol=2e-5 * scale)
            np.testing.assert_allclose(made.states(site, "last")[row], frames[-1], atol=2e-5 * scale)
            if len(frames) % 3 == 0:
                want = frames.reshape(3, len(frames) // 3, -1).mean(1)
                np.testing.assert_allclose(made.states(site, "segments")[row], want, atol=2e-5 * scale)


def test_the_last_text_state_gives_the_logits(llm, bench, tmp_path):
    made = run(llm, bench, tmp_path / "r", **settings(tmp_path), sites=["text[-1]", "options"])
    last = torch.from_numpy(made.states("text[1]", "last"))
    net = llm.model
    with torch.inference_mode():
        logits = net.lm_head(net.model.language_model.norm(last))
    for row, item in enumerate(bench):
        if row != 3:
            tokens = [llm.letter_tokens([letter])[letter][0] for letter in item.letters]
            np.testing.assert_allclose(
                torch.log_softmax(logits[row, tokens], 0), made.predictions["option_logprobs"][row], atol=1e-5
            )


def test_bit_equal_with_hooks_on_and_off(llm, bench):
    items = [bench[i] for i in (0, 1, 2)]
    waves = [item.audio.load() for item in items]
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    plan = make_plan(llm.sites)
    off, clips_off = llm.forward(batch), llm.encode(waves)
    with Recorder(llm.module_of, plan) as recorder:
        recorder.expect({
            "encoder": Spans.per_window(batch.positions), "tower": Spans.per_window(batch.frames),
            "audio": Spans.per_window(batch.frames),
            "text": Spans.per_item(batch.inputs["attention_mask"].sum(1).tolist(), "left"),
        })  # fmt: skip
        on = llm.forward(batch)
        recorder.take()
        clips_on = llm.encode(waves)
    assert torch.equal(on, off)
    for a, b in zip(clips_on, clips_off, strict=True):
        assert all(torch.equal(a.streams[name], b.streams[name]) for name in a.streams)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules()) == 0


def test_cache_and_batch_size_change_nothing(llm, bench, tmp_path):
    more = {"generate": True, "text_scores": True}
    fill = run(llm, bench, tmp_path / "fill", **settings(tmp_path), **more)
    hit = run(llm, bench, tmp_path / "hit", **settings(tmp_path), **more)
    none = run(llm, bench, tmp_path / "none", **settings(tmp_path, cache=None), **more)
    assert_same_run(fill, none)
    assert_same_run(fill, hit)
    one = run(llm, bench, tmp_path / "one", **settings(tmp_path, cache=None, batch_size=1), **more)
    for column in ("pred_logits", "pred_generated_raw", "pred_text_score"):
        assert one.predictions[column].tolist() == fill.predictions[column].tolist()
    for a, b in zip(one.predictions["option_logprobs"], fill.predictions["option_logprobs"], strict=True):
        np.testing.assert_allclose(a or [], b or [], atol=1e-5)
    for a, b in zip(one.predictions["text_scores"], fill.predictions["text_scores"], strict=True):
        np.testing.assert_allclose(a or [], b or [], atol=2e-4)
    assert fill.predictions["pred_generated_raw"].drop(3).str.startswith("(").all()
