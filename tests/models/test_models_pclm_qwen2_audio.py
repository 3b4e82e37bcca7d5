"""The mixer on Qwen2-Audio: equal to stock where it must be, and otherwise what the mixer is on Audio Flamingo 3."""

from __future__ import annotations

import inspect

import pytest
import torch
from builders_qwen2_audio import (
    BERT,
    QUESTIONS,
    build_qwen2_audio,
    build_tokenizer,
    stock_inputs,
    waves_of,
)
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.families import Family
from vpanalysis.models.mixer import outputs_of
from vpanalysis.models.pclm import (
    AudioFlamingo3PCLMForConditionalGeneration,
    PCLMConfig,
    PromptGate,
    Qwen2AudioPCLMConfig,
    Qwen2AudioPCLMForConditionalGeneration,
    Qwen2AudioPCLMModel,
)
from vpanalysis.models.pclm_config import PCLM_FIELDS
from vpanalysis.models.pclm_qwen2_audio import tower_mask
from vpanalysis.models.processing import Qwen2AudioPCLMProcessor

# Unequal, one of exactly the window of 2 s, one that is cut off at it.
SECONDS = (1.0, 1.37, 2.0, 0.5, 3.1)
ROW = Family(
    name="qwen2_audio_pclm",
    title="Qwen2-Audio + PCLM",
    model_class="vpanalysis.models.pclm:Qwen2AudioPCLMForConditionalGeneration",
    mixer="model.pclm",
    gate="model.pclm.gate",
    stream_projectors="model.pclm.projectors",
    frontend="qwen2_audio",
    processor="vpanalysis.models.processing:Qwen2AudioPCLMProcessor",
)
GREEDY = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def tiny():
    return build_qwen2_audio()


@pytest.fixture(scope="module")
def inputs(tiny):
    return tiny.inputs(waves_of(*SECONDS))


@pytest.fixture(scope="module")
def pclm(tiny):
    return tiny.pclm()


def with_weights_of(source, target):
    """Give `target` every weight of `source`; return it."""
    assert not target.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    return target


@torch.no_grad()
def logits(model, inputs, **options):
    return model(**inputs, **options).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_clamped_to_the_final_stream_is_stock_bit_for_bit(tiny, inputs, attention):
    stock = tiny.stock(attn_implementation=attention)
    mixed = with_weights_of(stock, tiny.pclm(seed=1, attn_implementation=attention, gate_mode="clamped"))
    assert mixed.model.audio_tower.config._attn_implementation == attention
    # The rows are left-padded, and the clips are not equally long.
    assert not inputs["attention_mask"][:, 0].all() and inputs["attention_mask"][:, -1].all()
    assert len(set(inputs["feature_attention_mask"].sum(-1).tolist())) == 4
    expected = logits(stock, stock_inputs(inputs))
    assert expected.abs().max() > 0.5
    assert torch.equal(expected, logits(mixed, inputs))
    for row in range(len(SECONDS)):
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        assert torch.equal(logits(stock, stock_inputs(one)), logits(mixed, one))


def test_clamped_to_the_final_stream_generates_what_stock_does(tiny, inputs):
    stock = tiny.stock()
    mixed = with_weights_of(stock, tiny.pclm(seed=1, gate_mode="clamped"))
    one, two = stock.generate(**stock_inputs(inputs), **GREEDY), mixed.generate(**inputs, **GREEDY)
    assert torch.equal(one.sequences, two.sequences)
    assert one.sequences.shape[1] == inputs["input_ids"].shape[1] + 6
    # After the first step, which computes one position's logits where stock computes all, bit for bit.
    torch.testing.assert_close(one.logits[0], two.logits[0], atol=1e-6, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(one.logits[1:], two.logits[1:], strict=True))
    without_cache = mixed.generate(**inputs, **GREEDY, use_cache=False)
    assert torch.equal(one.sequences, without_cache.sequences)


