"""The committed fingerprints: this machine speaks the clips that were fingerprinted, and another sound is found out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vpanalysis.benchmark import TASKS, ArrayAudio, Benchmark, Item, mini
from vpanalysis.benchmark.export import export_benchmark
from vpanalysis.benchmark.mini import fingerprints
from vpanalysis.benchmark.mini.fingerprints import (
    COMMAND,
    coarse_spectrum,
    digest,
    distance,
    sixteen_bit,
    verify,
    write,
)
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import SchemaError

HERE = Path(fingerprints.__file__).parent


def changed(item: Item, **more: object) -> Item:
    """The same question about the clip of another noise seed, or of whatever is given for its recipe."""
    assert isinstance(item.audio, MiniAudio)
    return replace(item, audio=MiniAudio(replace(item.audio.recipe, **(more or {"seed": 7}))))


def asked(condition: str = "conflict", task: str = "age_prediction", n: int = 100) -> list[Item]:
    return [mini.render_condition(cell, condition) for cell in mini.cells(task)[:n]]


def test_this_machine_speaks_the_fingerprinted_clips() -> None:
    result = verify(sample=60)
    assert result.ok, f"\n{result}\nIf the audio was changed on purpose, write the fingerprints anew: {COMMAND}"
    assert len(result.clips) == 60 and set(result.to_dataframe()["clips"]) == {6}


@pytest.mark.soak
def test_this_machine_speaks_all_fingerprinted_clips() -> None:
    result = verify(sample=None)
    assert result.ok and len(result.clips) == 3000, f"\n{result}"


def test_the_files_cover_the_test_split_and_are_compact() -> None:
    known = fingerprints._known(HERE)
    bench = mini.load()
    assert tuple(known.clips) == bench.ids and tuple(known.tasks) == TASKS
    assert all(len(clip.digest) == 8 for clip in known.clips.values())
    assert len({clip.digest for clip in known.clips.values()}) > 0.99 * len(bench)
    # All clips of the test split fit the model's window of 6 s, and are longer than a word.
    seconds = np.array([clip.samples for clip in known.clips.values()]) / 16_000
    assert seconds.min() > 0.7 and seconds.max() <= 6.0
    assert sum((HERE / name).stat().st_size for name in ("fingerprints.json", "fingerprints.npz")) < 200_000


def test_result_prints_well() -> None:
    result = verify(Benchmark(asked(n=3), name="three", source="test"))
    assert "VoxParadox-mini spoken here: exact (3 clips compared)" in repr(result)
    assert "age_prediction" in result._repr_html_() and "<table" in result._repr_html_()
    assert list(result.to_dataframe().columns[:2]) == ["task", "clips"]
    assert COMMAND not in repr(result)


def test_other_noise_is_within_tolerance_and_another_voice_is_not() -> None:
    # Elderly voices are the noisiest.
    noisy = [item for item in asked(n=60) if item.truth == "Elderly adult"][:6]
    near = verify(Benchmark([changed(item) for item in noisy], name="near", source="test"))
    assert set(near.clips["verdict"]) == {"within tolerance"} and near.verdict == "within tolerance"
    assert not near.ok and COMMAND in repr(near)  # exact samples are promised with this synthesizer
    assert near.clips["distance_db"].max() < 0.7
    for task in TASKS:
        items = [
            replace(item, id=twin.id)
            for item, twin in zip(asked("voice-swap", task, 4), asked("conflict", task, 4), strict=True)
        ]
        found = verify(Benchmark(items, name="swap", source="test"), sample=None)
        assert found.verdict == "different" and not found.ok, task
        assert "exact" not in set(found.clips["verdict"])
    words = [replace(item, id=twin.id) for item, twin in zip(asked("congruent", n=4), asked(n=4), strict=True)]
    assert set(verify(Benchmark(words, name="words", source="test")).clips["verdict"]) == {"different"}


def test_another_system_is_held_to_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Benchmark([changed(item) for item in asked(n=4)], name="near", source="test")
    monkeypatch.setattr(fingerprints.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(fingerprints.platform, "machine", lambda: "arm64")
    result = verify(near)
    assert not result.promised and result.verdict == "within tolerance" and result.ok
    assert "equal samples are not promised here; clips at most 1 dB" in repr(result) and "Darwin arm64" in repr(result)


def test_exported_clips_are_compared_too(tmp_path: Path) -> None:
    bench = mini.load(n=2, tasks=["speed_comparison"])
    result = verify(load_benchmark(export_benchmark(bench, tmp_path / "out", progress=False)))
    assert len(result.clips) == 6 and result.verdict in ("exact", "within tolerance")
    assert result.clips["distance_db"].max() < 0.01


def test_nothing_to_compare() -> None:
    train = mini.load(split="train", n=1)
    with pytest.raises(SchemaError, match="found none of its 30 items among those that were fingerprinted; allowed"):
        verify(train)
    with pytest.raises(SchemaError, match="found sample=0; allowed: 1 or more"):
        verify(sample=0)


def test_samples_are_spread_and_repeatable(tmp_path: Path) -> None:
    a, b, c = (verify(sample=10, random_state=seed) for seed in (1, 1, 2))
    assert list(a.clips["id"]) == list(b.clips["id"]) != list(c.clips["id"])
    assert a.clips["task_name"].nunique() == 10


def test_writing_and_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: mini.load(tasks=tasks, n=2))
    path = write(tmp_path, tasks=("gender_prediction", "volume_comparison"), progress=False)
    first = path.read_bytes(), (tmp_path / "fingerprints.npz").read_bytes()
    result = verify(sample=None, folder=tmp_path)
    assert result.ok and len(result.clips) == 12 and not result.broken
    write(tmp_path, tasks=("gender_prediction", "volume_comparison"), progress=False)
    assert (path.read_bytes(), (tmp_path / "fingerprints.npz").read_bytes()) == first
    # A recipe that changed is named, and so is a digest that does not fit its clips.
    monkeypatch.setattr(
        fingerprints,
        "_split",
        lambda tasks: Benchmark([changed(i) for i in mini.load(tasks=tasks, n=2)], name="mini", source="test"),
    )
    found = verify(sample=None, folder=tmp_path)
    assert found.changed == ("gender_prediction", "volume_comparison") and not found.ok
    assert "questions or recipes changed since: gender_prediction, volume_comparison" in repr(found)
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: mini.load(tasks=tasks, n=2))
    table = json.loads(path.read_bytes())
    table["tasks"]["gender_prediction"]["sha256"] = "0" * 64
    path.write_text(json.dumps(table))
    fingerprints._known.cache_clear()
    found = verify(sample=None, folder=tmp_path)
    assert found.broken == ("gender_prediction",) and found.verdict == "different" and not found.ok


@pytest.mark.parametrize("harm", ["missing", "torn", "mixed", "other"])
def test_broken_files_say_how_to_write_them(tmp_path: Path, harm: str) -> None:
    for name in ("fingerprints.json", "fingerprints.npz"):
        shutil.copy(HERE / name, tmp_path / name)
    if harm == "missing":
        (tmp_path / "fingerprints.npz").unlink()
    elif harm == "torn":
        text = (tmp_path / "fingerprints.json").read_text()
        (tmp_path / "fingerprints.json").write_text(text[: len(text) // 2])
    elif harm == "mixed":
        (tmp_path / "fingerprints.npz").write_bytes(b"PK")
    else:
        (tmp_path / "fingerprints.json").write_text("{}")
    with pytest.raises(SchemaError, match=f"cannot read the fingerprints.*{COMMAND}"):
        verify(folder=tmp_path)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: mini.load(tasks=tasks[:2], n=1))
    monkeypatch.setattr(fingerprints.write, "__kwdefaults__", {"tasks": TASKS[:2], "progress": False})
    assert fingerprints.main(["--folder", str(tmp_path)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert fingerprints.main(["--check", "--folder", str(tmp_path)]) == 0
    assert "exact (6 clips compared)" in capsys.readouterr().out


def test_spectrum_and_digest() -> None:
    t = np.arange(32_000) / 16_000
    low, high = ((8000 * np.sin(2 * np.pi * f * t)).astype(np.int16) for f in (90, 5000))
    assert coarse_spectrum(low).shape == (6, 7) and coarse_spectrum(low).dtype == np.uint8
    assert (coarse_spectrum(low).argmax(axis=1) == 0).all() and (coarse_spectrum(high).argmax(axis=1) == 6).all()
    quiet = coarse_spectrum((low / 2).astype(np.int16)).astype(float)
    loudest = (coarse_spectrum(low).astype(float) - quiet)[:, 0] / 3
    assert np.allclose(loudest, 6.02, atol=0.4)  # a step is a third of a dB
    assert (
        distance(coarse_spectrum(low), coarse_spectrum(low))
        == 0
        < distance(coarse_spectrum(low), coarse_spectrum(high))
    )
    assert coarse_spectrum(np.zeros(3, np.int16)).max() == 0
    assert digest(low) == digest(low.astype(">i2").astype(np.int16)) != digest(high)
    item = replace(asked(n=1)[0], audio=ArrayAudio(low))
    assert np.array_equal(sixteen_bit(item), low)
