"""The sizes of the real models, without their weights: shapes on the meta device, and headers made from them."""

from __future__ import annotations

import json
import time

import pytest
import torch
from releases import NAMINGS, Release, tensors_of
from transformers import AudioFlamingo3EncoderConfig, Qwen2AudioEncoderConfig, Qwen2Config

from vpanalysis.models.checkpoint.assignment import assign
from vpanalysis.models.checkpoint.bases import expected_of, meta_model
from vpanalysis.models.checkpoint.headers import Inventory, TensorRecord
from vpanalysis.models.checkpoint.settings import read_settings
from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, Qwen2AudioPCLMConfig

D, WIDE, LAYERS = 3584, 18944, 28  # Qwen2-7B
HEADS, KEYS, VOCABULARY = 28, 4, 151_672
E, ENCODER_WIDE, ENCODER_LAYERS, MELS, POSITIONS = 1280, 5120, 32, 128, 1500  # Whisper large
B, B_WIDE, B_LAYERS, B_WORDS, B_POSITIONS = 512, 2048, 4, 30_522, 512  # BERT-small
EXPOSED, HIDDEN = [5, 15, 25, 30], 256


def linear(before, after, bias=True):
    return before * after + (after if bias else 0)


def counts():
    """Parameters of each part, from the sizes alone."""
    keys = KEYS * (D // HEADS)
    block = linear(D, D) + 2 * linear(D, keys) + linear(D, D, bias=False) + 3 * linear(D, WIDE, bias=False) + 2 * D
    ear = 3 * linear(E, E) + linear(E, E, bias=False) + linear(E, ENCODER_WIDE) + linear(ENCODER_WIDE, E) + 4 * E
    bert = 4 * linear(B, B) + linear(B, B_WIDE) + linear(B_WIDE, B) + 4 * B
    return {
        "language model": VOCABULARY * D + LAYERS * block + D,
        "head": VOCABULARY * D,
        "encoder": 3 * MELS * E + E + 3 * E * E + E + POSITIONS * E + ENCODER_LAYERS * ear + 2 * E,
        "projector": linear(E, D) + linear(D, D),
        "prompt encoder": (B_WORDS + B_POSITIONS + 2) * B + 2 * B + B_LAYERS * bert,
        "gate MLP": linear(B, HIDDEN) + linear(HIDDEN, len(EXPOSED) + 1),
    }


@pytest.fixture(scope="module")
def config():
    audio = AudioFlamingo3EncoderConfig(
        num_mel_bins=MELS, num_hidden_layers=ENCODER_LAYERS, hidden_size=E, num_attention_heads=20,
        intermediate_size=ENCODER_WIDE, max_source_positions=POSITIONS,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, intermediate_size=WIDE,
    )  # fmt: skip
    return AudioFlamingo3PCLMConfig(
        audio_config=audio, text_config=text, expose_layers=EXPOSED, gate_mlp_dims=[HIDDEN],
        prompt_encoder_config={"vocab_size": B_WORDS},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(config):
    return meta_model(config)


def test_parameters_and_names_of_the_full_model(config, model):
    parts = counts()
    # Published: 7 615 616 512 with 152 064 words instead of 151 672, and a pooler of 262 656 more in BERT-small.
    assert parts["language model"] + parts["head"] == 7_615_616_512 - 2 * (152_064 - VOCABULARY) * D
    assert parts["encoder"] == 636_968_960
    assert parts["projector"] == 17_439_744
    assert parts["prompt encoder"] == 28_763_648 - linear(B, B)
    total = sum(parts.values()) + len(EXPOSED) * parts["projector"]
    assert total == 8_365_607_941
    assert sum(p.numel() for p in model.parameters()) == total
    assert all(p.is_meta for p in model.parameters())
    expected = expected_of(config)
    assert expected["model.language_model.layers.27.mlp.down_proj.weight"] == (D, WIDE)
    assert expected["model.audio_tower.layers.31.fc1.weight"] == (ENCODER_WIDE, E)
    assert [n for n in expected if n.startswith("model.pclm.projectors.3.linear_1")] == [
        "model.pclm.projectors.3.linear_1.weight", "model.pclm.projectors.3.linear_1.bias",
    ]  # fmt: skip
    assert expected["model.pclm.gate.mlp.2.weight"] == (5, HIDDEN)
    assert expected["model.pclm.gate.prompt_encoder.embeddings.word_embeddings.weight"] == (B_WORDS, B)
    assert len(expected) == 338 + 1 + 487 + 5 * 4 + 69 + 4


def headers(model, release, folder):
    """The headers that a release of this size would have, and its configuration files."""
    records = [
        TensorRecord(folder / place / "model.safetensors", place, name, tuple(tensor.shape), "BF16", i)
        for i, ((place, name), tensor) in enumerate(tensors_of(model, release).items())
    ]
    config = model.config
    (folder / "llm").mkdir()
    (folder / "sound_tower").mkdir()
    content = {"model_type": "llava_llama", "expose_layers": config.expose_layers, "use_sound_pclm": True,
               "sound_tower_cfg": "sound_tower", "audio_token_id": 151_669}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "llm" / "config.json").write_text(json.dumps(config.text_config.to_dict(), default=str))
    (folder / "sound_tower" / "config.json").write_text(json.dumps(config.audio_config.to_dict(), default=str))
    (folder / "vocab.json").write_text(json.dumps({model_token(config): 151_669}))
    return Inventory(folder, tuple(records))


def model_token(config):
    return "<sound>" if config.model_type.startswith("audio") else "<|AUDIO|>"


WORDS = Release(
    linears=("ab", "aa"), bert="enc.", mlp="head.", layers=("zz", "aa"), projector=lambda k, i: "proj.", final="p.",
    old_norms=True, buffers=True, llm="x.", tower="y.z.",
)  # fmt: skip


@pytest.mark.parametrize("release", [*NAMINGS.values(), WORDS], ids=[*NAMINGS, "words without numbers"])
def test_headers_of_the_full_model_find_their_places(model, tmp_path, release):
    inventory = headers(model, release, tmp_path)
    start = time.process_time()
    found = assign(inventory, read_settings(tmp_path))
    assert time.process_time() - start < 20
    assert not found.problems
    expected = expected_of(model.config)
    assert {name: record.shape for name, record in found.targets.items()} == expected
    # Every tensor at its own place: the records carry the order of the model's state dictionary.
    order = list(model.state_dict())
    assert all(order[record.start] == name for name, record in found.targets.items() if record.start < len(order))
    bert = found.config.prompt_encoder_config
    assert (bert.hidden_size, bert.num_hidden_layers, bert.num_attention_heads, bert.vocab_size) == (
        B,
        B_LAYERS,
        8,
        B_WORDS,
    )
    assert found.config.gate_mlp_dims == [HIDDEN] and found.config.expose_layers == EXPOSED
    open_fields = {a.subject for a in found.assumptions}
    assert open_fields >= {
        "layer_index_convention", "mid_pool", "gate_order", "gate_text", "bert_pooling", "gate_mlp_act",
        "prompt_encoder_config.num_attention_heads", "gate_tokenizer",
    }  # fmt: skip
    assert "order of the layers in a projector" not in open_fields


def test_headers_of_the_full_qwen2_audio(tmp_path):
    audio = Qwen2AudioEncoderConfig()
    text = Qwen2Config(
        vocab_size=156_032, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        intermediate_size=11_008,
    )  # fmt: skip
    bert = {"vocab_size": B_WORDS}
    config = Qwen2AudioPCLMConfig(
        audio_config=audio, text_config=text, expose_layers=EXPOSED, gate_mlp_dims=[HIDDEN], prompt_encoder_config=bert
    )
    model = meta_model(config)
    # The mixer: four linear layers from 1280 to 4096, BERT-small, and the gate's MLP (0.6 % of the model).
    mixer = sum(p.numel() for n, p in model.named_parameters() if n.startswith("model.pclm."))
    assert mixer == 4 * linear(E, 4096) + counts()["prompt encoder"] + counts()["gate MLP"] == 49_621_509
    release = Release(linears=("linear",), final="", projector=lambda k, i: "", bert="b.", mlp="m.", layers=("y", "x"))
    found = assign(headers(model, release, tmp_path), read_settings(tmp_path))
    assert not found.problems and found.config.model_type == "qwen2_audio_pclm"
    assert {name: record.shape for name, record in found.targets.items()} == expected_of(config)


def test_the_meta_device_holds_no_values(model):
    assert next(model.parameters()).untyped_storage().device == torch.device("meta")