def test_several_clips_in_a_prompt(tiny):
    questions = list(QUESTIONS[:3])
    clips = (2, 1, 3)
    texts = [tiny.chat(question, count) for question, count in zip(questions, clips, strict=True)]
    waves = waves_of(1.0, 0.3, 0.7, 1.9, 0.4, 0.6)
    inputs = tiny.pclm_processor()(text=texts, audio=waves, prompts=questions)
    assert inputs["audio_windows"].tolist() == [2, 1, 3]
    stock = tiny.stock()
    clamped = with_weights_of(stock, tiny.pclm(seed=1, gate_mode="clamped"))
    assert torch.equal(logits(stock, stock_inputs(inputs)), logits(clamped, inputs))
    model = tiny.pclm()
    with torch.no_grad(), outputs_of([model.model.pclm, model.model.pclm.gate]) as (kept):
        model(**inputs)
        states, _, _ = model.encode_streams(inputs["input_features"], inputs["feature_attention_mask"])
        streams = [projector(state) for projector, state in zip(model.model.stream_projectors, states, strict=True)]
    weights, mixed = kept
    rows = weights[[0, 0, 1, 2, 2, 2]]
    expected = sum(stream * rows[:, k, None, None] for k, stream in enumerate(streams))
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=0)


def test_clamped_elsewhere_is_not_stock(tiny, inputs):
    stock = tiny.stock()
    mixed = with_weights_of(stock, tiny.pclm(seed=1, gate_mode="clamped", gate_weights=[1.0, 0.0, 0.0]))
    assert not torch.allclose(logits(stock, stock_inputs(inputs)), logits(mixed, inputs), atol=1e-2)


def test_the_answer_follows_the_gates_prompt(tiny, pclm, inputs):
    with torch.no_grad(), outputs_of([pclm.model.pclm.gate]) as gates:
        one = pclm(**inputs, logits_to_keep=1).logits
        rolled = {name: inputs[name].roll(1, 0) for name in ("prompt_input_ids", "prompt_attention_mask")}
        two = pclm(**{**inputs, **rolled}, logits_to_keep=1).logits
    assert gates[0].dtype == torch.float32
    torch.testing.assert_close(gates[0].sum(-1), torch.ones(len(SECONDS)))
    torch.testing.assert_close(gates[1], gates[0].roll(1, 0))
    # Items 0 and 4 ask the same; all others differ, and so do the answers, with the same clips and the same chat.
    assert not torch.allclose(gates[0][0], gates[0][1])
    changed = (one - two).abs().amax((1, 2))
    assert changed[0] < 1e-6 and (changed[1:] > 1e-4).all()


def test_logits_of_the_asked_positions_only(pclm, inputs):
    whole = logits(pclm, inputs)
    seen = []
    handle = pclm.lm_head.register_forward_hook(lambda _module, args, _out: seen.append(tuple(args[0].shape)))
    try:
        last, two = logits(pclm, inputs, logits_to_keep=1), logits(pclm, inputs, logits_to_keep=2)
        chosen = logits(pclm, inputs, logits_to_keep=torch.tensor([0, -1]))
        assert torch.equal(logits(pclm, inputs, logits_to_keep=0), whole)
        pclm.generate(**inputs, max_new_tokens=2, do_sample=False)
    finally:
        handle.remove()
    length = inputs["input_ids"].shape[1]
    assert [shape[1] for shape in seen] == [1, 2, 2, length, 1, 1]
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(two, whole[:, -2:], atol=1e-6, rtol=0)
    torch.testing.assert_close(chosen, whole[:, [0, -1]], atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="labels with logits_to_keep"):
        pclm(**inputs, labels=inputs["input_ids"], logits_to_keep=1)


def test_the_loss_is_that_of_stock(tiny, inputs):
    stock = tiny.stock()
    mixed = with_weights_of(stock, tiny.pclm(seed=1, gate_mode="clamped"))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        one = stock(**stock_inputs(inputs), labels=labels).loss
        two = mixed(**inputs, labels=labels).loss
    assert torch.equal(one, two) and one > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seconds", [SECONDS, (2.0, 2.0)])
def test_the_tower_gets_the_mask_that_stock_gives_it(tiny, attention, seconds):
    stock = tiny.stock(attn_implementation=attention)
    inputs = tiny.inputs(waves_of(*seconds))
    given = []
    handle = stock.model.audio_tower.register_forward_pre_hook(
        lambda _module, _args, kwargs: given.append(kwargs["attention_mask"]), with_kwargs=True
    )
    try:
        logits(stock, stock_inputs(inputs))
    finally:
        handle.remove()
    made = tower_mask(stock.model.audio_tower, inputs["feature_attention_mask"])
    if given[0] is None:
        assert made is None and seconds == (2.0, 2.0)
    else:
        assert torch.equal(made, given[0]) and made.dtype == given[0].dtype


