"""One harness for each reader of strangers' bytes: ``bytes -> None``, which may raise nothing but an error of ours.

A harness turns bytes into what its reader takes, calls it, swallows `VPError` and the promised ``ValueError`` of
`read_header`, and asserts what must hold of whatever was read. Files are written into a folder of memory where the
system has one. Seeds are whole inputs of each kind, from which a fuzzer starts.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from vpanalysis.benchmark._roots import AudioRoot
from vpanalysis.benchmark._schema import items_from_rows
from vpanalysis.benchmark.audio import FileAudio, decode_audio
from vpanalysis.benchmark.parsing import parse_answer
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import VPError
from vpanalysis.models.checkpoint.headers import read_header, read_inventory

__all__ = ["MEMORY", "SEEDS", "TARGETS"]

MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
"""Where files that live for a millisecond lie best; None where there is no such place."""

STATUSES = ("ok", "unparsed", "ambiguous", "contradiction")


@cache
def _folder() -> Path:
    place = os.environ.get("VPFUZZ_FOLDER")  # libFuzzer ends its process without goodbye: its parent cleans up
    if place is None:
        place = tempfile.mkdtemp(prefix="vpfuzz-", dir=MEMORY)
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def reply(data: bytes) -> None:
    """The reply, then its options, one a line (``\\x1e`` between them)."""
    text, *options = data.decode("utf-8", "surrogateescape").split("\x1e")
    choices = tuple(dict.fromkeys(options))[:8] or ("Male", "Female")
    letters = tuple("ABCDEFGH"[: len(choices)])
    found = parse_answer(text, choices, letters)
    assert found.status in STATUSES
    assert (found.choice in choices) if found.status == "ok" else found.choice is None
    assert found.letter is None or len(found.letter) == 1
    assert found.text_choice is None or found.text_choice in choices


def schema(data: bytes) -> None:
    """A container, by its first byte JSON, JSON lines, CSV, TSV; read, then every item checked."""
    suffix = (".json", ".jsonl", ".csv", ".tsv")[data[0] % 4] if data else ".json"
    file = _folder() / f"table{suffix}"
    file.write_bytes(data[1:])
    try:
        bench = load_benchmark(file)
    except VPError as error:
        assert str(error)
        return
    for item in bench:
        assert item.truth in item.choices and set(item.said) <= set(item.choices)
        item.id.encode()
        item.question.encode()
        path = getattr(item.audio, "path", None)
        assert path is None or Path(os.path.normpath(path)).is_relative_to(_folder()), path


def record(data: bytes) -> None:
    """One record as JSON laid over a whole one: deeper into the fields than a whole container comes."""
    try:
        changes = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(changes, dict):
        return
    try:
        (item,) = items_from_rows([(1, {**_RECORD, **changes})], file="f", audio=AudioRoot([_folder()]))
    except VPError as error:
        assert "row 1" in str(error)
        return
    assert item.truth in item.choices and set(item.foils) <= set(item.choices)


def checkpoint(data: bytes) -> None:
    """A safetensors file, by its first byte with a header of the right length; then a folder with it and an index."""
    folder = _folder() / "checkpoint"
    folder.mkdir(exist_ok=True)
    form, data = (data[0] % 3, data[1:]) if data else (0, data)
    header, _, values = data.partition(b"\x1e")
    if form == 1:
        data = struct.pack("<Q", len(header)) + header + values
    file = folder / "model.safetensors"
    if form == 2:
        (folder / "model.safetensors.index.json").write_bytes(data)
    else:
        file.write_bytes(data)
    try:
        records = read_header(file)
    except ValueError as error:
        assert str(error).startswith(("is ", "holds ")), error
    except FileNotFoundError:
        pass
    else:
        size = file.stat().st_size
        assert all(r.start >= 0 and r.start + r.nbytes <= size for r in records)
        from vpanalysis.models.checkpoint.lazy import read_tensor

        for r in records[:4]:
            assert read_tensor(r).numel() == r.numel
    assert all(isinstance(problem, str) for problem in read_inventory(folder).problems)


def wav(data: bytes) -> None:
    """An audio file of any kind, decoded from memory and from the disk; both ways agree."""
    file = _folder() / "clip.wav"
    file.write_bytes(data)
    os.environ["VPANALYSIS_MAX_CLIP_S"] = "60"
    try:
        wave = decode_audio(data)
    except VPError:
        wave = None
    finally:
        del os.environ["VPANALYSIS_MAX_CLIP_S"]
    source = FileAudio(file)
    try:
        assert source.duration_s >= 0
    except VPError:
        assert wave is None
    assert len(source.key()) == 64
    if wave is not None:
        assert wave.dtype == np.float32 and wave.ndim == 1 and wave.size and np.isfinite(wave).all()


_RECORD = {
    "id": "q1", "task_name": "pitch_comparison", "question": "Which order?", "choice_a": "high-low", "choice_b":
    "low-high", "choice_c": "a, b; c", "choice_d": None, "answer_gt": "high-low", "adversarial_labels": "['low-high']",
    "audio_path": "a.wav",
}  # fmt: skip

TARGETS: dict[str, Callable[[bytes], None]] = {
    "reply": reply, "schema": schema, "record": record, "checkpoint": checkpoint, "wav": wav,
}  # fmt: skip
"""Harnesses by name."""


_KINDS = (
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16"), ("AU", "ULAW"),
    ("CAF", "PCM_16"), ("WAV", "IMA_ADPCM"), ("MP3", "MPEG_LAYER_III"),
)  # fmt: skip


def _sounds() -> list[bytes]:
    import soundfile

    made = []
    for kind, subtype in _KINDS:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.sin(np.arange(400) / 5) / 2, 16_000, format=kind, subtype=subtype)
        made.append(buffer.getvalue())
    return made


def _seeds() -> dict[str, Callable[[], list[bytes]]]:
    rows = json.dumps([_RECORD]).encode()
    flat = {key: "" if value is None else str(value).replace(",", ";") for key, value in _RECORD.items()}
    lines = (",".join(flat) + "\n" + ",".join(flat.values()) + "\n").encode()
    tensor = b'{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"format":"pt"}}'
    replies = ["(A) Male", "b) female.", "The answer is (B), not Male", "<think>A</think> Option B", "\\boxed{A}",
               "not male\x1emale\x1efemale", "five\x1e5\x1eFive (5)\x1e6", "**A** or B"]  # fmt: skip
    return {
        "reply": lambda: [text.encode() for text in replies],
        "schema": lambda: [
            b"\0" + rows,
            b"\1" + json.dumps(_RECORD).encode() + b"\n",
            b"\2" + lines,
            b"\3" + lines.replace(b",", b"\t"),
            b"\0" + b'{"test": ' + rows + b"}",
            b"\2path,label\na.wav,x\nb.wav,y\n",
        ],
        "record": lambda: [
            json.dumps(_RECORD).encode(),
            b'{"said": ["low-high"], "condition": "conflict"}',
            b'{"adversarial_labels": "a, b; c|low-high"}',
            b'{"audio": {"bytes": null, "path": "x"}}',
            b'{"audio": {"array": [0.1], "sampling_rate": 16000}}',
            b'{"audio": {"bytes": 9}}',
            b'{"audio": {"array": [[1], [1, 2]], "sampling_rate": "16000"}}',
        ],
        "checkpoint": lambda: [
            b"\1" + tensor + b"\x1e" + b"\0" * 8,
            b"\0" + struct.pack("<Q", len(tensor)) + tensor + b"\0" * 8,
            b'\2{"weight_map": {"a": "model.safetensors"}}',
        ],
        "wav": _sounds,
    }


SEEDS = _seeds()
"""Inputs to start from, by target."""
