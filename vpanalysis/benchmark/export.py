"""Write a benchmark the way the released dataset is written: WAV files and one `voxparadox.json`.

Why it exists. Synthesized items should be usable by any evaluation script that reads the released dataset, and by
ears. The field names are therefore the official ones; what only twins need (cell, condition, said ...) stands in extra
columns that other readers skip. `load_benchmark` on the folder gives equal items back.

Clips are 16 kHz, mono, 16 bit. A clip whose samples lie on that grid, as synthesized ones do, comes back bit for bit.

Worked example::

    folder = export_benchmark(load_benchmark("mini", limit=30), "vox-mini")
    load_benchmark("vox-mini")   # the same thirty items
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from vpanalysis.benchmark.audio import SAMPLE_RATE
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import SchemaError

__all__ = ["TABLE_NAME", "export_benchmark"]

TABLE_NAME = "voxparadox.json"
_AUDIO_FOLDER = "audio"


def export_benchmark(benchmark: Benchmark, folder: str | Path, progress: bool = True) -> Path:
    """Write clips and table of `benchmark` into `folder`.

    Parameters
    ----------
    benchmark : Benchmark
        What to write.
    folder : str or Path
        Created when missing; may hold an earlier export, which is replaced, but nothing else.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder, with ``voxparadox.json`` and ``audio/*.wav``.

    Raises
    ------
    SchemaError
        If the folder holds other things, or an item does not fit the schema (a letter beyond Z).
    AudioError
        If a clip cannot be read.
    """
    import soundfile

    target = Path(folder)
    table, part = target / TABLE_NAME, target / f"{TABLE_NAME}.part"
    ours = table.is_file() or part.is_file()
    if target.exists() and not ours and not (target.is_dir() and not any(target.iterdir())):
        raise SchemaError(
            f"cannot export to {str(target)!r}",
            found="something else there",
            allowed="a new or empty folder, or one that was exported to",
        )
    (target / _AUDIO_FOLDER).mkdir(parents=True, exist_ok=True)
    # A table means that the export is complete: the new one is renamed into place last, the old one goes first. What an
    # interrupted export leaves is known by its part file and may be written over.
    part.write_text("[]", encoding="utf-8")
    table.unlink(missing_ok=True)
    rows = []
    used: set[str] = set()
    for item in tqdm(benchmark, desc="export", unit="clip", disable=not progress):
        name = f"{_AUDIO_FOLDER}/{_file_stem(item.id, used)}.wav"
        soundfile.write(target / name, _to_int16(item.audio.load()), SAMPLE_RATE, subtype="PCM_16")
        rows.append(_row(item, name))
    part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(table)
    return target


def _to_int16(wave: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.clip(np.round(wave.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def _file_stem(item_id: str, used: set[str]) -> str:
    """Return a name that is safe on every file system and unique, also where case does not count."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", item_id).strip(".")[:100] or "item"
    if stem != item_id or stem.casefold() in used:
        stem = f"{stem}-{hashlib.sha256(item_id.encode()).hexdigest()[:10]}"
    used.add(stem.casefold())
    return stem


def _row(item: Item, audio_path: str) -> dict[str, object]:
    """Return one record with the official field names, then our own."""
    slots: dict[str, str | None] = dict.fromkeys(("choice_a", "choice_b", "choice_c", "choice_d"))
    for letter, choice in zip(item.letters, item.choices, strict=True):
        if not re.fullmatch("[A-Z]", letter):
            raise SchemaError(f"cannot export the item {item.id!r}", found=f"letter {letter!r}", allowed="A to Z")
        slots[f"choice_{letter.lower()}"] = choice
    return {
        "id": item.id,
        "task_name": item.task_name,
        "question": item.question,
        **slots,
        "answer_gt": item.truth,
        "adversarial_labels": list(item.claims),
        "audio_path": audio_path,
        "cell": item.cell,
        "condition": item.condition,
        "speaker": item.speaker,
        "voice": item.voice,
        "script": item.script,
        "said": list(item.said),
        "foils": list(item.foils),
        "transcript": item.transcript,
        "said_level": item.said_level,
        "category": item.category,
    }
