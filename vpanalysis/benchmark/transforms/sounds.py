"""Clips without their words, without their voice, or without either: what is done to the samples.

Why it exists. What a model makes of the words, and what of the voice, shows when one of the two is missing. Nobody can
take words out of speech and leave everything else as it was, so there are several ways, each with its own damage, and
a result is told together with the way it was got. Van Bezooijen and Boves (1986, J. Psycholinguistic Research 15,
403-417) and Friend and Farrar (1994, J. Acoust. Soc. Am. 96, 1283-1290) measured that such ways bias what listeners
hear.

Words absent::

    reversed       played backwards. F0, voice quality and long-term spectrum stay; every contour runs backwards.
                   Van Lancker, Kreiman and Emmorey 1985, "Familiar voice recognition: patterns and parameters, part I:
                   recognition of backward voices", J. Phonetics 13, 19-38.
    locally_reversed
                   cut into pieces of a quarter of a second that are played backwards where they are: what was first
                   stays first, so that nothing flips. Saberi and Perrott 1999, "Cognitive restoration of reversed
                   speech", Nature 398, 760.
    shuffled       cut into pieces that are put together in another order. Scherer 1971, "Randomized splicing: a note on
                   a simple technique for masking speech content", J. Experimental Research in Personality 5, 155-159.
    delexicalised  the excitation of the clip through the clip's own mean envelope, frame energies restored: F0, energy,
                   timing and long-term spectrum stay, the movement of the formants goes. After Ramus and Mehler 1999,
                   J. Acoust. Soc. Am. 105, 512-521, and Sonntag and Portele 1998 ("PURR"), Computer Speech and
                   Language 12, 437-451, who rebuilt the excitation; here it is the clip's own residual (Atal and
                   Hanauer 1971), so that creak and breath stay.
    lowpass        everything above 400 Hz removed, level restored. Starkweather 1956, "The communication-value of
                   content-free speech", American J. Psychology 69, 121-123; Rogers, Scherer and Rosenthal 1971,
                   Behavior Research Methods and Instrumentation 3, 16-18.

Voice absent::

    flattened      the envelopes of the clip, frame by frame, on a monotone pulse train (noise where the voice is
                   unvoiced) at one level: the words stay, pitch, loudness and voice quality go. The channel of an LPC
                   vocoder (Atal and Hanauer 1971, section VI) with its pitch and gain held fixed. The vocal tract's
                   size and the speed of speech stay: see the table of effects.

Neither::

    silence        zeros of the same length.

Names are joined by "+", from left to right: ``reversed+flattened`` has neither words nor voice, and sounds like speech.

What none of them shows: how the model would have answered to a person who says nothing. A transformed clip is also an
unusual one, and a model may answer to that, or hear nothing in it that it would hear in speech. And words may survive:
pieces hold short words whole (`shuffled`) or backwards (`reversed`, `locally_reversed`), which is enough for a model
that spots single words. Whether a reader still reads is measured by its share of claims, beside that on `silence`.

>>> wave = np.sin(np.arange(16_000) / 16_000 * 2 * np.pi * 200).astype(np.float32)
>>> TRANSFORMS["lowpass"].apply(wave, seed=0, cutoff_hz=400.0, order=4).shape
(16000,)
>>> TRANSFORMS["shuffled"].parameters
{'segment_s': 0.25, 'fade_s': 0.01, 'random_state': 0}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.signal import butter, lfilter, sosfiltfilt

from vpanalysis.benchmark.transforms._lpc import (
    RATE,
    all_pole,
    autocorrelations,
    equalised,
    frame_levels,
    levinson,
    periodicity,
    predictors,
    residual,
    resynthesis,
    spread,
    with_levels,
)

__all__ = [
    "TRANSFORMS",
    "VERSION",
    "Transform",
    "delexicalise",
    "flatten",
    "lowpass",
    "reverse",
    "reverse_locally",
    "shuffle",
    "silence",
]

VERSION = 1
"""Part of every key: raise it when a transform would give other samples than before."""

_EMPHASIS = 0.97  # first difference before the analysis: high formants are weak, and would be fitted last
_VOICED = 0.5  # least periodicity of a voiced frame
_QUIET_DB = -45.0  # below the loud frames of a clip: a pause

Wave = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """One way to change a clip.

    Attributes
    ----------
    name : str
    function : callable
        (wave, rng, **parameters) to wave, float64, the same length.
    removes : {"words", "voice", "both"}
        What is absent afterwards.
    """

    name: str
    function: Callable[..., Floats]
    removes: str

    @property
    def parameters(self) -> dict[str, float]:
        """Names and defaults of what can be set."""
        listed = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in listed if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def apply(self, wave: Wave, *, seed: int, **parameters: float) -> Wave:
        """Return the transformed clip: shape (samples,) as `wave`, float32, 16 kHz.

        Samples are not limited to [-1, 1]: scaling a clip down would change its level.

        Parameters
        ----------
        wave : array, shape (samples,), float32, 16 kHz
        seed : int
            Equal seeds give equal samples.
        **parameters : float
            See `parameters`.
        """
        made = self.function(np.asarray(wave, dtype=np.float64), np.random.default_rng(seed), **parameters)
        return np.ascontiguousarray(made, dtype=np.float32)


def reverse(wave: Floats, rng: np.random.Generator) -> Floats:
    """Return the clip backwards (Van Lancker et al. 1985)."""
    return wave[::-1]


def silence(wave: Floats, rng: np.random.Generator) -> Floats:
    """Return zeros."""
    return np.zeros_like(wave)


def shuffle(
    wave: Floats,
    rng: np.random.Generator,
    *,
    segment_s: float = 0.25,
    fade_s: float = 0.01,
    random_state: int = 0,
) -> Floats:
    """Return the clip in pieces, in a random order in which no piece follows the one that it used to follow.

    Parameters
    ----------
    wave : array, shape (samples,)
    rng : Generator
    segment_s : float
        Length of a piece in seconds (Scherer 1971 cut about four a second); the last one may be shorter.
    fade_s : float
        Length of the crossfade between pieces in seconds, of equal power.
    random_state : int
        Another number gives another order.

    Returns
    -------
    array, shape (samples,)
        A clip of one piece comes back as it was.
    """
    starts = np.arange(0, len(wave), _samples(segment_s))
    if len(starts) < 2:
        return wave
    return _pieces(wave, _samples(segment_s), fade_s, order=_order(len(starts), rng))


def reverse_locally(wave: Floats, rng: np.random.Generator, *, segment_s: float = 0.25, fade_s: float = 0.01) -> Floats:
    """Return the clip in pieces, each of them backwards in its old place.

    Parameters
    ----------
    wave : array, shape (samples,)
    rng : Generator
    segment_s : float
        Length of a piece in seconds. Listeners still understood speech in pieces of 0.05 s, half of it at 0.13 s, and
        none at 0.2 s (Saberi and Perrott 1999).
    fade_s : float
        Length of the crossfade between pieces in seconds, of equal power.

    Returns
    -------
    array, shape (samples,)
    """
    return _pieces(wave, _samples(segment_s), fade_s, backwards=True)


def _samples(seconds: float) -> int:
    return max(1, round(seconds * RATE))


def _pieces(
    wave: Floats, size: int, fade_s: float, *, order: NDArray[np.intp] | None = None, backwards: bool = False
) -> Floats:
    """Return a clip that was cut every `size` samples, put together again in `order`, with crossfades."""
    starts = np.arange(0, len(wave), size)
    half = min(round(fade_s * RATE / 2), size // 2)
    # Powers of the two sides of a joint add up to one: what meets there is unrelated.
    ramp = np.sin(np.pi / 2 * (np.arange(2 * half) + 0.5) / max(1, 2 * half))
    padded = np.pad(wave, half)
    out = np.zeros(len(wave) + 2 * half)
    position = 0
    for start in starts if order is None else starts[order]:
        length = min(size, len(wave) - start)
        part = padded[start : start + length + 2 * half].copy()
        part = part[::-1] if backwards else part
        part[: 2 * half] *= ramp
        part[len(part) - 2 * half :] *= ramp[::-1]
        out[position : position + len(part)] += part
        position += length
    return out[half : half + len(wave)]


def _order(count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return a uniformly random order without succession; there is one for every count above 1."""
    while True:  # more than a third of all orders will do
        order = rng.permutation(count)
        if not np.any(np.diff(order) == 1):
            return order


