"""`verify`: every tensor with its role, what was inferred, what is assumed, what is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from releases import NAMINGS, Release, write_release
from safetensors.torch import load_file, save_file

from vpanalysis.errors import ModelError
from vpanalysis.models import Verification, verify
from vpanalysis.models.checkpoint import sources
from vpanalysis.models.split import write_split


@pytest.fixture(scope="module")
def release(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "af3"
    return write_release(tiny.pclm(), tiny.processor, folder, NAMINGS["prefixes of the original code"])


def test_every_tensor_has_a_row(tiny, release):
    found = verify(release)
    assert found.ok and found.layout == "split layout" and found.title == "Audio Flamingo 3 + PCLM"
    frame = found.to_dataframe()
    model = tiny.pclm()
    assert len(frame) == len(model.state_dict()) and set(frame["target"]) == set(model.state_dict())
    row = frame[frame["target"] == "model.pclm.gate.mlp.2.weight"].iloc[0]
    assert (row["file"], row["folder"], row["name"]) == (
        "sound_pclm/model.safetensors", "sound_pclm", "sound_pclm.gate.2.weight",
    )  # fmt: skip
    assert row["shape"] == [3, 8] and row["dtype"] == "F32" and row["role"] == "gate MLP"
    assert row["evidence"] == "a chain of layers from 16 to 3"
    summary = found.summary().set_index("role")
    assert summary["parameters"].sum() == sum(t.numel() for t in model.state_dict().values())
    assert summary.loc["encoder", "from"] == "sound_tower/sound_tower.sound_tower.*"
    assert summary.loc["projector of layer 3", "to"] == "model.pclm.projectors.1.*"


def test_what_was_inferred_and_what_is_open(release):
    found = verify(release)
    inferred = {f.subject: f for f in found.findings}
    assert inferred["gate_mlp_dims"].value == "[8]"
    assert "vocab_size 44" in inferred["prompt_encoder_config"].value
    assumed = {a.subject: a for a in found.assumptions}
    assert set(assumed) == {
        "layer_index_convention", "mid_pool", "gate_order", "gate_text", "bert_pooling", "gate_mlp_act",
        "prompt_encoder_config.num_attention_heads",
    }  # fmt: skip
    assert (
        assumed["mid_pool"].candidates == ("avg_norm", "avg") and "vpanalysis calibrate" in assumed["mid_pool"].settle
    )
    assert "resume_path" in found.unread and "expose_layers" not in found.unread
    assert found.streams == ("encoder[0]", "encoder[2]", "tower")


def test_what_the_caller_states_is_not_open(release):
    found = verify(release, pclm={"mid_pool": "avg", "prompt_encoder_config": {"num_attention_heads": 2}})
    assert not {"mid_pool", "prompt_encoder_config.num_attention_heads"} & {a.subject for a in found.assumptions}


def test_keys_that_look_similar_are_not_guessed_from(tiny, tmp_path):
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path, Release(config={"sound_pclm_pooling": "mean"}))
    found = verify(folder)
    assert "sound_pclm_pooling" in found.unread
    assert {a.subject: a.value for a in found.assumptions}["bert_pooling"] == "cls"


def test_a_layer_number_that_fits_one_way_only_is_not_open(tiny, tmp_path):
    model = tiny.pclm(expose_layers=[0, 2], layer_index_convention="block_output_0based")
    folder = write_release(model, tiny.processor, tmp_path, Release())
    found = verify(folder)
    assert "layer_index_convention" not in {a.subject for a in found.assumptions}
    assert found.streams == ("encoder[0]", "encoder[2]", "tower")


def test_it_prints_in_a_terminal_and_as_html(release):
    found = verify(release)
    text, html = repr(found), found._repr_html_()
    for word in ("sound_mid_mm_projector_3", "gate_mlp_dims = [8]", "mid_pool = avg_norm (or avg)", "resume_path"):
        assert word in text
    assert text.endswith("would load as Audio Flamingo 3 + PCLM, on 7 open assumptions")
    assert "<table" in html and "gate_mlp_dims" in html and "resume_path" in html


def test_strings_from_files_neither_move_the_cursor_nor_become_html(tiny, tmp_path):
    evil = "<script>alert(1)</script>\x1b[2J"
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path, Release(config={evil: 1}))
    file = folder / "sound_pclm" / "model.safetensors"
    save_file({**load_file(file), evil: torch.zeros(2)}, file)
    found = verify(folder)
    assert not found.ok and evil in found.unread
    assert "\x1b" not in repr(found) and "<script" not in found._repr_html_()
    assert "would not load: see the problems" in repr(found)


def test_json_round_trip(release, tmp_path):
    found = verify(release)
    assert Verification.load(found.save(tmp_path / "verified.json")) == found
    for content in ("[]", "{}", '{"format": 9}', '{"format": 1, "tensors": [{}]}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ModelError):
            Verification.load(tmp_path / "other.json")


def test_problems_are_collected(release, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(release, folder)
    file = folder / "sound_tower" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("sound_tower.sound_tower.conv1.bias")
    save_file({**tensors, "extra": torch.zeros(1)}, file)
    (folder / "sound_mm_projector" / "model.safetensors").unlink()
    found = verify(folder)
    assert not found.ok and len(found.problems) == 3
    assert "no safetensors file in 'sound_mm_projector'" in found.problems[0]
    assert "conv1.bias" in found.problems[1] and "the final stream" in found.problems[2]
    assert "extra" in set(found.to_dataframe().query("role == 'surplus'")["name"])
    assert found.sentence.startswith(f"{folder} would not load: no safetensors")


@pytest.mark.parametrize(("file", "said"), [("config.json", "no JSON"), ("llm/config.json", "no JSON")])
def test_unreadable_configs_are_problems(release, tmp_path, file, said):
    folder = tmp_path / "broken"
    shutil.copytree(release, folder)
    (folder / file).write_text("{")
    found = verify(folder)
    assert not found.ok and said in found.problems[0] and not found.tensors


def test_a_source_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such name"):
        verify("minimal")


def test_bundled_names(tiny, tmp_path, monkeypatch):
    from vpanalysis.models import loading

    monkeypatch.setattr(loading, "weights_folder", lambda name: tmp_path / name)
    parts = {"sound_tower": "../shared/sound_tower"}
    write_split(tiny.pclm(), tiny.processor, tmp_path / "mini-pclm-dpo", parts=parts)
    found = verify("mini")
    assert found.ok and not found.assumptions
    assert "sound_tower/model.safetensors" in set(found.to_dataframe()["file"])


def test_a_calibration_settles_what_it_decided(release, monkeypatch):
    record = {"decided": {"mid_pool": "avg"}}
    monkeypatch.setattr(sources, "calibration_for", lambda folder: record)
    found = verify(release)
    assert "mid_pool" not in {a.subject for a in found.assumptions}
    (finding,) = [f for f in found.findings if f.subject == "mid_pool"]
    assert finding.value == "avg" and "calibration" in finding.evidence


def whisper(folder):
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, vocab_size=60, max_source_positions=50,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)


def test_classes_of_hugging_face_are_verified_by_their_own_loader(tmp_path):
    whisper(tmp_path)
    found = verify(tmp_path)
    assert found.ok and found.layout == "Hugging Face layout" and not found.assumptions
    frame = found.to_dataframe()
    encoder = frame[frame["name"].str.contains("encoder.layers.1.fc1.weight")].iloc[0]
    assert encoder["role"] == "encoder" and encoder["target"].endswith("layers.1.fc1.weight")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if name.endswith("encoder.layers.1.fc1.weight"))
    save_file({k: v for k, v in tensors.items() if k != gone}, file, {"format": "pt"})
    assert "layers.1.fc1.weight" in verify(tmp_path).problems[0]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    assert "model_type 'bert'" in verify(tmp_path).problems[0]
    file.unlink()
    assert "no safetensors file" in verify(tmp_path).problems[0]


def test_the_music_flamingo_and_voxtral_of_hugging_face(tmp_path):
    from builders import music_flamingo, voxtral

    for i, build in enumerate((music_flamingo, voxtral)):
        build().model.save_pretrained(tmp_path / str(i))
        found = verify(tmp_path / str(i))
        assert found.ok, found.problems
        assert {"encoder", "language model", "projector", "head"} <= set(found.summary()["role"])


def test_one_folder_with_a_tokenizer_of_the_gate_missing(tiny, tmp_path):
    bert = {**tiny.config().prompt_encoder_config.to_dict(), "vocab_size": 30}
    model = tiny.pclm(prompt_encoder_config=bert)
    folder = write_release(model, tiny.processor, tmp_path, NAMINGS["everything in one folder"])
    found = verify(folder)
    assert "would load as Audio Flamingo 3 + PCLM, given its gate_tokenizer, on " in found.sentence
    assumed = {a.subject: a for a in found.assumptions}
    assert assumed["gate_tokenizer"].value == "none" and "gate_tokenizer=" in assumed["gate_tokenizer"].settle
    (folder / "gate_tokenizer").mkdir()
    (folder / "gate_tokenizer" / "vocab.txt").write_text("[PAD]\n")
    assert "gate_tokenizer" not in {a.subject for a in verify(folder).assumptions}


def test_results_are_plain_values(release):
    record = verify(release).record()
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, default=str))
    assert dataclasses.is_dataclass(Verification)
