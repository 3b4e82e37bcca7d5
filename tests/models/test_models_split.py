from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import is_split, part_folder, read_split, write_split

VARIANTS = {
    "stock": None,
    "prompt": {},
    "static": {"gate_mode": "static"},
    "clamped": {"gate_mode": "clamped", "gate_weights": [0.25, 0.25, 0.5]},
    "final": {"stream_sources": "final"},
}


def build(tiny, variant):
    fields = VARIANTS[variant]
    return tiny.stock() if fields is None else tiny.pclm(**fields)


def logits_of(llm, items, waves):
    return llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_split_then_hugging_face_then_split_gives_equal_logits(tiny, items, waves, tmp_path, variant):
    model = build(tiny, variant)
    expected = logits_of(tiny.llm(model), items, waves)
    write_split(model, tiny.processor, tmp_path / "split")
    assert is_split(tmp_path / "split")
    one = load_model(tmp_path / "split")
    assert torch.equal(logits_of(one, items, waves), expected)
    one.model.save_pretrained(tmp_path / "hf")
    one.processor.save_pretrained(tmp_path / "hf")
    assert not is_split(tmp_path / "hf")
    two = load_model(str(tmp_path / "hf"))
    assert type(two.model) is type(model)
    assert torch.equal(logits_of(two, items, waves), expected)
    write_split(two.model, two.processor, tmp_path / "again")
    assert torch.equal(logits_of(load_model(tmp_path / "again"), items, waves), expected)
    assert two.weights_sha == one.weights_sha


def test_layout_is_that_of_the_release(tiny, tmp_path):
    write_split(tiny.pclm(), tiny.processor, tmp_path)
    folders = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert folders == {
        "llm",
        "sound_tower",
        "sound_mm_projector",
        "sound_mid_mm_projector_1",
        "sound_mid_mm_projector_3",
        "sound_pclm",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["expose_layers"] == [1, 3] and config["use_sound_pclm"] is True
    llm = load_file(tmp_path / "llm" / "model.safetensors")
    assert "lm_head.weight" in llm and "model.layers.0.mlp.up_proj.weight" in llm
    assert "conv1.weight" in load_file(tmp_path / "sound_tower" / "model.safetensors")
    projector = set(load_file(tmp_path / "sound_mid_mm_projector_3" / "model.safetensors"))
    assert projector == {"layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"}
    from transformers import AutoModelForCausalLM

    # A part is a checkpoint of its own.
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "llm").config.model_type == "qwen2"


def test_half_precision_on_disk(tiny, items, waves, tmp_path):
    model = tiny.pclm()
    write_split(model, tiny.processor, tmp_path, dtype=torch.float16)
    assert load_file(tmp_path / "llm" / "model.safetensors")["lm_head.weight"].dtype == torch.float16
    llm = load_model(tmp_path)
    assert llm.dtype == torch.float32
    torch.testing.assert_close(
        logits_of(llm, items, waves), logits_of(tiny.llm(model), items, waves), atol=2e-2, rtol=0
    )
    assert load_model(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_shared_parts_lie_on_disk_once(tiny, items, waves, tmp_path):
    parts = {"sound_tower": "../shared/sound_tower"}
    stock, mixed = tiny.stock(), tiny.pclm(seed=1)
    mixed.model.audio_tower.load_state_dict(stock.model.audio_tower.state_dict())
    for name, model in (("base", stock), ("pclm", mixed)):
        write_split(model, tiny.processor, tmp_path / name, dtype=torch.float16, parts=parts)
        assert not (tmp_path / name / "sound_tower").exists()
        assert part_folder(tmp_path / name, "sound_tower") == tmp_path / "shared" / "sound_tower"
        load_model(tmp_path / name)
    assert load_model(tmp_path / "base").encoder_sha == load_model(tmp_path / "pclm").encoder_sha
    with pytest.raises(ModelError, match="cannot share the part 'sound_tower'"):
        write_split(tiny.pclm(seed=2), tiny.processor, tmp_path / "other", dtype=torch.float16, parts=parts)


@pytest.mark.parametrize("place", ["../../elsewhere", "/etc", "../shared/../../x", 7])
def test_parts_may_not_reach_outside(tiny, tmp_path, place):
    folder = tmp_path / "weights" / "model"
    write_split(tiny.stock(), tiny.processor, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "parts": {"llm": place}}))
    with pytest.raises(ModelError, match="a relative path within"):
        read_split(folder)


def released(tiny, folder):
    """Rewrite a checkpoint as the original code would leave it: its config keys, its prefixes, shards."""
    model = tiny.pclm()
    write_split(model, tiny.processor, folder)
    config = json.loads((folder / "config.json").read_text())
    release = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaModel"],
        "llm_cfg": "llm",
        "sound_tower_cfg": "sound_tower",
        "sound_mm_projector_cfg": {"sound_mm_projector_type": "mlp"},
        "expose_layers": config["expose_layers"],
        "use_sound_pclm": True,
        "bert_pooling": "mean",
        "resume_path": "/somewhere",
    }
    (folder / "config.json").write_text(json.dumps(release))
    tower = folder / "sound_tower" / "model.safetensors"
    tensors = {f"sound_tower.sound_tower.{k}": v for k, v in load_file(tower).items()}
    names = sorted(tensors)
    save_file({k: tensors[k] for k in names[::2]}, folder / "sound_tower" / "model-00001-of-00002.safetensors")
    save_file({k: tensors[k] for k in names[1::2]}, folder / "sound_tower" / "model-00002-of-00002.safetensors")
    tower.unlink()
    for part in ("sound_mm_projector", "sound_mid_mm_projector_1"):
        file = folder / part / "model.safetensors"
        save_file({f"{part}.{k}": v for k, v in load_file(file).items()}, file)
    return model


