"""Clips as values: where the samples come from, and one way to decode them.

Why it exists. Released clips come at 16 and 24 kHz, mono and stereo, as files, as bytes inside a parquet table, as
arrays, or are synthesized when they are needed. Models want one thing: 16 kHz, mono, float32. A benchmark of two
thousand clips must not be decoded to be listed, and one broken file must not end a run of two thousand.

The idea. An *audio source* is a small immutable value that knows how to `load` its samples, has a content `key` under
which anything computed from it may be cached, and can `describe` itself in an error message. Nothing is read before
it is asked for. Whatever goes wrong with one clip is an `AudioError`, so that a caller can mark this item as failed,
keep the reason and go on.

Clips come from anywhere, so a clip is judged by its header before memory is taken for it: longer than `MAX_SECONDS`,
at a rate outside `RATES`, or cut off before the end that a WAV header promises, it is refused. So is what is no regular
file: reading a named pipe may never end. The name of a file says nothing: content decides how it is decoded.

Worked example::

    source = FileAudio("clips/age_0001.wav")   # reads nothing
    source.duration_s                          # 3.2, from the header
    wave = source.load()                       # (51200,) float32 at 16 kHz, mean of the channels
    source.key()                               # SHA-256 of the file, the same wherever the file lies
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vpanalysis._untrusted import open_regular
from vpanalysis.benchmark._sound_files import (
    MAX_SECONDS,
    RATES,
    check_length,
    decoded,
    header_of,
    not_the_clip,
    read_clip,
    reason_of,
)
from vpanalysis.errors import AudioError

__all__ = [
    "MAX_SECONDS",
    "RATES",
    "SAMPLE_RATE",
    "ArrayAudio",
    "AudioSource",
    "BytesAudio",
    "FileAudio",
    "NoAudio",
    "decode_audio",
    "duration_of",
]

SAMPLE_RATE = 16_000
"""Samples per second of every loaded clip (Hz)."""

Waveform = npt.NDArray[np.float32]

# What `git clone` leaves behind where Git LFS is not installed: a text file that merely names the clip.
_LFS_POINTER = b"version https://git-lfs"


@runtime_checkable
class AudioSource(Protocol):
    """One clip, not yet read. Any object with these three methods will do."""

    def load(self) -> Waveform:
        """Return the clip: shape (samples,), float32, 16 kHz, mono.

        Raises
        ------
        AudioError
            If the clip is missing, undecodable, empty, or not finite.
        """
        ...

    def key(self) -> str:
        """Return a hex digest of the content: equal keys promise equal samples."""
        ...

    def describe(self) -> str:
        """Return a short name of the clip for messages, such as its path."""
        ...


def duration_of(source: AudioSource) -> float:
    """Return the duration of `source` in seconds, from its header where it has one, else by loading it.

    Raises
    ------
    AudioError
        If the clip cannot be read.
    """
    known = getattr(source, "duration_s", None)
    return float(known) if known is not None else len(source.load()) / SAMPLE_RATE


def decode_audio(source: str | Path | bytes, *, name: str | None = None) -> Waveform:
    """Decode any file that libsndfile reads (WAV, FLAC, Ogg, MP3 ...) to the one form that models take.

    Channels are averaged; other sample rates are converted by soxr at its high quality setting, which is
    deterministic. Nothing is normalized: loudness is a label in this benchmark.

    Parameters
    ----------
    source : str, Path or bytes
        A file, or the bytes of one.
    name : str, optional
        What to call the clip in messages; the path by default.

    Returns
    -------
    numpy.ndarray
        Shape (samples,), float32, 16 kHz, mono, finite, at least one sample.

    Raises
    ------
    AudioError
        If the file is missing, no regular file, undecodable, empty, cut off, longer than `MAX_SECONDS`, at a rate
        outside `RATES`, or holds NaN or infinite samples.
    """
    label = name or (str(source) if not isinstance(source, bytes) else "audio bytes")
    data = source if isinstance(source, bytes) else read_clip(Path(source), label)
    if not data:
        raise AudioError(f"cannot use the audio {label!r}", found="an empty file (0 bytes)")
    if data.startswith(_LFS_POINTER):
        raise AudioError(
            f"cannot use the audio {label!r}",
            found="a Git LFS pointer instead of the clip",
            fix="install Git LFS and run 'git lfs pull' in the dataset folder",
        )
    samples, rate = decoded(io.BytesIO(data), label, len(data))
    return _to_model_form(samples, rate, label)


def _to_model_form(samples: npt.NDArray[np.float32], rate: int, label: str) -> Waveform:
    """Average channels of (samples,) or (samples, channels), check, and resample to 16 kHz."""
    if samples.size == 0:
        raise AudioError(f"cannot use the audio {label!r}", found="no samples")
    check_length(len(samples), rate, samples.shape[1] if samples.ndim == 2 else 1, label)
    # Checked on every channel, before averaging and resampling smear one NaN over its neighbours.
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        raise AudioError(
            f"cannot use the audio {label!r}", found=f"{bad} of {samples.size} samples are NaN or infinite"
        )
    mono = samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else samples
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
        if mono.size == 0:
            raise AudioError(f"cannot use the audio {label!r}", found="a clip shorter than one sample at 16 kHz")
    wave: Waveform = np.ascontiguousarray(mono, dtype=np.float32)
    return wave


@dataclass(frozen=True)
class FileAudio:
    """A clip in a file.

    Parameters
    ----------
    path : str or Path
        The file; need not exist before it is loaded.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def load(self) -> Waveform:
        """Decode the file; see `decode_audio`."""
        return decode_audio(self.path)

    def key(self) -> str:
        """Return the SHA-256 of the file's bytes (hex); remembered until the file changes.

        Raises
        ------
        AudioError
            If the file cannot be read.
        """
        try:
            stat = self.path.stat()
        except (OSError, ValueError) as error:
            not_the_clip(error)
            raise AudioError(f"cannot read the audio {str(self.path)!r}", found=reason_of(error)) from error
        return _file_sha256(str(self.path.absolute()), stat.st_size, stat.st_mtime_ns)

    def describe(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def duration_s(self) -> float:
        """Duration in seconds, read from the header without decoding.

        Raises
        ------
        AudioError
            If the file cannot be read.
        """
        label = str(self.path)
        try:
            with open_regular(self.path) as handle:
                info = header_of(handle, label)
        except (OSError, ValueError) as error:
            raise AudioError(f"cannot read the audio {label!r}", found=reason_of(error)) from error
        return float(info.frames) / float(info.samplerate)


@lru_cache(maxsize=65536)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    """Digest of a file; size and time are part of the cache key, so that an edited file is hashed again."""
    try:
        with open_regular(Path(path)) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        not_the_clip(error)
        raise AudioError(f"cannot read the audio {path!r}", found=reason_of(error)) from error


@dataclass(frozen=True, eq=False)
class ArrayAudio:
    """A clip in memory.

    Parameters
    ----------
    array : numpy.ndarray
        Shape (samples,) or (samples, channels). Integers are scaled by their type's range to [-1, 1).
    rate : int
        Sample rate in Hz.
    name : str
        What to call the clip in messages.
    """

    array: npt.NDArray[np.float32] | npt.NDArray[np.int16] | npt.NDArray[np.float64]
    rate: int = SAMPLE_RATE
    name: str = "array"

    def load(self) -> Waveform:
        """Return the clip at 16 kHz, mono, float32; a fresh array, so that callers may write into it."""
        array = np.asarray(self.array)
        if array.ndim not in (1, 2):
            raise AudioError(
                f"cannot use the audio {self.name!r}",
                found=f"an array of shape {array.shape}",
                allowed="(samples,) or (samples, channels)",
            )
        if array.dtype.kind == "i":
            scaled = array.astype(np.float32) / np.float32(2 ** (8 * array.dtype.itemsize - 1))
        elif array.dtype.kind == "f":
            scaled = array.astype(np.float32)
        else:
            raise AudioError(
                f"cannot use the audio {self.name!r}", found=f"dtype {array.dtype}", allowed="floats or signed integers"
            )
        return _to_model_form(scaled, int(self.rate), self.name)

    def key(self) -> str:
        """Return the SHA-256 over shape, dtype, rate and samples (hex)."""
        array = np.ascontiguousarray(self.array)
        digest = hashlib.sha256(f"{array.shape}|{array.dtype.str}|{self.rate}|".encode())
        digest.update(array.tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        """Return the name."""
        return self.name

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return float(np.asarray(self.array).shape[0]) / float(self.rate)


@dataclass(frozen=True)
class NoAudio:
    """No clip at all: the question is asked by itself. Only `vpanalysis.attribution` asks such items."""

    def load(self) -> Waveform:
        """Refuse: there is nothing to load."""
        raise AudioError("cannot load the audio", found="an item that is asked without a clip",
                         fix="ask it by listen_vs_read or text_controls")  # fmt: skip

    def key(self) -> str:
        """Return a key of its own."""
        return "no audio"

    def describe(self) -> str:
        """Return ``"no audio"``."""
        return "no audio"


@dataclass(frozen=True)
class BytesAudio:
    """A clip as the bytes of an audio file, as Hub datasets store it.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        What to call the clip in messages.
    """

    data: bytes = field(repr=False)
    name: str = "audio bytes"

    def load(self) -> Waveform:
        """Decode the bytes; see `decode_audio`."""
        return decode_audio(self.data, name=self.name)

    def key(self) -> str:
        """Return the SHA-256 of the bytes (hex); equal to that of a file with the same content."""
        return hashlib.sha256(self.data).hexdigest()

    def describe(self) -> str:
        """Return the name."""
        return self.name
