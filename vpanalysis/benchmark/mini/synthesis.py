"""Speech from seeds: the same samples in every process, in every order of calls.

:class:`Synthesizer` keeps a few worker processes (see ``_worker.py``) that hold eSpeak NG, and turns *utterances* into
waveforms. An utterance is a list of segments; a segment is a text, a voice and a handful of eSpeak parameters. What
comes back is at 16 kHz and quantised to 16 bit, so that a hash of the samples can be compared between machines::

    with Synthesizer() as synth:
        (clip,) = synth.segments([Segment("hello there", voice_file)])

eSpeak NG is GPL-3.0-or-later; it is an optional extra that this module alone uses, through the wheel
``espeakng-loader``. Nothing of it is vendored and no audio is shipped.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vpanalysis.errors import AudioError

__all__ = ["RATE_PARAMETER", "SAMPLE_RATE", "Segment", "Synthesizer", "shared_synthesizer"]

SAMPLE_RATE = 16_000
_ESPEAK_RATE = 22_050
RATE_PARAMETER, _VOLUME, PITCH_PARAMETER, RANGE_PARAMETER = 1, 2, 3, 4


@dataclass(frozen=True)
class Segment:
    """One thing that one voice says.

    Parameters
    ----------
    text : str
        The words, or SSML when `ssml` is set.
    voice : str
        Body of an eSpeak voice-variant file.
    rate : int
        Words per minute.
    pitch, range : int
        eSpeak's pitch and pitch range, 0 to 99 (50 is the voice's own).
    ssml : bool
        Whether `text` is SSML.
    """

    text: str
    voice: str
    rate: int = 185
    pitch: int = 50
    range: int = 40
    ssml: bool = False

    def request(self) -> dict[str, object]:
        """Return the segment in the worker's protocol."""
        parameters = {RATE_PARAMETER: self.rate, PITCH_PARAMETER: self.pitch, RANGE_PARAMETER: self.range}
        return {"text": self.text, "voice": self.voice, "params": parameters, "ssml": self.ssml}


class Synthesizer:
    """A process that speaks. Thread-safe; closes its process at interpreter exit.

    Raises
    ------
    AudioError
        When the extra is not installed or the worker fails.
    """

    def __init__(self) -> None:
        if find_spec("espeakng_loader") is None:
            raise AudioError(
                "cannot synthesize speech",
                found="no eSpeak NG",
                fix='install the extra that brings it: pip install "vpanalysis[mini]"',
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None or self._process.poll() is not None:
            worker = Path(__file__).with_name("_worker.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            atexit.register(self.close)
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def segments(self, segments: list[Segment], *, seed: int = 1) -> list[NDArray[np.float32]]:
        """Speak each segment from the same initial state.

        Parameters
        ----------
        segments : list of Segment
            Spoken in order, in one forked child.
        seed : int
            Seed of eSpeak's noise.

        Returns
        -------
        list of array, shape (samples,), float32 in [-1, 1], 16 kHz
            Leading and trailing silence is removed.
        """
        import soxr

        request = {"seed": seed, "segments": [s.request() for s in segments]}
        with self._lock:
            stdin, stdout = self._pipes()
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            (count,) = struct.unpack("<i", _read(stdout, 4))
            if count < 0:
                (length,) = struct.unpack("<i", _read(stdout, 4))
                raise AudioError("cannot synthesize a clip", found=_read(stdout, length).decode())
            raw = []
            for _ in range(count):
                (samples,) = struct.unpack("<i", _read(stdout, 4))
                raw.append(np.frombuffer(_read(stdout, 2 * samples), dtype="<i2"))
        clips = []
        for sound in raw:
            resampled = soxr.resample(sound.astype(np.float32) / 32768, _ESPEAK_RATE, SAMPLE_RATE, quality="HQ")
            clips.append(_trim(resampled.astype(np.float32)))
        return clips

    def close(self) -> None:
        """End the worker process; a later call starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.close)
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it may have ended by itself
            process.stdin.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise AudioError("cannot synthesize a clip", found="the synthesis worker ended early")
    return data


def _trim(wave: NDArray[np.float32], floor: float = 2e-3, keep: int = 160) -> NDArray[np.float32]:
    loud = np.flatnonzero(np.abs(wave) > floor)
    if loud.size == 0:
        return wave
    return wave[max(0, loud[0] - keep) : loud[-1] + 1 + keep]


@dataclass
class _Shared:
    owner: int = 0
    synthesizer: Synthesizer | None = field(default=None)


_shared = _Shared()


def shared_synthesizer() -> Synthesizer:
    """Return this process's synthesizer, started on first use (a forked process gets one of its own)."""
    if _shared.synthesizer is None or _shared.owner != os.getpid():
        _shared.synthesizer, _shared.owner = Synthesizer(), os.getpid()
    return _shared.synthesizer