def test_frames_behind_the_clip_are_not_heard(tiny, pclm, inputs):
    """What stands in the features behind the valid ones reaches no audio token, but for the stem's one frame."""
    features, mask = inputs["input_features"], inputs["feature_attention_mask"]
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    behind = torch.arange(features.shape[-1])[None, :] >= mask.sum(-1, keepdim=True) + 2
    dirty = torch.where(behind[:, None, :], noise, features)
    with torch.no_grad():
        clean_states, frames, _ = pclm.encode_streams(features, mask)
        dirty_states, _, _ = pclm.encode_streams(dirty, mask)
    assert frames.tolist() == [12, 17, 25, 6, 25]
    for one, two in zip(clean_states, dirty_states, strict=True):
        for row, count in enumerate(frames.tolist()):
            torch.testing.assert_close(one[row, : count - 1], two[row, : count - 1], atol=1e-5, rtol=0)
    assert not torch.allclose(clean_states[0][0], dirty_states[0][0], atol=1e-2)


@pytest.mark.parametrize(
    ("convention", "exposed", "layers"),
    [("block_output_1based", [1, 3], [0, 2]), ("block_output_0based", [1, 3], [1, 3])],
)
@pytest.mark.parametrize("pooling", ["avg_norm", "avg"])
def test_streams_are_the_pooled_outputs_of_the_named_blocks(tiny, inputs, convention, exposed, layers, pooling):
    model = tiny.pclm(layer_index_convention=convention, expose_layers=exposed, mid_pool=pooling)
    assert model.config.stream_names == (*(f"encoder[{i}]" for i in layers), "tower")
    tower = model.model.audio_tower
    with torch.no_grad(), outputs_of([*(tower.layers[i] for i in layers), tower.layer_norm]) as kept:
        states, frames, output = model.encode_streams(inputs["input_features"], inputs["feature_attention_mask"])
    for stream, raw in zip(states[:-1], kept[: len(layers)], strict=True):
        assert raw.shape[1] == 50 and stream.shape[1] == 25
        expected = torch.nn.functional.avg_pool1d(raw.transpose(1, 2), 2).transpose(1, 2)
        if pooling == "avg_norm":
            expected = torch.nn.functional.layer_norm(expected, (32,), tower.layer_norm.weight, tower.layer_norm.bias)
        torch.testing.assert_close(stream, expected, atol=1e-6, rtol=0)
    assert torch.equal(states[-1], output.last_hidden_state)
    placeholders = (inputs["input_ids"] == model.config.audio_token_id).sum(-1)
    assert torch.equal(frames, placeholders)


def test_the_mask_goes_by_either_name(pclm, inputs):
    features, mask = inputs["input_features"], inputs["feature_attention_mask"]
    with torch.no_grad():
        ways = [
            pclm.encode_streams(features, mask),
            pclm.encode_streams(input_features=features, input_features_mask=mask),
            pclm.encode_streams(input_features=features, feature_attention_mask=mask),
            pclm.model.encode_streams(features, mask),
        ]
    for states, frames, _ in ways[1:]:
        assert torch.equal(frames, ways[0][1])
        assert all(torch.equal(one, two) for one, two in zip(states, ways[0][0], strict=True))
    with pytest.raises(ModelError, match="without feature_attention_mask"):
        pclm.encode_streams(features)


def test_both_bases_have_one_interface():
    for name in ("clone_final_projector", "encode_streams", "mix_streams"):
        one, two = (
            inspect.signature(getattr(kind, name))
            for kind in (AudioFlamingo3PCLMForConditionalGeneration, Qwen2AudioPCLMForConditionalGeneration)
        )
        assert one == two, name


@pytest.mark.parametrize("base", ["af3", "qwen2_audio"])
def test_the_forward_names_all_that_the_stock_forward_names(base):
    """`generate` decides by the names in the signature: positions and last logits must not get lost."""
    kind = {
        "af3": AudioFlamingo3PCLMForConditionalGeneration,
        "qwen2_audio": Qwen2AudioPCLMForConditionalGeneration,
    }[base]
    stock = next(parent for parent in kind.__mro__[2:] if "forward" in vars(parent))
    names = set(inspect.signature(kind.forward).parameters)
    # The cache's name differs between versions of transformers, and nothing asks for it.
    wanted = set(inspect.signature(stock.forward).parameters) - {"cache", "past_key_values", "use_cache"}
    assert stock.__module__.startswith("transformers.")
    assert wanted <= names
    assert {"position_ids", "logits_to_keep", "prompt_input_ids", "prompt_attention_mask", "audio_windows"} <= names


