"""Items that chose how a model is read are marked in its Runs and left out of every score."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes import FakeLLM, make_benchmark

import vpanalysis as vp
from vpanalysis import _cli_calibrate, cli, open_run, run
from vpanalysis._calibrated import calibration_facts, item_key, keys_of, known_items
from vpanalysis._calibration import COMPARISON_KINDS, READING_KINDS, Calibration
from vpanalysis._tables import typed
from vpanalysis.benchmark.audio import ArrayAudio, BytesAudio, FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import RunError
from vpanalysis.scoring import compare, score, score_predictions

QUIET: dict[str, Any] = {"progress": False, "block_size": 8, "batch_size": 4, "sites": [], "cache": False}
USED = (0, 3, 4, 11)


@pytest.fixture
def bench() -> Benchmark:
    return make_benchmark(20)


def calibration_on(items: Any, created: str = "2030-01-01T00:00:00+00:00") -> Calibration:
    return Calibration(
        model="fake", source=None, revision=None, fingerprint="f" * 64, benchmark={"name": "fake-bench"},
        created=created, decided={"mid_pool": "avg"}, undecided={}, reasons={"mid_pool": "because"}, stated={},
        chosen={"mid_pool": "avg"}, readings=typed([], READING_KINDS), comparisons=typed([], COMPARISON_KINDS),
        items=tuple({"id": i.id, "key": item_key(i), "part": "judges"} for i in items),
        settings={"level": 0.95, "margin": 0.02, "groups": ["speaker"]},
    )  # fmt: skip


@pytest.fixture
def found(bench: Benchmark) -> Calibration:
    return calibration_on([bench[i] for i in USED])


@pytest.fixture
def calibrated(bench: Benchmark, found: Calibration, tmp_path: Path) -> Any:
    llm: Any = FakeLLM()
    llm.calibration = found.record()
    return run(llm, bench, tmp_path / "calibrated", generate=True, **QUIET)


@pytest.fixture
def plain(bench: Benchmark, tmp_path: Path) -> Any:
    llm: Any = FakeLLM(head_seed=1)
    return run(llm, bench, tmp_path / "plain", generate=True, **QUIET)


def test_the_manifest_says_when_what_and_which(
    bench: Benchmark, found: Calibration, calibrated: Any, plain: Any
) -> None:
    said = calibrated.manifest["calibration"]
    assert said["created"] == found.created and said["decided"] == {"mid_pool": "avg"}
    assert said["excluded"] == [bench[i].id for i in USED]
    assert said["keys"] == sorted(item_key(bench[i]) for i in USED)
    assert plain.manifest["calibration"] is None
    assert np.flatnonzero(calibrated.predictions["calibration"]).tolist() == list(USED)
    assert not plain.predictions["calibration"].any()
    assert "4 of these items calibrated the model" in repr(calibrated) and "calibrated" not in repr(plain)


def test_scores_leave_them_out_and_say_so(bench: Benchmark, calibrated: Any, plain: Any) -> None:
    one = score(calibrated)
    left = [i for n, i in enumerate(bench.ids) if n not in USED]
    assert one.outcomes["id"].tolist() == left
    assert one.settings["calibration"] == {"items": 4, "included": False, "ids": [bench[i].id for i in USED]}
    assert "4 items on which the model was calibrated are left out." in " ".join(repr(one).split())
    assert "left out" in one._repr_html_()
    # The same numbers as of a Run without them.
    without = score(calibrated.predictions[~calibrated.predictions["calibration"]].drop(columns="calibration"))
    pd.testing.assert_frame_equal(one.table, without.table)
    assert "calibration" not in score(plain).settings
    several = " ".join(repr(score([calibrated, plain])).split())
    assert "calibrated: 4 items on which the model was calibrated are left out." in several
    # A table knows it too, and so does a saved score.
    assert score(calibrated.predictions).outcomes["id"].tolist() == left
    assert score({"x": calibrated})["x"].outcomes["id"].tolist() == left


def test_including_them_is_explicit_and_visible(calibrated: Any, tmp_path: Path) -> None:
    one = score(calibrated, include_calibration_items=True)
    assert len(one.outcomes) == 20 and one.settings["calibration"]["included"] is True
    assert "4 items on which the model was calibrated are INCLUDED" in " ".join(repr(one).split())
    assert "INCLUDED" in repr(vp.scoring.Score.load(one.save(tmp_path / "score.json")))


def test_comparisons_leave_them_out_of_both(bench: Benchmark, calibrated: Any, plain: Any) -> None:
    for first, second in ((calibrated, plain), (plain, calibrated), (score(calibrated), plain)):
        result = compare(first, second)
        assert result.settings["calibration"]["items"] == 4 and not result.settings["calibration"]["included"]
        assert result.unpaired == {"a": (), "b": ()}
        assert "4 items on which the model was calibrated are left out." in " ".join(repr(result).split())
        counts = result.overall.set_index("metric")["n"]
        assert counts["acc_gt"] == sum(n not in USED for n in range(0, 20, 2))
    both = compare(calibrated, plain, include_calibration_items=True)
    assert "INCLUDED" in repr(both) and both.overall.set_index("metric")["n"]["acc_gt"] == 10
    assert "calibration" not in compare(plain, plain).settings


def test_replies_from_a_file_leave_them_out(
    bench: Benchmark, found: Calibration, calibrated: Any, plain: Any, tmp_path: Path
) -> None:
    left = [i for n, i in enumerate(bench.ids) if n not in USED]
    file = calibrated.predictions_jsonl(tmp_path / "replies.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row.get("calibration") for row in rows] == [True if n in USED else None for n in range(20)]
    assert score_predictions(file, bench).outcomes["id"].tolist() == left
    # Of a file that does not say, the caller does.
    bare = plain.predictions_jsonl(tmp_path / "bare.jsonl")
    assert len(score_predictions(bare, bench).outcomes) == 20
    saved = found.save(tmp_path / "calibration.json")
    for said in (found, saved, str(saved), calibrated, calibrated.path):
        one = score_predictions(bare, bench, calibration=said)
        assert one.outcomes["id"].tolist() == left and one.settings["calibration"]["items"] == 4
    every = score_predictions(bare, bench, calibration=found, include_calibration_items=True)
    assert len(every.outcomes) == 20 and "INCLUDED" in repr(every)
    assert keys_of(plain) == set()
    with pytest.raises(RunError, match="cannot tell the items"):
        score_predictions(bare, bench, calibration=3)  # type: ignore[arg-type]


def test_items_are_known_by_content_and_not_by_name(bench: Benchmark, tmp_path: Path) -> None:
    item = bench[0]
    keys = {item_key(item)}
    renamed = dataclasses.replace(item, id="another")
    shuffled = dataclasses.replace(item, choices=("Male", "Female"))
    heard_otherwise = dataclasses.replace(item, audio=ArrayAudio(item.audio.load() * 0.5))
    asked_otherwise = dataclasses.replace(item, question="Who speaks?")
    offered_otherwise = dataclasses.replace(item, choices=("Female", "Male", "Neither"), letters=("A", "B", "C"))
    for other in (renamed, shuffled):
        assert known_items([other], keys) == [other.id]
    for other in (heard_otherwise, asked_otherwise, offered_otherwise):
        assert known_items([other], keys) == []
    # The same file, as a path and as bytes.
    import soundfile

    soundfile.write(tmp_path / "clip.wav", item.audio.load(), 16_000)
    as_file = dataclasses.replace(item, audio=FileAudio(tmp_path / "clip.wav"))
    as_bytes = dataclasses.replace(item, audio=BytesAudio((tmp_path / "clip.wav").read_bytes()))
    assert item_key(as_file) == item_key(as_bytes)
    missing = dataclasses.replace(item, audio=FileAudio(tmp_path / "none.wav"))
    assert known_items([missing, item], keys) == [item.id]


def test_a_benchmark_of_calibration_items_alone_has_no_score(
    bench: Benchmark, found: Calibration, tmp_path: Path
) -> None:
    llm: Any = FakeLLM()
    llm.calibration = found.record()
    made = run(llm, bench.select(ids=[bench[i].id for i in USED]), tmp_path / "r", **QUIET)
    with pytest.raises(RunError, match=r"4 items, on all of which.*include_calibration_items=True"):
        score(made)
    assert len(score(made, include_calibration_items=True).outcomes) == 4


def test_a_run_is_not_continued_under_another_calibration(
    bench: Benchmark, found: Calibration, calibrated: Any, tmp_path: Path
) -> None:
    llm: Any = FakeLLM()
    with pytest.raises(RunError, match="items that the model was calibrated on"):
        run(llm, bench, calibrated.path, generate=True, **QUIET)
    llm.calibration = found.record()
    again = run(llm, bench, calibrated.path, generate=True, **QUIET)
    assert again.is_complete and llm.forwards == 0
    llm.calibration = calibration_on([bench[1]]).record()
    with pytest.raises(RunError, match="items that the model was calibrated on"):
        run(llm, bench, calibrated.path, generate=True, **QUIET)


def test_a_run_from_before_is_read_as_it_is(plain: Any) -> None:
    manifest = json.loads((plain.path / "manifest.json").read_text())
    del manifest["calibration"]
    (plain.path / "manifest.json").write_text(json.dumps(manifest))
    old = open_run(plain.path)
    assert not old.predictions["calibration"].any() and len(score(old).outcomes) == 20


def test_facts_depend_on_the_items(bench: Benchmark, found: Calibration) -> None:
    one, other = (calibration_facts(c.record(), bench) for c in (found, calibration_on([bench[1]])))
    assert one is not None and other is not None and one["sha"] != other["sha"]
    assert calibration_facts(None, bench) is None


def test_the_command_line_says_it_too(
    calibrated: Any, plain: Any, tmp_path: Path, found: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: Any) -> str:
        with pytest.raises(SystemExit) as done:
            cli.main([str(word) for word in words])
        streams = capsys.readouterr()
        assert not done.value.code, streams.err
        return " ".join(streams.out.split())

    assert "4 items on which the model was calibrated are left out." in said("score", calibrated.path)
    assert "INCLUDED" in said("score", calibrated.path, "--include-calibration-items")
    assert "are left out." in said("compare", calibrated.path, plain.path)
    assert "INCLUDED" in said("compare", calibrated.path, plain.path, "--include-calibration-items")
    shown = json.loads(said("score", calibrated.path, "--json"))
    assert shown["calibration"]["calibrated"]["items"] == 4
    with pytest.raises(SystemExit) as done:
        cli.main(["score", str(calibrated.path), "--calibration", "x.json"])
    assert done.value.code == 2 and "--predictions" in capsys.readouterr().err


def test_the_verb_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))
    assert _cli_calibrate.__doc__
    words = [
        "calibrate",
        "mini",
        "mini",
        "-n",
        "16",
        "--convention",
        "gate_order",
        "-q",
        "--out",
        str(tmp_path / "c.json"),
    ]
    for more in ([], ["--json", "--plot", str(tmp_path / "c.png")]):
        with pytest.raises(SystemExit) as done:
            cli.main([*words, *more])
        assert not done.value.code
    out = capsys.readouterr().out
    text, record = out[: out.index("{")], json.loads(out[out.index("{") :])
    assert text.startswith("Calibration of mini-pclm-dpo on mini: 2 readings, 16 items")
    assert len(record["rows"]) == 2 and record["decided"].keys() | record["undecided"].keys() == {"gate_order"}
    assert record["path"] == str(tmp_path / "c.json") and len(record["items"]) == 16
    assert Calibration.load(tmp_path / "c.json").stated["gate_order"] == "ascending_final_last"
    assert not (tmp_path / "cache" / "calibrations").exists()
    assert (tmp_path / "c.png").stat().st_size > 10_000
