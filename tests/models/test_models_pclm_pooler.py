"""BERT's own pooler between prompt encoder and gate, on both bases."""

from __future__ import annotations

import pytest
import torch
from builders_qwen2_audio import build_qwen2_audio, waves_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMultimodalLM

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import write_split

POOLER = {
    "model.pclm.gate.prompt_encoder.pooler.dense.weight",
    "model.pclm.gate.prompt_encoder.pooler.dense.bias",
}


@pytest.fixture(scope="module", params=["af3", "qwen2_audio"])
def base(request, tiny, items, waves):
    """A builder of models with the mixer, and inputs for them."""
    if request.param == "qwen2_audio":
        other = build_qwen2_audio()
        return other, other.inputs(waves_of(1.0, 1.4, 0.5))
    return tiny, tiny.llm(tiny.pclm()).prepare(items, waves, DEFAULT_PROMPT).inputs


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_the_pooler_is_tanh_of_a_dense_layer_on_the_first_token(base):
    builder, inputs = base
    gate = builder.pclm(bert_pooling="pooler").model.pclm.gate
    ids, mask = inputs["prompt_input_ids"], inputs["prompt_attention_mask"]
    with torch.no_grad():
        states = gate.prompt_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        dense = gate.prompt_encoder.pooler.dense
        expected = torch.tanh(states[:, 0] @ dense.weight.T + dense.bias)
        embedded = gate.embed(ids, mask)
        torch.testing.assert_close(embedded, expected, atol=1e-6, rtol=0)
        weights = gate(ids, mask, ids.shape[0])
        torch.testing.assert_close(weights, torch.softmax(gate.mlp(expected), -1), atol=1e-6, rtol=0)
    assert embedded.abs().max() < 1 and not torch.allclose(embedded, states[:, 0], atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "there"),
    [
        ({}, False),
        ({"bert_pooling": "cls"}, False),
        ({"bert_pooling": "pooler"}, True),
        ({"bert_pooling": "pooler", "prompt_encoder_pooler": False}, True),
        ({"bert_pooling": "cls", "prompt_encoder_pooler": True}, True),
        ({"bert_pooling": "mean", "prompt_encoder_pooler": True}, True),
        ({"bert_pooling": "pooler", "gate_mode": "static"}, False),
    ],
)
def test_the_config_says_whether_the_poolers_weights_exist(base, fields, there):
    builder, _ = base
    config = builder.config(**fields)
    assert config.prompt_encoder_pooler is there
    with torch.device("meta"):
        names = set(AutoModelForMultimodalLM.from_config(config).state_dict())
    assert POOLER & names == (POOLER if there else set())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_checkpoint_with_a_pooler_can_be_pooled_otherwise(base, tmp_path, pooling):
    builder, inputs = base
    trained = builder.pclm(bert_pooling="pooler")
    trained.save_pretrained(tmp_path)
    config = type(trained.config).from_pretrained(tmp_path, bert_pooling=pooling)
    assert config.prompt_encoder_pooler
    again, report = AutoModelForMultimodalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # The same weights in a model that was never given a pooler.
    without = builder.pclm(bert_pooling=pooling)
    assert set(without.load_state_dict(trained.state_dict(), strict=False).unexpected_keys) == POOLER
    assert torch.equal(logits_of(again, inputs), logits_of(without, inputs))
    assert not torch.allclose(logits_of(again, inputs), logits_of(trained, inputs), atol=1e-4)


def test_weights_that_do_not_fit_the_field_are_reported(base, tmp_path):
    builder, _ = base
    for made, read, kind in (
        ({"prompt_encoder_pooler": True}, {"prompt_encoder_pooler": False}, "unexpected_keys"),
        ({}, {"bert_pooling": "pooler"}, "missing_keys"),
    ):
        folder = tmp_path / kind
        model = builder.pclm(**made)
        model.save_pretrained(folder)
        config = builder.config(**read)
        _, report = AutoModelForMultimodalLM.from_pretrained(folder, config=config, output_loading_info=True)
        assert set(report[kind]) == POOLER


@pytest.fixture(scope="module")
def gate(tiny):
    return tiny.pclm(bert_pooling="pooler").model.pclm.gate


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(5, 30), min_size=1, max_size=9), min_size=1, max_size=4))
def test_pooled_weights_do_not_depend_on_padding(gate, prompts):
    ids = torch.zeros(len(prompts), max(map(len, prompts)) + 3, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)] = torch.tensor(prompt)
        mask[i, : len(prompt)] = 1
    with torch.no_grad():
        weights = gate(ids, mask, len(prompts))
        for row, prompt in zip(weights, prompts, strict=True):
            torch.testing.assert_close(row, gate(torch.tensor([prompt]), None, 1)[0], atol=1e-5, rtol=0)


def test_the_split_layout_keeps_the_pooler(tiny, items, waves, tmp_path):
    model = tiny.pclm(bert_pooling="pooler")
    write_split(model, tiny.processor, tmp_path)
    again = load_model(tmp_path)
    assert again.model.config.bert_pooling == "pooler"
    batch = tiny.llm(model).prepare(items, waves, DEFAULT_PROMPT)
    assert torch.equal(logits_of(model, batch.inputs), logits_of(again.model, batch.inputs))
    first = load_model(tmp_path, pclm={"bert_pooling": "cls"})
    assert set(first.model.state_dict()) >= POOLER
    with pytest.raises(ModelError, match="did you mean 'pooler'"):
        load_model(tmp_path, pclm={"bert_pooling": "poolers"})
