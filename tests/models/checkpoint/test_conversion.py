"""`convert`: the other layout, with the same values, and nothing half-written."""

from __future__ import annotations

import json

import pytest
import torch
from builders_qwen2_audio import build_qwen2_audio
from releases import NAMINGS, Release, write_release
from safetensors.torch import load_file, save_file

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models import convert, verify
from vpanalysis.models.checkpoint import conversion
from vpanalysis.models.checkpoint.writing import bytes_of, plan_shards
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import is_split, write_split

PCLM = {"bert_pooling": "mean", "prompt_encoder_config": {"num_attention_heads": 2}}
VARIANTS = {
    "stock": None,
    "prompt": {},
    "pooler": {"prompt_encoder_pooler": True},
    "static": {"gate_mode": "static"},
    "clamped": {"gate_mode": "clamped", "gate_weights": [0.25, 0.25, 0.5]},
}


def logits_of(llm, items, waves):
    return llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_there_and_back_gives_equal_logits(tiny, items, waves, tmp_path, variant):
    fields = VARIANTS[variant]
    model = tiny.stock() if fields is None else tiny.pclm(**fields)
    expected = logits_of(tiny.llm(model), items, waves)
    write_split(model, tiny.processor, tmp_path / "split")
    made = convert(tmp_path / "split", tmp_path / "hf")
    assert made == tmp_path / "hf" and not is_split(made)
    one = load_model(made)
    assert type(one.model) is type(model) and torch.equal(logits_of(one, items, waves), expected)
    convert(made, tmp_path / "again")
    assert is_split(tmp_path / "again")
    assert torch.equal(logits_of(load_model(tmp_path / "again"), items, waves), expected)
    assert load_model(tmp_path / "again").weights_sha == load_model(tmp_path / "split").weights_sha
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("mixed", [False, True])
def test_qwen2_audio_both_ways(tmp_path, mixed):
    tiny2 = build_qwen2_audio(hidden_size=48)
    model, processor = (tiny2.pclm(), tiny2.pclm_processor()) if mixed else (tiny2.stock(), tiny2.processor)
    write_split(model, processor, tmp_path / "split")
    convert(tmp_path / "split", tmp_path / "hf", max_shard_size="60KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 3
    convert(tmp_path / "hf", tmp_path / "again")
    for name in ("hf", "again"):
        assert same(load_model(tmp_path / name).model, model)


def test_the_folder_is_one_of_hugging_faces_own(tiny, tmp_path):
    from transformers import AudioFlamingo3ForConditionalGeneration, AutoProcessor

    model = tiny.stock()
    write_split(model, tiny.processor, tmp_path / "split")
    convert(tmp_path / "split", tmp_path / "hf", max_shard_size="50KB")
    there, report = AudioFlamingo3ForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert same(there, model) and not any(report.values())
    assert type(AutoProcessor.from_pretrained(tmp_path / "hf")).__name__ == "AudioFlamingo3Processor"
    # Under the names that are published, which other versions of the class read too.
    model.save_pretrained(tmp_path / "saved")
    # (transformers 5.13 says "model" twice when it saves, and reads both.)
    names = {
        name.replace("language_model.model.model.", "language_model.model.")
        for name in load_file(tmp_path / "saved" / "model.safetensors")
    }
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == names
    sizes = sum(t.nbytes for t in model.state_dict().values())
    assert index["metadata"]["total_size"] == sizes


def test_a_release_becomes_a_folder_that_keeps_its_assumptions(tiny, items, waves, tmp_path):
    model = tiny.pclm(bert_pooling="cls")
    source = write_release(model, tiny.processor, tmp_path / "release", NAMINGS["the mixer in one folder, counted"])
    (source / "LICENSE").write_text("research only")
    before = {a.subject for a in verify(source).assumptions}
    assert {"mid_pool", "layers of the projectors", "prompt_encoder_config.num_attention_heads"} <= before
    for name in ("hf", "split"):
        convert(source, tmp_path / name, to=name)
        after = verify(tmp_path / name)
        assert after.ok and {a.subject for a in after.assumptions} == before
        assert not after.findings
        assert (tmp_path / name / "LICENSE").read_text() == "research only"
    # What the caller states is settled.
    convert(source, tmp_path / "settled", pclm={**PCLM, "mid_pool": "avg"})
    after = {a.subject: a for a in verify(tmp_path / "settled").assumptions}
    assert not {"mid_pool", "bert_pooling", "prompt_encoder_config.num_attention_heads"} & set(after)
    llm = load_model(tmp_path / "settled")
    assert llm.model.config.mid_pool == "avg" and llm.model.config.bert_pooling == "mean"
    # And what was assumed can still be set.
    llm = load_model(tmp_path / "hf", pclm={"gate_order": "final_first", **PCLM})
    assert llm.model.config.gate_order == "final_first"
    assert llm.model.config.prompt_encoder_config.num_attention_heads == 2


def test_a_tokenizer_alone_becomes_a_processor(tiny, tmp_path):
    source = write_release(tiny.pclm(), tiny.processor, tmp_path / "release", Release())
    for file in ("processor_config.json", "preprocessor_config.json", "chat_template.jinja"):
        (source / file).unlink(missing_ok=True)
    (source / "sound_pclm" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    made = convert(source, tmp_path / "hf")
    assert (made / "processor_config.json").is_file() and (made / "gate_tokenizer" / "vocab.txt").is_file()
    assert (made / "chat_template.jinja").is_file()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float32])
