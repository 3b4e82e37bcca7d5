"""What of a clip is compared between machines: a digest of its samples, and a coarse log spectrum.

The digest says whether two clips are the same samples. The spectrum says whether they sound alike: seven octave bands
in six equal parts of the clip, 42 bytes. Mel bands that are as few would put the F0 of every voice into one of them, so
the bands are octaves; see ``fingerprints.py`` for how far apart two renders of one clip, and two voices, lie.

>>> tone = (8000 * np.sin(np.arange(16_000) / 16_000 * 2 * np.pi * 90)).astype(np.int16)
>>> coarse_spectrum(tone).argmax(axis=1).tolist()                     # 90 Hz lies in the first octave, 60 to 120 Hz
[0, 0, 0, 0, 0, 0]
>>> loud, soft = coarse_spectrum(tone), coarse_spectrum(tone // 2)
>>> distance(loud, loud) < 0.5 < distance(loud, soft)
True
"""

from __future__ import annotations

import functools
import hashlib
import itertools

import numpy as np
from numpy.typing import NDArray

from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.mini.items import MiniAudio

__all__ = ["RATE", "Samples", "coarse_spectrum", "digest", "distance", "sixteen_bit"]

RATE = 16_000
_WINDOW, _HOP = 1024, 512
_EDGES_HZ = 60.0 * 2.0 ** np.arange(8)
_PARTS = 6
_FLOOR_DB, _STEPS_PER_DB = -70.0, 3.0  # a byte holds -70 to 15 dB in steps of a third

Samples = NDArray[np.int16]


def digest(samples: Samples) -> str:
    """Return the SHA-256 (hex) of 16-bit samples, little endian."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<i2").tobytes()).hexdigest()


def sixteen_bit(item: Item) -> Samples:
    """Return the clip of an item as 16-bit samples, shape (samples,), 16 kHz, synthesized or from a file."""
    if isinstance(item.audio, MiniAudio):
        return item.audio.samples()
    scaled = np.round(item.audio.load().astype(np.float64) * 32768)
    out: Samples = np.clip(scaled, -32768, 32767).astype(np.int16)
    return out


@functools.cache
def _bands() -> NDArray[np.float64]:
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / RATE)
    return np.array(
        [(frequencies >= a) & (frequencies < b) for a, b in itertools.pairwise(_EDGES_HZ)],
        dtype=np.float64,
    )


def coarse_spectrum(samples: Samples) -> NDArray[np.uint8]:
    """Return the coarse log spectrum of a clip.

    Parameters
    ----------
    samples : array, shape (samples,), int16
        At 16 kHz.

    Returns
    -------
    array, shape (6, 7), uint8
        Part of the clip by octave band; thirds of a dB above -70 dB re full scale, averaged over 64 ms frames.
    """
    wave = samples.astype(np.float64) / 32768
    wave = np.pad(wave, (0, max(0, _WINDOW + _HOP * (_PARTS - 1) - len(wave))))
    window = np.hanning(_WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP] * window
    power = np.abs(np.fft.rfft(frames)) ** 2 * (2 / (_WINDOW * np.sum(window**2)))
    level = 10 * np.log10(power @ _bands().T + 10 ** (_FLOOR_DB / 10))
    parts = np.array([part.mean(axis=0) for part in np.array_split(level, _PARTS)])
    out: NDArray[np.uint8] = np.clip(np.round((parts - _FLOOR_DB) * _STEPS_PER_DB), 0, 255).astype(np.uint8)
    return out


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the distance of two coarse spectra in dB: mean over bands, in the part where they differ most."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean(axis=1).max() / _STEPS_PER_DB)
