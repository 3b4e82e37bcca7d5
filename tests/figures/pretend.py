"""Runs of a tiny model that say they are of another one, on another benchmark: for tests of what may be compared."""

from __future__ import annotations

import io
import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fakes import FakeLLM, make_benchmark

import vpanalysis as vp
from vpanalysis.benchmark.items import Benchmark

HUB = {"audioflamingo3": "nvidia/audio-flamingo-3-hf", "qwen2_audio": "Qwen/Qwen2-Audio-7B-Instruct"}


def benchmark(name="VoxParadox", count=40, seed=0):
    """Items of the official tasks with two claims on every other item, so that ALA has two ways of counting."""
    items = []
    for at, item in enumerate(make_benchmark(count, seed=seed)):
        levels = ("high-low-medium", "high-medium-low", "low-high-medium", "medium-low-high")
        if at % 4 == 0:
            item = replace(item, task_name="pitch_comparison", choices=levels, letters=tuple("ABCD"), truth=levels[2],
                           said=levels[1::-1], foils=levels[1::-1])  # fmt: skip
        items.append(item)
    return Benchmark(items, name=name, source=name)


def pretend(folder, *, family="audioflamingo3", bench=None, states=(), generate=True, seed=0, name=None):
    """Make a Run and let its manifest say that it is of another family, from the Hub."""
    made = vp.run(FakeLLM(seed=seed, head_seed=seed), bench or benchmark(), folder, sites=list(states),
                  generate=generate, progress=False, block_size=16, batch_size=8)  # fmt: skip
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    source = HUB.get(family, family)
    manifest["model"] |= {"family": family, "source": source, "name": name or Path(source).name, "streams": None}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return vp.open_run(folder)


def mmsu_folder(folder, count=60):
    """Write a data set in the form of ddwang2000/MMSU: parquet, one split, clips in the table, empty slots as null."""
    rng = np.random.default_rng(3)
    rows = []
    for at in range(count):
        para = at % 3 == 0
        clip = io.BytesIO()
        with wave.open(clip, "wb") as file:
            file.setnchannels(1 + at % 2)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(rng.integers(-3000, 3000, 8000 * (1 + at % 2), dtype=np.int16).tobytes())
        options = ["male", None, None, "female"] if at % 5 == 0 else ["one", "two", "None", f"four {at}"]
        task = "gender_prediction" if at % 5 == 0 else ("age_prediction" if para else "puns_interpretation")
        rows.append({
            "id": f"MMSU_{task}_{at:04d}", "audio": {"bytes": clip.getvalue(), "path": f"{at}.wav"}, "task_name": task,
            "question": "Which one is it?",
            **dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), options, strict=True)),
            "answer_gt": options[0] if at % 2 else options[3] if at % 5 == 0 else options[2],
            "category": ("Perception", "Reasoning")[at % 2],
            "sub-category": "Paralinguistics" if para else "Linguistics",
            "sub-sub-category": "Speaker Traits" if para else "Semantics", "linguistics_sub_discipline": "None",
        })  # fmt: skip
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return rows
