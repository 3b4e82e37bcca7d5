"""No work on silence: fewer frames in, the same states out; and the stock path bit for bit where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, WhisperFeatureExtractor

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.frontends.af3 import BUCKET, short_positions
from vpanalysis.models.word_tokenizer import build_word_processor


def shapes(llm, call):
    """Return the lengths of the tower's inputs while `call` runs."""
    seen = []
    handle = llm.frontend.tower.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args[0] if args else kwargs["input_features"]).shape[-1]),
        with_kwargs=True,
    )
    try:
        call()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ["stock", "pclm"])
def test_trimmed_states_are_those_of_the_padded_path(kind, tiny, waves, items):
    model = tiny.stock() if kind == "stock" else tiny.pclm()
    on, off = tiny.llm(model), tiny.llm(model, trim=False)
    assert on.trim_report.startswith("on: largest difference") and off.trim_report == "off"
    assert on.encoder_sha != off.encoder_sha
    short, whole = on.encode(waves[:2], on.sites[1:6]), off.encode(waves[:2], on.sites[1:6])
    for a, b in zip(short, whole, strict=True):
        assert a.windows == b.windows and a.samples == b.samples
        for name, state in a.streams.items():
            assert (state - b.streams[name]).abs().max() < 1e-5, name
    assert max(shapes(on, lambda: on.encode(waves[:2]))) < 100 == max(shapes(off, lambda: off.encode(waves[:2])))
    # The direct path is trimmed too, although its inputs are those of the stock processor.
    batch = on.prepare(items[:2], waves[:2], DEFAULT_PROMPT)
    assert max(shapes(on, lambda: on.forward(batch))) < 100
    torch.testing.assert_close(on.forward(batch), off.forward(batch), atol=1e-5, rtol=0)
    assert on.generate(batch, 4) == off.generate(batch, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untrimmed_is_stock_transformers_bit_for_bit(tiny, waves, items, dtype):
    model = tiny.stock().to(dtype)
    llm = tiny.llm(model, trim=False)
    for rows in ([0], [2], [0, 1, 2, 4]):
        chosen, clips = [items[i] for i in rows], [waves[i] for i in rows]
        prompts = [llm.prompt(item, DEFAULT_PROMPT) for item in chosen]
        inputs = tiny.processor(text=prompts, audio=clips)
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as `generate` counts them
        with torch.inference_mode():
            wanted = model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        assert torch.equal(llm.forward(llm.prepare(chosen, clips, DEFAULT_PROMPT)), wanted)
        encoded = llm.encode(clips)
        assert torch.equal(llm.forward(llm.prepare(chosen, None, DEFAULT_PROMPT, encoded=encoded)), wanted)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1500, 70_000), min_size=1, max_size=4))
def test_trimmed_features_are_the_beginning_of_the_stock_ones(stock, lengths):
    rng = np.random.default_rng(sum(lengths))
    clips = [rng.standard_normal(n).astype(np.float32) for n in lengths]
    short, layout = stock.frontend.features(clips, short=True)
    whole, same = stock.frontend.features(clips)
    assert layout == same == stock.layout(clips)
    mels = short["input_features"].shape[-1]
    assert mels % BUCKET == 0 or mels == 100
    assert torch.equal(short["input_features_mask"], whole["input_features_mask"][:, :mels])
    assert whole["input_features_mask"][:, mels:].sum() == 0
    # What the filters look at behind the last valid frame is the same as well.
    reach = min(mels, int(whole["input_features_mask"].sum(-1).max()) + 2)
    torch.testing.assert_close(
        short["input_features"][..., :reach], whole["input_features"][..., :reach], atol=1e-6, rtol=0
    )


