import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.capture.audio_cache import AudioCache, CachedClip, default_cache_folder


def clip(dtype=torch.float32):
    torch.manual_seed(1)
    tower = torch.randn(5, 3).to(dtype)
    return CachedClip(
        1234,
        (3, 2),
        {"tower": tower, "tower#0": tower, "encoder[0]": torch.randn(5, 3).to(dtype)},
        {("encoder[0]", "mean"): torch.randn(3), ("encoder[0]", "segments6"): torch.randn(6, 3)},
    )


NEEDED = AudioCache.names(["tower", "tower#0"], [("encoder[0]", "segments6")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(tmp_path, dtype):
    cache = AudioCache(tmp_path, "sha", str(dtype))
    put = clip(dtype)
    cache.put("key", put)
    got = cache.get("key", NEEDED)
    assert got is not None and got.windows == (3, 2) and got.samples == 1234 == cache.peek("key", NEEDED)
    assert set(got.streams) == set(put.streams) and set(got.states) == set(put.states)
    assert all(torch.equal(got.streams[k], v) and got.streams[k].dtype == dtype for k, v in put.streams.items())
    assert all(torch.equal(got.states[k], v) for k, v in put.states.items())


def test_another_encoder_dtype_or_clip_is_a_miss(tmp_path):
    AudioCache(tmp_path, "sha", "float32").put("key", clip())
    assert AudioCache(tmp_path, "sha", "float32").get("key") is not None
    assert AudioCache(tmp_path, "other", "float32").get("key") is None
    assert AudioCache(tmp_path, "sha", "bfloat16").get("key") is None
    assert AudioCache(tmp_path, "sha", "float32").get("another key") is None


def test_a_file_that_lacks_something_asked_for_is_a_miss(tmp_path):
    cache = AudioCache(tmp_path, "sha", "float32")
    cache.put("key", clip())
    for streams, states in ((["encoder[5]"], []), ([], [("encoder[0]", "segments3")]), ([], [("encoder[1]", "mean")])):
        assert cache.get("key", AudioCache.names(streams, states)) is None
        assert cache.peek("key", AudioCache.names(streams, states)) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_miss_never_a_wrong_clip(tmp_path_factory, data):
    cache = AudioCache(tmp_path_factory.mktemp("cache"), "sha", "float32")
    cache.put("key", clip())
    path = cache.path("key")
    good = path.read_bytes()
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    path.write_bytes(bad)
    got = cache.get("key", NEEDED)
    if got is not None:
        # White space that pads the header is the one thing whose change changes nothing.
        want = clip()
        assert (got.samples, got.windows) == (want.samples, want.windows)
        assert all(torch.equal(got.streams[k], v) for k, v in want.streams.items())
        assert all(torch.equal(got.states[k], v) for k, v in want.states.items())


def test_an_unwritable_folder_costs_speed_only(tmp_path):
    (tmp_path / "encoded").write_text("a file where a folder should be")
    cache = AudioCache(tmp_path, "sha", "float32")
    cache.put("key", clip())
    assert cache.get("key") is None


def test_keys_from_data_cannot_leave_the_folder(tmp_path):
    cache = AudioCache(tmp_path, "sha", "float32")
    assert cache.path("../../../etc/passwd").is_relative_to(cache.folder)


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "here"))
    assert default_cache_folder() == tmp_path / "here"
    monkeypatch.delenv("VPANALYSIS_CACHE")
    assert default_cache_folder().name == "vpanalysis"
