"""What is exported loads back to the same items and the same samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vpanalysis.benchmark import ArrayAudio, Benchmark, FileAudio, Item
from vpanalysis.benchmark.export import export_benchmark
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import AudioError, SchemaError


def wave(seed: int) -> ArrayAudio:
    ints = np.random.default_rng(seed).integers(-32768, 32768, 4000)
    return ArrayAudio((ints / 32768).astype(np.float32))


def bench() -> Benchmark:
    options = ("high-medium-low", "low-medium-high", "high-low-medium", "medium-low-high")
    said = {"conflict": options[0::2], "congruent": (options[1],), "neutral": (), "voice-swap": options[0::2]}
    items = [
        Item(
            id=f"pitch/01:{condition}",
            task_name="pitch_comparison",
            question="Which pitch pattern best matches the audio?",
            choices=options,
            letters=("A", "B", "C", "D"),
            truth=options[0] if condition == "voice-swap" else options[1],
            said=words,
            condition=condition,
            foils=options[0::2],
            audio=wave(i),
            cell="01",
            speaker="s1",
            voice="v1",
            script="wording-7",
            transcript=None if condition == "neutral" else "My pitch is hïgh",
            said_level=None if condition == "neutral" else "high",
        )
        for i, (condition, words) in enumerate(said.items())
    ]
    two = Item(
        id="PITCH/01:conflict",  # the same file name where case does not count
        task_name="gender_prediction",
        question="What is the speaker's gender?",
        choices=("Female", "Male"),
        letters=("B", "D"),
        truth="Male",
        said=(),
        condition="neutral",
        foils=(),
        audio=wave(9),
        transcript="",
    )
    return Benchmark([*items, two], name="b", source="test")


def test_round_trip(tmp_path: Path) -> None:
    original = bench()
    folder = export_benchmark(original, tmp_path / "out", progress=False)
    loaded = load_benchmark(folder)
    assert list(loaded)[:-1] == list(original)[:-1]
    # An empty transcript and none are the same thing on disk.
    assert loaded[-1].transcript is None and loaded[-1].letters == ("B", "D")
    for before, after in zip(original, loaded, strict=True):
        np.testing.assert_array_equal(before.audio.load(), after.audio.load())


def test_files_and_official_field_names(tmp_path: Path) -> None:
    folder = export_benchmark(bench(), tmp_path, progress=False)
    rows = json.loads((folder / "voxparadox.json").read_text(encoding="utf-8"))
    official = ["id", "task_name", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer_gt"]
    assert list(rows[0])[:8] == official and rows[-1]["choice_a"] is None
    assert (
        rows[0]["adversarial_labels"] == ["high-medium-low", "high-low-medium"] and rows[1]["adversarial_labels"] == []
    )
    names = [row["audio_path"] for row in rows]
    assert len({name.casefold() for name in names}) == 5 and not any(":" in name for name in names)
    info = soundfile.info(folder / names[0])
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


def test_exports_replace_each_other_but_nothing_else(tmp_path: Path) -> None:
    export_benchmark(bench(), tmp_path / "out", progress=False)
    export_benchmark(bench()[:1], tmp_path / "out", progress=False)
    assert len(load_benchmark(tmp_path / "out")) == 1
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SchemaError, match="something else there"):
            export_benchmark(bench(), target, progress=False)


def test_an_interrupted_export_is_no_benchmark_and_can_be_repeated(tmp_path: Path) -> None:
    good = bench()
    broken = Benchmark(
        [good[0], Item(**{**good[1].__dict__, "audio": FileAudio(tmp_path / "no.wav")})], name="x", source="x"
    )
    with pytest.raises(AudioError):
        export_benchmark(broken, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/voxparadox.json").exists()
    export_benchmark(good, tmp_path / "out", progress=False)
    assert len(load_benchmark(tmp_path / "out")) == 5


def test_loud_samples_are_clipped_not_wrapped(tmp_path: Path) -> None:
    item = Item(**{**bench()[0].__dict__, "audio": ArrayAudio(np.array([2.0, -2.0, 0.0], np.float32))})
    folder = export_benchmark(Benchmark([item], name="x", source="x"), tmp_path, progress=False)
    np.testing.assert_allclose(load_benchmark(folder)[0].audio.load(), [1, -1, 0], atol=1e-4)


def test_letters_beyond_z_are_refused(tmp_path: Path) -> None:
    item = Item(**{**bench()[0].__dict__, "letters": ("1", "2", "3", "4")})
    with pytest.raises(SchemaError, match="letter '1'; allowed: A to Z"):
        export_benchmark(Benchmark([item], name="x", source="x"), tmp_path, progress=False)
