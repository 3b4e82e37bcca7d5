"""The synthesis worker: a process that knows eSpeak NG and nothing else.

eSpeak NG carries oscillator and noise state from one utterance to the next and seeds its noise from the clock, so the
same call made twice in one process gives two different sounds. Repeatability comes from two habits: every clip is made
in a *forked child* of a process that has only initialised the library (so each clip starts from the same state), and
the child sets the noise seed before it speaks. Forking is why this file must stay free of torch and of threads, and
why it is run as a script of its own: ``python _worker.py``.

Protocol, over standard input and output: one JSON line in,
``{"segments": [{"text": "...", "voice": "<voice file>", "params": {"1": 185, ...}, "ssml": false}, ...]}``; out, for
each request, a little-endian int32 count of segments, then for each segment an int32 count of samples and the int16
samples at 22,050 Hz. A count of -1 is followed by an int32 length and an error text in UTF-8.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import signal
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

RATE = 22_050
_SYNCHRONOUS = 2
_CHARS_UTF8, _SSML = 1, 0x10


def private_data(data: str, folder: Path) -> Path:
    """Build a copy of the data folder made of links, whose voice variants live in a real folder of our own."""
    source = Path(data)
    home = folder / "espeak-ng-data"
    (home / "voices").mkdir(parents=True)
    (home / "voices" / "!v").mkdir()
    for entry in source.iterdir():
        if entry.name != "voices":
            (home / entry.name).symlink_to(entry)
    return folder


class _Engine:
    def __init__(self) -> None:
        import espeakng_loader

        self._folder = tempfile.TemporaryDirectory(prefix="vpanalysis-espeak-")
        root = private_data(espeakng_loader.get_data_path(), Path(self._folder.name))
        self._variants = root / "espeak-ng-data" / "voices" / "!v"
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, str(root).encode(), 0)
        if rate != RATE:
            raise RuntimeError(f"eSpeak NG initialised at {rate} Hz, expected {RATE}")
        self._buffer = array.array("h")
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

        def collect(samples: Any, count: int, _events: Any) -> int:
            if count > 0 and samples:
                self._buffer.frombytes(ctypes.string_at(samples, 2 * count))
            return 0

        self._callback = kind(collect)  # kept alive for as long as the library may call it
        self._lib.espeak_SetSynthCallback(self._callback)

    def write_variants(self, bodies: list[str]) -> None:
        """Put the voices of one request where the library looks for them: v0, v1 ...

        The names are used again and again, because the library lists every file in the folder and gives up at 350.
        """
        for number, body in enumerate(bodies):
            (self._variants / f"v{number}").write_text(f"language variant\nname v{number}\n{body}")

    def speak(self, segment: dict[str, Any], voice: str) -> bytes:
        if self._lib.espeak_SetVoiceByName(f"en-us+{voice}".encode()) != 0:
            raise RuntimeError(f"eSpeak NG refused the voice {voice}")
        for number, value in sorted(segment["params"].items()):
            self._lib.espeak_SetParameter(int(number), int(value), 0)
        self._buffer = array.array("h")
        text = segment["text"].encode()
        flags = _CHARS_UTF8 | (_SSML if segment.get("ssml") else 0)
        self._lib.espeak_Synth(text, len(text) + 1, 0, 0, 0, flags, None, None)
        return self._buffer.tobytes()

    def render(self, request: dict[str, Any]) -> bytes:
        voices = [f"v{number}" for number in range(len(request["segments"]))]
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(int(request.get("seed", 1))))
        chunks = [struct.pack("<i", len(voices))]
        for segment, voice in zip(request["segments"], voices, strict=True):
            sound = self.speak(segment, voice)
            chunks += [struct.pack("<i", len(sound) // 2), sound]
        return b"".join(chunks)


def _failure(message: str) -> bytes:
    text = message.encode()
    return struct.pack("<ii", -1, len(text)) + text


def main() -> None:
    """Serve requests until standard input closes."""
    # An interrupt is meant for whoever asked; this process ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever the library prints must not land in the protocol
    engine = _Engine()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        engine.write_variants([segment["voice"] for segment in request["segments"]])
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            try:
                answer = engine.render(request)
            except BaseException as error:
                answer = _failure(f"{type(error).__name__}: {error}")
            view = memoryview(answer)
            while view:
                view = view[os.write(write_end, view) :]
            os._exit(0)  # no clean-up: the folder belongs to the parent
        os.close(write_end)
        parts = []
        while block := os.read(read_end, 1 << 20):
            parts.append(block)
        os.close(read_end)
        _, status = os.waitpid(child, 0)
        answer = b"".join(parts)
        if status != 0 or not answer:
            answer = _failure(f"the synthesis child ended with status {status}")
        out.write(answer)


if __name__ == "__main__":
    main()
