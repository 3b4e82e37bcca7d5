from __future__ import annotations

import numpy as np
import pytest
import torch

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.batch import EncodedClip
from vpanalysis.models.facade import AudioLLM


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=["stock", "pclm", "final", "static", "clamped"])
def llm(request, tiny):
    fields = {
        "final": {"stream_sources": "final"},
        "static": {"gate_mode": "static"},
        "clamped": {"gate_mode": "clamped"},
    }
    if request.param in ("stock", "pclm"):
        return request.getfixturevalue(request.param)
    return tiny.llm(tiny.pclm(**fields[request.param]))


def test_inputs_are_those_of_the_stock_processor(stock, items, waves):
    batch = stock.prepare(items, waves, DEFAULT_PROMPT)
    native = stock.processor(text=list(batch.prompts), audio=list(waves))
    assert set(native) == set(batch.inputs)
    for name, tensor in native.items():
        assert torch.equal(tensor, batch.inputs[name]), name


def test_pclm_inputs_are_those_of_its_processor(pclm, items, waves):
    from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor

    p = pclm.processor
    processor = AudioFlamingo3PCLMProcessor(
        p.feature_extractor, p.tokenizer, p.tokenizer, chat_template=p.chat_template
    )
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    native = processor(text=list(batch.prompts), audio=list(waves), prompts=[item.question for item in items])
    assert set(native) == set(batch.inputs)
    for name, tensor in native.items():
        assert torch.equal(tensor, batch.inputs[name]), name


def test_forward_is_the_models_own_forward(llm, items, waves):
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    before = hooks_of(llm.model)
    with torch.no_grad():
        native = llm.model(**batch.inputs).logits[:, -1]
    torch.testing.assert_close(llm.forward(batch), native, atol=1e-5, rtol=0)
    assert hooks_of(llm.model) == before == 0
    assert not llm.model.training


