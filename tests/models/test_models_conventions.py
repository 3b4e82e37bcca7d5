"""Whose calibration is it: fingerprints of checkpoints, and what loading takes from a file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vpanalysis.errors import ModelError
from vpanalysis.models import conventions
from vpanalysis.models.conventions import (
    CALIBRATION_NAME,
    CONVENTIONS,
    cached_calibration,
    calibration_for,
    carry_calibration,
    conventions_for,
    fingerprint,
    fitting_layer_index,
    has_mixer,
    stated_conventions,
)
from vpanalysis.models.pclm_config import PCLMConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts, one of them large for a fingerprint, and a config with a mixer."""
    place = tmp_path / "checkpoint"
    generator = torch.Generator().manual_seed(0)
    for part, sizes in (("llm", {"big": 1_500_000, "second": 400_000, "tiny": 3}), ("sound_pclm", {"gate": 40})):
        (place / part).mkdir(parents=True)
        tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
        save_file(tensors, place / part / "model.safetensors")
    write(place, use_sound_pclm=True, expose_layers=[5, 15], audio_config={"num_hidden_layers": 32})
    return place


def write(place: Path, **content: Any) -> None:
    (place / "config.json").write_text(json.dumps(content))


def record(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "Calibration", "version": 1, "created": "2030-01-01", "fingerprint": fingerprint(place),
        "decided": {"bert_pooling": "mean"}, "items": [{"id": "a", "key": "k"}], **changes,
    }  # fmt: skip


def edited(place: Path, part: str, name: str, at: int) -> None:
    file = place / part / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(file).items()}
    tensors[name][at] += 1.0
    save_file(tensors, file)


def test_the_table_is_that_of_the_config() -> None:
    config_class = type("Bare", (PCLMConfig,), {})
    for name, values in CONVENTIONS.items():
        assert getattr(config_class, name) == values[0], name


def test_a_moved_copy_has_the_same_fingerprint_and_any_other_has_another(folder: Path, tmp_path: Path) -> None:
    own = fingerprint(folder)
    assert len(own) == 64 and own == fingerprint(str(folder))
    moved = tmp_path / "somewhere" / "else"
    shutil.copytree(folder, moved)
    assert fingerprint(moved) == own
    # Any weight of a small file counts, and of a large one the middle of every tensor.
    for part, name, at in (
        ("sound_pclm", "gate", 39), ("llm", "big", 750_000), ("llm", "second", 200_000), ("llm", "tiny", 0)
    ):  # fmt: skip
        copy = tmp_path / f"{name}-edited"
        shutil.copytree(folder, copy)
        edited(copy, part, name, at)
        assert fingerprint(copy) != own, name
    # What it does not promise.
    copy = tmp_path / "one-weight"
    shutil.copytree(folder, copy)
    edited(copy, "llm", "big", 3)
    assert fingerprint(copy) == own


def test_numbers_of_layers_and_names_of_tensors_count(folder: Path, tmp_path: Path) -> None:
    own = fingerprint(folder)
    write(folder, use_sound_pclm=True, expose_layers=[5, 16])
    assert fingerprint(folder) != own
    write(folder, use_sound_pclm=True, expose_layers=[5, 15], bert_pooling="mean", anything="else")
    assert fingerprint(folder) == own
    file = folder / "sound_pclm" / "model.safetensors"
    save_file({"other": load_file(file)["gate"]}, file)
    assert fingerprint(folder) != own


def test_parts_that_lie_elsewhere_count_as_if_inside(folder: Path, tmp_path: Path) -> None:
    own = fingerprint(folder)
    shared = tmp_path / "shared"
    shutil.move(folder / "llm", shared)
    write(folder, use_sound_pclm=True, expose_layers=[5, 15], parts={"llm": "../shared"})
    assert fingerprint(folder) == own
    edited(tmp_path, "shared", "big", 750_000)
    assert fingerprint(folder) != own


