"""Tables that nobody checked: each is read, or refused in one sentence, in bounded memory, within the folders named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from vpanalysis.benchmark import _files
from vpanalysis.benchmark._lists import cut, fold
from vpanalysis.benchmark._lookalikes import look_alikes
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import AudioError, SchemaError, did_you_mean


def record(**changes: Any) -> dict[str, Any]:
    return {
        "id": "q1", "task_name": "gender_prediction", "question": "Who speaks?", "choice_a": "Male",
        "choice_b": "Female", "answer_gt": "Male", "adversarial_labels": ["Female"], "audio_path": "a.wav", **changes,
    }  # fmt: skip


def table(folder: Path, *records: dict[str, Any], name: str = "t.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(list(records)), encoding="utf-8")
    return folder / name


def clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(1600, 0.25), 16_000)
    return path


# --- JSON and other containers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_refused_in_a_sentence(tmp_path: Path, depth: int, opening: str) -> None:
    (tmp_path / "deep.json").write_text(opening * depth)
    (tmp_path / "deep.jsonl").write_text(json.dumps(record()) + "\n" + opening * depth + "\n")
    with pytest.raises(SchemaError, match="nested too deeply"):
        load_benchmark(tmp_path / "deep.json")
    with pytest.raises(SchemaError, match=r"1 lines that are not JSON \(line 2: .*nested too deeply"):
        load_benchmark(tmp_path / "deep.jsonl")


def test_nesting_inside_a_field_is_no_option(tmp_path: Path) -> None:
    for text in ("[" * 10_000, "(" * 10_000, "[{[]: 1}]", "[1, 2" + ", 3" * 100_000):
        with pytest.raises(SchemaError, match="field 'adversarial_labels'"):
            load_benchmark(table(tmp_path, record(adversarial_labels=text)))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv"])
def test_a_line_of_a_gigabyte_is_refused_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"long{suffix}"
    file.write_text('{"id": "' if suffix.startswith(".json") else "id,question\n1,")
    os.truncate(file, 1 << 30)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))\n"
        "from pathlib import Path\n"
        "from vpanalysis.benchmark._files import read_rows; from vpanalysis.errors import SchemaError\n"
        "try: read_rows(Path(sys.argv[1]), 'test')\n"
        "except SchemaError as error: print(error)\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, kilobytes = done.stdout.splitlines()
    assert ("1.07 GB in one JSON value" if suffix == ".json" else "of more than 16 MiB") in said
    assert int(kilobytes) < 400_000


def test_long_lines_within_the_bound_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MAX_LINE", 1000)
    for length, fits in ((400, True), (2000, False)):
        (tmp_path / "t.jsonl").write_text(json.dumps(record(question="x" * length)))
        if fits:
            assert len(load_benchmark(tmp_path / "t.jsonl")[0].question) == length
        else:
            with pytest.raises(SchemaError, match="line 1 of more than"):
                load_benchmark(tmp_path / "t.jsonl")


def test_what_stands_twice_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="row 2, field 'id': found 'q1'; allowed: unique ids; row 1 has it"):
        load_benchmark(table(tmp_path, record(), record()))
    (tmp_path / "key.json").write_text('[{"id": "q1", "answer_gt": "Male", "answer_gt": "Female"}]')
    with pytest.raises(SchemaError, match="the name 'answer_gt' twice in one object"):
        load_benchmark(tmp_path / "key.json")
    (tmp_path / "ids.json").write_text('{"q1": {"question": "a"}, "q1": {"question": "b"}}')
    with pytest.raises(SchemaError, match="the name 'q1' twice"):
        load_benchmark(tmp_path / "ids.json")
    (tmp_path / "col.csv").write_text("id,answer_gt, id\n1,2,3\n")
    with pytest.raises(SchemaError, match="the column 'id' twice"):
        load_benchmark(tmp_path / "col.csv")


def test_other_encodings_are_named_with_their_place(tmp_path: Path) -> None:
    good, bad = json.dumps(record()).encode(), json.dumps(record(id="q2", question="Wer häßlich?"), ensure_ascii=False)
    (tmp_path / "mixed.jsonl").write_bytes(good + b"\n" + bad.encode("latin-1") + b"\n")
    with pytest.raises(SchemaError, match=r"not UTF-8 at \d+ of line 2"):
        load_benchmark(tmp_path / "mixed.jsonl")
    for name in ("wide.json", "wide.csv"):
        (tmp_path / name).write_bytes(bad.encode("utf-16"))
        with pytest.raises(SchemaError, match=r"looks like UTF-16.*save the file as UTF-8"):
            load_benchmark(tmp_path / name)
    (tmp_path / "col.csv").write_bytes(b"id,question\n1,h\xe4\n")
    with pytest.raises(SchemaError, match="of line 2"):
        load_benchmark(tmp_path / "col.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    flat = {key: ";".join(value) if isinstance(value, list) else value for key, value in record().items()}
    rows = ",".join(flat) + "\r\n" + ",".join(flat.values()) + "\r\n"
    for name, text in (
        ("a.csv", rows), ("mac.csv", rows.replace("\r\n", "\r")), ("b.tsv", rows.replace(",", "\t")),
        ("c.json", json.dumps([record()])), ("d.jsonl", json.dumps(record())),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert load_benchmark(tmp_path / name).ids == ("q1",), name


def test_halves_of_characters_are_refused(tmp_path: Path) -> None:
    for field in ("id", "question", "choice_b", "audio_path"):
        (tmp_path / "t.json").write_text(json.dumps([record(**{field: "x"})]).replace('"x"', '"x\\ud800"'))
        with pytest.raises(SchemaError, match=f"field '{field}'"):
            load_benchmark(tmp_path / "t.json")


def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[{"id": ' + "1" * 10_000 + "}]")
    with pytest.raises(SchemaError, match="not JSON"):
        load_benchmark(tmp_path / "t.json")


def test_an_audio_cell_makes_no_memory_of_a_number(tmp_path: Path) -> None:
    for cell in (
        {"bytes": 10**12}, {"bytes": "text"}, {"bytes": [300]}, {"array": [[1], [1, 2]], "sampling_rate": 16_000},
        {"array": [0.0], "sampling_rate": "fast"}, {"array": [0.0], "sampling_rate": [1]}, {"array": [0.0],
        "sampling_rate": float("inf")}, {"path": 3}, "x" * 100_000, "a\0b",
    ):  # fmt: skip
        with pytest.raises(SchemaError, match="field 'audio'"):
            load_benchmark(table(tmp_path, record(audio=cell)))


def test_parquet_that_stands_for_billions_of_rows_or_holds_no_text(tmp_path: Path, monkeypatch: Any) -> None:
    rows = pyarrow.table({"id": ["q"] * 1000})
    pyarrow.parquet.write_table(rows, tmp_path / "many.parquet")
    monkeypatch.setattr(_files, "MAX_ROWS", 999)
    with pytest.raises(SchemaError, match="found 1000 rows; allowed: at most 999"):
        load_benchmark(tmp_path / "many.parquet")
    broken = pyarrow.Array.from_buffers(pyarrow.utf8(), 1, [None, pyarrow.py_buffer(np.int32([0, 2]).tobytes()),
                                                            pyarrow.py_buffer(b"\xff\xfe")])  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({"id": broken}), tmp_path / "bytes.parquet")
    with pytest.raises(SchemaError, match="a broken table"):
        load_benchmark(tmp_path / "bytes.parquet")


def test_pipes_and_devices_are_no_benchmark(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for source, kind in ((tmp_path / "pipe.json", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(SchemaError, match=kind):
            load_benchmark(source)
    with pytest.raises(SchemaError, match="no such file or folder"):
        load_benchmark("/" + "a" * 5000)


def test_ids_of_any_kind_beside_a_metadata_table(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    table(tmp_path, record(audio_path=None), record(id=["q1"], audio_path=None), name="voxparadox.json")
    (tmp_path / "metadata.jsonl").write_text('{"id": "q1", "file_name": "a.wav"}\n{"id": ["q1"], "file_name": "b"}\n')
    with pytest.raises(SchemaError, match="row 2, field 'id'"):
        load_benchmark(tmp_path)


# --- time --------------------------------------------------------------------------------------------------------


def test_no_list_of_labels_takes_longer_than_its_length_demands() -> None:
    options = {fold(option): option for option in ("a", "a,a", "a,a,a")}
    start = time.monotonic()
    assert cut("a," * 20_000 + "b", options) is None
    assert cut("a," * 20_000, options) is not None
    assert cut("a; b ,c,d | b", {"b ,c": "B ,c", "a": "A", "b": "B", "d": "D"}) == ["A", "B ,c", "D", "B"]
    assert did_you_mean("x" * 100_000, ["x" * 99_999, "y"]) == ""
    assert time.monotonic() - start < 5


def test_a_thousand_wrong_labels_are_reported_like_twenty(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SchemaError, match="20 problems in 1 of 1 rows"):
        load_benchmark(table(tmp_path, record(adversarial_labels=[f"Femal{i}" for i in range(20_000)])))
    assert time.monotonic() - start < 5


# --- options that look the same ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", ["Ｍale", "\u041cale", "Ma\u200ble", "\u202eMale", "M\u0430l\u0435", "Ma\u00adle", "𝐌ale", "Male\ufe0f"]
)
def test_options_that_look_the_same_are_refused_and_shown_as_codes(tmp_path: Path, other: str) -> None:
    with pytest.raises(SchemaError, match="options that do not look the same") as caught:
        load_benchmark(table(tmp_path, record(choice_b=other, adversarial_labels=[other])))
    assert ascii("Male") in str(caught.value) and ascii(other) in str(caught.value)


def test_options_that_differ_visibly_are_accepted() -> None:
    for pair in (("Male", "male"), ("resume", "résumé"), ("Мужской", "Женский"), ("1", "l"), ("+1", "-1"), ("é", "è")):
        assert look_alikes(pair) is None, pair


def test_options_that_differ_in_case_alone_are_accepted_with_a_warning(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    file = table(tmp_path, record(choice_b="MALE", adversarial_labels=["B"]))
    with pytest.warns(UserWarning, match=r"1 questions, such as 'q1', .*'Male', 'MALE'.*letter only") as caught:
        assert load_benchmark(file)[0].claims == ("MALE",)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_benchmark(table(tmp_path, record()))


# --- clips outside -----------------------------------------------------------------------------------------------


def test_paths_that_climb_out_are_refused_unless_allowed(tmp_path: Path) -> None:
    secret = clip(tmp_path / "private/secret.wav")
    clip(tmp_path / "data/a.wav")
    (tmp_path / "data/link.wav").symlink_to(secret)
    (tmp_path / "data/folder").symlink_to(tmp_path / "private")
    (tmp_path / "data/inside.wav").symlink_to(tmp_path / "data/a.wav")
    for path in (
        "../private/secret.wav", str(secret), "link.wav", "folder/secret.wav", "x/../../private/secret.wav",
        "..\\private\\secret.wav", "./folder/../folder/secret.wav",
    ):  # fmt: skip
        file = table(tmp_path / "data", record(audio_path=path))
        with pytest.raises(SchemaError, match=r"row 1, field 'audio_path': found .*which lies outside.*allow_outside"):
            load_benchmark(file)
        assert load_benchmark(file, allow_outside=True)[0].audio.load().size == 1600, path
    for path in ("a.wav", "inside.wav", "../data/a.wav", str(tmp_path / "data/a.wav"), "/else/data/a.wav"):
        assert load_benchmark(table(tmp_path / "data", record(audio_path=path)))[0].audio.load().size == 1600


def test_what_the_folders_are_called_counts_as_it_really_is(tmp_path: Path) -> None:
    clip(tmp_path / "big disk/vox/a.wav")
    (tmp_path / "audio").symlink_to(tmp_path / "big disk/vox")
    file = table(tmp_path / "tables", record())
    assert load_benchmark(file, audio_root=tmp_path / "audio")[0].audio.load().size == 1600
    (tmp_path / "tables/a.wav").symlink_to(tmp_path / "big disk/vox/a.wav")
    with pytest.raises(SchemaError, match="lies outside"):
        load_benchmark(file)
    assert load_benchmark(file, audio_root=tmp_path / "big disk")[0].audio.load().size == 1600


def test_a_path_outside_where_nothing_is_is_not_read_once_something_is(tmp_path: Path) -> None:
    bench = load_benchmark(table(tmp_path / "data", record(audio_path="../later.wav")))
    clip(tmp_path / "later.wav")
    with pytest.raises(AudioError, match="no such file"):
        bench[0].audio.load()


def test_the_cache_of_the_hub_keeps_files_beside_its_snapshots(tmp_path: Path) -> None:
    repo = tmp_path / "datasets--a--b"
    clip(repo / "blobs/0a1b.wav").rename(repo / "blobs/0a1b")
    snapshot = repo / "snapshots" / "0a" / "data"
    table(snapshot, record())
    (snapshot / "a.wav").symlink_to(repo / "blobs/0a1b")
    assert load_benchmark(snapshot)[0].audio.load().size == 1600
    (repo / "refs").mkdir()
    clip(repo / "refs/b.wav")
    (snapshot / "a.wav").unlink()
    (snapshot / "a.wav").symlink_to(repo / "refs/b.wav")
    with pytest.raises(SchemaError, match="lies outside"):
        load_benchmark(snapshot)


def test_the_command_line_allows_it_by_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vpanalysis.cli import main

    secret = clip(tmp_path / "private/secret.wav")
    file = table(tmp_path / "data", record(audio_path=str(secret)))
    replies = tmp_path / "replies.json"
    replies.write_text('{"q1": "(A)"}')
    asked = ["score", "--predictions", str(replies), "--benchmark", str(file)]
    for flag, code in (([], 2), (["--allow-outside"], 0)):
        with pytest.raises(SystemExit) as ended:
            main([*asked, *flag])
        assert ended.value.code == code
        assert ("--allow-outside" in capsys.readouterr().err) == (code == 2)


def test_the_flag_is_known_to_every_verb_that_loads_a_benchmark() -> None:
    import inspect

    from vpanalysis import _cli_attribution, _cli_calibrate, _cli_probes, cli

    for module in (cli, _cli_attribution, _cli_calibrate, _cli_probes):
        source = inspect.getsource(module)
        called = source.count("load_benchmark(")
        assert called and source.count("allow_outside=allow_outside") == called, module.__name__
