"""Loading from disk: tensor by tensor, into one copy of the model, wherever it goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from releases import NAMINGS, write_release
from safetensors.torch import load_file, save_file

from vpanalysis.errors import ModelError
from vpanalysis.models.bundled import CHECKPOINTS, weights_folder
from vpanalysis.models.checkpoint import lazy
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import write_split

MEASURE = """
import re, sys, torch, transformers
sys.path[:0] = {paths!r}
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.families import family_of

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

transformers.utils.logging.set_verbosity_error()
found = resolve({folder!r})
model_class = family_of(found.config.model_type).load_class()
with torch.device("meta"):
    model_class(found.config)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
options = {options!r}
model = model_class.from_pretrained(None, config=found.config, state_dict=found.state(), dtype=torch.{dtype}, **options)
size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
print("@", size, status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    """About 150 MiB of float32."""
    from transformers import AudioFlamingo3EncoderConfig, Qwen2Config

    from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration

    audio = AudioFlamingo3EncoderConfig(**{**tiny.audio.to_dict(), "hidden_size": 256, "intermediate_size": 1024})
    text = Qwen2Config(**{**tiny.text.to_dict(), "hidden_size": 768, "intermediate_size": 4096})
    config = AudioFlamingo3PCLMConfig(
        audio_config=audio, text_config=text, audio_token_id=4, expose_layers=[1, 3],
        prompt_encoder_config=tiny.config().prompt_encoder_config.to_dict(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("large") / "split"
    return write_split(AudioFlamingo3PCLMForConditionalGeneration(config), tiny.processor, folder)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("dtype", "options"), [("bfloat16", {}), ("float32", {"device_map": "auto"})])
def test_memory_holds_one_copy_of_the_model_and_no_more(large, dtype, options):
    if options:
        pytest.importorskip("accelerate")
    code = MEASURE.format(paths=sys.path, folder=str(large), dtype=dtype, options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    size, peak = map(float, done.stdout.rsplit("@", 1)[1].split())
    assert size > 60
    # Neither a second copy in the type on disk, nor the files themselves. 12 MiB for the largest tensor, and noise.
    assert peak < size + 30, (size, peak)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_maps(device_map, tiny, items, waves, tmp_path):
    pytest.importorskip("accelerate")
    model = tiny.pclm()
    write_split(model, tiny.processor, tmp_path)
    llm = load_model(tmp_path, device_map=device_map, dtype="float32")
    assert all(torch.equal(a, b.to("cpu")) for a, b in zip(model.parameters(), llm.model.parameters(), strict=True))


def test_what_cannot_be_offloaded_is_said_in_a_sentence(tiny, tmp_path):
    pytest.importorskip("accelerate")
    write_split(tiny.stock(), tiny.processor, tmp_path)
    places = {"model.language_model": "disk", "model.audio_tower": "cpu", "model.multi_modal_projector": "cpu",
              "lm_head": "cpu"}  # fmt: skip
    with pytest.raises(ModelError, match="offloaded to the disk") as caught:
        load_model(tmp_path, device_map=places)
    assert "\n" not in str(caught.value)


def test_large_tensors_have_pages_of_their_own(tmp_path, monkeypatch):
    values = torch.arange(50_000, dtype=torch.float32)
    save_file({"a": values}, tmp_path / "model.safetensors")
    from vpanalysis.models.checkpoint.headers import read_header

    (record,) = read_header(tmp_path / "model.safetensors")
    assert record.nbytes > lazy._LARGE
    own = lazy.read_tensor(record)
    monkeypatch.delattr(lazy.mmap, "MAP_ANONYMOUS")
    assert torch.equal(own, values) and torch.equal(lazy.read_tensor(record), values)
    own += 1
    assert torch.equal(lazy.read_tensor(record), values)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bundled_checkpoints_are_read_by_name_and_nothing_is_assumed(name):
    found = resolve(weights_folder(name))
    assert not found.problems and not found.assumptions and not found.findings and not found.settings.unread
    assert {claim.evidence for claim in found.claims} == {"its name"}
    # As the files say, read by the library itself.
    expected = {}
    for part in {record.folder for record in found.targets.values()}:
        place = found.settings.parts.get(part, weights_folder(name) / part)
        expected |= {f"{part}/{key}": value for key, value in load_file(place / "model.safetensors").items()}
    state = found.state()
    assert set(expected) == {record.key for record in found.targets.values()}
    assert all(torch.equal(state[target][...], expected[r.key]) for target, r in found.targets.items())


def test_a_hugging_face_folder_keeps_its_generation_config(tiny, tmp_path):
    model = tiny.stock()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    assert load_model(tmp_path, check=False).model.generation_config.max_new_tokens == 7


def test_a_saved_checkpoint_may_overwrite_the_one_it_came_from(tiny, tmp_path):
    write_split(tiny.pclm(), tiny.processor, tmp_path)
    llm = load_model(tmp_path)
    before = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    write_split(llm.model, llm.processor, tmp_path)
    again = load_model(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())


def test_what_lies_below_a_hugging_face_folder_is_another_checkpoint(tiny, tmp_path):
    model = tiny.stock()
    model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "checkpoint-500")
    assert not resolve(tmp_path).problems


def test_a_repository_in_one_folder_is_fetched_with_its_weights(tiny, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    from vpanalysis.models.checkpoint.stock import hub_folder

    folder = tmp_path / "repo"
    write_release(tiny.pclm(), tiny.processor, folder, NAMINGS["everything in one folder"], shards=2)
    asked = {}

    def download(repo, name, revision=None):
        if not (folder / name).is_file():
            raise EntryNotFoundError(name)
        return str(folder / name)

    def snapshot(repo, revision=None, allow_patterns=None):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    pclm = {"bert_pooling": "mean", "prompt_encoder_config": {"num_attention_heads": 2}}
    llm = load_model("somebody/mixer", revision="abc", pclm=pclm, check=False)
    assert llm.streams == ("encoder[0]", "encoder[2]", "tower") and asked["revision"] == "abc"
    # Tensors of a mixer may be in any file; those of a stock model are in the files that its index names.
    assert "*.safetensors" in asked["patterns"]
    config = json.loads((folder / "config.json").read_text())
    stock = {k: v for k, v in config.items() if k not in ("expose_layers", "use_sound_pclm")}
    (folder / "config.json").write_text(json.dumps(stock))
    assert hub_folder("somebody/stock", None) == folder
    assert {p for p in asked["patterns"] if p.endswith("safetensors")} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    assert hub_folder("somebody/pickled", None) is None
    (folder / "config.json").unlink()
    assert hub_folder("somebody/nothing", None) is None


def test_stock_classes_are_read_lazily_and_their_gaps_named(tiny, tmp_path):
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, vocab_size=60, max_source_positions=50,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    model = WhisperModel(config)
    model.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1, hop_length=160, n_fft=400).save_pretrained(tmp_path)
    llm = load_model(tmp_path)
    weight = "encoder.layers.1.fc1.weight"
    loaded = next(
        t for n, t in llm.model.state_dict().items() if n.endswith("layers.1.fc1.weight") and t.shape[0] == 32
    )
    assert torch.equal(loaded, model.state_dict()[weight])
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {k: v for k, v in tensors.items() if not k.endswith("encoder.layers.1.fc1.weight")}, file, {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"missing keys: .*layers\.1\.fc1\.weight"):
        load_model(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"'model\.safetensors' is truncated"):
        load_model(tmp_path)