def test_encoded_clips_replace_the_encoder(llm, items, waves):
    plain = llm.prepare(items, waves, DEFAULT_PROMPT)
    clips = llm.encode(waves)
    cached = llm.prepare(items, None, DEFAULT_PROMPT, encoded=clips)
    assert "input_features" not in cached.inputs
    assert cached.frames == plain.frames
    expected = llm.forward(plain)
    with llm.capturing(["tower"]) as states:
        torch.testing.assert_close(llm.forward(cached), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(llm.forward(plain, clips), expected, atol=1e-5, rtol=0)
        assert llm.generate(plain) == llm.generate(cached)
    # Only the last generate of `plain` itself may have run the tower.
    assert len(states["tower"]) == 1
    answers = [item.choices[0] for item in items]
    scores = llm.answer_logprobs(llm.prepare(items, waves, DEFAULT_PROMPT, answers=answers))
    again = llm.answer_logprobs(llm.prepare(items, None, DEFAULT_PROMPT, answers=answers, encoded=clips))
    torch.testing.assert_close(scores, again, atol=1e-4, rtol=0)


def test_one_encoding_serves_models_of_one_encoder(tiny, items, waves):
    stock, mixed = tiny.stock(), tiny.pclm(seed=1)
    mixed.model.audio_tower.load_state_dict(stock.model.audio_tower.state_dict())
    a, b = tiny.llm(stock), tiny.llm(mixed)
    assert a.encoder_sha == b.encoder_sha
    clips = a.encode(waves, b.stream_inputs)
    assert set(clips[0].streams) == set(b.stream_inputs)
    for llm in (a, b):
        direct = llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
        replayed = llm.forward(llm.prepare(items, None, DEFAULT_PROMPT, encoded=clips))
        torch.testing.assert_close(direct, replayed, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match=r"allowed: 'encoder\[0\]' among them|encoder\[0\]"):
        b.forward(b.prepare(items, None, DEFAULT_PROMPT, encoded=a.encode(waves)))


def test_layout_counts_as_the_processor_and_the_tower_do(pclm, waves):
    rng = np.random.default_rng(1)
    lengths = [640 * 3, *rng.integers(1500, 120_000, size=30).tolist(), 32_000, 32_001, 64_000, 31_999]
    clips = [np.zeros(n, dtype=np.float32) for n in lengths]
    layout = pclm.layout(clips)
    inputs, made = pclm.features(clips)
    assert made == layout
    tokens = pclm.processor(text=["<sound>"] * len(clips), audio=clips)["input_ids"]
    assert (tokens == 4).sum(-1).tolist() == list(layout.audio_tokens)
    assert inputs["input_features"].shape[0] == sum(layout.windows)


def test_hooks_change_nothing_and_are_gone(llm, items, waves):
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    expected, said = llm.forward(batch), llm.generate(batch, 4)
    sites = [site for site in llm.sites if site != "options"]
    with llm.capturing(sites) as states:
        assert torch.equal(llm.forward(batch), expected)
        assert all(len(tensors) == 1 for tensors in states.values())
        assert llm.generate(batch, 4) == said
    assert hooks_of(llm.model) == 0
    with pytest.raises(ZeroDivisionError), llm.capturing(sites):
        raise ZeroDivisionError
    assert hooks_of(llm.model) == 0
    with pytest.raises(ModelError), llm.capturing(["tower", "nowhere"]):
        pass
    assert hooks_of(llm.model) == 0


def test_sites_have_the_promised_rows_and_frames(llm, items, waves):
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    with llm.capturing([site for site in llm.sites if site != "options"]) as states:
        llm.forward(batch)
    windows, length = sum(batch.windows), batch.inputs["input_ids"].shape[1]
    for site, (state,) in states.items():
        if site.startswith("encoder"):
            assert state.shape[:2] == (windows, 50), site
        elif site.startswith("text"):
            assert state.shape[:2] == (len(items), length), site
        elif site == "gate":
            assert state.shape == (len(items), len(llm.streams))
        else:
            assert state.shape[:2] == (windows, 25), site
    assert len(batch.row_items) == len(batch.row_frames) == len(batch.row_positions) == windows


def test_text_embed_is_what_the_language_model_reads(pclm, items, waves):
    batch = pclm.prepare(items[:1], waves[:1], DEFAULT_PROMPT)
    with pclm.capturing(["mixed", "text.embed"]) as states:
        pclm.forward(batch)
    places = batch.inputs["input_ids"][0] == 4
    assert torch.equal(states["text.embed"][0][0, places], states["mixed"][0][0, : batch.frames[0][0]])


def test_a_hook_on_an_input_site_can_replace_it(pclm, items, waves):
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    plain = pclm.forward(batch)
    for site in ("encoder.stem", "text.embed"):
        handle = pclm.module_of(site).register_forward_hook(lambda _m, _a, state: torch.zeros_like(state))
        changed = pclm.forward(batch)
        handle.remove()
        assert not torch.allclose(changed, plain, atol=1e-3), site
    assert torch.equal(pclm.forward(batch), plain)


def test_a_hook_on_an_encoder_layer_reaches_its_stream(pclm, items, waves):
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    with pclm.capturing(["streams[1]"]) as before:
        pclm.forward(batch)
    handle = pclm.module_of("encoder[2]").register_forward_hook(lambda _m, _a, out: out + 1.0)
    with pclm.capturing(["streams[0]", "streams[1]"]) as after:
        pclm.forward(batch)
    handle.remove()
    assert not torch.allclose(before["streams[1]"][0], after["streams[1]"][0])


def test_answer_logprobs_are_sums_over_the_answer(llm, items, waves):
    answers = [item.choices[i % 2] for i, item in enumerate(items)]
    batch = llm.prepare(items, waves, DEFAULT_PROMPT, answers=answers)
    scores = llm.answer_logprobs(batch)
    with torch.no_grad():
        logits = torch.log_softmax(llm.model(**batch.inputs).logits, -1)
    for i, count in enumerate(batch.answer_tokens):
        ids = batch.inputs["input_ids"][i]
        text = llm.tokenizer.decode(ids[-count - 1 :])
        assert text == DEFAULT_PROMPT.answer(items[i], answers[i])
        expected = sum(logits[i, -count - 1 + j, ids[-count + j]] for j in range(count))
        torch.testing.assert_close(scores[i], expected, atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="answer_logprobs"):
        llm.forward(batch)
    with pytest.raises(ModelError, match="without answers"):
        llm.answer_logprobs(llm.prepare(items, waves, DEFAULT_PROMPT))


def test_option_logprobs_cover_the_offered_letters(pclm, items, waves):
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    logits = pclm.forward(batch)
    rows = pclm.option_logprobs(batch, logits)
    for item, row, full in zip(items, rows, logits, strict=True):
        assert row.shape == (len(item.choices),)
        torch.testing.assert_close(row.exp().sum(), torch.tensor(1.0))
        ids = [pclm.tokenizer.convert_tokens_to_ids(letter) for letter in item.letters]
        torch.testing.assert_close(row, torch.log_softmax(full[ids], 0))
    assert pclm.letter_report == dict.fromkeys("ABCD", "one token")


def test_option_logprobs_follow_the_letters_on_disk(pclm, items, waves):
    from dataclasses import replace

    moved = replace(items[0], letters=("B", "D"))
    batch = pclm.prepare([moved], waves[:1], DEFAULT_PROMPT)
    logits = torch.zeros(1, len(pclm.tokenizer))
    logits[0, pclm.tokenizer.convert_tokens_to_ids("D")] = 5.0
    row = pclm.option_logprobs(batch, logits)[0]
    assert row.argmax() == 1


class Spaced:
    """A tokenizer in which letters exist only with a space before, or twice."""

    unk_token_id = 0
    all_special_ids = (0,)
    words = ("<unk>", " A", "\u2581A", " B", "A\n", "B B")

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, text, **_kwargs):
        return {"input_ids": [0]}

    def decode(self, ids):
        return self.words[ids[0]].replace("\u2581", " ")


