"""What is asked of an audio file before memory is taken for it.

Why it exists. Clips are files that nobody checked. A header of a few bytes can promise ten hours, a path can name a
pipe that never ends, and of a WAV file that was cut off libsndfile decodes the first half without a word.

The idea. A clip is opened only when it is a regular file, judged by its header, and decoded when it passes: not longer
than `MAX_SECONDS`, at a rate within `RATES`, not shorter than its header says. The limit is on the length *and* on the
values of all channels, so that what is decoded at once stays under 1.4 GB by default. Whoever has longer clips sets
``VPANALYSIS_MAX_CLIP_S``; worker processes inherit it.

Worked example::

    decoded(open("clip.wav", "rb"), "clip.wav", size)    # samples (n, channels), rate
    read_clip(Path("pipe.wav"), "pipe.wav")               # AudioError: found a named pipe instead of a file

What it cannot show: that a compressed file without a count of its samples was cut off between two packets.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vpanalysis._untrusted import open_regular
from vpanalysis.errors import AudioError

__all__ = ["MAX_SECONDS", "RATES", "check_length", "decoded", "header_of", "not_the_clip", "read_clip", "reason_of"]

MAX_SECONDS = 3600.0
"""Longest clip that is decoded (s), unless the environment variable ``VPANALYSIS_MAX_CLIP_S`` says otherwise."""

RATES = (1_000, 768_000)
"""Lowest and highest sample rate of a clip (Hz): what lies outside is a broken header, not speech."""

_LIMIT = "VPANALYSIS_MAX_CLIP_S"
# Values a second that the limit makes room for: 48 kHz in two channels. More channels or a higher rate may be shorter.
_VALUES_PER_SECOND = 96_000
# Below this size (bytes) a file is read before its header is looked at.
_SMALL = 1 << 24
# Sizes that programs write into a WAV header when they do not know how long a stream will be.
_UNKNOWN_SIZE = 0x7FFFF000


def decoded(file: BinaryIO, label: str, size: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return samples (samples, channels) and rate of an open file of so many bytes."""
    import soundfile

    try:
        with soundfile.SoundFile(file) as sound:
            rate = int(sound.samplerate)
            check_length(sound.frames, rate, sound.channels, label)
            samples = sound.read(dtype="float32", always_2d=True)
            missing = sound.frames - len(samples) if sound.format == "FLAC" else 0
    # libsndfile's own errors derive from RuntimeError; a malformed header can also surface as one of the others.
    except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        raise _undecodable(error, label) from error
    promised, there = _data_of_wav(file, size) if sound.format in ("WAV", "WAVEX") else (0, 0)
    if promised > there or missing > 0:
        found = f"{there} of {promised} bytes of sound" if promised > there else f"{missing} samples too few"
        raise AudioError(f"cannot use the audio {label!r}", found=f"a file that was cut off ({found})",
                         fix="fetch it again")  # fmt: skip
    return samples, rate


def _undecodable(error: Exception, label: str) -> AudioError:
    # Of an error of libsndfile its own words, without the address of our buffer.
    reason = str(getattr(error, "error_string", error)).replace("\n", " ") or type(error).__name__
    return AudioError(
        f"cannot decode the audio {label!r}",
        found=reason,
        allowed="WAV, FLAC, Ogg, MP3 and whatever else libsndfile reads",
    )


def _data_of_wav(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return how many bytes of sound a WAV file's header promises, and how many follow it; twice 0 where unknown."""
    file.seek(0)
    place, head = 12, file.read(12)
    while head[:4] == b"RIFF" and place + 8 <= size:
        file.seek(place)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return (0, 0) if length >= _UNKNOWN_SIZE else (length, size - place - 8)
        place += 8 + length + length % 2
    return 0, 0


def _max_seconds() -> float:
    """Return the longest duration of a clip in seconds: `MAX_SECONDS`, or what the environment says."""
    text = os.environ.get(_LIMIT)
    if not text:
        return MAX_SECONDS
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise AudioError("cannot limit the length of clips", found=f"{_LIMIT}={text!r}", allowed="seconds above 0")
    return limit


def check_length(frames: int, rate: int, channels: int, label: str) -> None:
    """Refuse what is too long, before memory is taken for it."""
    low, high = RATES
    if not low <= rate <= high:
        raise AudioError(f"cannot use the audio {label!r}", found=f"a sample rate of {rate} Hz",
                         allowed=f"{low} to {high} Hz")  # fmt: skip
    limit = _max_seconds()
    if frames > limit * rate or frames * channels > limit * _VALUES_PER_SECOND:
        many = f" in {channels} channels at {rate} Hz" if frames <= limit * rate else ""
        raise AudioError(
            f"cannot use the audio {label!r}",
            found=f"{_duration(frames / rate)}{many}",
            allowed=f"at most {_duration(limit)}" + (" at 48 kHz in two channels" if many else ""),
            fix=f"cut it into clips, or raise the limit by the environment variable {_LIMIT} (in seconds)",
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.4g} h" if seconds >= 3600 else f"{seconds:.4g} s"


def read_clip(path: Path, label: str) -> bytes:
    try:
        with open_regular(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            if size > _SMALL:
                _check_header(handle, label)
                if size > 4 * _max_seconds() * _VALUES_PER_SECOND + _SMALL:
                    raise AudioError(f"cannot use the audio {label!r}", found=f"a file of {size / 1e9:.3g} GB",
                                     fix=f"raise the limit by the environment variable {_LIMIT}")  # fmt: skip
                handle.seek(0)
            return handle.read()
    except FileNotFoundError as error:
        raise AudioError(
            f"cannot read the audio {label!r}", found="no such file", fix="check audio_root, or fetch the clips"
        ) from error
    # A path with a NUL byte, as broken tables hold them, is a ValueError.
    except (OSError, ValueError) as error:
        not_the_clip(error)
        raise AudioError(f"cannot read the audio {label!r}", found=reason_of(error)) from error


def _check_header(handle: BinaryIO, label: str) -> None:
    info = header_of(handle, label)
    check_length(info.frames, int(info.samplerate), info.channels, label)


def header_of(handle: BinaryIO, label: str) -> Any:
    import soundfile

    try:
        return soundfile.info(handle)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise _undecodable(error, label) from error


def not_the_clip(error: Exception) -> None:
    """Raise an error again that is the process's and not the clip's: no item is marked failed for good by it."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise error


def reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
