"""Stores that another program wrote, or that somebody edited: one clear error, and no code is run."""

import json
import shutil

import numpy as np
import pytest
import zarr
from test_store import make, random_states

from vpanalysis.capture.store import ActivationStore
from vpanalysis.errors import RunError


@pytest.fixture
def stored(tmp_path):
    store = make(tmp_path / "a.zarr", 3, 2)
    for block, count in ((0, 2), (1, 1)):
        store.write(block, random_states(store, count, block))
    return tmp_path / "a.zarr"


def replaced(path, name, **how):
    group = zarr.open_group(str(path), mode="r+")
    shape = how.pop("shape", group[name].shape)
    shutil.rmtree(path / name)
    group.create_array(name, shape=shape, chunks=tuple(max(1, n) for n in shape), **how)


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "int32", "float64", "bool", "S4", "string", "<U8"])
def test_states_of_surprising_types_are_refused_with_type_and_shape(stored, dtype):
    replaced(stored, "encoder_mean", dtype=dtype)
    with pytest.raises(
        RunError, match=r"cannot read 'encoder_mean' .*found dtype .*; allowed: dtype float32 or float16"
    ):
        ActivationStore(stored)


@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (2, 4, 4), (3, 3, 4), (0, 4, 4), (3,)])
def test_states_of_another_shape_are_refused(stored, shape):
    replaced(stored, "encoder_mean", dtype="float32", shape=shape)
    with pytest.raises(RunError, match=r"allowed: dtype float32 or float16, shape \(3, 4, 4\)"):
        ActivationStore(stored)


def test_an_array_that_is_gone_or_a_group_or_unreadable(stored, tmp_path):
    for number, change in enumerate(
        (
            lambda place: shutil.rmtree(place),
            lambda place: (place / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}'),
            lambda place: (place / "zarr.json").write_text("[" * 10_000),
            lambda place: (place / "zarr.json").write_text("{"),
            lambda place: edited(place / "zarr.json", lambda facts: facts.update(data_type="object")),
            lambda place: edited(place / "zarr.json", lambda facts: facts.update(data_type={"name": "x", "y": [1]})),
            lambda place: edited(place / "zarr.json", lambda facts: facts.update(codecs=[{"name": "pickle"}])),
            lambda place: edited(place / "zarr.json", lambda facts: facts.update(shape=[-1, 2, 4])),
        )
    ):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(stored, copy)
        change(copy / "encoder_mean")
        with pytest.raises(RunError, match="cannot read 'encoder_mean'") as caught:
            ActivationStore(copy)
        assert "\n" not in str(caught.value)


def edited(file, change):
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "facts",
    [
        {"items": "3"}, {"items": -1}, {"items": True}, {"block_size": 0}, {"block_size": None}, {"variables": 3},
        {"variables": "["}, {"variables": "[" * 10_000}, {"variables": "[3]"}, {"variables": '[{"name": "x"}]'},
        {"variables": json.dumps([{"name": "../x", "reducer": "mean", "sites": [], "dims": ["item"], "shape": []}])},
        {"variables": json.dumps([{"name": "x", "reducer": "mean", "sites": [], "dims": [], "shape": [3]}])},
        {"variables": json.dumps([{"name": "x", "reducer": "mean", "sites": 3, "dims": ["item"], "shape": ["a"]}])},
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_read_is_one_sentence(stored, facts):
    edited(stored / "zarr.json", lambda content: content["attributes"].update(facts))
    with pytest.raises(RunError, match="a layout that cannot be read") as caught:
        ActivationStore(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["int64", "complex64", "datetime64[s]", "bool"])
def test_labels_of_surprising_types_are_refused(stored, dtype):
    replaced(stored, "said", dtype=dtype, shape=(3,), dimension_names=("item",))
    store = ActivationStore(stored)
    with pytest.raises(RunError, match=r"cannot read 'said' .*allowed: text or floats"):
        store.dataset()
    assert np.isfinite(store.read("tower", "mean")).all()


def test_a_store_of_the_older_format_whose_codec_would_run_code_is_not_opened(tmp_path):
    """Format 2 lets a store name a pickle as the filter of an array of objects."""
    mark, place = tmp_path / "mark", tmp_path / "old.zarr"
    (place / "encoder_mean").mkdir(parents=True)
    (place / ".zgroup").write_text('{"zarr_format": 2}')
    layout = [{"name": "encoder_mean", "reducer": "mean", "sites": [], "dims": ["item"], "shape": []}]
    facts = {"vpanalysis_format": 1, "items": 1, "block_size": 1, "variables": json.dumps(layout)}
    (place / ".zattrs").write_text(json.dumps(facts))
    (place / "encoder_mean/.zarray").write_text(json.dumps({
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "pickle", "protocol": 5}],
    }))  # fmt: skip
    (place / "encoder_mean/0").write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(RunError, match=r"cannot open .*old\.zarr"):
        ActivationStore(place)
    assert not mark.exists()