def test_it_is_cheap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large files the header and a little of every tensor is read, however large they are."""
    read = 0
    wrapped = Path.open

    class Counting:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.handle.close()

        def read(self, size: int = -1) -> bytes:
            nonlocal read
            data: bytes = self.handle.read(size)
            read += len(data)
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self.handle, name)

    def counted(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        handle = wrapped(self, mode, *args, **kwargs)
        return Counting(handle) if mode == "rb" else handle

    monkeypatch.setattr(Path, "open", counted)
    fingerprint(folder)
    assert read < 10_000 < (folder / "llm" / "model.safetensors").stat().st_size


def test_damaged_and_missing_files_are_errors(folder: Path, tmp_path: Path) -> None:
    file = folder / "llm" / "model.safetensors"
    data = file.read_bytes()
    for broken in (b"\xff" * 8 + data[8:], data[:6_000_000], b"\x08" + bytes(7) + b"not json" + data[16:]):
        file.write_bytes(broken)
        with pytest.raises(ModelError, match="damaged"):
            fingerprint(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="no safetensors file"):
        fingerprint(empty)


def test_only_what_is_stated_counts_as_stated(folder: Path) -> None:
    assert stated_conventions(folder) == {}
    write(folder, use_sound_pclm=True, gate_order="final_first", mid_pool=None, bert_pooling="mean")
    (folder / "sound_pclm" / "config.json").write_text(json.dumps({"gate_text": "chat", "bert_pooling": "cls"}))
    assert stated_conventions(folder) == {"gate_order": "final_first", "gate_text": "chat", "bert_pooling": "mean"}
    # What a converter wrote down as assumed is not.
    write(folder, use_sound_pclm=True, gate_order="final_first", bert_pooling="mean", unsettled=["gate_order"])
    assert stated_conventions(folder) == {"gate_text": "chat", "bert_pooling": "mean"}
    from vpanalysis.models.checkpoint.settings import UNSETTLED

    assert conventions._UNSETTLED == UNSETTLED


@pytest.mark.parametrize(
    ("content", "mixer"),
    [
        ({"use_sound_pclm": True}, True),
        ({"use_sound_pclm": False, "expose_layers": [5]}, False),
        ({"model_type": "audioflamingo3_pclm"}, True),
        ({"model_type": "audioflamingo3"}, False),
        ({"expose_layers": [5]}, True),
        ({}, False),
    ],
)
def test_what_has_a_mixer(tmp_path: Path, content: dict[str, Any], mixer: bool) -> None:
    write(tmp_path, **content)
    assert has_mixer(tmp_path) == mixer


@pytest.mark.parametrize(
    ("exposed", "layers", "ways"),
    [
        ([5, 15, 25, 30], 32, CONVENTIONS["layer_index_convention"]),
        ([0, 4], 32, ("block_output_0based",)),
        ([5, 32], 32, ("block_output_1based",)),
        ([5, 32], None, CONVENTIONS["layer_index_convention"]),
        ([0, 32], 32, ()),
        (None, 32, CONVENTIONS["layer_index_convention"]),
    ],
)
def test_ways_of_counting_that_fit(tmp_path: Path, exposed: Any, layers: int | None, ways: tuple[str, ...]) -> None:
    audio = None if layers is None else {"num_hidden_layers": layers}
    write(tmp_path, use_sound_pclm=True, expose_layers=exposed, audio_config=audio)
    assert fitting_layer_index(tmp_path) == ways
    only_zero = ways == ("block_output_0based",)
    assert conventions_for(tmp_path) == ({"layer_index_convention": ways[0]} if only_zero else {})


def test_depth_may_stand_with_the_part(tmp_path: Path) -> None:
    write(tmp_path, use_sound_pclm=True, expose_layers=[5, 32], sound_tower_cfg="./sound_tower")
    (tmp_path / "sound_tower").mkdir()
    (tmp_path / "sound_tower" / "config.json").write_text(json.dumps({"encoder_layers": 32}))
    assert fitting_layer_index(tmp_path) == ("block_output_1based",)


def test_what_is_decided_is_loaded_and_what_is_stated_stays(folder: Path) -> None:
    found = record(folder, decided={"bert_pooling": "mean", "mid_pool": "avg"})
    assert conventions_for(folder, found) == {"bert_pooling": "mean", "mid_pool": "avg"}
    write(folder, use_sound_pclm=True, expose_layers=[5, 15], bert_pooling="mean", mid_pool="avg_norm")
    with pytest.warns(UserWarning, match="mid_pool stays 'avg_norm'"):
        assert conventions_for(folder, found) == {}
    write(folder, use_sound_pclm=False)
    assert conventions_for(folder, found) == {} == conventions_for(None, found)


def test_nothing_is_hashed_where_there_is_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_folder: Path) -> str:
        raise AssertionError("hashed")

    monkeypatch.setattr(conventions, "fingerprint", never)
    assert calibration_for(folder) is None and calibration_for(None) is None
    (folder / CALIBRATION_NAME).write_text("{")
    assert calibration_for(folder, calibration=False) is None
    write(folder, use_sound_pclm=False)
    assert calibration_for(folder) is None


def test_places_are_looked_at_in_turn(folder: Path, tmp_path: Path) -> None:
    own = fingerprint(folder)
    in_cache = cached_calibration(own)
    assert in_cache == tmp_path / "cache" / "calibrations" / f"{own}.json"
    in_cache.parent.mkdir(parents=True)
    in_cache.write_text(json.dumps(record(folder, created="2030-01-02")))
    found = calibration_for(folder)
    assert found is not None and found["path"] == str(in_cache)
    beside = folder / CALIBRATION_NAME
    for created, place in (("2030-01-01", in_cache), ("2030-01-03", beside)):
        beside.write_text(json.dumps(record(folder, created=created)))
        found = calibration_for(folder)
        assert found is not None and found["path"] == str(place)
    named = tmp_path / "named.json"
    named.write_text(json.dumps(record(folder)))
    found = calibration_for(folder, named)
    assert found is not None and found["path"] == str(named)
    with pytest.raises(ModelError, match="no readable JSON"):
        calibration_for(folder, tmp_path / "missing.json")


def test_a_file_of_another_checkpoint_is_never_used(folder: Path) -> None:
    for place in (folder / CALIBRATION_NAME, cached_calibration(fingerprint(folder))):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(record(folder, fingerprint="0" * 64)))
        with pytest.raises(ModelError, match="one of another checkpoint"):
            calibration_for(folder)
        os.unlink(place)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["kind", "version", "created", "decided", "items", "fingerprint"]),
    st.sampled_from(["Calibration", 1, {}, [], {"bert_pooling": "mean"}, [{"key": "k"}]]) | JSON,
)


@given(content=st.binary(max_size=60) | (JSON | FIELDS).map(lambda value: json.dumps(value).encode()))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_refused_in_a_sentence_or_is_whole(folder: Path, content: bytes) -> None:
    (folder / CALIBRATION_NAME).write_bytes(content)
    try:
        found = calibration_for(folder)
    except ModelError as error:
        assert "cannot use the calibration" in str(error) and "\n" not in str(error)
    else:
        assert found is not None and found["fingerprint"] == fingerprint(folder)


def test_a_converted_copy_keeps_the_calibration_as_its_own(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    edited(copy, "sound_pclm", "gate", 0)
    assert carry_calibration(folder, copy) is None and not (copy / CALIBRATION_NAME).exists()
    own = fingerprint(folder)
    (folder / CALIBRATION_NAME).write_text(json.dumps(record(folder, settings={"level": 0.95})))
    assert carry_calibration(folder, copy) == copy / CALIBRATION_NAME
    found = calibration_for(copy)
    assert found is not None and found["fingerprint"] == fingerprint(copy) != own
    assert found["settings"] == {"level": 0.95, "carried_from": own} and found["items"] == [{"id": "a", "key": "k"}]
