"""What Hugging Face's outputs do not mean. Each trap is pinned, so that an upgrade that moves one fails here first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.utils import output_capturing

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT


def features(llm: Any, waves: list[Any]) -> dict[str, torch.Tensor]:
    inputs, _ = llm.features(waves)
    return inputs


def hooked(llm: Any, sites: list[str], run: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad(), llm.capturing(sites) as states:
        run()
    return {site: tensors[0] for site, tensors in states.items()}


@pytest.fixture(scope="module")
def stock(tiny):
    """Its own model: `output_hidden_states` leaves hooks of transformers on the modules for good."""
    return tiny.llm(tiny.stock())


def test_last_hidden_state_is_never_the_last_layer(stock, waves):
    tower = stock.model.model.audio_tower
    inputs = features(stock, waves[:2])
    sites = [f"encoder[{i}]" for i in range(4)]
    out: Any = {}
    states = hooked(stock, [*sites, "tower"], lambda: out.update(tower(**inputs, output_hidden_states=True)))
    entries = out["hidden_states"]
    assert len(entries) == 5
    for i in range(3):
        assert torch.equal(entries[i + 1], states[f"encoder[{i}]"])
    assert entries[3].shape[1] == 50 and entries[4].shape[1] == 25
    assert torch.equal(entries[4], out["last_hidden_state"])
    assert torch.equal(states["tower"], out["last_hidden_state"])
    assert all(
        entry.shape != states["encoder[3]"].shape or not torch.equal(entry, states["encoder[3]"]) for entry in entries
    )


def test_entry_zero_is_the_input_of_layer_zero(stock, waves):
    tower = stock.model.model.audio_tower
    out: Any = {}
    states = hooked(
        stock,
        ["encoder.stem", "encoder[0]"],
        lambda: out.update(tower(**features(stock, waves[:1]), output_hidden_states=True)),
    )
    assert torch.equal(out["hidden_states"][0], states["encoder.stem"])
    assert not torch.equal(out["hidden_states"][0], states["encoder[0]"])


def test_full_model_returns_hidden_states_of_text_only(stock, items, waves):
    batch = stock.prepare(items[:1], waves[:1], DEFAULT_PROMPT)
    out: Any = {}
    states = hooked(
        stock,
        ["text.embed", "text[0]", "text[1]"],
        lambda: out.update(stock.model(**batch.inputs, output_hidden_states=True)),
    )
    length = batch.inputs["input_ids"].shape[1]
    assert len(out["hidden_states"]) == 4
    assert all(entry.shape == (1, length, 32) for entry in out["hidden_states"])
    assert torch.equal(out["hidden_states"][0], states["text.embed"])
    assert torch.equal(out["hidden_states"][1], states["text[0]"])


def test_audio_hidden_states_lose_clip_boundaries(stock, items, waves):
    batch = stock.prepare(items[:2], waves[:2], DEFAULT_PROMPT)
    with torch.no_grad():
        out = stock.model(**batch.inputs)
    assert out.audio_hidden_states.shape == (sum(batch.row_frames), 32)
    states = hooked(stock, ["projector"], lambda: stock.model(**batch.inputs))
    first, second = batch.row_frames
    assert torch.equal(out.audio_hidden_states[:first], states["projector"][0, :first])
    assert torch.equal(out.audio_hidden_states[first:], states["projector"][1, :second])


@pytest.mark.skipif(
    not hasattr(output_capturing, "selected_hidden_states"),
    reason="this transformers cannot select hidden states by index yet: any list means all of them",
)
def test_selected_hidden_states_come_with_holes(stock, waves):
    tower = stock.model.model.audio_tower
    with torch.no_grad():
        entries = tower(**features(stock, waves[:1]), output_hidden_states=[1, -1]).hidden_states
    assert len(entries) == 5
    assert [entry is None for entry in entries] == [True, False, True, True, False]


def test_padding_frames_are_not_silent(pclm, waves):
    inputs = features(pclm, waves[:1])
    states = hooked(pclm, ["tower"], lambda: pclm.model.model.audio_tower(**inputs))
    valid = pclm.layout(waves[:1]).row_frames[0]
    padding = states["tower"][0, valid:]
    assert padding.norm(dim=-1).min() > 0.3 * states["tower"][0, :valid].norm(dim=-1).mean()
    assert not torch.allclose(states["tower"][0].mean(0), states["tower"][0, :valid].mean(0), atol=1e-3)


def test_tower_takes_whole_windows_only(stock, waves):
    inputs = features(stock, waves[:1])
    with pytest.raises(RuntimeError):
        stock.model.model.audio_tower(
            inputs["input_features"][..., :60], input_features_mask=inputs["input_features_mask"][..., :60]
        )


def test_qwen2_audio_tower_takes_one_length_only():
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    config = Qwen2AudioEncoderConfig(
        num_mel_bins=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        d_model=16,
        max_source_positions=50,
    )
    with pytest.raises(ValueError, match="length 100"):
        Qwen2AudioEncoder(config)(torch.zeros(1, 16, 80))


@pytest.mark.parametrize("which", ["stock", "pclm"])
def test_batching_and_left_padding_change_nothing(which, items, waves, request):
    llm = request.getfixturevalue(which)
    together = llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
    alone = torch.cat([llm.forward(llm.prepare([i], [w], DEFAULT_PROMPT)) for i, w in zip(items, waves, strict=True)])
    assert together.abs().max() > 0.1
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.equal(together.argmax(-1), alone.argmax(-1))


def test_valid_encoder_frames_do_not_see_the_batch(pclm, waves):
    together = pclm.encode(waves)
    for clip, wave in zip(together, waves, strict=True):
        alone = pclm.encode([wave])[0]
        assert alone.windows == clip.windows
        for name in pclm.stream_inputs:
            torch.testing.assert_close(alone.streams[name], clip.streams[name], atol=1e-5, rtol=0)