def test_a_released_checkpoint_loads(tiny, items, waves, tmp_path):
    model = released(tiny, tmp_path)
    llm = load_model(tmp_path)
    assert llm.model.config.audio_token_id == 4
    assert torch.equal(logits_of(llm, items, waves), logits_of(tiny.llm(model), items, waves))


def test_names_that_structure_cannot_tell_are_refused_and_can_be_renamed(tiny, items, waves, tmp_path):
    model = tiny.pclm(gate_mlp_dims=[16, 16])
    write_split(model, tiny.processor, tmp_path)
    file = tmp_path / "sound_pclm" / "model.safetensors"
    words = {"prompt_encoder.": "bert.", "mlp.0": "left", "mlp.2": "right", "mlp.4": "head"}

    def reworded(name):
        word = next(word for word in words if name.startswith(word))
        return words[word] + name.removeprefix(word)

    save_file({reworded(k): v for k, v in load_file(file).items()}, file)
    # Two squares, 16 by 16, without a number: nothing says which comes first.
    with pytest.raises(ModelError, match=r"sound_pclm/head, sound_pclm/left, sound_pclm/right; name .* 'rename'"):
        load_model(tmp_path)
    rename = {f"sound_pclm/{theirs}": ours for ours, theirs in words.items()}
    llm = load_model(tmp_path, rename=rename)
    assert torch.equal(logits_of(llm, items, waves), logits_of(tiny.llm(model), items, waves))


def test_unknown_conventions_are_set_by_hand(tiny, tmp_path):
    write_split(tiny.pclm(), tiny.processor, tmp_path)
    llm = load_model(tmp_path, pclm={"layer_index_convention": "block_output_0based", "mid_pool": "avg"})
    assert llm.streams == ("encoder[1]", "encoder[3]", "tower")
    with pytest.raises(ModelError, match="did you mean 'mid_pool'"):
        load_model(tmp_path, pclm={"mid_pol": "avg"})
    with pytest.raises(ModelError, match="'avg_norm'"):
        load_model(tmp_path, pclm={"mid_pool": "max"})


def test_broken_checkpoints_say_what_is_missing(tiny, tmp_path):
    whole = tmp_path / "whole"
    write_split(tiny.pclm(), tiny.processor, whole)

    def broken(change):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(ModelError) as caught:
            load_model(folder)
        return str(caught.value)

    def drop_tensor(folder):
        file = folder / "sound_mid_mm_projector_3" / "model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != "layers.2.bias"}, file)

    def wrong_shape(folder):
        file = folder / "sound_mm_projector" / "model.safetensors"
        save_file({**load_file(file), "layers.0.weight": torch.zeros(3, 3)}, file)

    assert "sound_mid_mm_projector_3" in broken(lambda f: shutil.rmtree(f / "sound_mid_mm_projector_3"))
    assert "missing: sound_mid_mm_projector_3/layers.2.bias" in broken(drop_tensor)
    assert "sound_mm_projector/layers.0.weight [3, 3]" in broken(wrong_shape)
    assert "no safetensors" in broken(lambda f: (f / "llm" / "model.safetensors").unlink())
    assert "damaged" in broken(lambda f: (f / "llm" / "model.safetensors").write_bytes(b"nonsense"))
    assert "no JSON" in broken(lambda f: (f / "config.json").write_text("{"))
    assert "without config.json" in broken(lambda f: (f / "config.json").unlink())


def test_gate_tokenizer_of_its_own_survives(tiny, items, waves, tmp_path):
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor
    from vpanalysis.models.word_tokenizer import build_word_tokenizer

    p = tiny.processor
    own = build_word_tokenizer([item.question for item in items])
    assert len(own) != len(p.tokenizer)
    processor = AudioFlamingo3PCLMProcessor(p.feature_extractor, p.tokenizer, own, chat_template=p.chat_template)
    model = tiny.pclm()
    expected = logits_of(AudioLLM(model, processor), items, waves)
    write_split(model, processor, tmp_path / "split")
    again = load_model(tmp_path / "split")
    assert len(again.gate_tokenizer) == len(own)
    assert torch.equal(logits_of(again, items, waves), expected)
    again.model.save_pretrained(tmp_path / "hf")
    again.processor.save_pretrained(tmp_path / "hf")
    assert torch.equal(logits_of(load_model(tmp_path / "hf"), items, waves), expected)
    # Without it in the checkpoint, it can be given.
    shutil.rmtree(tmp_path / "split" / "gate_tokenizer")
    given = load_model(tmp_path / "split", gate_tokenizer=own)
    assert torch.equal(logits_of(given, items, waves), expected)
