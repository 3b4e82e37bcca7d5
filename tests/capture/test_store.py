import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.capture.layouts import layout
from vpanalysis.capture.reducers import make_plan
from vpanalysis.capture.store import ActivationStore
from vpanalysis.errors import RunError

SITES = [
    "encoder.stem",
    "encoder[0]",
    "encoder[1]",
    "tower",
    "streams[0]",
    "mixed",
    "text[0]",
    "text[1]",
    "gate",
    "options",
]
WIDTHS = {**dict.fromkeys(SITES[:4], 4), **dict.fromkeys(SITES[4:8], 6), "gate": 2}


def make(path, items, block_size, plan=None, **more):
    variables = layout(plan or make_plan(SITES), WIDTHS, {"encoder": 9, "tower": 5, "text": 7})
    coordinates = {"id": [f"item {i}" for i in range(items)], "said": ['["a"]'] * items}
    return ActivationStore.create(
        path, variables, coordinates, items=items, block_size=block_size, streams=["encoder[0]", "tower"], **more
    )


def random_states(store, count, seed=0):
    rng = np.random.default_rng(seed)
    states = {}
    for v in store.variables:
        shape = v.shape[1:] if v.sites else v.shape
        for site in v.sites or ("gate",):
            if v.reducer == "frames":
                states[site, v.reducer] = [
                    rng.normal(size=(rng.integers(0, shape[0] + 1), shape[1])).astype(np.float32) for _ in range(count)
                ]
            else:
                states[site, v.reducer] = rng.normal(size=(count, *shape)).astype(np.float32)
    return states


@settings(max_examples=12, deadline=None)
@given(items=st.integers(1, 11), block_size=st.integers(1, 5), seed=st.integers(0, 3))
def test_round_trip_is_exact(tmp_path_factory, items, block_size, seed):
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    store = make(path, items, block_size)
    written = {}
    for block in range(-(-items // block_size)):
        count = min(block_size, items - block * block_size)
        assert block not in store.blocks()
        states = random_states(store, count, seed + block)
        store.write(block, states)
        assert block in store.blocks()
        for key, value in states.items():
            written.setdefault(key, []).append(value)
    again = ActivationStore(path)
    assert set(again.keys()) == set(written)
    for (site, reducer), parts in written.items():
        np.testing.assert_array_equal(again.read(site, reducer), np.concatenate(parts))


def test_one_file_a_block_and_variable(tmp_path):
    store = make(tmp_path / "a.zarr", 10, 4)
    for block, count in enumerate((4, 4, 2)):
        store.write(block, random_states(store, count))
    for v in store.variables:
        names = sorted(p.name for p in (tmp_path / "a.zarr" / v.name).glob("c.*"))
        assert [n.split(".")[1] for n in names] == ["0", "1", "2"]


def test_the_dataset_has_named_dims_sites_and_coordinates(tmp_path):
    store = make(tmp_path / "a.zarr", 3, 2)
    for block, count in enumerate((2, 1)):
        store.write(block, random_states(store, count))
    data = store.dataset()
    assert data["encoder_segments6"].dims == ("item", "encoder_layer", "segment", "encoder_feature")
    assert list(data["encoder_layer"].values) == SITES[:4]
    assert set(data.data_vars) == {
        "encoder_mean", "encoder_segments6", "audio_mean", "audio_segments6", "text_last", "gate",
    }  # fmt: skip
    assert list(data["id"].values) == ["item 0", "item 1", "item 2"] and "said" in data.coords
    assert data["encoder_mean"].attrs["units"]
    np.testing.assert_array_equal(data["encoder_mean"].sel(encoder_layer="tower").values, store.read("tower", "mean"))
    assert list(data["stream"].values) == ["encoder[0]", "tower"]


def test_frames_are_padded_with_nan_and_know_their_seconds(tmp_path):
    plan = make_plan(SITES, ["encoder[0]", "encoder[1]", "tower"], {"encoder": "frames"})
    store = make(tmp_path / "a.zarr", 3, 3, plan, frame_seconds={"encoder": 0.02})
    states = random_states(store, 3)
    store.write(0, states)
    got, want = store.read("encoder[1]", "frames"), states["encoder[1]", "frames"]
    assert got.shape == (3, 9, 4) and store.read("tower", "frames").shape == (3, 5, 4)
    for row, state in enumerate(want):
        np.testing.assert_array_equal(got[row, : len(state)], state)
        assert np.isnan(got[row, len(state) :]).all()
    assert store.dataset()["encoder_frame"].values[:2].tolist() == pytest.approx([0.01, 0.03])


def test_a_flipped_bit_is_found_and_named(tmp_path):
    store = make(tmp_path / "a.zarr", 6, 2)
    for block in range(3):
        store.write(block, random_states(store, 2))
    file = next((tmp_path / "a.zarr" / "encoder_mean").glob("c.1.*"))
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match=r"damaged data in block 1 .*call verify\(redo=True\)"):
        ActivationStore(tmp_path / "a.zarr").read("encoder.stem", "mean")
    # Every site has a checksum of its own: the others are still good.
    assert ActivationStore(tmp_path / "a.zarr").read("encoder[0]", "mean").shape == (6, 4)


def test_float16_halves_the_bytes_and_clips(tmp_path):
    plan = make_plan(SITES, "tower", "mean")
    store = make(tmp_path / "a.zarr", 2, 2, plan, dtype="float16")
    store.write(0, {("tower", "mean"): np.array([[1e9, -1e9, 0.5, 1], [1, 2, 3, 4]], dtype=np.float32)})
    got = store.read("tower", "mean")
    assert got.dtype == np.float16 and np.isfinite(got).all() and got[1].tolist() == [1, 2, 3, 4]


def test_wrong_shapes_and_missing_states_are_refused(tmp_path):
    store = make(tmp_path / "a.zarr", 4, 2)
    states = random_states(store, 2)
    with pytest.raises(RunError, match="cannot write block 0"):
        store.write(0, {k: v for k, v in states.items() if k[0] != "tower"})
    with pytest.raises(RunError, match=r"allowed: shape \(2, 4\)"):
        store.write(0, {**states, ("tower", "mean"): np.zeros((3, 4), dtype=np.float32)})
    with pytest.raises(RunError, match="cannot read 'towr'"):
        store.read("towr", "mean")
    with pytest.raises(RunError, match="allowed: 'mean', 'segments6'"):
        store.read("tower", "last")
    with pytest.raises(RunError, match="cannot open"):
        ActivationStore(tmp_path / "b.zarr")


def test_two_widths_in_a_group_become_two_variables():
    widths = {**WIDTHS, "encoder.stem": 8}
    names = {v.name: v.sites for v in layout(make_plan(SITES, "encoder", "mean"), widths)}
    assert names == {"encoder_8_mean": ("encoder.stem",), "encoder_4_mean": ("encoder[0]", "encoder[1]", "tower")}
