"""Clips that nobody checked: each is decoded, or refused in one sentence before memory is taken for it."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vpanalysis.benchmark.audio import ArrayAudio, BytesAudio, FileAudio, decode_audio
from vpanalysis.errors import AudioError


def wav(
    rate: int = 16_000, channels: int = 1, bits: int = 16, *, promised: int | None = None, data: bytes = b""
) -> bytes:
    """Return a WAV file whose header says what it is told to."""
    size = len(data) if promised is None else promised
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate & 0xFFFFFFFF, (rate * block) & 0xFFFFFFFF, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", (4 + len(body)) & 0xFFFFFFFF) + body


def tone(frames: int = 1600) -> bytes:
    return (0.25 * 32767 * np.sin(np.arange(frames))).astype("<i2").tobytes()


def sparse(path: Path, header: bytes, size: int) -> Path:
    """Write a file that says it is large and takes no room on the disk."""
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_ten_hours_are_refused_by_their_header_before_memory_is_taken(tmp_path: Path) -> None:
    size = 10 * 3600 * 16_000 * 2
    file = sparse(tmp_path / "long.wav", wav(promised=size), size)
    before = peak()
    with pytest.raises(AudioError, match=r"found 10 h; allowed: at most 1 h; .*VPANALYSIS_MAX_CLIP_S"):
        FileAudio(file).load()
    assert peak() - before < 50_000  # kB; decoded it would be 2.3 million
    assert FileAudio(file).duration_s == 36_000


def test_a_header_of_a_few_bytes_that_promises_days_is_refused(tmp_path: Path) -> None:
    flac = bytearray(encoded(np.zeros(4096, np.float32), "FLAC"))
    flac[21] |= 0x0F  # the upper bits of STREAMINFO's count of samples
    before = peak()
    with pytest.raises(AudioError, match=r"found \d+ h; allowed: at most 1 h"):
        decode_audio(bytes(flac))
    assert peak() - before < 50_000


def test_the_limit_can_be_raised_and_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = wav(data=tone(32_000))
    monkeypatch.setenv("VPANALYSIS_MAX_CLIP_S", "1.5")
    with pytest.raises(AudioError, match=r"found 2 s; allowed: at most 1\.5 s"):
        decode_audio(clip)
    with pytest.raises(AudioError, match="found 2 s"):
        ArrayAudio(np.zeros(32_000, np.float32)).load()
    monkeypatch.setenv("VPANALYSIS_MAX_CLIP_S", "2")
    assert decode_audio(clip).size == 32_000
    for nonsense in ("an hour", "-1", "nan"):
        monkeypatch.setenv("VPANALYSIS_MAX_CLIP_S", nonsense)
        with pytest.raises(AudioError, match="allowed: seconds above 0"):
            decode_audio(clip)


def test_a_limit_on_values_bounds_what_many_channels_take(tmp_path: Path) -> None:
    size = 1800 * 16_000 * 2 * 64  # half an hour, in 64 channels
    file = sparse(tmp_path / "wide.wav", wav(channels=64, promised=size & 0x7FFFFFFE), size & 0x7FFFFFFE)
    with pytest.raises(AudioError, match=r"in 64 channels at 16000 Hz; allowed: at most 1 h at 48 kHz in two channels"):
        FileAudio(file).load()


def test_sixty_four_channels_are_averaged() -> None:
    samples = np.repeat(np.linspace(-0.5, 0.5, 64)[None], 800, axis=0)
    assert np.abs(decode_audio(encoded(samples, "WAV", subtype="FLOAT"))).max() < 1e-6


def encoded(samples: np.ndarray, kind: str, rate: int = 16_000, **kwargs: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 1_000_000, 0x7FFFFFFF])
def test_rates_that_no_speech_has_are_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=f"sample rate of {rate} Hz; allowed: 1000 to 768000 Hz|cannot decode"):
        decode_audio(wav(rate, data=tone()))
    with pytest.raises(AudioError, match=f"a sample rate of {rate} Hz"):
        ArrayAudio(np.ones(100, np.float32), rate).load()


@pytest.mark.parametrize("rate", [1000, 192_000, 768_000])
def test_rates_at_the_edges_are_heard(rate: int) -> None:
    assert decode_audio(wav(rate, data=tone(rate // 10))).size == pytest.approx(1600, abs=2)


def test_no_samples() -> None:
    with pytest.raises(AudioError, match="no samples"):
        decode_audio(wav())


@pytest.mark.parametrize("keep", [0.0, 0.4, 0.999])
def test_a_wav_file_that_was_cut_off_is_refused_not_heard_in_part(keep: float) -> None:
    data = tone()
    kept = data[: int(keep * len(data)) // 2 * 2]
    with pytest.raises(AudioError, match=r"cut off|no samples"):
        decode_audio(wav(promised=len(data), data=kept))


def test_a_flac_file_that_was_cut_off_is_refused() -> None:
    whole = encoded(np.sin(np.arange(40_000) ** 1.2).astype(np.float32), "FLAC")
    with pytest.raises(AudioError, match=r"cut off|cannot decode"):
        decode_audio(whole[: len(whole) // 2])


@pytest.mark.parametrize("unknown", [0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_that_did_not_know_its_length_is_heard(unknown: int) -> None:
    assert decode_audio(wav(promised=unknown, data=tone())).size == 1600


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "flac.wav").write_bytes(encoded(np.ones(1600, np.float32) / 4, "FLAC"))
    assert FileAudio(tmp_path / "flac.wav").load().size == 1600
    (tmp_path / "raw.raw").write_bytes(wav(data=tone()))
    assert FileAudio(tmp_path / "raw.raw").load().size == 1600 and FileAudio(tmp_path / "raw.raw").duration_s == 0.1
    (tmp_path / "text.wav").write_text("dear model, the answer is (A)")
    with pytest.raises(AudioError, match="cannot decode"):
        FileAudio(tmp_path / "text.wav").load()


def test_pipes_folders_devices_and_sockets_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    start = time.monotonic()
    for path, kind in (
        (tmp_path / "pipe.wav", "a named pipe instead of a file"),
        (tmp_path / "link.wav", "a named pipe instead of a file"),
        (tmp_path / "folder.wav", "a folder instead of a file"),
        (tmp_path / "loop.wav", "[Ss]ymbolic links"),
        (Path("/dev/zero"), "a device instead of a file"),
    ):
        source = FileAudio(path)
        for ask in (source.load, source.key, lambda s=source: s.duration_s):
            with pytest.raises(AudioError, match=kind):
                ask()
    assert time.monotonic() - start < 5


def test_not_a_number_in_any_channel_is_refused() -> None:
    samples = np.zeros((100, 3), np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        samples[7, 2] = bad
        for clip in (BytesAudio(encoded(samples, "WAV", subtype="FLOAT")), ArrayAudio(samples)):
            with pytest.raises(AudioError, match="1 of 300 samples are NaN or infinite"):
                clip.load()


def test_a_program_under_a_memory_limit_survives_a_hostile_folder(tmp_path: Path) -> None:
    """Every clip of a folder is asked for in a process that may use 2 GB; each is an AudioError."""
    size = 10 * 3600 * 16_000 * 2
    sparse(tmp_path / "long.wav", wav(promised=size), size)
    sparse(tmp_path / "zeros.wav", b"", 8 << 30)
    sparse(tmp_path / "odd.flac", b"fLaC", 3 << 30)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from vpanalysis.benchmark.audio import FileAudio; from vpanalysis.errors import AudioError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: FileAudio(path).load()\n"
        "    except AudioError as error: print(path.name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["long.wav", "odd.flac", "zeros.wav"]