def test_real_window_of_thirty_seconds(tiny):
    extractor = WhisperFeatureExtractor(feature_size=80)
    audio = type(tiny.audio)(
        num_mel_bins=80, num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=64,
        max_source_positions=1500,
    )  # fmt: skip
    torch.manual_seed(0)
    config = AudioFlamingo3Config(audio_config=audio, text_config=tiny.text, audio_token_id=4)
    model = AudioFlamingo3ForConditionalGeneration(config)
    llm = AudioLLM(model, build_word_processor(tiny.processor.tokenizer, extractor))
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(int(16_000 * s)).astype(np.float32) for s in (1.44, 4.0, 28.3)]
    for clip in clips:
        short, layout = llm.features([clip]), llm.layout([clip])
        with torch.inference_mode():
            whole = llm.frontend.run_tower(*short)
            trimmed = llm.encode([clip])[0].streams["tower"]
        assert trimmed.shape[0] == layout.frames[0][0]
        assert (trimmed - whole[0, : layout.frames[0][0]]).abs().max() < 1e-5
    assert shapes(llm, lambda: llm.encode(clips[:1])) == [160]  # 144 frames, and what the filters look at behind them
    assert shapes(llm, lambda: llm.encode(clips[2:])) == [2848]


def test_where_trimming_changes_states_silence_is_encoded_again(tiny, waves, monkeypatch):
    model = tiny.stock()
    # A tower whose attention reads the padding: what comes of a clip depends on how much silence follows.
    tower = model.model.audio_tower
    for layer in tower.layers:
        own = layer.forward
        monkeypatch.setattr(layer, "forward", lambda x, mask=None, own=own, **k: own(x, None, **k))
    with pytest.warns(UserWarning, match="silence behind clips is encoded as in the stock model"):
        llm = tiny.llm(model)
    assert llm.trim_report.startswith("off: largest difference") and not llm.frontend.trim
    assert shapes(llm, lambda: llm.encode(waves[:1])) == [100]
    assert "silence  encoded" in repr(llm)


def test_the_table_of_positions_is_back_after_an_error(tiny):
    tower = tiny.stock().model.audio_tower
    table = tower.embed_positions
    with pytest.raises(ZeroDivisionError), short_positions(tower, "embed_positions", 7):
        assert tower.embed_positions.weight.shape[0] == 7
        assert tower.embed_positions.weight.data_ptr() == table.weight.data_ptr()
        raise ZeroDivisionError
    assert tower.embed_positions is table


def test_the_tower_is_back_after_a_failing_replay(stock, items, waves):
    tower = stock.model.model.audio_tower
    clips = stock.encode(waves)
    batch = stock.prepare(items, None, DEFAULT_PROMPT, encoded=clips)
    batch.inputs["input_ids"] = batch.inputs["input_ids"][:, 1:]
    with pytest.raises(Exception):  # noqa: B017  (whatever Hugging Face says)
        stock.forward(batch)
    assert stock.model.model.audio_tower is tower
    with pytest.raises(ModelError, match="cannot use encoded clips"):
        stock.forward(stock.prepare(items, waves, DEFAULT_PROMPT), clips[::-1])


def test_short_clips_are_not_padded_to_the_longest_of_their_batch(tiny, items):
    rng = np.random.default_rng(3)
    clips = [rng.standard_normal(int(16_000 * s)).astype(np.float32) for s in (0.3, 0.32, 1.0, 1.9)]
    llm, stock = tiny.llm(tiny.stock()), tiny.llm(tiny.stock(), trim=False)
    rows = shapes(llm, lambda: llm.encode(clips))
    assert rows == sorted(rows) and len(rows) == 3 and shapes(stock, lambda: stock.encode(clips)) == [100]
    for together, alone, clip in zip(llm.encode(clips), stock.encode(clips), clips, strict=True):
        assert together.windows == alone.windows and together.samples == len(clip)
        torch.testing.assert_close(together.streams["tower"], alone.streams["tower"], atol=1e-5, rtol=0)
    chosen = items[:4]
    a = llm.forward(llm.prepare(chosen, None, DEFAULT_PROMPT, encoded=llm.encode(clips)))
    b = stock.forward(stock.prepare(chosen, None, DEFAULT_PROMPT, encoded=stock.encode(clips)))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
