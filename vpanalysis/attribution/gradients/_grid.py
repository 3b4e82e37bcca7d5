"""What the cells of a map are: frames with seconds, mel bins with hertz, tokens with their text.

An attribution has one number a *cell*. At the log-mel input a cell is a mel bin of a frame, at audio sites a frame, at
text sites a token. For a person (and for removing things) single cells are too small, so cells are gathered into

* *blocks*: windows of equal length in seconds, at the log-mel input times bands of mel bins; each text token alone,
  audio tokens behind the clip together;
* *segments*: so many equal parts of the clip, whatever its length; question, options and answer are one each.

>>> grid = Grid((5,), 0.08, np.ones(5, dtype=bool))
>>> grid.blocks(0.16).tolist(), grid.segments(2).tolist()
([0, 0, 1, 1, 2], [0, 0, 0, 1, 1])
>>> gathered(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), grid.segments(2)).tolist()
[6.0, 9.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis.errors import RunError
from vpanalysis.stats import BoolArray, FloatArray, IntArray

__all__ = ["Grid", "gathered", "mel_hz", "scattered"]


@dataclass(frozen=True)
class Grid:
    """The cells of one item's map.

    Attributes
    ----------
    shape : tuple of int
        (position,), or (mel bin, frame) at the log-mel input.
    step_s : float
        Seconds between frames, or between audio tokens.
    audio : array, shape (position,), bool
        Which positions are audio; all but at text sites.
    tokens, spans : tuple of str
        At text sites the text of every token, and what it belongs to: audio, question, options or answer, and silence
        for audio tokens behind the clip, of which some families have many.
    """

    shape: tuple[int, ...]
    step_s: float
    audio: BoolArray
    tokens: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``"mel_time"``, ``"time"`` or ``"token"``."""
        return "mel_time" if len(self.shape) == 2 else "token" if self.tokens else "time"

    def frames_of(self, window_s: float) -> int:
        """Return how many frames a window of so many seconds has, at least one."""
        return max(1, round(window_s / self.step_s))

    def bins_of(self, mel_bands: int) -> int:
        """Return how many mel bins a band has, of so many bands."""
        return -(-self.shape[0] // mel_bands)

    def blocks(self, window_s: float, mel_bands: int = 1) -> IntArray:
        """Return the number of each cell's block, counted from 0.

        Parameters
        ----------
        window_s : float
            Length of a window, in seconds.
        mel_bands : int
            Bands of mel bins; at the log-mel input alone.

        Returns
        -------
        array, shape of the cells, int64
        """
        windows = np.arange(int(self.audio.sum())) // self.frames_of(window_s)
        if self.kind == "mel_time":
            bands = np.arange(self.shape[0]) // self.bins_of(mel_bands)
            return (bands[:, None] * (int(windows.max()) + 1) + windows[None, :]).astype(np.int64)
        out = np.zeros(self.shape, dtype=np.int64)
        out[self.audio] = windows
        silent = np.array([span == "silence" for span in self.spans] or [False] * len(self.audio), dtype=bool)
        said = ~self.audio & ~silent
        first = int(windows.max(initial=-1)) + 1
        out[said] = first + np.arange(int(said.sum()))
        out[~self.audio & silent] = first + int(said.sum())
        return out

    def segments(self, count: int) -> IntArray:
        """Return the number of each cell's segment: `count` equal parts of the clip, then the spans of text.

        A clip of fewer frames has as many segments as frames.

        Returns
        -------
        array, shape of the cells, int64
        """
        length = int(self.audio.sum())
        parts = min(count, length)
        inside = np.arange(length) * parts // max(length, 1)
        if self.kind == "mel_time":
            return np.broadcast_to(inside, self.shape).astype(np.int64)
        out = np.zeros(self.shape, dtype=np.int64)
        out[self.audio] = inside
        have = [name for name in dict.fromkeys(self.spans) if name != "audio"]
        for number, name in enumerate(have):
            out[np.array([span == name for span in self.spans])] = parts + number
        return out


def gathered(values: FloatArray, groups: IntArray) -> FloatArray:
    """Return the sum of values over each group, shape (group,)."""
    return np.bincount(groups.ravel(), weights=np.asarray(values, dtype=np.float64).ravel()).astype(np.float64)


def scattered(sums: FloatArray, groups: IntArray) -> FloatArray:
    """Return values for cells: each group's sum divided evenly over its cells; the reverse of :func:`gathered`."""
    sizes = np.bincount(groups.ravel(), minlength=len(sums))
    return np.asarray(np.asarray(sums, dtype=np.float64)[groups] / sizes[groups], dtype=np.float64)


_LINEAR = 200.0 / 3.0
"""Hertz a mel below 1 kHz, where 15 mels are (Slaney 1998, "Auditory Toolbox")."""
_STEP = np.log(6.4) / 27.0
"""Log-hertz a mel above it."""


def mel_hz(extractor: Any) -> NDArray[np.float64]:
    """Return the edges between mel bins, in hertz.

    Parameters
    ----------
    extractor : WhisperFeatureExtractor
        Its bins are triangles between 0 Hz and half the sampling rate, evenly spaced on Slaney's mel scale.

    Returns
    -------
    array, shape (bin + 2,), float64
        Bin k reaches from edge k to edge k + 2 and is centred at edge k + 1.

    Raises
    ------
    RunError
        For features that are not log-mel.
    """
    bins = getattr(extractor, "feature_size", None)
    if not bins or not hasattr(extractor, "mel_filters"):
        raise RunError("cannot tell frequencies", found=type(extractor).__name__, allowed="log-mel features")
    top = 15.0 + np.log(extractor.sampling_rate / 2 / 1000.0) / _STEP
    mels = np.linspace(0.0, top, int(bins) + 2)
    return np.asarray(np.where(mels < 15.0, mels * _LINEAR, 1000.0 * np.exp(_STEP * (mels - 15.0))), dtype=np.float64)
