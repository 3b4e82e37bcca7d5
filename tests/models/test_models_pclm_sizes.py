"""Qwen2-Audio-7B + PCLM at full size, on the meta device: names, shapes and counts, by arithmetic."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from vpanalysis.models.pclm import Qwen2AudioPCLMConfig, Qwen2AudioPCLMForConditionalGeneration

# Encoder: layers, width, inner width, mel bins, positions. Text: layers, width, inner width, vocabulary.
ENCODER = (32, 1280, 5120, 128, 1500)
TEXT = (32, 4096, 11008, 156_032)
# BERT-small: layers, width, inner width, vocabulary, positions.
BERT = (4, 512, 2048, 30_522, 512)


def linear(width_in: int, width_out: int, bias: bool = True) -> int:
    return width_in * width_out + (width_out if bias else 0)


def count_encoder() -> int:
    layers, width, inner, mels, positions = ENCODER
    norm = 2 * width
    # Keys have no bias; two norms, and the two linear layers between.
    layer = 3 * linear(width, width) + linear(width, width, bias=False) + 2 * norm
    layer += linear(width, inner) + linear(inner, width)
    stem = linear(3 * mels, width) + linear(3 * width, width) + positions * width
    return stem + layers * layer + norm


def count_text() -> int:
    layers, width, inner, vocabulary = TEXT
    # As many heads of keys as of queries; the root-mean-square norms have a scale alone.
    layer = 3 * linear(width, width) + linear(width, width, bias=False) + 3 * width * inner + 2 * width
    return vocabulary * width + layers * layer + width


def count_bert(pooler: bool) -> int:
    layers, width, inner, vocabulary, positions = BERT
    layer = 4 * linear(width, width) + linear(width, inner) + linear(inner, width) + 4 * width
    embeddings = (vocabulary + positions + 2) * width + 2 * width
    return embeddings + layers * layer + (linear(width, width) if pooler else 0)


def config(**fields):
    layers, width, inner, vocabulary = TEXT
    text = {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    }
    # The encoder's sizes are the default.
    return Qwen2AudioPCLMConfig(text_config=text, **fields)


def build(kind, configuration):
    with torch.device("meta"):
        return kind(configuration)


def size(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model():
    return build(Qwen2AudioPCLMForConditionalGeneration, config())


def test_parts_have_the_expected_sizes(model):
    _, audio, *_ = ENCODER
    _, text, _, vocabulary = TEXT
    inner = model.model
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert size(inner.audio_tower) == count_encoder() == 636_968_960
    assert size(inner.language_model) == count_text() == 7_115_771_904
    assert size(model.lm_head) == vocabulary * text == 639_107_072
    assert size(inner.multi_modal_projector) == linear(audio, text) == 5_246_976
    assert size(inner.pclm.projectors) == 4 * linear(audio, text) == 20_987_904
    assert size(inner.pclm.gate.prompt_encoder) == count_bert(pooler=False) == 28_500_992
    assert size(inner.pclm.gate.mlp) == linear(512, 512) + linear(512, 5)


def test_the_whole_is_the_base_and_under_one_per_cent_more(model):
    base = count_encoder() + count_text() + TEXT[1] * TEXT[3] + linear(1280, 4096)
    added = 4 * linear(1280, 4096) + count_bert(pooler=False) + linear(512, 512) + linear(512, 5)
    assert size(model) == base + added == 8_446_849_029
    assert base == 8_397_094_912
    # The paper: the mixer adds less than one per cent.
    assert 0.005 < added / base < 0.01


def test_names_are_those_of_stock_and_the_mixers(model):
    stock = build(Qwen2AudioForConditionalGeneration, config())
    ours, theirs = ({name: tuple(t.shape) for name, t in made.state_dict().items()} for made in (model, stock))
    assert theirs.items() <= ours.items()
    added = {name: shape for name, shape in ours.items() if name not in theirs}
    assert all(name.startswith("model.pclm.") for name in added)
    for i in range(4):
        assert added[f"model.pclm.projectors.{i}.linear.weight"] == (4096, 1280)
        assert added[f"model.pclm.projectors.{i}.linear.bias"] == (4096,)
    assert added["model.pclm.gate.prompt_encoder.embeddings.word_embeddings.weight"] == (30_522, 512)
    assert added["model.pclm.gate.mlp.0.weight"] == (512, 512) and added["model.pclm.gate.mlp.2.weight"] == (5, 512)
    assert not any("pooler" in name for name in added)
    assert model.config.stream_names == ("encoder[4]", "encoder[14]", "encoder[24]", "encoder[29]", "tower")


def test_with_berts_pooler():
    pooled = build(Qwen2AudioPCLMForConditionalGeneration, config(bert_pooling="pooler"))
    encoder = pooled.model.pclm.gate.prompt_encoder
    # What is called BERT-small's 28.8 M.
    assert size(encoder) == count_bert(pooler=True) == 28_763_648
    assert tuple(encoder.pooler.dense.weight.shape) == (512, 512)
