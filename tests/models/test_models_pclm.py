from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.mixer import outputs_of
from vpanalysis.models.pclm import (
    AudioFlamingo3PCLMConfig,
    AudioFlamingo3PCLMForConditionalGeneration,
    AudioFlamingo3PCLMModel,
    PromptGate,
)
from vpanalysis.models.pclm_config import PCLM_FIELDS


def graft(source, target):
    """Give `target` every weight of `source` that it has a place for; return what found none."""
    return target.load_state_dict(source.state_dict(), strict=False).unexpected_keys


def test_clamped_to_the_final_stream_is_stock_af3_bit_for_bit(tiny, items, waves):
    stock = tiny.stock()
    mixed = tiny.pclm(seed=1, gate_mode="clamped")
    assert not graft(stock, mixed)
    a, b = tiny.llm(stock), tiny.llm(mixed)
    one, two = (llm.prepare(items, waves, DEFAULT_PROMPT) for llm in (a, b))
    with torch.no_grad():
        assert torch.equal(stock(**one.inputs).logits, mixed(**two.inputs).logits)
    assert torch.equal(a.forward(one), b.forward(two))
    assert a.generate(one) == b.generate(two)


def test_generate_counts_positions_and_keeps_logits_as_stock_does(tiny, items, waves):
    stock = tiny.stock()
    mixed = tiny.pclm(seed=1, gate_mode="clamped")
    graft(stock, mixed)
    one, two = (tiny.llm(model).prepare(items, waves, DEFAULT_PROMPT).inputs for model in (stock, mixed))
    assert not one["attention_mask"][:, 0].all()
    seen = []
    handle = mixed.lm_head.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[1]))
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    try:
        a, b = stock.generate(**one, **options), mixed.generate(**two, **options)
    finally:
        handle.remove()
    assert seen == [1] * len(b.logits)
    assert all(torch.equal(x, y) for x, y in zip(a.logits, b.logits, strict=True))


def test_placeholders_and_audio_tokens_must_be_as_many(pclm, items, waves):
    inputs = dict(pclm.prepare(items, waves, DEFAULT_PROMPT).inputs)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 4, 5)
    with pytest.raises(ModelError, match="0 placeholders for"):
        pclm.model(**inputs)


