"""Any rate and channel count becomes 16 kHz mono float32; whatever is broken is an AudioError."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.benchmark import ArrayAudio, BytesAudio, FileAudio, decode_audio
from vpanalysis.errors import AudioError


def tone(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, **kwargs: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kwargs.pop("format", "WAV"), **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channel_count(rate: int, channels: int) -> None:
    wave = decode_audio(encoded(np.repeat(tone(rate)[:, None], channels, axis=1), rate))
    assert wave.dtype == np.float32 and wave.ndim == 1 and wave.flags.c_contiguous
    assert abs(wave.size - 8000) <= 2
    # The same tone, away from the filter's edges.
    spectrum = np.abs(np.fft.rfft(wave[1000:7000]))
    assert np.argmax(spectrum) * 16000 / 6000 == pytest.approx(440, abs=3)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged_and_loudness_is_kept() -> None:
    samples = np.stack([np.full(1600, 0.5), np.full(1600, -0.25)], axis=1)
    np.testing.assert_allclose(decode_audio(encoded(samples, 16000, subtype="FLOAT")), 0.125)


@pytest.mark.parametrize("fmt", ["WAV", "FLAC", "OGG", "MP3"])
def test_formats(fmt: str) -> None:
    assert decode_audio(encoded(tone(16000), 16000, format=fmt)).size >= 7900


def test_sixteen_bit_samples_survive_exactly() -> None:
    ints = np.array([-32768, -1, 0, 1, 32767], np.int16)
    expected = ints.astype(np.float32) / 32768
    np.testing.assert_array_equal(decode_audio(encoded(ints, 16000)), expected)
    np.testing.assert_array_equal(ArrayAudio(ints).load(), expected)


def test_the_three_sources_agree(tmp_path: Path) -> None:
    data = encoded(tone(24000), 24000)
    (tmp_path / "a.wav").write_bytes(data)
    file, raw = FileAudio(tmp_path / "a.wav"), BytesAudio(data)
    np.testing.assert_array_equal(file.load(), raw.load())
    assert file.key() == raw.key() and len(file.key()) == 64
    assert file.duration_s == pytest.approx(0.5)
    assert file.describe().endswith("a.wav")
    assert FileAudio(str(tmp_path / "a.wav")) == file


def test_key_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(tone(16000), 16000))
    before = FileAudio(path).key()
    path.write_bytes(encoded(tone(16000, 0.6), 16000))
    assert FileAudio(path).key() != before
    array = tone(16000)
    assert ArrayAudio(array).key() == ArrayAudio(array.copy()).key() != ArrayAudio(array, 8000).key()
    assert ArrayAudio(array.reshape(-1, 2)).key() != ArrayAudio(array).key()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not audio at all", "cannot decode"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (encoded(np.zeros(0, np.float32), 16000), "no samples"),
        (encoded(np.array([0.0, np.nan, 1.0], np.float32), 16000, subtype="FLOAT"), "1 of 3 samples are NaN"),
        (encoded(np.array([[0.0, np.inf]], np.float32), 16000, subtype="FLOAT"), "1 of 2 samples are NaN or infinite"),
    ],
)
def test_broken_clips_say_why(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(AudioError, match=reason):
        FileAudio(tmp_path / "x.wav").load()
    with pytest.raises(AudioError, match=reason):
        BytesAudio(data, name="x").load()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "no.wav", tmp_path, Path("a\0b.wav")):
        source = FileAudio(path)
        for ask in (source.load, lambda s=source: s.duration_s):
            with pytest.raises(AudioError):
                ask()
    with pytest.raises(AudioError, match="no\\.wav"):
        FileAudio(tmp_path / "no.wav").key()


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2)), np.zeros(0), np.array([True]), np.array(["a"])])
def test_arrays_that_are_no_clip(array: np.ndarray) -> None:
    with pytest.raises(AudioError):
        ArrayAudio(array).load()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_never_raise_anything_else(data: bytes) -> None:
    header = encoded(np.zeros(4, np.float32), 16000)
    for candidate in (data, header[: len(data)] + data):
        try:
            wave = decode_audio(candidate)
        except AudioError:
            continue
        assert wave.size and np.isfinite(wave).all()