def test_cached_states_give_the_same_logits(tiny, pclm, inputs):
    gate = {name: tensor for name, tensor in inputs.items() if "prompt" in name or name == "audio_windows"}
    with torch.no_grad():
        states, frames, _ = pclm.encode_streams(inputs["input_features"], inputs["feature_attention_mask"])
        mixed = pclm.mix_streams(states, **gate)
    valid = torch.arange(mixed.shape[1])[None, :] < frames[:, None]
    places = (inputs["input_ids"] == pclm.config.audio_token_id)[..., None]
    embeds = pclm.get_input_embeddings()(inputs["input_ids"]).masked_scatter(places, mixed[valid])
    again = logits(pclm, {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]})
    assert torch.equal(again, logits(pclm, inputs))


def test_gradients_reach_every_trained_part(tiny, inputs):
    model = tiny.pclm()
    model(**inputs).logits[:, -1].logsumexp(-1).sum().backward()
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert silent == {"model.audio_tower.embed_positions.weight"}
    for part in ("projectors.0.linear", "projectors.1.linear", "gate.mlp.0"):
        assert model.get_submodule(f"model.pclm.{part}").weight.grad.abs().max() > 0


def test_clone_final_projector(tiny):
    model = tiny.pclm()
    model.clone_final_projector()
    final = model.model.multi_modal_projector.linear
    for projector in model.model.pclm.projectors:
        assert torch.equal(projector.linear.weight, final.weight) and torch.equal(projector.linear.bias, final.bias)
        assert projector.linear.weight.data_ptr() != final.weight.data_ptr()


def test_gate_order_and_sources(tiny, inputs):
    logits_of = torch.tensor([3.0, 1.0, 2.0])
    for order, expected in (("ascending_final_last", logits_of), ("final_first", torch.tensor([1.0, 2.0, 3.0]))):
        gate = PromptGate(tiny.config(gate_mode="static", gate_order=order))
        gate.static_logits.data.copy_(logits_of)
        assert torch.equal(gate(None, None, 1)[0], torch.softmax(expected, 0))
    layers, final = tiny.pclm(), tiny.pclm(stream_sources="final")
    assert [p.shape for p in layers.parameters()] == [p.shape for p in final.parameters()]
    with torch.no_grad():
        states, _, output = final.encode_streams(inputs["input_features"], inputs["feature_attention_mask"])
    assert len(states) == 3 and all(torch.equal(state, output.last_hidden_state) for state in states)
    assert final.config.stream_names == ("tower#0", "tower#1", "tower")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gate_mode": "static"},
        {"gate_mode": "clamped"},
        {"stream_sources": "final"},
        {"bert_pooling": "pooler"},
        {"prompt_encoder_pooler": True, "bert_pooling": "mean"},
    ],
)
def test_save_and_load_through_the_auto_classes(tiny, inputs, tmp_path, fields):
    model = tiny.pclm(**fields)
    # Values that no start would give, so that a gate that is started anew shows.
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "static_logits" in name or "clamped_weights" in name:
            tensor.data.copy_(torch.tensor([0.3, -1.0, 2.0]))
    model.save_pretrained(tmp_path)
    again, report = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, Qwen2AudioPCLMForConditionalGeneration)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for field in PCLM_FIELDS:
        one, two = getattr(model.config, field), getattr(again.config, field)
        assert getattr(one, "hidden_size", one) == getattr(two, "hidden_size", two), field
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after) and set(load_file(tmp_path / "model.safetensors")) == set(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model, inputs), logits(again, inputs))


