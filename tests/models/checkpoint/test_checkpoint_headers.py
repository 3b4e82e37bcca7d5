"""Headers: what is whole is read, what is not is named."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vpanalysis.models.checkpoint.headers import DTYPES, listed, read_header, read_inventory
from vpanalysis.models.checkpoint.lazy import TORCH_DTYPES, LazyTensor, read_tensor

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool]
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    names = draw(st.lists(st.text("abc.é/_0", min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
    return {
        name: (100 * torch.rand(draw(SHAPES), generator=generator)).to(draw(st.sampled_from(TYPES))) for name in names
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tensors())
def test_headers_and_values_are_those_of_the_safetensors_library(tmp_path_factory, made):
    file = tmp_path_factory.mktemp("one") / "model.safetensors"
    save_file(made, file, metadata={"format": "pt"})
    records = read_header(file, "part")
    there = load_file(file)
    assert {record.name for record in records} == set(there)
    for record in records:
        lazy = LazyTensor(record)
        assert record.key == f"part/{record.name}" and record.nbytes == there[record.name].nbytes
        assert lazy.shape == there[record.name].shape and lazy.dtype == there[record.name].dtype
        assert lazy.get_shape() == list(record.shape) and lazy.get_dtype() == record.dtype
        assert lazy.is_floating_point() == there[record.name].is_floating_point()
        assert torch.equal(lazy[...], there[record.name])
        assert not lazy[...].requires_grad


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tensors(), st.data())
def test_a_file_of_any_other_length_is_refused(tmp_path_factory, made, data):
    file = tmp_path_factory.mktemp("cut") / "model.safetensors"
    save_file(made, file)
    content = file.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:cut] if data.draw(st.booleans()) else content + b"\0" * (cut + 1))
    with pytest.raises(ValueError, match=r"is damaged|is truncated"):
        read_header(file)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused_with_a_sentence(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "noise.safetensors"
    file.write_bytes(content)
    try:
        assert read_header(file) == []
    except ValueError as error:
        assert str(error).startswith(("is ", "holds "))


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "place of 'a'"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "place of 'a'"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "place of 'a'"),
        ({"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 1]}}, "the type Q4"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "cannot be read"),
        ({"a": 3}, "cannot be read"),
        ([], "cannot be read"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path, entries, said):
    file = tmp_path / "model.safetensors"
    file.write_bytes(header(entries, b"\0" * 8))
    with pytest.raises(ValueError, match=said):
        read_header(file)


def test_every_type_of_a_header_is_one_of_torch():
    assert set(DTYPES) == set(TORCH_DTYPES)
    for name, size in DTYPES.items():
        assert torch.empty(1, dtype=TORCH_DTYPES[name]).element_size() == size


def test_a_file_that_shrank_after_its_header_was_read(tmp_path):
    from vpanalysis.errors import ModelError

    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(64)}, file)
    (record,) = read_header(file)
    file.write_bytes(file.read_bytes()[:-16])
    with pytest.raises(ModelError, match="the end of"):
        read_tensor(record)
    file.unlink()
    with pytest.raises(ModelError, match="No such file"):
        read_tensor(record)


def test_values_do_not_change_with_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(64)}, file)
    tensor = read_tensor(read_header(file)[0])
    save_file({"a": torch.zeros(64)}, file)
    assert torch.equal(tensor, torch.ones(64))


def saved(folder, name, **tensors):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: torch.full((2,), float(value)) for key, value in tensors.items()}, folder / name)


def index(folder, content):
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_folders_parts_and_what_is_left_aside(tmp_path):
    saved(tmp_path / "here", "model.safetensors", a=1)
    saved(tmp_path / "here" / "llm", "model.safetensors", a=2)
    saved(tmp_path / "here" / ".cache", "model.safetensors", a=3)
    saved(tmp_path / "here" / "think", "adapter_model.safetensors", a=4)
    (tmp_path / "here" / "think" / "adapter_config.json").write_text("{}")
    (tmp_path / "here" / "llm" / "pytorch_model.bin").write_bytes(b"")
    saved(tmp_path / "there", "model.safetensors", a=5)
    found = read_inventory(tmp_path / "here", {"tower": tmp_path / "there", "gone": tmp_path / "nowhere"})
    assert [(r.key, float(read_tensor(r)[0])) for r in found.tensors] == [("a", 1), ("llm/a", 2), ("tower/a", 5)]
    assert found.pickles == ("llm/pytorch_model.bin",)
    assert len(found.problems) == 1 and "'gone' lies in" in found.problems[0]
    assert found.notes == ("the folder 'think' holds an adapter and was not read",)
    assert [r.key for r in read_inventory(tmp_path / "here", recursive=False).tensors] == ["a"]


def test_missing_shards_are_named(tmp_path):
    saved(tmp_path, "model-00001-of-00003.safetensors", a=1)
    saved(tmp_path, "model-00003-of-00003.safetensors", c=1)
    assert read_inventory(tmp_path).problems == ("the shard 'model-00002-of-00003.safetensors' is missing",)
    index(tmp_path, {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors"}})
    assert len(read_inventory(tmp_path).problems) == 1


def test_an_index_is_compared_with_what_is_there(tmp_path):
    saved(tmp_path, "one.safetensors", a=1)
    index(tmp_path, {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})
    problems = read_inventory(tmp_path).problems
    assert any("does not hold: b" in problem and "'one.safetensors'" in problem for problem in problems)
    assert any("'two.safetensors', which is missing (1 tensors)" in problem for problem in problems)
    for content in ([], {"weight_map": 3}, {"weight_map": {"a": 3}}, {}):
        index(tmp_path, content)
        assert read_inventory(tmp_path).problems == ("'model.safetensors.index.json' is no index of tensors",)


def test_files_of_a_part_each_go_by_their_own_names(tmp_path):
    saved(tmp_path, "mid_5.safetensors", weight=5)
    saved(tmp_path, "mid_15.safetensors", weight=15)
    saved(tmp_path, "gate.safetensors", other=1)
    assert {record.key for record in read_inventory(tmp_path).tensors} == {"mid_5/weight", "mid_15/weight", "other"}


def test_shards_that_hold_the_same_tensors_are_refused(tmp_path):
    saved(tmp_path, "model-00001-of-00002.safetensors", a=1, b=1)
    saved(tmp_path, "model-00002-of-00002.safetensors", a=2)
    (problem,) = read_inventory(tmp_path).problems
    assert problem.endswith("hold the same tensors: a")


def test_long_lists_are_cut_and_controls_are_shown():
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(["\x1b[2J"]) == repr("\x1b[2J")