def test_the_head_hands_on_what_the_mixer_offers(tiny, waves):
    model = tiny.pclm()
    inputs, _ = tiny.llm(model).features(waves[:1])
    with torch.no_grad():
        one, two = model.encode_streams(**inputs), model.model.encode_streams(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and torch.equal(one[1], two[1])
    model.clone_final_projector()
    final = model.model.multi_modal_projector.linear_1.weight
    assert all(torch.equal(projector.linear_1.weight, final) for projector in model.model.pclm.projectors)


def test_clamped_elsewhere_is_not_stock(tiny, items, waves):
    stock = tiny.stock()
    mixed = tiny.pclm(seed=1, gate_mode="clamped", gate_weights=[1.0, 0.0, 0.0])
    graft(stock, mixed)
    a, b = tiny.llm(stock), tiny.llm(mixed)
    assert not torch.allclose(
        a.forward(a.prepare(items, waves, DEFAULT_PROMPT)),
        b.forward(b.prepare(items, waves, DEFAULT_PROMPT)),
        atol=1e-2,
    )


@pytest.mark.parametrize(
    ("convention", "exposed", "layers"),
    [
        ("block_output_1based", [1, 3], [0, 2]),
        ("block_output_0based", [1, 3], [1, 3]),
        ("block_output_1based", [4], [3]),
    ],
)
def test_layer_convention_names_the_block(tiny, waves, convention, exposed, layers):
    model = tiny.pclm(layer_index_convention=convention, expose_layers=exposed)
    llm = tiny.llm(model)
    assert llm.streams == (*(f"encoder[{i}]" for i in layers), "tower")
    sites = [f"encoder[{i}]" for i in layers]
    inputs, _ = llm.features(waves[:1])
    with torch.no_grad(), llm.capturing([*sites, "tower"]) as states:
        streams, frames, _ = model.model.encode_streams(**inputs)
    tower = model.model.audio_tower
    for stream, site in zip(streams[:-1], sites, strict=True):
        expected = tower.layer_norm(tower.avg_pooler(states[site][0].transpose(1, 2)).transpose(1, 2))
        assert torch.equal(stream, expected)
    assert torch.equal(streams[-1], states["tower"][0])
    assert frames.tolist() == llm.layout(waves[:1]).row_frames


def test_hidden_states_k_of_hugging_face_is_exposed_layer_k(tiny, waves):
    model = tiny.pclm(mid_pool="avg")
    llm = tiny.llm(model)
    inputs, _ = llm.features(waves[:1])
    with torch.no_grad():
        streams, _, _ = model.model.encode_streams(**inputs)
        entries = model.model.audio_tower(**inputs, output_hidden_states=True).hidden_states
    for stream, k in zip(streams[:-1], model.config.expose_layers, strict=True):
        assert torch.equal(stream, torch.nn.functional.avg_pool1d(entries[k].transpose(1, 2), 2).transpose(1, 2))


def test_the_last_layer_exposed_equals_the_tower(tiny, waves):
    model = tiny.pclm(expose_layers=[4])
    inputs, _ = tiny.llm(model).features(waves[:1])
    with torch.no_grad():
        streams, _, _ = model.model.encode_streams(**inputs)
    assert torch.equal(streams[0], streams[1])


def test_mixture_is_the_weighted_sum_of_projected_streams(pclm, items, waves):
    batch = pclm.prepare(items, waves, DEFAULT_PROMPT)
    with pclm.capturing(["streams[0]", "streams[1]", "streams[2]", "gate", "mixed"]) as states:
        pclm.forward(batch)
    gate = states["gate"][0]
    assert gate.shape == (5, 3) and gate.dtype == torch.float32
    torch.testing.assert_close(gate.sum(-1), torch.ones(5))
    rows = gate[batch.row_items]
    expected = sum(states[f"streams[{k}]"][0] * rows[:, k, None, None] for k in range(3))
    torch.testing.assert_close(states["mixed"][0], expected, atol=1e-6, rtol=0)
    # Both windows of the long clip follow its one prompt.
    assert batch.row_items == [0, 1, 2, 2, 3, 4]
    assert not torch.allclose(gate[0], gate[1])


def test_gate_reads_the_question_and_not_the_options(tiny, items, waves):
    question, options, chat = (tiny.llm(tiny.pclm(gate_text=t)) for t in ("question", "question_options", "chat"))
    assert question.gate_text(items[0], DEFAULT_PROMPT) == items[0].question
    assert options.gate_text(items[0], DEFAULT_PROMPT) == DEFAULT_PROMPT.render(items[0])
    assert chat.gate_text(items[0], DEFAULT_PROMPT) == chat.prompt(items[0], DEFAULT_PROMPT)
    weights = []
    for llm in (question, options):
        with llm.capturing(["gate"]) as states:
            llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
        weights.append(states["gate"][0])
    assert not torch.allclose(weights[0], weights[1])
    # Items 0 and 3 ask the same question.
    torch.testing.assert_close(weights[0][0], weights[0][3])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(5, 30), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from(["cls", "mean"]),
)
def test_gate_weights_do_not_depend_on_padding(tiny_gates, prompts, pooling):
    gate = tiny_gates[pooling]
    width = max(map(len, prompts)) + 3
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)] = torch.tensor(prompt)
        mask[i, : len(prompt)] = 1
    with torch.no_grad():
        weights = gate(ids, mask, len(prompts))
        for row, prompt in zip(weights, prompts, strict=True):
            alone = gate(torch.tensor([prompt]), None, 1)[0]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(prompts)))


@pytest.fixture(scope="module")
def tiny_gates(tiny):
    return {p: tiny.pclm(bert_pooling=p).model.pclm.gate for p in ("cls", "mean")}


def test_gate_order_moves_the_first_output_last(tiny):
    ascending = PromptGate(tiny.config(gate_mode="static"))
    final_first = PromptGate(tiny.config(gate_mode="static", gate_order="final_first"))
    logits = torch.tensor([3.0, 1.0, 2.0])
    for gate in (ascending, final_first):
        gate.static_logits.data.copy_(logits)
    assert torch.equal(ascending(None, None, 1)[0], torch.softmax(logits, 0))
    assert torch.equal(final_first(None, None, 1)[0], torch.softmax(torch.tensor([1.0, 2.0, 3.0]), 0))


def test_static_gate_ignores_the_prompt_and_learns(tiny, items, waves):
    model = tiny.pclm(gate_mode="static")
    llm = tiny.llm(model)
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    with llm.capturing(["gate"]) as states:
        llm.forward(batch)
    assert torch.equal(states["gate"][0], torch.full((5, 3), 1 / 3))
    model(**batch.inputs).logits[:, -1, 7].sum().backward()
    assert model.model.pclm.gate.static_logits.grad.abs().max() > 0


def test_final_sources_have_the_same_parameters_and_no_middle_layer(tiny, waves):
    layers, final = tiny.pclm(), tiny.pclm(stream_sources="final")
    assert [p.shape for p in layers.parameters()] == [p.shape for p in final.parameters()]
    llm = tiny.llm(final)
    assert llm.stream_inputs == ("tower",)
    assert len(set(llm.streams)) == len(llm.streams) == 3
    inputs, _ = llm.features(waves[:1])
    with torch.no_grad():
        streams, _, out = final.model.encode_streams(**inputs)
    assert all(torch.equal(stream, out.last_hidden_state) for stream in streams)