def test_dtypes(tiny, tmp_path, dtype):
    model = tiny.pclm()
    write_split(model, tiny.processor, tmp_path / "split")
    made = convert(tmp_path / "split", tmp_path / "hf", dtype=dtype)
    wanted = getattr(torch, str(dtype).removeprefix("torch."))
    tensors = load_file(made / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {wanted}
    assert all(torch.equal(t, model.state_dict()[name].to(wanted)) for name, t in tensors.items())
    assert convert(tmp_path / "split", tmp_path / "same").joinpath("model.safetensors").is_file()


def test_one_shard_at_a_time(tiny, tmp_path, monkeypatch):
    write_split(tiny.pclm(), tiny.processor, tmp_path / "split")
    alive, most = [0], [0]
    read = conversion.read_tensor

    class Counted(torch.Tensor):
        pass

    import weakref

    def counting(record):
        tensor = read(record)
        alive[0] += record.nbytes
        most[0] = max(most[0], alive[0])
        weakref.finalize(tensor, lambda: alive.__setitem__(0, alive[0] - record.nbytes))
        return tensor

    monkeypatch.setattr(conversion, "read_tensor", counting)
    convert(tmp_path / "split", tmp_path / "hf", max_shard_size=40_000)
    assert 8_000 < most[0] <= 40_000


def test_destinations_are_not_written_over(tiny, tmp_path):
    write_split(tiny.stock(), tiny.processor, tmp_path / "split")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, said in (("full", "a folder that is not empty"), ("file", "a file")):
        with pytest.raises(ModelError, match=said):
            convert(tmp_path / "split", tmp_path / name)
    assert (tmp_path / "full" / "note").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "split", tmp_path / "empty").joinpath("config.json").is_file()
    assert convert(tmp_path / "split", tmp_path / "new" / "deep").joinpath("config.json").is_file()


def test_a_failure_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    write_split(tiny.pclm(), tiny.processor, tmp_path / "split")

    def broken(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_copy_the_rest", broken)
    with pytest.raises(OSError, match="No space"):
        convert(tmp_path / "split", tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["split"]


def test_what_would_not_load_is_not_converted(tiny, tmp_path):
    write_split(tiny.pclm(), tiny.processor, tmp_path / "split")
    file = tmp_path / "split" / "sound_pclm" / "model.safetensors"
    save_file({**load_file(file), "extra": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match=r"cannot convert .*surplus tensors.*sound_pclm/extra"):
        convert(tmp_path / "split", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_words_that_are_not_allowed(tiny, tmp_path):
    write_split(tiny.stock(), tiny.processor, tmp_path / "split")
    with pytest.raises(ModelError, match="did you mean 'split'"):
        convert(tmp_path / "split", tmp_path / "x", to="splits")
    with pytest.raises(ModelError, match="did you mean 'bfloat16'"):
        convert(tmp_path / "split", tmp_path / "x", dtype="bfloat61")
    with pytest.raises(ModelError, match="'5GB'"):
        convert(tmp_path / "split", tmp_path / "x", max_shard_size="5 pounds")


def test_models_of_one_layout_are_not_converted(tmp_path):
    from builders import voxtral

    voxtral().model.save_pretrained(tmp_path / "voxtral")
    with pytest.raises(ModelError, match="model_type 'voxtral', which exists in one layout only"):
        convert(tmp_path / "voxtral", tmp_path / "x")


@pytest.mark.parametrize(
    ("size", "value"), [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2**31), (17, 17), ("1.5kb", 1500)]
)
def test_sizes(size, value):
    assert bytes_of(size) == value


@pytest.mark.parametrize("size", ["", "GB", "0", "-3GB", "5TBB", 0])
def test_what_is_no_size(size):
    with pytest.raises(ModelError, match="shards of this size"):
        bytes_of(size)


def test_shards_are_filled_in_order():
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 6, "f": 3}
    assert plan_shards(sizes, 8) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert plan_shards({}, 8) == []
