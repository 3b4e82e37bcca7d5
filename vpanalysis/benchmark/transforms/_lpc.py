"""Source and filter: linear prediction over short frames, and the way back.

Why it exists. Words live in how the *envelope* of the spectrum (the vocal tract) moves; pitch, creak and breath live in
the *excitation* (the larynx); loudness lives in the energy of the frames. To take one away and keep the others, a clip
is taken apart into the three.

The idea. A frame of speech is an excitation sent through an all-pole filter 1/A(z) (Atal and Hanauer 1971, "Speech
analysis and synthesis by linear prediction of the speech wave", J. Acoust. Soc. Am. 50, 637-655). A is found from the
autocorrelation of the frame by the recursion of Levinson and Durbin (Makhoul 1975, "Linear prediction: a tutorial
review", Proc. IEEE 63, 561-580). Sending the frame through A(z) leaves the excitation, called the residual; sending any
excitation through 1/A(z) puts the envelope back. Frames overlap by three quarters under Hann windows, whose sum is
constant, so with one filter for all frames what is taken apart and put together again is the clip itself. With filters
that move it is so nearly: a filter rings on into the next frame.

>>> rng = np.random.default_rng(0)
>>> wave = lfilter([1.0], [1.0, -0.9], rng.normal(size=4000))          # noise with a tilt
>>> filters = predictors(wave, order=4)
>>> bool(abs(filters[:, 1].mean() + 0.9) < 0.05)                        # the tilt is found
True
>>> bool(residual(wave, filters).var() < 0.3 * wave.var())              # the excitation is what cannot be predicted
True
>>> one = np.broadcast_to(filters[5], filters.shape)                    # one filter for all frames
>>> bool(np.allclose(resynthesis(residual(wave, one), one), wave, atol=1e-6))
True
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

__all__ = [
    "FRAME",
    "HOP",
    "all_pole",
    "autocorrelations",
    "equalised",
    "frame_levels",
    "levinson",
    "periodicity",
    "predictors",
    "residual",
    "resynthesis",
    "spread",
    "with_levels",
]

RATE = 16_000
FRAME, HOP = 512, 128  # samples: 32 ms every 8 ms
_RINGING = 2048  # FFT length of a synthesized frame: 96 ms for a filter to fade
_WIDENED_HZ = 60.0  # keeps formants from locking on to single harmonics of a high voice
_LONG = 800  # 50 ms: more than two periods of the lowest voice, for periodicity
_F0_HZ = (45.0, 600.0)

Floats = NDArray[np.float64]


def _hann(size: int) -> Floats:
    """Return the periodic Hann window, whose copies a quarter apart sum to 2."""
    window: Floats = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return window


def _frames(wave: Floats, size: int = FRAME) -> Floats:
    """Return windowed frames, shape (frames, size); frame k of any size has the same middle."""
    lead = size // 2 + FRAME // 2 - HOP
    count = (len(wave) - 1 + FRAME - HOP) // HOP + 1
    padded = np.zeros((count - 1) * HOP + lead + size)
    padded[lead : lead + len(wave)] = wave[: len(padded) - lead]
    cut = np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][:count]
    return np.asarray(cut * _hann(size))


def _overlap_add(frames: Floats, length: int, lead: int = 0) -> Floats:
    """Sum frames, shape (frames, multiple of HOP), each HOP after the one before, to (length,) samples.

    `lead` is the number of samples that a frame holds before its own start.
    """
    count, size = frames.shape
    blocks = np.zeros((count + size // HOP - 1, HOP))
    for part in range(size // HOP):
        blocks[part : part + count] += frames[:, part * HOP : (part + 1) * HOP]
    start = FRAME - HOP + lead
    summed = blocks.reshape(-1)[start : start + length] / 2  # the windows sum to 2
    return np.pad(summed, (0, length - len(summed)))


def autocorrelations(wave: Floats, order: int) -> Floats:
    """Return the autocorrelation of each windowed frame, shape (frames, order + 1), lags 0 to `order`."""
    spectra = np.abs(np.fft.rfft(_frames(wave), 2 * FRAME)) ** 2
    return np.asarray(np.fft.irfft(spectra)[:, : order + 1])


def levinson(correlations: Floats, widened_hz: float | Floats = _WIDENED_HZ) -> Floats:
    """Return prediction error filters by the recursion of Levinson and Durbin, all frames at once.

    Parameters
    ----------
    correlations : array, shape (frames, order + 1)
    widened_hz : float or array, shape (frames,)
        Width of the Gaussian with which the spectrum is smoothed first (a lag window; Tohkura, Itakura and Hashimoto
        1978, IEEE Trans. ASSP 26, 587-596), in Hz: the wider, the less a filter follows single harmonics.

    Returns
    -------
    array, shape (frames, order + 1)
        Coefficients of A(z), the first one 1; minimum phase, so that 1/A(z) is stable. A silent frame gives A = 1.
    """
    lags = np.arange(correlations.shape[1])
    width = np.atleast_1d(widened_hz)[:, None]
    tamed = correlations * np.exp(-0.5 * (2 * np.pi * width * lags / RATE) ** 2)
    tamed[:, 0] *= 1 + 1e-9  # a floor of white noise 90 dB below: no division by zero
    filters = np.zeros_like(tamed)
    filters[:, 0] = 1.0
    silent = tamed[:, 0] <= 1e-12
    error = np.where(silent, 1.0, tamed[:, 0])
    for m in range(1, tamed.shape[1]):
        reflection = -np.einsum("ij,ij->i", filters[:, :m], tamed[:, m:0:-1]) / error
        reflection[silent] = 0.0
        filters[:, 1 : m + 1] += reflection[:, None] * filters[:, m - 1 :: -1][:, :m]
        error *= 1 - reflection**2
    return filters


def predictors(wave: Floats, order: int, widened_hz: float | Floats = _WIDENED_HZ) -> Floats:
    """Return the prediction error filter of each frame of `wave`, shape (frames, order + 1); see `levinson`."""
    return levinson(autocorrelations(wave, order), widened_hz)


def residual(wave: Floats, filters: Floats) -> Floats:
    """Return the excitation of `wave`, shape (samples,): every frame sent through its own A(z)."""
    spectra = np.fft.rfft(_frames(wave), 2 * FRAME) * np.fft.rfft(filters, 2 * FRAME)
    return _overlap_add(np.asarray(np.fft.irfft(spectra)), len(wave))


def resynthesis(excitation: Floats, filters: Floats) -> Floats:
    """Return an excitation, shape (samples,), with the envelopes of `filters` put on: frames sent through 1/A(z)."""
    spectra = np.fft.rfft(_frames(excitation), _RINGING) / np.fft.rfft(filters, _RINGING)
    return _overlap_add(np.asarray(np.fft.irfft(spectra)), len(excitation))


def equalised(wave: Floats, band_hz: Floats) -> Floats:
    """Return `wave` with the same energy in all bands of each frame.

    Linear prediction follows peaks and misses valleys, and what it misses can be read. A band as wide as the pitch (or
    a multiple) always holds the same number of harmonics, so that equal energy in all bands leaves harmonics and noise
    as they are and nothing of the envelope. Zero phase.

    Parameters
    ----------
    wave : array, shape (samples,)
    band_hz : array, shape (frames,)
        Width of the sliding band, in Hz.

    Returns
    -------
    array, shape (samples,)
    """
    frames, size, lead = _frames(wave), 2 * FRAME, FRAME // 2
    spectra = np.fft.rfft(np.pad(frames, ((0, 0), (lead, lead))))
    power = np.abs(spectra) ** 2
    bins = power.shape[1]
    width = np.clip(np.round(band_hz * size / RATE).astype(int), 1, bins)[:, None]
    # At both ends the band stops sliding: below the first harmonic there is nothing to measure.
    first = np.clip(np.arange(bins) - width // 2, 0, bins - width)
    sums = np.concatenate([np.zeros((len(power), 1)), np.cumsum(power, axis=1)], axis=1)
    mean = (np.take_along_axis(sums, first + width, 1) - np.take_along_axis(sums, first, 1)) / width
    mean = np.maximum(mean, 1e-4 * power.mean(axis=1, keepdims=True) + 1e-14)  # no more than 40 dB up
    return _overlap_add(np.asarray(np.fft.irfft(spectra / np.sqrt(mean))), len(wave), lead)


def all_pole(excitation: Floats, filter_: Floats) -> Floats:
    """Return an excitation, shape (samples,), sent through one 1/A(z) for the whole clip."""
    return np.asarray(lfilter([1.0], filter_, excitation))


def frame_levels(wave: Floats) -> Floats:
    """Return the root mean square of each windowed frame, shape (frames,)."""
    return np.asarray(np.sqrt(np.mean(_frames(wave) ** 2, axis=1) / np.mean(_hann(FRAME) ** 2)))


def spread(values: Floats, length: int) -> Floats:
    """Return a value a frame as a value a sample, shape (length,), smoothly between frames."""
    return _overlap_add(values[:, None] * _hann(FRAME), length)


def with_levels(wave: Floats, levels: Floats, passes: int = 3) -> Floats:
    """Return `wave` with the energy contour of another clip.

    Parameters
    ----------
    wave : array, shape (samples,)
    levels : array, shape (frames,)
        The wanted `frame_levels`.
    passes : int
        The gain is smooth, the contour need not be: what one pass misses the next one corrects.

    Returns
    -------
    array, shape (samples,)
    """
    for _ in range(passes):
        now = frame_levels(wave)
        # Where there is nothing to amplify, silence stays: at most 60 dB.
        gain = np.minimum(levels / np.maximum(now, 1e-7), 1e3)
        wave = wave * spread(gain, len(wave))
    return wave


def periodicity(wave: Floats) -> tuple[Floats, Floats]:
    """Return how periodic each frame is, and with which period.

    By the normalised autocorrelation, corrected for the window (Boersma 1993, "Accurate short-term analysis of the
    fundamental frequency and the harmonics-to-noise ratio of a sampled sound", Proc. Inst. Phonetic Sciences
    Amsterdam 17, 97-110), from 45 to 600 Hz, without his path search.

    Returns
    -------
    strength : array, shape (frames,)
        From 0 (noise, silence) to about 1 (a steady voice).
    f0 : array, shape (frames,), Hz
        Meaningful where `strength` is high. The shortest period within a tenth of the best one is taken.
    """
    size = 2048
    correlation = np.fft.irfft(np.abs(np.fft.rfft(_frames(wave, _LONG), size)) ** 2)
    own = np.fft.irfft(np.abs(np.fft.rfft(_hann(_LONG), size)) ** 2)
    first, last = int(RATE / _F0_HZ[1]), int(RATE / _F0_HZ[0])
    power = correlation[:, :1]
    shape = correlation[:, first - 1 : last + 2] / np.maximum(power, 1e-9) / (own[first - 1 : last + 2] / own[0])
    middle = shape[:, 1:-1]
    peaks = (middle >= shape[:, :-2]) & (middle >= shape[:, 2:])
    heights = np.where(peaks, middle, 0.0)
    best = heights.max(axis=1)
    chosen = np.argmax(heights >= 0.9 * best[:, None], axis=1)
    return np.clip(best, 0.0, 1.0), RATE / (first + chosen)