def test_gradients_reach_every_trained_part(tiny, items, waves):
    model = tiny.pclm()
    llm = tiny.llm(model)
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    with torch.no_grad():
        states, frames, _ = model.model.encode_streams(
            batch.inputs["input_features"], batch.inputs["input_features_mask"]
        )
    gate = {k: v for k, v in batch.inputs.items() if k.startswith("prompt_") or k == "audio_windows"}
    mixed = model.mix_streams(states, **gate)
    ids = batch.inputs["input_ids"]
    valid = torch.arange(mixed.shape[1])[None] < frames[:, None]
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((ids == 4)[..., None].expand_as(embeds), mixed[valid])
    logits = model(inputs_embeds=embeds, attention_mask=batch.inputs["attention_mask"]).logits
    torch.testing.assert_close(logits, model(**batch.inputs).logits)
    logits[:, -1].logsumexp(-1).sum().backward()
    silent = [n for n, p in model.named_parameters() if "audio_tower" not in n and p.grad is None]
    # BERT's token types and unused pieces still get a gradient; only the encoder, whose states were cached, does not.
    assert silent == []
    assert all(p.grad is None for n, p in model.named_parameters() if "audio_tower" in n)


def test_clone_final_projector(tiny):
    model = tiny.pclm()
    model.model.clone_final_projector()
    final = model.model.multi_modal_projector.state_dict()
    for projector in model.model.pclm.projectors:
        assert all(torch.equal(final[name], tensor) for name, tensor in projector.state_dict().items())
        assert projector.linear_1.weight.data_ptr() != final["linear_1.weight"].data_ptr()


@pytest.mark.parametrize("fields", [{}, {"gate_mode": "static"}, {"gate_mode": "clamped"}, {"stream_sources": "final"}])
def test_save_and_load_through_the_auto_classes(tiny, items, waves, tmp_path, fields):
    model = tiny.pclm(**fields)
    if fields.get("gate_mode") == "static":
        model.model.pclm.gate.static_logits.data.copy_(torch.tensor([0.3, -1.0, 2.0]))
    model.save_pretrained(tmp_path)
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert isinstance(again, AudioFlamingo3PCLMForConditionalGeneration)
    for field in PCLM_FIELDS:
        one, two = getattr(model.config, field), getattr(again.config, field)
        assert getattr(one, "hidden_size", one) == getattr(two, "hidden_size", two), field
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    batch = tiny.llm(model).prepare(items, waves, DEFAULT_PROMPT)
    with torch.no_grad():
        assert torch.equal(model(**batch.inputs).logits, again(**batch.inputs).logits)


def test_auto_classes_know_the_model(tiny, tmp_path):
    tiny.config().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, AudioFlamingo3PCLMConfig)
    assert isinstance(AutoModel.from_config(config), AudioFlamingo3PCLMModel)


def test_half_precision_keeps_the_gate_in_float32(tiny, items, waves):
    llm = tiny.llm(tiny.pclm().to(torch.bfloat16))
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    with llm.capturing(["gate", "mixed"]) as states:
        logits = llm.forward(batch)
    assert states["gate"][0].dtype == torch.float32
    assert states["mixed"][0].dtype == torch.bfloat16
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mid_pool": "avg_nrom"}, "did you mean 'avg_norm'"),
        ({"gate_mode": "learned"}, "'static'"),
        ({"expose_layers": [0, 2]}, "from 1 to 4"),
        ({"expose_layers": [3, 5]}, "from 1 to 4"),
        ({"expose_layers": [4], "layer_index_convention": "block_output_0based"}, "from 0 to 3"),
        ({"expose_layers": [3, 1]}, "ascending"),
        ({"gate_mode": "clamped", "gate_weights": [1.0]}, "one per stream, 3"),
    ],
)
def test_config_refuses_what_it_does_not_know(tiny, fields, words):
    with pytest.raises(ModelError, match=words):
        tiny.config(**fields)


def test_a_prompt_gate_without_a_prompt_says_so(tiny, items, waves):
    model = tiny.pclm()
    batch = tiny.llm(model).prepare(items, waves, DEFAULT_PROMPT)
    inputs = {k: v for k, v in batch.inputs.items() if not k.startswith("prompt_")}
    with pytest.raises(ModelError, match="no prompt_input_ids"):
        model(**inputs)
    inputs = {k: v for k, v in batch.inputs.items() if k != "audio_windows"}
    with pytest.raises(ModelError, match="5 prompt rows for 6 audio windows"):
        model(**inputs)


def test_outputs_of_leaves_no_hook_behind():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), outputs_of([layer]) as kept:
        layer(torch.ones(1, 2))
        raise ZeroDivisionError
    assert len(kept) == 1
    assert not layer._forward_hooks


def test_a_clip_without_its_mask_is_refused_and_not_ignored(pclm, items, waves):
    inputs = dict(pclm.prepare(items[:1], waves[:1], DEFAULT_PROMPT).inputs)
    inputs.pop("input_features_mask")
    with pytest.raises(ModelError, match="without input_features_mask"):
        pclm.model(**inputs)
