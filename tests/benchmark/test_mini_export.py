"""VoxParadox-mini as files: what is exported is what is spoken, and loads back to the same items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vpanalysis.benchmark import TASKS, Benchmark, mini
from vpanalysis.benchmark.export import export_benchmark
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.sources import load_benchmark


@pytest.fixture(scope="module")
def spoken() -> Benchmark:
    return mini.load(n=1, conditions=("conflict", "congruent", "neutral", "voice-swap"))


@pytest.fixture(scope="module")
def folder(spoken: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_benchmark(spoken, tmp_path_factory.mktemp("mini") / "out", progress=False)


def test_round_trip_gives_equal_items(spoken: Benchmark, folder: Path) -> None:
    back = load_benchmark(folder)
    assert back == spoken and back.ids == spoken.ids
    assert back.tasks == TASKS and back.conditions == spoken.conditions
    for before, after in zip(spoken, back, strict=True):
        assert (before.claims, before.voice, before.speaker) == (after.claims, after.voice, after.speaker)
        assert (before.transcript, before.script, before.cell) == (after.transcript, after.script, after.cell)


def test_the_table_is_in_the_official_schema(spoken: Benchmark, folder: Path) -> None:
    rows = json.loads((folder / "voxparadox.json").read_text(encoding="utf-8"))
    official = {"id", "task_name", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer_gt"}
    assert all(official | {"adversarial_labels", "audio_path"} <= set(row) for row in rows)
    for row, item in zip(rows, spoken, strict=True):
        assert row["answer_gt"] == item.truth and row["adversarial_labels"] == list(item.claims)
        info = soundfile.info(folder / row["audio_path"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")


def test_round_trip_keeps_the_sound(spoken: Benchmark, folder: Path) -> None:
    for before, after in zip(spoken, load_benchmark(folder), strict=True):
        a, b = before.audio.load(), after.audio.load()
        assert a.shape == b.shape and np.abs(a - b).max() <= 1.001 / 32768


def test_round_trip_is_bit_equal(spoken: Benchmark, folder: Path) -> None:
    for before, after in zip(spoken, load_benchmark(folder), strict=True):
        assert isinstance(before.audio, MiniAudio)
        stored, _ = soundfile.read(after.audio.describe(), dtype="int16")
        assert np.array_equal(stored, before.audio.samples())
        assert np.array_equal(before.audio.load(), after.audio.load())
