"""The committed fingerprints: this machine speaks the clips that were fingerprinted, and another sound is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
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


def heard_as(item: Item, other: Item) -> Item:
    """The same item with the sound of another."""
    return replace(item, audio=ArrayAudio(sixteen_bit(other)))


def other_noise(item: Item) -> Item:
    """The same item, its clip spoken with another seed of the synthesizer's noise."""
    assert isinstance(item.audio, MiniAudio)
    return heard_as(item, replace(item, audio=MiniAudio(replace(item.audio.recipe, seed=7))))


def asked(condition: str = "conflict", task: str = "age_prediction", n: int = 100) -> list[Item]:
    return [mini.render_condition(cell, condition) for cell in mini.cells(task)[:n]]


def noisy(n: int) -> list[Item]:
    """Elderly voices are the ones with most noise."""
    return [item for item in asked() if item.truth == "Elderly adult"][:n]


def bench(items: Iterable[Item]) -> Benchmark:
    return Benchmark(items, name="some", source="test")


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
    every = mini.load()
    assert tuple(known.clips) == every.ids and tuple(known.tasks) == TASKS
    assert all(len(clip.digest) == 8 for clip in known.clips.values())
    assert len({clip.digest for clip in known.clips.values()}) > 0.99 * len(every)
    # All clips of the test split fit the model's window of 6 s, and are longer than a word.
    seconds = np.array([clip.samples for clip in known.clips.values()]) / 16_000
    assert seconds.min() > 0.7 and seconds.max() <= 6.0
    assert sum((HERE / name).stat().st_size for name in ("fingerprints.json", "fingerprints.npz")) < 200_000


def test_result_prints_well() -> None:
    result = verify(bench(asked(n=3)))
    assert "VoxParadox-mini spoken here: exact (3 clips compared)" in repr(result)
    assert "age_prediction" in result._repr_html_() and "<table" in result._repr_html_()
    assert list(result.to_dataframe().columns[:2]) == ["task", "clips"]
    assert COMMAND not in repr(result)


def test_other_noise_is_within_tolerance_and_another_voice_is_not() -> None:
    near = verify(bench(map(other_noise, noisy(5))))
    assert set(near.clips["verdict"]) == {"within tolerance"} and near.verdict == "within tolerance"
    assert not near.ok and COMMAND in repr(near)  # exact samples are promised with this synthesizer
    assert near.clips["distance_db"].max() < 1.0
    for task in TASKS:
        twins = zip(asked("conflict", task, 3), asked("voice-swap", task, 3), strict=True)
        found = verify(bench(heard_as(item, twin) for item, twin in twins))
        assert found.verdict == "different" and not found.ok, task
        assert "exact" not in set(found.clips["verdict"])
    twins = zip(asked("conflict", n=3), asked("congruent", n=3), strict=True)
    assert set(verify(bench(heard_as(a, b) for a, b in twins)).clips["verdict"]) == {"different"}


def test_another_system_is_held_to_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    near = bench(map(other_noise, noisy(2)))
    monkeypatch.setattr(fingerprints.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(fingerprints.platform, "machine", lambda: "arm64")
    result = verify(near)
    assert not result.promised and result.verdict == "within tolerance" and result.ok
    assert "equal samples are not promised here; clips at most 1.5 dB" in repr(result) and "Darwin arm64" in repr(
        result
    )


def test_exported_clips_are_compared_too(tmp_path: Path) -> None:
    some = mini.load(limit=3, tasks=["speed_comparison"])
    result = verify(load_benchmark(export_benchmark(some, tmp_path / "out", progress=False)))
    assert len(result.clips) == 3 and result.verdict in ("exact", "within tolerance")
    assert result.clips["distance_db"].max() < 0.01


def test_nothing_to_compare() -> None:
    with pytest.raises(SchemaError, match="found none of its 30 items among those that were fingerprinted; allowed"):
        verify(mini.load(split="train", n=1))
    # The first cell of a split of two cells has the name of the first of a hundred, and is another.
    with pytest.raises(SchemaError, match="100 cells a task"):
        verify(mini.load(n=2, tasks="speed_comparison"))
    with pytest.raises(SchemaError, match="found sample=0; allowed: 1 or more"):
        verify(sample=0)


def test_samples_are_spread_and_repeatable() -> None:
    items = list(mini.load())
    a, b, c = (fingerprints._drawn(items, 12, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert a == b != c and len({item.id for item in a}) == 12
    assert len({item.task_name for item in a}) == 10
    assert [items.index(item) for item in a] == sorted(items.index(item) for item in a)
    assert len(fingerprints._drawn(items[:4], 12, np.random.default_rng(0))) == 4


def test_writing_and_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = "gender_prediction"
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: mini.load(tasks=tasks, limit=3))
    monkeypatch.setattr(fingerprints, "_is_standing", lambda item: True)
    path = write(tmp_path, tasks=(task,), progress=False)
    first = path.read_bytes(), (tmp_path / "fingerprints.npz").read_bytes()
    result = verify(sample=None, folder=tmp_path)
    assert result.ok and len(result.clips) == 3 and not result.broken
    write(tmp_path, tasks=(task,), progress=False)
    assert (path.read_bytes(), (tmp_path / "fingerprints.npz").read_bytes()) == first
    # A digest that does not fit its clips is named.
    table = json.loads(path.read_bytes())
    table["tasks"][task]["sha256"] = "0" * 64
    path.write_text(json.dumps(table))
    fingerprints._known.cache_clear()
    found = verify(sample=None, folder=tmp_path)
    assert found.broken == (task,) and found.verdict == "different" and not found.ok
    # So is a task whose recipes are others now.
    path.write_bytes(first[0])
    fingerprints._known.cache_clear()
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: bench(map(other_noise, mini.load(tasks=tasks, limit=3))))
    found = verify(sample=None, folder=tmp_path)
    assert found.changed == (task,) and not found.ok
    assert f"questions or recipes changed since: {task}" in repr(found)
    fingerprints._known.cache_clear()


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
    monkeypatch.setattr(fingerprints, "_split", lambda tasks: mini.load(tasks=tasks[:1], limit=2))
    monkeypatch.setattr(fingerprints.write, "__kwdefaults__", {"tasks": TASKS[:1], "progress": False})
    assert fingerprints.main(["--folder", str(tmp_path)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert fingerprints.main(["--check", "--folder", str(tmp_path)]) == 0
    assert "exact (2 clips compared)" in capsys.readouterr().out


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
