"""Checkpoints that nobody checked: nothing in them is run, and nothing outside them is read."""

from __future__ import annotations

import json
import os
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.headers import read_header, read_inventory, read_json
from vpanalysis.models.checkpoint.stock import stock_inventory, weight_files
from vpanalysis.models.conventions import fingerprint
from vpanalysis.models.loading import load_model

INDEX = "model.safetensors.index.json"


def written(file, text: str | bytes, data: bytes = b"\0" * 8):
    """Write a safetensors file with this header."""
    raw = text.encode() if isinstance(text, str) else text
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return file


def entry(shape: str, begin: int = 0, end: int = 8, dtype: str = "F32") -> str:
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{begin}, {end}]}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{{"a": {entry("[1000000000000, 1000000000000]")}}}', "place of 'a' does not fit its shape"),
        (f'{{"a": {entry(str([2**62] * 60))}}}', "place of 'a' does not fit its shape"),
        (f'{{"a": {entry(f"[0, {2**63}]", 0, 0)}}}', "more than 63 bits"),
        (f'{{"a": {entry(str([1] * 65))}}}', "cannot be read"),
        (f'{{"a": {entry("[" + "9" * 5000 + "]")}}}', "cannot be read"),
        (f'{{"a": {entry("[2.0]")}}}', "cannot be read"),
        (f'{{"a": {entry("[true, 2]")}}}', "cannot be read"),
        (f'{{"a": {entry("[2]")}, "a": {entry("[2]")}}}', "the name 'a' twice"),
        (f'{{"a": {entry("[2]")}, "b": {entry("[2]")}}}', "place of 'b'"),
        (f'{{"a": {entry("[2]", 0, 8)}, "b": {entry("[1]", 4, 8)}}}', "place of 'b'"),
        (f'{{"a": {entry("[1]", 4, 8)}}}', "place of 'a'"),
        (f'{{"a": {entry("[2]", 8, 0)}}}', "place of 'a'"),
        ('{"a": ' * 10_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"a\xff": 1}', "cannot be read"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}', "cannot be read"),
        ('{"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}', "the type"),
    ],
)
def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path, text, said):
    file = written(tmp_path / "model.safetensors", text)
    start = time.monotonic()
    with pytest.raises(ValueError, match=said):
        read_header(file)
    assert time.monotonic() - start < 2


def test_a_header_that_would_be_longer_than_the_file_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    for length in (2**63, 2**40, 100_000_001):
        file.write_bytes(struct.pack("<Q", length))
        os.truncate(file, 1 << 30)
        with pytest.raises(ValueError, match=f"its header would be {length} bytes long"):
            read_header(file)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/model.safetensors").symlink_to(tmp_path / "pipe")
    (tmp_path / "here/config.json").write_text('{"model_type": "audioflamingo3"}')
    (problem,) = read_inventory(tmp_path / "here").problems
    assert "a named pipe instead of a file" in problem
    with pytest.raises(ModelError, match="a named pipe instead of a file"):
        fingerprint(tmp_path / "here")
    with pytest.raises(ModelError, match="a named pipe"):
        load_model(tmp_path / "here", calibration=False)
    for path, kind in ((tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a device")):
        (tmp_path / "link.json").unlink(missing_ok=True)
        (tmp_path / "link.json").symlink_to(path)
        with pytest.raises(ModelError, match=kind):
            read_json(tmp_path / "link.json")


@pytest.mark.parametrize("text", ["[" * 10_000, '{"a":' * 10_000, '{"a": 1, "a": 2}', '{"a": ' + "1" * 5000 + "}"])
def test_json_files_that_no_one_should_read(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="no JSON"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ModelError, match="no JSON"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../secret.safetensors", "a/../../b.safetensors", "..", "*", "*.safetensors", "[a].safetensors",
     "model.bin", "pytorch_model.bin", "C:\\x.safetensors", "-x.safetensors", "", "a\n.safetensors"],
)  # fmt: skip
def test_shards_are_names_in_the_folder_and_no_paths_or_patterns(tmp_path, shard):
    save_file({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="names of safetensors files in the same folder"):
        weight_files(folder)
    with pytest.raises(ModelError):
        stock_inventory(folder)
    # The other reader never follows a name: it compares with what lies in the folder.
    found = read_inventory(folder)
    assert not found.tensors and any("which is missing" in problem for problem in found.problems)


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path):
    """Every place that Hugging Face looks at for code of a checkpoint's own names a module that would leave a mark."""
    mark = tmp_path / "mark"
    folder = tmp_path / "evil"
    folder.mkdir()
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Evil: pass\nclass EvilConfig: pass\n"
    (folder / "evil.py").write_text(code)
    classes = {
        name: "evil.Evil" for name in ("AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoFeatureExtractor")
    }
    config = {"auto_map": {**classes, "AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    save_file({"a": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    for model_type in ("evil", "audioflamingo3", "qwen2_audio", "whisper"):
        for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
            (folder / name).write_text(json.dumps({**config, "model_type": model_type}))
        with pytest.raises(ModelError):
            load_model(folder)
        assert not mark.exists(), model_type


def test_pickles_alone_are_refused_and_never_opened(tmp_path):
    mark = tmp_path / "mark"
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    program = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    for name in ("pytorch_model.bin", "model.pt", "model.safetensors.pkl", "training_args.bin"):
        (folder / name).write_bytes(program)
    with pytest.raises(ModelError, match="no safetensors"):
        load_model(folder)
    # And under a good name.
    (folder / "model.safetensors").write_bytes(program)
    with pytest.raises(ModelError, match="is damaged"):
        load_model(folder)
    assert not mark.exists()