def delexicalise(wave: Floats, rng: np.random.Generator, *, order: int = 18, band_hz: float = 160.0) -> Floats:
    """Return the excitation of the clip through the clip's own mean envelope, with the energy contour of the clip.

    What linear prediction leaves of the formants in the residual can still be read (by the bundled mini-base, above
    chance), so the residual is equalised in bands as wide as the pitch or a multiple of it.

    Parameters
    ----------
    wave : array, shape (samples,)
    rng : Generator
    order : int
        Of the linear prediction: the sample rate in kHz plus two (Markel and Gray 1976, "Linear prediction of speech",
        section 6.5).
    band_hz : float
        Least width of a band in Hz.

    Returns
    -------
    array, shape (samples,)
    """
    bright = np.asarray(lfilter([1.0, -_EMPHASIS], [1.0], wave))
    # The mean of the autocorrelations is that of the power spectra: the long-term spectrum.
    mean = levinson(autocorrelations(bright, order).mean(axis=0, keepdims=True))[0]
    strength, f0 = periodicity(wave)
    pitch = median_filter(np.where(strength > _VOICED, f0, band_hz), size=5)
    # Smooth over 200 Hz, the prediction follows formants and not the harmonics of a high voice.
    excitation = residual(bright, predictors(bright, order, 200.0))
    excitation = equalised(excitation, pitch * np.ceil(band_hz / pitch))
    made = lfilter([1.0], [1.0, -_EMPHASIS], all_pole(excitation, mean))
    return with_levels(np.asarray(made), frame_levels(wave))