def test_letters_with_several_spellings_are_summed_and_reported():
    from vpanalysis.models._letters import letter_table

    table = letter_table(Spaced(), ["A", "B"])
    assert table["A"].tokens == (1, 2, 4) and table["A"].report == "3 spellings summed"
    assert table["B"].tokens == (3,)
    with pytest.raises(ModelError, match="no token of the tokenizer stands for 'C'"):
        letter_table(Spaced(), ["C"])


def test_generate_returns_readable_answers(llm, items, waves):
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    texts = llm.generate(batch, max_new_tokens=5)
    assert len(texts) == len(items)
    assert all(text.startswith("(") and "<" not in text for text in texts)
    one = [
        llm.generate(llm.prepare([i], [w], DEFAULT_PROMPT), max_new_tokens=5)[0]
        for i, w in zip(items, waves, strict=True)
    ]
    assert one == texts


def test_generate_starts_with_the_forwards_choice(llm, items, waves):
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    first = llm.forward(batch).argmax(-1)
    texts = llm.generate(batch, max_new_tokens=1)
    for token, text in zip(first, texts, strict=True):
        assert text == "(" + llm.tokenizer.decode([token], skip_special_tokens=True)


def test_hashes_name_the_weights(tiny, pclm):
    again = tiny.llm(tiny.pclm())
    assert again.weights_sha == pclm.weights_sha
    assert set(pclm.weights_sha) == {
        "llm",
        "sound_tower",
        "sound_mm_projector",
        "sound_mid_mm_projector_1",
        "sound_mid_mm_projector_3",
        "sound_pclm",
    }
    model = tiny.pclm()
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    other = tiny.llm(model)
    assert [k for k in pclm.weights_sha if pclm.weights_sha[k] != other.weights_sha[k]] == ["llm"]
    assert other.encoder_sha == pclm.encoder_sha
    assert tiny.llm(tiny.pclm(mid_pool="avg")).encoder_sha != pclm.encoder_sha


def test_errors_name_what_is_wrong(pclm, items, waves, tiny):
    with pytest.raises(ModelError, match="did you mean 'encoder"):
        pclm.module_of("encoder[9]")
    with pytest.raises(ModelError, match="no module puts out"):
        pclm.module_of("options")
    with pytest.raises(ModelError, match="5 items and 4 clips"):
        pclm.prepare(items, waves[:4], DEFAULT_PROMPT)
    with pytest.raises(ModelError, match="no clips"):
        pclm.prepare(items, None, DEFAULT_PROMPT)
    with pytest.raises(ModelError, match="no items"):
        pclm.prepare([], [], DEFAULT_PROMPT)
    with pytest.raises(ModelError, match="'encoder\\[7\\]'"):
        pclm.encode(waves, ["encoder[7]"])
    with pytest.raises(AudioError, match="too short"):
        pclm.encode([np.zeros(10, dtype=np.float32)])
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    with pytest.raises(ModelError, match="those of the batch"):
        pclm.forward(batch, pclm.encode(waves[::-1]))
    with pytest.raises(ModelError, match="the frames of 1 windows"):
        EncodedClip({"tower": torch.zeros(4, 8)}, (5,))


def test_a_question_with_a_placeholder_is_refused(pclm, items, waves):
    from dataclasses import replace

    sly = replace(items[0], question="What is <sound>?")
    with pytest.raises(ModelError, match="2 placeholders"):
        pclm.prepare([sly], waves[:1], DEFAULT_PROMPT)


def test_processors_that_do_not_fit_are_refused(tiny):
    from transformers import WhisperFeatureExtractor

    from vpanalysis.models.word_tokenizer import build_word_processor, build_word_tokenizer

    tokenizer = tiny.processor.tokenizer
    wrong = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=3)
    with pytest.raises(ModelError, match="75 positions"):
        AudioLLM(tiny.stock(), build_word_processor(tokenizer, wrong))
    other = build_word_tokenizer([f"word{i}" for i in range(200)])
    with pytest.raises(ModelError, match="prompt encoder's vocabulary"):
        AudioLLM(tiny.pclm(), tiny.processor, gate_tokenizer=other)
    model = tiny.stock()
    model.config.audio_token_id = 7
    with pytest.raises(ModelError, match="'<sound>' is token 4"):
        AudioLLM(model, tiny.processor)


def test_repr_is_worth_printing(pclm):
    text = repr(pclm)
    assert "4 layers, 40 ms a position" in text
    assert "encoder[0], encoder[2], tower" in text
    assert pclm._repr_html_().startswith("<pre>AudioLLM &#x27;tiny&#x27;")
