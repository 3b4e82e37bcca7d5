"""A clip as it is heard and seen: WAV bytes, a log-mel spectrogram in bytes, and both as a static picture.

Why it exists. A browser plays files and draws pixels; a Run has samples. What goes between them should be small (it is
sent again with every item), the same in the live player and in the saved notebook, and made in a few milliseconds.

The idea. Samples become a 16-bit WAV file in memory. The spectrogram is that of Whisper's front end (windows of 25 ms,
triangles on Slaney's mel scale, logarithms) but with 60 dB below its loudest cell black, one byte a cell, and columns
averaged where a clip is long. The static picture is SVG written by hand, with the spectrogram inside as a PNG: no
kernel, no script, no network.

What it cannot show: what a model receives. Models resample, pad and normalise by their own rules; maps over a model's
own features come with the frames of that model.

>>> clip = Clip("tone", np.sin(np.arange(8000) * 2 * np.pi * 440 / 16_000).astype(np.float32))
>>> clip.seconds, clip.mel.shape, clip.mel.dtype.name
(0.5, (80, 51), 'uint8')
"""

from __future__ import annotations

import base64
import functools
import struct
import zlib
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from vpanalysis.benchmark.audio import SAMPLE_RATE

__all__ = ["MOST_HZ", "Clip", "Track", "hz_to_mel", "map_track", "palette", "png", "static_html", "ticks", "wav_bytes"]

MOST_HZ = SAMPLE_RATE / 2
"""Upper edge of every spectrogram."""

_BINS, _WINDOW, _HOP, _FFT = 80, 400, 160, 512
_COLUMNS = 800
"""Most columns of a picture: no screen shows more."""
_AUDIO_BYTES = 300_000
"""Clips up to so many bytes are kept, playable, in the static twin."""
_NAMED_HZ = (0, 500, 1000, 2000, 4000, 8000)
_TRUTH, _CLAIM = np.array([0x00, 0x72, 0xB2]), np.array([0xD5, 0x5E, 0x00])

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def wav_bytes(wave: NDArray[np.float32]) -> bytes:
    """Return a clip as a WAV file: 16 bits, mono, 16 kHz; samples beyond one are clipped.

    Parameters
    ----------
    wave : array, shape (samples,), float32
    """
    data = (np.clip(wave, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def hz_to_mel(hz: float | Floats) -> Floats:
    """Return Slaney's mels: 15 a kilohertz below 1 kHz, logarithmic above (Slaney 1998, "Auditory Toolbox")."""
    hz = np.asarray(hz, dtype=np.float64)
    above = 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) * 27.0 / np.log(6.4)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, above)


def _mel_to_hz(mel: Floats) -> Floats:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def ticks(low_hz: float = 0.0, high_hz: float = MOST_HZ) -> list[tuple[str, float]]:
    """Return frequencies to name between two edges, each with its height as a share of the picture."""
    low, high = float(hz_to_mel(low_hz)), float(hz_to_mel(high_hz))
    at = [(hz, (float(hz_to_mel(float(hz))) - low) / (high - low)) for hz in _NAMED_HZ if low_hz <= hz <= high_hz]
    return [(f"{hz // 1000} kHz" if hz >= 1000 else f"{hz} Hz", share) for hz, share in at]


