"""Encoders alone: taken out of bigger models, loaded from folders, refused where they are damaged or asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders_encoders import (
    CLAP_MODELS,
    WHISPER_MODELS,
    clap,
    clap_extractor,
    noise,
    waveform,
    waveform_extractor,
    whisper,
    whisper_extractor,
)
from safetensors.torch import load_file, save_file
from transformers import ClapProcessor, PreTrainedTokenizerFast, WhisperProcessor

import vpanalysis as vp
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.word_tokenizer import build_word_tokenizer

CASES: dict[str, tuple[Any, Any, str]] = {
    **{f"whisper-{k}": (lambda k=k: whisper(k), whisper_extractor, "WhisperEncoder") for k in WHISPER_MODELS},
    "hubert-base": (lambda: waveform("hubert"), waveform_extractor, "HubertModel"),
    "hubert-ctc": (lambda: waveform("hubert", "layer", "ctc"), waveform_extractor, "HubertModel"),
    "wavlm-base": (lambda: waveform("wavlm"), waveform_extractor, "WavLMModel"),
    "wavlm-xvector": (lambda: waveform("wavlm", kind="xvector"), waveform_extractor, "WavLMModel"),
    **{f"clap-{k}": (lambda k=k: clap(k), clap_extractor, "ClapAudioModel") for k in CLAP_MODELS},
    "clap-fused": (lambda: clap("whole", fusion=True), lambda: clap_extractor(fusion=True), "ClapAudioModel"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    make, extractor, wanted = CASES[request.param]
    return make(), extractor(), wanted


def saved(model: Any, extractor: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def test_the_encoder_is_taken_out_of_a_model_in_memory_and_loaded_alone(
    case: tuple[Any, Any, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, extractor, wanted = case
    llm = vp.load_model((model, extractor), name="in memory")
    # A view of the model that was given, not a copy.
    assert any(llm.model is module for module in model.modules())
    loaded = vp.load_model(str(saved(model, extractor, tmp_path / "checkpoint")))
    assert type(llm.model).__name__ == type(loaded.model).__name__ == wanted
    assert loaded.name == "checkpoint"
    assert loaded.sites == llm.sites
    assert loaded.encoder_sha == llm.encoder_sha
    assert set(loaded.weights_sha) == {"sound_tower"}
    assert not loaded.answers
    assert loaded.stream_inputs == ()
    waves = noise(0.5, 1.1)
    for one, other in zip(llm.encode(waves, ["tower"]), loaded.encode(waves, ["tower"]), strict=True):
        assert torch.equal(one.streams["tower"], other.streams["tower"])
    # What is beside the encoder was neither loaded nor complained of.
    here = set(loaded.model.state_dict())
    assert not any(
        part in name for name in here for part in ("decoder", "text_", "lm_head", "tdnn", "audio_projection")
    )
    shown = capfd.readouterr()
    assert "UNEXPECTED" not in shown.out + shown.err


def test_what_is_missing_from_the_encoder_is_refused(case: tuple[Any, Any, str], tmp_path: Path) -> None:
    model, extractor, _ = case
    folder = saved(model, extractor, tmp_path)
    state = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(state) if "layers.1" in name and "decoder" not in name and "text" not in name)
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys: .*layers\.1"):
        vp.load_model(str(folder))


def test_a_surplus_tensor_inside_the_encoder_is_refused(case: tuple[Any, Any, str], tmp_path: Path) -> None:
    model, extractor, _ = case
    folder = saved(model, extractor, tmp_path)
    state = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(state) if "layers.1" in name and "decoder" not in name and "text" not in name)
    prefix = name[: name.index("layers.1")]
    state[f"{prefix}layers.9.weight"] = torch.zeros(2)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"unexpected keys: .*layers\.9\.weight"):
        vp.load_model(str(folder))


@pytest.mark.parametrize("name", ["whisper-generation", "clap-whole", "hubert-ctc"])
def test_what_is_beside_the_encoder_stays_on_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpanalysis.models.checkpoint import lazy

    make, extractor, _ = CASES[name]
    folder = saved(make(), extractor(), tmp_path)
    read: list[str] = []
    reads = lazy.read_tensor
    monkeypatch.setattr(lazy, "read_tensor", lambda record: (read.append(record.key), reads(record))[1])
    encoder = vp.load_model(str(folder)).model
    assert len(read) >= len(list(encoder.parameters()))
    beside = [key for key in load_file(folder / "model.safetensors") if key not in read]
    assert beside
    assert not [key for key in read if key.startswith(("model.decoder", "text_", "audio_projection", "lm_head"))]


def test_weight_norm_under_its_older_names(tmp_path: Path) -> None:
    """As in the released files of HuBERT and WavLM."""
    for name in ("hubert", "wavlm"):
        model = waveform(name)
        folder = saved(model, waveform_extractor(), tmp_path / name)
        state = load_file(folder / "model.safetensors")
        older = {
            key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for key, tensor in state.items()
        }
        assert set(older) != set(state)
        save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
        loaded = vp.load_model(str(folder))
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[key], tensor), key


def test_a_whole_processor_serves_as_well(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(["some words"])
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    (wave,) = noise(0.5)
    for made, processor in (
        (whisper("generation"), WhisperProcessor(whisper_extractor(), tokenizer)),
        (clap("whole"), ClapProcessor(clap_extractor(), tokenizer)),
    ):
        folder = tmp_path / type(made).__name__
        made.save_pretrained(folder)
        processor.save_pretrained(folder)
        states = [
            vp.load_model(source).encode([wave], ["tower"])[0].streams["tower"]
            for source in (str(folder), (made, processor), (made, processor.feature_extractor))
        ]
        assert torch.equal(states[0], states[1])
        assert torch.equal(states[1], states[2])


def test_random_weights_are_a_control_that_can_be_made_again() -> None:
    """Same seed, same encoder, told by its hash; with a bare feature extractor in place of a processor."""
    first, again, other = (
        vp.load_model((waveform("hubert", seed=seed), waveform_extractor()), name=f"random-{seed}")
        for seed in (0, 0, 1)
    )
    assert first.encoder_sha == again.encoder_sha != other.encoder_sha
    (wave,) = noise(0.5)
    one, same, different = (llm.encode([wave], ["tower"])[0].streams["tower"] for llm in (first, again, other))
    assert torch.equal(one, same)
    assert not torch.allclose(one, different, atol=0.1)


def test_an_encoder_is_not_asked(items: list[Any]) -> None:
    llm = vp.load_model((whisper(), whisper_extractor()), name="ear")
    asked = "cannot ask 'ear': found an encoder without a language model"
    with pytest.raises(ModelError, match=asked):
        llm.prepare(items, noise(*[0.5] * len(items)), DEFAULT_PROMPT)
    with pytest.raises(ModelError, match=asked):
        llm.prompt(items[0], DEFAULT_PROMPT)
    with pytest.raises(
        ModelError, match=r"cannot keep a stream of the encoder: found 'encoder\[0\]'; allowed: 'tower'"
    ):
        llm.encode(noise(0.5), ["encoder[0]"])
    assert "text     none: an encoder alone" in repr(llm)


def test_what_is_encoded_at_once_is_said() -> None:
    shown = [
        repr(vp.load_model((model, extractor)))
        for model, extractor in (
            (whisper(), whisper_extractor()),
            (waveform("hubert"), waveform_extractor()),
            (waveform("hubert", "layer"), waveform_extractor()),
            (clap(), clap_extractor()),
            (clap(), clap_extractor(padding="pad")),
        )
    ]
    for text, reach, silence in zip(
        shown,
        ("window 2 s", "whole clips up to 60 s", "whole clips up to 60 s", "window 2 s", "window 2 s"),
        ("encoded", "none: one clip a forward", "masked, up to", "filled with copies of the clip", "encoded"),
        strict=True,
    ):
        assert reach in text
        assert f"silence  {silence}" in text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_the_states_are_near(case: tuple[Any, Any, str], tmp_path: Path, dtype: str) -> None:
    model, extractor, _ = case
    folder = saved(model, extractor, tmp_path)
    whole, half = vp.load_model(str(folder)), vp.load_model(str(folder), dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.encoder_sha != whole.encoder_sha
    (wave,) = noise(0.9)
    with whole.capturing(whole.sites) as wanted, half.capturing(half.sites) as found:
        whole.encode([wave])
        half.encode([wave])
    # How far rounding goes in a random model says little; that the first state is the same one says enough. As a whole:
    # the furthest single value depends on the numbers drawn, which other releases draw otherwise.
    first, same = found["encoder.stem"][0].float(), wanted["encoder.stem"][0]
    assert float((first - same).norm()) < 0.05 * float(same.norm())
    for site in half.sites:
        assert found[site][0].shape == wanted[site][0].shape
        assert torch.isfinite(found[site][0]).all()


def test_a_model_without_the_encoder_is_refused() -> None:
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.families import FAMILIES

    with pytest.raises(ModelError, match="cannot use HubertModel as the family 'clap': found no ClapAudioModel in it"):
        AudioLLM(waveform("hubert"), clap_extractor(), family=FAMILIES["clap"])
