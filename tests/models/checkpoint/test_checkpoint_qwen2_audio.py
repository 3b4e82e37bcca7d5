"""Qwen2-Audio with the mixer, whose layout is unknown: split, in one folder, or with a file beside the base's."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from builders_qwen2_audio import build_qwen2_audio, waves_of
from releases import Release, tensors_of, write_release
from safetensors.torch import save_file

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import is_split, parts_of, write_split

PCLM = {"prompt_encoder_config": {"num_attention_heads": 2}}
STOCK = {"llm": "language_model.", "tower": "audio_tower.", "final": "multi_modal_projector.", "linears": ("linear",)}


def one_folder(_part):
    return ""


RELEASES = {
    "split": Release(linears=("linear",), final="", projector=lambda k, i: ""),
    "split, other words": Release(
        linears=("proj",), final="mm.", projector=lambda k, i: f"mid_{k}.", bert="enc.bert.", mlp="g."
    ),
    "one folder": Release(
        folders=one_folder, projector=lambda k, i: f"mid_projectors.{k}.", bert="pclm.bert.", mlp="pclm.head.", **STOCK
    ),
    "one folder, counted": Release(
        folders=one_folder, projector=lambda k, i: f"pclm.mids.{i}.", bert="pclm.b.", mlp="pclm.w.", **STOCK
    ),
    "a folder beside the base": Release(
        folders=lambda part: "pclm" if part.startswith(("sound_mid", "sound_pclm")) else "",
        projector=lambda k, i: f"projectors.{i}.", bert="text.", mlp="gate.", **STOCK,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=[32, 48])
def tiny2(request):
    """Of equal and of different widths of encoder and language model."""
    return build_qwen2_audio(hidden_size=request.param)


def logits_of(llm, tiny2, items):
    return llm.forward(llm.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT))


@pytest.fixture
def questions(items):
    from dataclasses import replace

    from vpanalysis.benchmark.audio import ArrayAudio

    waves = waves_of(1.0, 2.0, 0.7)
    return [replace(item, audio=ArrayAudio(wave)) for item, wave in zip(items, waves, strict=False)]


@pytest.mark.parametrize("layout", list(RELEASES))
def test_every_layout_loads_to_equal_logits(tiny2, questions, tmp_path, layout):
    model = tiny2.pclm()
    folder = write_release(model, tiny2.pclm_processor(), tmp_path, RELEASES[layout])
    assert is_split(folder) == layout.startswith("split")
    llm = load_model(folder, pclm=PCLM)
    assert llm.family.name == "qwen2_audio_pclm"
    expected = logits_of(AudioLLM(model, tiny2.pclm_processor()), tiny2, questions)
    assert torch.equal(logits_of(llm, tiny2, questions), expected)


def test_a_file_of_the_mixer_beside_the_files_of_the_base(tiny2, tmp_path):
    model = tiny2.pclm()
    release = RELEASES["one folder"]
    folder = write_release(model, tiny2.pclm_processor(), tmp_path / "release", release)
    shutil.rmtree(folder)
    folder.mkdir()
    tiny2.pclm_processor().save_pretrained(str(folder))
    tensors = {name: tensor.clone() for (_, name), tensor in tensors_of(model, release).items()}
    base = [name for name in tensors if name.startswith(("language_model.", "audio_tower.", "multi_modal_projector."))]
    for i in (0, 1):
        names = base[i::2]
        save_file({n: tensors[n] for n in names}, folder / f"model-{i + 1:05d}-of-00002.safetensors")
    where = {n: f"model-{i + 1:05d}-of-00002.safetensors" for i in (0, 1) for n in base[i::2]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    save_file({n: t for n, t in tensors.items() if n not in base}, folder / "pclm.safetensors")
    config = {**tiny2.stock().config.to_dict(), "expose_layers": [1, 3]}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    found = resolve(folder, overrides=PCLM)
    assert not found.problems
    assert [f.value for f in found.findings if f.subject == "use_sound_pclm"] == ["True"]
    loaded = load_model(folder, pclm=PCLM, check=False).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_split_as_this_package_writes_it(tiny2, questions, tmp_path):
    model, processor = tiny2.pclm(), tiny2.pclm_processor()
    write_split(model, processor, tmp_path)
    assert set(parts_of(model)) == {p.name for p in tmp_path.iterdir() if p.is_dir()} - {"gate_tokenizer"}
    found = resolve(tmp_path)
    assert not found.problems and not found.assumptions and not found.findings and not found.settings.unread
    expected = logits_of(AudioLLM(model, processor), tiny2, questions)
    assert torch.equal(logits_of(load_model(tmp_path), tiny2, questions), expected)


@pytest.mark.parametrize("split", [True, False])
def test_the_stock_model(tiny2, tmp_path, split):
    model = tiny2.stock()
    if split:
        write_split(model, tiny2.processor, tmp_path)
    else:
        model.save_pretrained(tmp_path)
    found = resolve(tmp_path)
    assert not found.problems and not found.assumptions and not found.settings.mixed
    state = found.state()
    assert all(torch.equal(tensor, state[name][...]) for name, tensor in model.state_dict().items())


def test_the_base_is_told_by_the_form_of_its_projectors(tiny, tiny2, tmp_path):
    for name, model, processor, release in (
        ("audioflamingo3", tiny.pclm(), tiny.processor, Release()),
        ("qwen2_audio", tiny2.pclm(), tiny2.pclm_processor(), RELEASES["split"]),
    ):
        folder = write_release(model, processor, tmp_path / name, release)
        found = resolve(folder)
        (finding,) = [f for f in found.findings if f.subject == "model_type"]
        assert finding.value == name and "'llava_llama'" in finding.evidence and not found.problems