@functools.cache
def _triangles() -> Floats:
    edges = _mel_to_hz(np.linspace(0.0, float(hz_to_mel(MOST_HZ)), _BINS + 2))
    at = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    rise = (at - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - at) / np.diff(edges)[1:, None]
    return np.maximum(0.0, np.minimum(rise, fall)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _log_mel(wave: NDArray[np.float32]) -> Bytes:
    padded = np.pad(np.asarray(wave, dtype=np.float64), _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW + 1)[:-1]
    # Blocks, so that an hour of sound needs no more memory than a minute.
    parts = [np.abs(np.fft.rfft(frames[k : k + 2000] * window, _FFT)) ** 2 for k in range(0, len(frames), 2000)]
    mel = _triangles() @ np.concatenate(parts).T
    together = -(-mel.shape[1] // _COLUMNS)
    if together > 1:
        starts = np.arange(0, mel.shape[1], together)
        mel = np.add.reduceat(mel, starts, axis=1) / np.diff([*starts, mel.shape[1]])
    logs = np.log10(np.maximum(mel, 1e-10))
    # Silence stays black: a clip without sound has no loudest cell to be measured by.
    top = max(float(logs.max()), -2.0)
    out: Bytes = np.clip((logs - top + 6.0) * (255.0 / 6.0), 0, 255).astype(np.uint8)
    return out


@dataclass(frozen=True)
class Clip:
    """Samples and what is made of them, each once.

    Attributes
    ----------
    name : str
        Of the item.
    wave : array, shape (samples,), float32
        16 kHz, mono.
    """

    name: str
    wave: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.wave) / SAMPLE_RATE

    @functools.cached_property
    def wav(self) -> bytes:
        """The clip as a WAV file."""
        return wav_bytes(self.wave)

    @functools.cached_property
    def mel(self) -> Bytes:
        """Log-mel spectrogram, shape (bin, column), uint8: 255 is the loudest cell, 0 is 60 dB below it or less."""
        return _log_mel(self.wave)

    @functools.cached_property
    def envelope(self) -> Floats:
        """Lowest and highest sample of equal parts of the clip, shape (2, column)."""
        starts = np.unique(np.linspace(0, len(self.wave), min(_COLUMNS // 2, len(self.wave)) + 1).astype(int)[:-1])
        low, high = np.minimum.reduceat(self.wave, starts), np.maximum.reduceat(self.wave, starts)
        return np.stack([low, high]).astype(np.float64)


@dataclass(frozen=True)
class Track:
    """A series that runs with the sound, drawn under the clip.

    Attributes
    ----------
    name : str
        What it is, with its unit.
    step_s : float
        Seconds between values.
    values : array, shape (time,)
        Positive towards the truth, negative towards the claims. Of a map, the sum over frequencies.
    unit : str
    image : array, shape (bin, time, 3), uint8, optional
        The picture of a map, lowest frequency first.
    low_hz, high_hz : float
        Edges of the image.
    most : float
        Of a map, the absolute value that has the full colour.
    """

    name: str
    step_s: float
    values: Floats
    unit: str = "nats"
    image: Bytes | None = None
    low_hz: float = 0.0
    high_hz: float = MOST_HZ
    most: float = 0.0


def map_track(
    name: str, values: Floats, step_s: float, clip: Clip, *, low_hz: float = 0.0, high_hz: float = MOST_HZ
) -> Track:
    """Return a time by frequency map laid over the clip's spectrogram in grey: blue positive, orange negative.

    Parameters
    ----------
    name : str
    values : array, shape (bin, time)
        Nats, lowest frequency first, bins evenly spaced on the mel scale.
    step_s : float
        Seconds between columns.
    clip : Clip
    low_hz, high_hz : float
        Edges of the bins, in hertz.
    """
    values = np.asarray(values, dtype=np.float64)
    bins, frames = values.shape
    # A few extreme cells would leave the rest without colour.
    most = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    strength = np.clip(np.abs(values) / most, 0.0, 1.0)[..., None] ** 0.7
    whole = float(hz_to_mel(MOST_HZ))
    edges = np.linspace(float(hz_to_mel(low_hz)), float(hz_to_mel(high_hz)), bins + 1)
    rows = np.clip((edges[:-1] + edges[1:]) / 2 / whole * _BINS, 0, _BINS - 1).astype(int)
    at = (np.arange(frames) + 0.5) * step_s / max(clip.seconds, 1e-9) * clip.mel.shape[1]
    columns = np.clip(at, 0, clip.mel.shape[1] - 1).astype(int)
    ground = 255.0 - 0.55 * clip.mel[rows][:, columns].astype(np.float64)[..., None]
    hue = np.where(values[..., None] > 0, _TRUTH, _CLAIM)
    image: Bytes = (ground * (1 - strength) + hue * strength).astype(np.uint8)
    return Track(name, step_s, values.sum(axis=0), "nats", image, low_hz, high_hz, most)


@functools.cache
def palette() -> Bytes:
    """Return the colours of loudness, shape (256, 3), uint8: magma, whose lightness rises evenly."""
    from matplotlib import colormaps

    out: Bytes = (colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return out


def png(image: Bytes) -> bytes:
    """Return an image of shape (row, column, 3), uint8, first row on top, as a PNG file."""
    rows, columns, _ = image.shape
    raw = np.zeros((rows, 1 + 3 * columns), dtype=np.uint8)  # each row starts with its filter: none
    raw[:, 1:] = image.reshape(rows, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(raw.tobytes(), 6)) + chunk(b"IEND", b"")


# The static picture ---------------------------------------------------------------------------------------------------

_WIDE, _LEFT, _GAP = 720, 56, 24
_TEXT = "font-family='sans-serif' font-size='11' fill='#333'"


def _image(image: Bytes, y: float, height: float, width: float) -> str:
    data = base64.b64encode(png(image[::-1])).decode()
    return (
        f"<image x='{_LEFT}' y='{y}' width='{width:.1f}' height='{height}' preserveAspectRatio='none' "
        f"href='data:image/png;base64,{data}'/>"
    )


def _hertz(y: float, height: float, low: float, high: float) -> str:
    return "".join(
        f"<text x='{_LEFT - 5}' y='{y + height * (1 - share) + 4:.1f}' text-anchor='end' {_TEXT}>{name}</text>"
        for name, share in ticks(low, high)
    )


def _bars(track: Track, y: float, height: float, scale: float) -> str:
    most = max(float(np.abs(track.values).max(initial=0.0)), 1e-12)
    middle, out = y + height / 2, []
    for number, value in enumerate(track.values):
        tall = abs(float(value)) / most * height / 2
        if tall < 0.05:
            continue
        top, colour = (middle - tall, "#0072b2") if value > 0 else (middle, "#c65300")
        x, wide = _LEFT + number * track.step_s * scale, max(track.step_s * scale - 0.3, 0.3)
        out.append(f"<rect x='{x:.1f}' y='{top:.1f}' width='{wide:.1f}' height='{tall:.1f}' fill='{colour}'/>")
    digits = 0 if most >= 100 else 2 if most >= 1 else 4
    right = f"x1='{_LEFT}' x2='{_WIDE - 8}'"
    names = "".join(
        f"<text x='{_LEFT - 5}' y='{at:.1f}' text-anchor='end' {_TEXT}>{value:+.{digits}f}</text>"
        for at, value in ((y + 9, most), (y + height, -most))
    )
    return f"<line {right} y1='{middle}' y2='{middle}' stroke='#777'/>{''.join(out)}{names}"


def _svg(clip: Clip, tracks: tuple[Track, ...]) -> str:
    width = _WIDE - _LEFT - 8
    scale = width / max(clip.seconds, 1e-9)
    low, high = clip.envelope
    most = max(float(np.abs(clip.envelope).max(initial=0.0)), 1e-4)
    x = _LEFT + np.arange(len(low)) / len(low) * width
    edge = [*zip(x, 44 - high / most * 26, strict=True), *zip(x[::-1], 44 - low[::-1] / most * 26, strict=True)]
    shape = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
    body = [f"<text x='{_LEFT}' y='12' {_TEXT}>waveform</text><polygon points='{shape}' fill='#555' stroke='#555'/>"]
    y = 74.0 + 14
    body.append(f"<text x='{_LEFT}' y='{y - 4}' {_TEXT}>log-mel spectrogram</text>")
    body.append(_image(palette()[clip.mel], y, 110, width) + _hertz(y, 110, 0.0, MOST_HZ))
    y += 110 + _GAP
    for track in tracks:
        body.append(f"<text x='{_LEFT}' y='{y - 5}' {_TEXT}>{escape(track.name)}</text>")
        tall = 60.0 if track.image is None else 110.0
        if track.image is None:
            body.append(_bars(track, y, tall, scale))
        else:
            shown = min(len(track.values) * track.step_s * scale, width)
            body.append(_image(track.image, y, tall, shown) + _hertz(y, tall, track.low_hz, track.high_hz))
        y += tall + _GAP
    y -= _GAP - 14
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600) if clip.seconds / s <= 12)
    body += [
        f"<text x='{_LEFT + at * scale:.1f}' y='{y}' text-anchor='middle' {_TEXT}>{at:g}</text>"
        for at in np.arange(0.0, clip.seconds + 1e-9, step)
    ]
    body.append(f"<text x='{_WIDE - 8}' y='{y + 13}' text-anchor='end' {_TEXT}>time in s</text>")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDE} {y + 18:.0f}' width='{_WIDE}'>"
        f"{''.join(body)}</svg>"
    )


def static_html(clip: Clip, tracks: tuple[Track, ...] = ()) -> str:
    """Return the clip as HTML that needs no kernel: playable where it is short, waveform, spectrogram and tracks.

    Parameters
    ----------
    clip : Clip
    tracks : tuple of Track
    """
    about = escape(f"{clip.name}: waveform and spectrogram, {clip.seconds:.2f} s", quote=True)
    sound = ""
    if len(clip.wav) <= _AUDIO_BYTES:
        data = base64.b64encode(clip.wav).decode()
        label = escape(f"the clip of {clip.name}", quote=True)
        sound = f"<audio controls preload='none' aria-label='{label}' src='data:audio/wav;base64,{data}'></audio>"
    return f"{sound}<div class='vp-figure' role='img' aria-label='{about}'>{_svg(clip, tracks)}</div>"