def test_only_what_a_checkpoint_lacks_is_started(tiny, tmp_path):
    from safetensors.torch import save_file

    model = tiny.pclm()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = tensors.pop("model.pclm.gate.mlp.0.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, report = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"model.pclm.gate.mlp.0.weight"}
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    started = state["model.pclm.gate.mlp.0.weight"]
    assert torch.isfinite(started).all() and 0 < started.std() < 0.1 and not torch.equal(started, lost)


def test_names_of_the_tensors(tiny, pclm):
    names = set(pclm.state_dict())
    stock = set(tiny.stock().state_dict())
    assert stock <= names
    heads = {name.removeprefix("model.pclm.").split(".")[0] for name in names - stock}
    assert heads == {"gate", "projectors"}
    assert {
        "lm_head.weight",
        "model.audio_tower.layers.0.fc1.weight",
        "model.multi_modal_projector.linear.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.pclm.projectors.0.linear.weight",
        "model.pclm.projectors.1.linear.bias",
        "model.pclm.gate.prompt_encoder.embeddings.word_embeddings.weight",
        "model.pclm.gate.mlp.0.weight",
        "model.pclm.gate.mlp.2.weight",
    } <= names


def test_auto_classes_know_the_model(tiny, tmp_path):
    tiny.config(bert_pooling="mean").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, Qwen2AudioPCLMConfig) and isinstance(config, PCLMConfig)
    assert config.model_type == "qwen2_audio_pclm" and config.bert_pooling == "mean"
    assert config.audio_token_id == config.audio_token_index == tiny.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert isinstance(AutoModel.from_config(config), Qwen2AudioPCLMModel)
    default = Qwen2AudioPCLMConfig()
    assert default.expose_layers == [5, 15, 25, 30] and default.prompt_encoder_config.hidden_size == 512


def test_half_precision_keeps_the_gate_in_float32(tiny, inputs):
    model = tiny.pclm().to(torch.bfloat16)
    with torch.no_grad(), outputs_of([model.model.pclm.gate, model.model.pclm]) as kept:
        out = logits(model, {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()})
    assert kept[0].dtype == torch.float32 and kept[1].dtype == torch.bfloat16
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mid_pool": "avg_nrom"}, "did you mean 'avg_norm'"),
        ({"bert_pooling": "poller"}, "did you mean 'pooler'"),
        ({"expose_layers": [0, 2]}, "from 1 to 4"),
        ({"expose_layers": [3, 1]}, "ascending"),
        ({"gate_mode": "clamped", "gate_weights": [1.0]}, "one per stream, 3"),
    ],
)
def test_config_refuses_what_it_does_not_know(tiny, fields, words):
    with pytest.raises(ModelError, match=words):
        tiny.config(**fields)


def test_inputs_that_do_not_fit_are_refused(tiny, pclm, inputs):
    with pytest.raises(ModelError, match="without feature_attention_mask"):
        pclm(**{name: tensor for name, tensor in inputs.items() if name != "feature_attention_mask"})
    with pytest.raises(ModelError, match="no prompt_input_ids"):
        pclm(**stock_inputs(inputs))
    with pytest.raises(ModelError, match="3 prompt rows for 5 audio windows"):
        pclm(**{**inputs, "audio_windows": torch.ones(3, dtype=torch.long), "prompt_input_ids": inputs["input_ids"][:3],
                "prompt_attention_mask": inputs["attention_mask"][:3]})  # fmt: skip
    texts = [tiny.chat(question) for question in QUESTIONS[:2]]
    unexpanded = tiny.tokenizer(texts, padding=True, return_tensors="pt")
    two = {name: tensor[:2] for name, tensor in inputs.items()}
    with pytest.raises(ModelError, match="2 placeholders for 29 audio tokens"):
        pclm(**{**two, "input_ids": unexpanded["input_ids"], "attention_mask": unexpanded["attention_mask"]})
    with pytest.raises(ModelError, match="2 states"):
        pclm.mix_streams([torch.zeros(1, 2, 32)] * 2)


def test_a_tower_takes_whole_windows_only(pclm, inputs):
    with pytest.raises(ValueError, match="length 100"):
        pclm.encode_streams(inputs["input_features"][..., :60], inputs["feature_attention_mask"][..., :60])


def test_the_mixer_stays_on_one_device(pclm):
    assert "PromptConditionedLayerMixer" in pclm._no_split_modules
    assert "Qwen2AudioEncoderLayer" in pclm._no_split_modules


