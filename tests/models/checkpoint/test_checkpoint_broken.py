"""Checkpoints that must not load: each is refused with a sentence that names the culprit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from releases import NAMINGS, Release, write_release
from safetensors.torch import load_file, save_file

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.loading import load_model

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "release"
    return write_release(tiny.pclm(), tiny.processor, folder, NAMINGS["prefixes of the original code"])


@pytest.fixture(scope="module")
def single(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "release"
    return write_release(tiny.pclm(), tiny.processor, folder, NAMINGS["everything in one folder"], shards=2)


@pytest.fixture
def said(tmp_path):
    """What is said of a copy after a change."""

    def refused(whole, change, **options):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(ModelError) as caught:
            load_model(folder, **options)
        text = str(caught.value)
        assert "\n" not in text and str(folder) in text
        return text

    return refused


def edited(place, change):
    """Change the tensors of a file."""

    def apply(folder):
        tensors = load_file(folder / place)
        change(tensors)
        save_file(tensors, folder / place, metadata={"format": "pt"})

    return apply


def cut(place, share=0.5):
    def apply(folder):
        content = (folder / place).read_bytes()
        (folder / place).write_bytes(content[: int(len(content) * share)])

    return apply


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated(whole, said, share):
    text = said(whole, cut(f"sound_tower/{FILE}", share))
    assert f"'sound_tower/{FILE}' is " in text and ("damaged" in text or "truncated" in text)
    assert "missing tensors" not in text


def test_missing_shard(single, said):
    text = said(single, lambda folder: (folder / "model-00002-of-00002.safetensors").unlink())
    assert "the shard 'model-00002-of-00002.safetensors' is missing" in text


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_and_never_opened(whole, said, suffix):
    def pickled(folder):
        file = folder / "sound_pclm" / FILE
        torch.save(load_file(file), folder / "sound_pclm" / f"pytorch_model{suffix}")
        file.unlink()

    text = said(whole, pickled)
    assert f"'sound_pclm/pytorch_model{suffix}' was not opened" in text and "may run code" in text
    assert "no safetensors file in 'sound_pclm'" in text


def test_pickles_beside_whole_weights_do_not_matter(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "training_args.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "copy" / "llm" / "pytorch_model.bin").write_bytes(b"")
    assert not resolve(tmp_path / "copy").problems


def test_wrong_hidden_size(whole, said):
    def change(folder):
        config = json.loads((folder / "sound_tower" / "config.json").read_text())
        (folder / "sound_tower" / "config.json").write_text(json.dumps({**config, "hidden_size": 36}))

    text = said(whole, change)
    assert "wrong shapes in the encoder" in text and "conv1.weight is [32, 16, 3] and should be [36, 16, 3]" in text


def test_wrong_number_of_layers(whole, said):
    def change(folder):
        config = json.loads((folder / "llm" / "config.json").read_text())
        config |= {"num_hidden_layers": number, "layer_types": ["full_attention"] * number}
        (folder / "llm" / "config.json").write_text(json.dumps(config))

    number = 4
    assert "missing tensors of the language model in 'llm/llm.model.': layers.3." in said(whole, change)
    number = 2
    assert "surplus tensors, for which the model has no place: llm/llm.model.layers.2." in said(whole, change)


# By part: its file, one of its tensors, and what is said when that is missing.
PLACES = {
    "language model": (
        f"llm/{FILE}", "llm.model.layers.1.mlp.up_proj.weight",
        "missing tensors of the language model in 'llm/llm.model.': layers.1.mlp.up_proj.weight",
    ),
    "head": (f"llm/{FILE}", "llm.lm_head.weight", "missing tensors of the head: lm_head.weight"),
    "encoder": (
        f"sound_tower/{FILE}", "sound_tower.sound_tower.layers.2.fc1.bias",
        "missing tensors of the encoder in 'sound_tower/sound_tower.sound_tower.': layers.2.fc1.bias",
    ),
    "final projector": (
        f"sound_mm_projector/{FILE}", "sound_mm_projector.layers.2.weight",
        "missing: sound_mm_projector/sound_mm_projector.layers.2.weight",
    ),
    "projector": (
        f"sound_mid_mm_projector_3/{FILE}", "sound_mid_mm_projector_3.layers.0.bias",
        "missing: sound_mid_mm_projector_3/sound_mid_mm_projector_3.layers.0.bias",
    ),
    "prompt encoder": (
        f"sound_pclm/{FILE}", "sound_pclm.bert.encoder.layer.1.attention.self.key.bias",
        "missing tensors of the prompt encoder in 'sound_pclm/sound_pclm.bert.': encoder.layer.1.attention.self.key.b",
    ),
    "positions": (
        f"sound_pclm/{FILE}", "sound_pclm.bert.embeddings.position_embeddings.weight",
        "missing tensors of the prompt encoder in 'sound_pclm/sound_pclm.bert.': embeddings.position_embeddings.weight",
    ),
    # Of a chain that ends too early, what is left is shown.
    "gate": (f"sound_pclm/{FILE}", "sound_pclm.gate.2.weight", "sound_pclm/sound_pclm.gate.2.bias [3]"),
}  # fmt: skip


@pytest.mark.parametrize("part", list(PLACES))
def test_a_tensor_that_is_missing(whole, said, part):
    place, name, clause = PLACES[part]
    assert clause in said(whole, edited(place, lambda tensors: tensors.pop(name)))


@pytest.mark.parametrize("part", list(PLACES))
def test_a_tensor_of_another_shape(whole, said, part):
    place, name, _ = PLACES[part]
    text = said(whole, edited(place, lambda tensors: tensors.update({name: torch.zeros(3, 5)})))
    assert f"{name} is [3, 5]" in text or f"{name} [3, 5]" in text


@pytest.mark.parametrize("part", list(PLACES))
@pytest.mark.parametrize("shape", [(7,), (7, 7), (), (2, 3, 4)])
def test_a_tensor_too_many(whole, said, part, shape):
    place, _, _ = PLACES[part]
    text = said(whole, edited(place, lambda tensors: tensors.update({"temperature.extra": torch.zeros(shape)})))
    assert "surplus tensors, for which the model has no place" in text
    assert f"{place.partition('/')[0]}/temperature.extra" in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int32])
def test_coded_weights_are_not_read_as_numbers(whole, said, dtype):
    place, name, _ = PLACES["encoder"]
    text = said(whole, edited(place, lambda tensors: tensors.update({name: tensors[name].to(dtype)})))
    assert "in a type that is not read as it is" in text and name in text


@pytest.mark.parametrize("part", ["llm", "sound_tower", "sound_mm_projector", "sound_mid_mm_projector_1", "sound_pclm"])
def test_a_part_without_its_file(whole, said, part):
    assert f"no safetensors file in '{part}'" in said(whole, lambda folder: (folder / part / FILE).unlink())


def test_an_adapter_in_place_of_a_part(whole, said):
    def adapted(folder):
        (folder / "llm" / FILE).rename(folder / "llm" / "adapter_model.safetensors")
        (folder / "llm" / "adapter_config.json").write_text("{}")

    text = said(whole, adapted)
    assert "no language model was found" in text and "the folder 'llm' holds an adapter and was not read" in text


def test_a_part_that_is_gone(whole, said):
    text = said(whole, lambda folder: shutil.rmtree(folder / "sound_mid_mm_projector_1"))
    assert "no projector of layer 1 (sound_mid_mm_projector_1 in the release) was found" in text
    text = said(whole, lambda folder: shutil.rmtree(folder / "sound_mm_projector"))
    assert "no projector of the final stream (sound_mm_projector) was found" in text


def test_a_projector_too_many(whole, said):
    def copied(folder):
        shutil.copytree(folder / "sound_mid_mm_projector_3", folder / "sound_mid_mm_projector_4")
        file = folder / "sound_mid_mm_projector_4" / FILE
        save_file({k.replace("_3.", "_4."): v for k, v in load_file(file).items()}, file)

    text = said(whole, copied)
    assert "2 projectors could be the final stream's" in text and "sound_mid_mm_projector_4" in text


def test_two_of_a_kind(whole, said):
    def copied(folder):
        shutil.copytree(folder / "llm", folder / "llm_old")

    text = said(whole, copied)
    assert "surplus tensors" in text and "llm_old/llm.lm_head.weight" in text

    def moved(folder):
        copied(folder)
        (folder / "llm_old").rename(folder / "one")
        shutil.copytree(folder / "one", folder / "two")
        shutil.rmtree(folder / "llm")
        (folder / "llm").mkdir()
        shutil.copyfile(folder / "one" / "config.json", folder / "llm" / "config.json")

    assert "the language model was found more than once, in 'one/llm.model.', 'two/llm.model.'" in said(whole, moved)


def test_a_mixer_that_no_config_speaks_of(whole, said):
    def silent(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "use_sound_pclm": False}))

    text = said(whole, silent)
    assert "3 projectors could be the final stream's" in text and "use_sound_pclm" in text


def test_layers_that_no_config_states(tiny, tmp_path):
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path / "numbered", Release())
    config = json.loads((folder / "config.json").read_text())
    config.pop("expose_layers")
    (folder / "config.json").write_text(json.dumps(config))
    found = resolve(folder)
    assert found.config.expose_layers == [1, 3] and not found.problems
    assert {a.subject: a.value for a in found.assumptions}["expose_layers"] == "[1, 3]"
    # Numbers that only count could be layers, and could not be.
    counted = dataclasses.replace(NAMINGS["the mixer in one folder, counted"])
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path / "counted", counted)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no file states 'expose_layers'"):
        load_model(folder)
    assert resolve(folder, overrides={"expose_layers": [1, 3]}).config.expose_layers == [1, 3]


def test_streams_and_gate_must_be_as_many(whole, said):
    def fewer(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "expose_layers": [3]}))
        shutil.rmtree(folder / "sound_mid_mm_projector_1")

    text = said(whole, fewer)
    assert "no gate MLP was found, a chain of linear layers with biases from 16 to 2" in text
    assert "sound_pclm/sound_pclm.gate.2.weight [3, 8]" in text


def test_a_gate_that_the_config_states_otherwise(whole, said):
    def other(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "gate_mlp_dims": [9]}))

    assert "the config states gate_mlp_dims [9], the gate's MLP has [8]" in said(whole, other)


def test_a_layer_without_a_bias_is_no_layer_of_the_gate(whole, said):
    def change(tensors):
        tensors.pop("sound_pclm.gate.0.bias")

    assert "linear layers with biases" in said(whole, edited(f"sound_pclm/{FILE}", change))


def test_static_gates(tiny, tmp_path):
    for mode, field in (("static", {}), ("clamped", {"gate_weights": [0.5, 0.25, 0.25]})):
        model = tiny.pclm(gate_mode=mode, **field)
        folder = write_release(model, tiny.processor, tmp_path / mode, Release())
        found = resolve(folder)
        assert not found.problems and found.config.gate_mode == mode
        assert "bert_pooling" not in {a.subject for a in found.assumptions}
        (name,) = load_file(folder / "sound_pclm" / FILE)
        save_file({"alphas": torch.zeros(3)}, folder / "sound_pclm" / FILE)
        with pytest.raises(ModelError, match=r"no prompt encoder \(BERT\) was found .* sound_pclm/alphas \[3\]"):
            load_model(folder)
        fixed = load_model(folder, rename={"sound_pclm/alphas": name}, pclm={"gate_mode": mode}, check=False)
        assert fixed.model.config.gate_mode == mode
        save_file({name: torch.zeros(4)}, folder / "sound_pclm" / FILE)
        with pytest.raises(ModelError, match=rf"needs one tensor '{name}' of the shape \[3\]; there is .*\[4\]"):
            load_model(folder)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=5), st.lists(st.integers(-2, 9), max_size=3),
    st.dictionaries(st.sampled_from(["hidden_size", "d_model", "x"]), st.integers(-3, 40), max_size=2),
)  # fmt: skip
KEYS = st.sampled_from(
    ["model_type", "expose_layers", "use_sound_pclm", "text_config", "audio_config", "llm_cfg", "sound_tower_cfg",
     "parts", "prompt_encoder_config", "gate_mlp_dims", "gate_mode", "unsettled", "audio_token_id", "mid_pool"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example({"prompt_encoder_config": {"hidden_size": 0}}, False)
@example({"text_config": None, "gate_mode": [], "expose_layers": None}, True)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_any_config_is_read_or_refused(whole, single, tmp_path_factory, changes, split):
    source = whole if split else single
    folder = tmp_path_factory.mktemp("config") / "copy"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    try:
        found = resolve(folder)
    except ModelError:
        return
    assert found.problems or found.config is not None