def lowpass(wave: Floats, rng: np.random.Generator, *, cutoff_hz: float = 400.0, order: int = 4) -> Floats:
    """Return the clip without what lies above `cutoff_hz`, at its old level.

    Parameters
    ----------
    wave : array, shape (samples,)
    rng : Generator
    cutoff_hz : float
        Where power is a quarter (the filter runs twice), in Hz.
    order : int
        Of the Butterworth filter; it runs forwards and backwards, so that nothing is delayed.

    Returns
    -------
    array, shape (samples,)
    """
    sections = butter(order, cutoff_hz, fs=RATE, output="sos")
    low = np.asarray(sosfiltfilt(sections, np.pad(wave, RATE // 10)))[RATE // 10 : RATE // 10 + len(wave)]
    return low * (_rms(wave) / max(_rms(low), 1e-9))


def flatten(
    wave: Floats,
    rng: np.random.Generator,
    *,
    f0_hz: float = 150.0,
    level: float = 0.05,
    order: int = 18,
    random_state: int = 0,
) -> Floats:
    """Return the words of the clip in a monotone voice of one loudness that is the same for all clips.

    Parameters
    ----------
    wave : array, shape (samples,)
    rng : Generator
    f0_hz : float
        The pitch of all voiced sounds; the period is a whole number of samples. The default lies between the voices of
        men and of women.
    level : float
        Root mean square of all frames that are no pause; the default is 26 dB below full scale, the nominal level of
        speech (ITU-T P.56).
    order : int
        Of the linear prediction.
    random_state : int
        Another number gives other noise in unvoiced sounds.

    Returns
    -------
    array, shape (samples,)
        Pauses (45 dB below the loud frames, and less) stay pauses.
    """
    bright = np.asarray(lfilter([1.0, -_EMPHASIS], [1.0], wave))
    filters = predictors(bright, order)
    levels = frame_levels(wave)
    loud = float(np.quantile(levels, 0.95))
    floor = max(loud * 10 ** (_QUIET_DB / 20), 1e-6)
    strength, _ = periodicity(wave)
    voiced = median_filter(((strength > _VOICED) & (levels > floor)).astype(np.float64), size=5)
    share = spread(voiced, len(wave))
    period = max(2, round(RATE / f0_hz))
    pulses = np.zeros(len(wave))
    pulses[::period] = np.sqrt(period)  # unit power, as the noise
    noise = rng.normal(size=len(wave))
    excitation = np.sqrt(share.clip(0, 1)) * pulses + np.sqrt(1 - share.clip(0, 1)) * noise
    made = np.asarray(lfilter([1.0], [1.0, -_EMPHASIS], resynthesis(excitation, filters)))
    wanted = level * np.minimum(1.0, levels / floor) if loud > 1e-6 else np.zeros_like(levels)
    return with_levels(made, wanted)


def _rms(wave: Floats) -> float:
    return float(np.sqrt(np.mean(wave**2))) if wave.size else 0.0


TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform("reversed", reverse, "words"),
        Transform("locally_reversed", reverse_locally, "words"),
        Transform("shuffled", shuffle, "words"),
        Transform("delexicalised", delexicalise, "words"),
        Transform("lowpass", lowpass, "words"),
        Transform("flattened", flatten, "voice"),
        Transform("silence", silence, "both"),
    )
}
"""All transforms by name."""