class TestProcessor:
    """Stock inputs, and the gate's."""

    def test_stock_inputs_are_untouched(self, tiny):
        waves = waves_of(*SECONDS)
        texts = [tiny.chat(question) for question in (*QUESTIONS, QUESTIONS[0])]
        stock = tiny.processor(text=list(texts), audio=waves, return_tensors="pt", padding=True, sampling_rate=16_000)
        ours = tiny.pclm_processor()(text=list(texts), audio=waves)
        assert set(stock) == set(ours)
        assert all(torch.equal(stock[name], ours[name]) for name in stock)
        nested = tiny.pclm_processor()(
            text=list(texts), audio=waves, text_kwargs={"padding": True}, audio_kwargs={"sampling_rate": 16_000}
        )
        assert all(torch.equal(stock[name], nested[name]) for name in stock)

    def test_the_gates_text_is_tokenized_by_its_own_tokenizer(self, tiny):
        other = build_tokenizer(["gender age", *QUESTIONS])
        ours = tiny.pclm_processor(other)(
            text=[tiny.chat(question) for question in QUESTIONS[:2]], audio=waves_of(1.0, 0.4), prompts=QUESTIONS[:2]
        )
        assert ours["audio_windows"].tolist() == [1, 1]
        lengths = [len(other(question)["input_ids"]) for question in QUESTIONS[:2]]
        assert ours["prompt_attention_mask"].sum(-1).tolist() == lengths
        # Padded on the right, where the chat is padded on the left.
        assert ours["prompt_attention_mask"][:, 0].all() and ours["attention_mask"][:, -1].all()
        row = ours["prompt_input_ids"][0, : lengths[0]].tolist()
        assert row == other(QUESTIONS[0])["input_ids"] != tiny.tokenizer(QUESTIONS[0])["input_ids"]

    def test_one_text_and_no_clip(self, tiny):
        one = tiny.pclm_processor()(text=tiny.chat(QUESTIONS[0]), audio=waves_of(0.5), prompts=[QUESTIONS[0]])
        assert one["audio_windows"].tolist() == [1] and one["input_ids"].shape[0] == 1
        none = tiny.pclm_processor()(text=["What is the audio?"], prompts=["What is the audio?"])
        assert set(none) == {"input_ids", "attention_mask", "prompt_input_ids", "prompt_attention_mask"}

    def test_save_and_load(self, tiny, tmp_path):
        other = build_tokenizer(["gender age", *QUESTIONS])
        processor = tiny.pclm_processor(other)
        tiny.config().save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert (tmp_path / "gate_tokenizer" / "tokenizer.json").is_file()
        again = AutoProcessor.from_pretrained(tmp_path)
        assert isinstance(again, Qwen2AudioPCLMProcessor)
        texts = [tiny.chat(question) for question in QUESTIONS[:2]]
        one, two = (
            made(text=list(texts), audio=waves_of(1.0, 0.4), prompts=QUESTIONS[:2]) for made in (processor, again)
        )
        assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
        turn = [{"role": "user", "content": [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": "gender"}]}]
        assert again.apply_chat_template(turn) == processor.apply_chat_template(turn)
        assert (again.audio_token, again.audio_bos_token) == ("<|AUDIO|>", "<|audio_bos|>")


@pytest.mark.parametrize("fields", [{}, {"stream_sources": "final"}, {"gate_mode": "clamped"}])
def test_behind_the_facade(tiny, fields):
    llm = AudioLLM(tiny.pclm(**fields), tiny.pclm_processor(), family=ROW, name="tiny")
    waves = waves_of(*SECONDS[:4])
    items = [
        Item(
            id=f"item-{i}",
            task_name="task",
            question=question,
            choices=("Female", "Male"),
            letters=("A", "B"),
            truth="Female",
            said=(),
            condition="neutral",
            foils=(),
            audio=ArrayAudio(wave),
        )
        for i, (question, wave) in enumerate(zip(QUESTIONS, waves, strict=True))
    ]
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    with llm.capturing(["streams[0]", "streams[1]", "streams[2]", "gate", "mixed"]) as states:
        whole = llm.forward(batch)
    gate = states["gate"][0]
    expected = sum(states[f"streams[{k}]"][0] * gate[:, k, None, None] for k in range(3))
    torch.testing.assert_close(states["mixed"][0], expected, atol=1e-6, rtol=0)
    assert torch.equal(gate[0], gate[1]) is (fields.get("gate_mode") == "clamped")
    encoded = llm.prepare(items, None, DEFAULT_PROMPT, encoded=llm.encode(waves))
    assert torch.equal(llm.forward(encoded), whole)
    assert llm.generate(encoded, 4) == llm.generate(batch, 4)


def test_the_builder_is_of_the_size_it_says(tiny, pclm):
    assert len(pclm.model.audio_tower.layers) == 4 and len(pclm.model.language_model.layers) == 3
    assert pclm.model.pclm.gate.prompt_encoder.config.hidden_size == BERT["hidden_size"]
    assert pclm.model.audio_tower.embed_positions.weight.shape == (50, 32)
