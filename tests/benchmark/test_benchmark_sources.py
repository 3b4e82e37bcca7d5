"""Every form of data becomes the same items, or one error that names every problem."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import vpanalysis.benchmark.sources as sources
from vpanalysis.benchmark import Benchmark
from vpanalysis.benchmark._roots import AudioRoot
from vpanalysis.benchmark._schema import items_from_rows
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import AudioError, SchemaError


def clip(path: Path, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(16000 * seconds), 0.25), 16000, subtype="PCM_16")


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "id": "r1",
        "task_name": "age_prediction",
        "question": "What is the most likely age group of the speaker in the audio?",
        "choice_a": "Young adult",
        "choice_b": "Middle-aged adult",
        "choice_c": "Elderly adult",
        "choice_d": "Child",
        "answer_gt": "Elderly adult",
        "adversarial_labels": ["Young adult"],
        "audio": "audio/r1.wav",
    }
    merged = base | changes
    return {k: v for k, v in merged.items() if v is not ...}


def pitch(**changes: Any) -> dict[str, Any]:
    options = ("high-medium-low", "low-medium-high", "high-low-medium", "medium-low-high")
    slots = {f"choice_{x}": option for x, option in zip("abcd", options, strict=True)}
    return row(task_name="pitch_comparison", answer_gt="low-medium-high", **slots, **changes)


def read(*rows: Any) -> list[Any]:
    return items_from_rows(list(enumerate(rows, start=1)), file="f.json", audio=AudioRoot([Path(".")]))


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# --- one record --------------------------------------------------------------------------------------------------


def test_a_released_record_is_a_conflict_item() -> None:
    (item,) = read(row())
    assert item.condition == "conflict" and item.letters == ("A", "B", "C", "D")
    assert item.said == item.claims == item.foils == ("Young adult",)
    assert item.said_level == "Young adult" and item.truth == "Elderly adult"


@pytest.mark.parametrize(
    "labels",
    [
        ["high-medium-low", "high-low-medium"],
        ("high-medium-low", "high-low-medium"),
        ["A", "(C)"],
        '["high-medium-low", "high-low-medium"]',
        "['high-medium-low', 'high-low-medium']",
        "high-medium-low;high-low-medium",
        "high-medium-low | high-low-medium",
        "High-Medium-Low, high-low-medium",
        "high-medium-low\nhigh-low-medium",
        "A;C",
        ["high-medium-low", None, "", "null", "high-low-medium", "high-medium-low"],
        np.array(["high-medium-low", "high-low-medium"]),
        "high",  # the precursor names the claimed level
    ],
)
def test_labels_in_every_spelling(labels: Any) -> None:
    (item,) = read(pitch(adversarial_labels=labels))
    assert item.claims == ("high-medium-low", "high-low-medium")
    assert item.said_level == "high"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("Yes, loudly", ("Yes, loudly",)),
        ("Yes, loudly; No", ("Yes, loudly", "No")),
        ("No, Yes, loudly", ("No", "Yes, loudly")),
        ("Yes, No", ("Yes", "No")),
        ('["Yes, loudly"]', ("Yes, loudly",)),
        ('"Yes, loudly"', ("Yes, loudly",)),
    ],
)
def test_options_with_commas_are_not_cut(labels: str, expected: tuple[str, ...]) -> None:
    slots = {"choice_a": "Yes", "choice_b": "Yes, loudly", "choice_c": "No", "choice_d": "Perhaps"}
    (item,) = read(row(**slots, answer_gt="Perhaps", adversarial_labels=labels))
    assert item.claims == expected


@pytest.mark.parametrize("empty", [None, "", "  ", "null", "None", "NULL", float("nan"), ...])
@pytest.mark.parametrize("slots", ["ab", "ac", "bd", "cd", "da"])
def test_two_choice_items_in_any_slots(empty: Any, slots: str) -> None:
    options = {f"choice_{x}": empty for x in "abcd"} | {f"choice_{slots[0]}": "Female", f"choice_{slots[1]}": "Male"}
    (item,) = read(row(**options, answer_gt="Female", adversarial_labels="Male"))
    expected = sorted(zip(slots.upper(), ("Female", "Male"), strict=True))
    assert list(zip(item.letters, item.choices, strict=True)) == expected
    (same,) = read(row(**options, answer_gt=slots[0], adversarial_labels=[f"({slots[1].upper()})"]))
    assert same == item


@pytest.mark.parametrize(
    "answer", ["C", "c", "(C)", "c)", "C.", "Elderly adult", " elderly  adult. ", "(C): Elderly adult."]
)
def test_answers_as_text_or_letter(answer: str) -> None:
    assert read(row(answer_gt=answer))[0].truth == "Elderly adult"


def test_option_text_wins_over_a_letter() -> None:
    slots = {"choice_a": "B", "choice_b": "A", "choice_c": None, "choice_d": None}
    assert read(row(**slots, answer_gt="A", adversarial_labels=["B"]))[0].truth == "A"


def test_precursor_keys() -> None:
    record = row(adversarial_labels=..., pretend_label="Child", audio=..., audio_path="x/y/r1.wav", id=...)
    (item,) = read(record)
    assert item.claims == ("Child",) and item.id == "age_prediction__r1"


def test_a_file_without_any_label_is_neutral() -> None:
    items = read(row(adversarial_labels=...), row(id="r2", adversarial_labels=None))
    assert [i.condition for i in items] == ["neutral", "neutral"] and items[0].said == ()


def test_twin_columns_and_foils_of_the_twin() -> None:
    conflict = row(cell="c1", condition="conflict")
    congruent = row(id="r2", cell="c1", condition="congruent", adversarial_labels=None)
    neutral = row(id="r3", cell="c1", condition="neutral", adversarial_labels=[])
    lone = row(id="r4", cell="c2", condition="neutral", adversarial_labels=[])
    items = read(conflict, congruent, neutral, lone)
    assert [i.said for i in items] == [("Young adult",), ("Elderly adult",), (), ()]
    assert [i.foils for i in items] == [("Young adult",), ("Young adult",), ("Young adult",), ()]
    assert [i.claims for i in items] == [("Young adult",), (), (), ()]


def test_transcript_column_then_script_then_sidecar(tmp_path: Path) -> None:
    rows = [
        row(transcript="I am young", script="s1"),
        row(id="r2", script="I am a child"),
        row(id="r3"),
        row(id="r4", transcript=None, script="s4"),
    ]
    file = write(tmp_path / "my.json", rows)
    write(tmp_path / "transcripts.json", {"r3": "from the side", "other": "x"})
    bench = load_benchmark(file)
    assert [i.transcript for i in bench] == ["I am young", "I am a child", "from the side", None]
    assert [i.script for i in bench] == ["s1", "I am a child", None, "s4"]
    write(tmp_path / "my.transcripts.json", {"r3": "closer"})
    assert load_benchmark(file)["r3"].transcript == "closer"
    write(tmp_path / "my.transcripts.json", {"r3": 3})
    with pytest.raises(SchemaError, match="1 entries that are not text, such as id 'r3': int"):
        load_benchmark(file)


# --- problems ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "found", "allowed"),
    [
        ({"answer_gt": "Elderly"}, "answer_gt", "'Elderly'", "did you mean 'Elderly adult'"),
        ({"answer_gt": None}, "answer_gt", "nothing", "'Young adult' (A)"),
        ({"answer_gt": "E"}, "answer_gt", "'E'", "'Child' (D)"),
        ({"answer_gt": "(A): Child"}, "answer_gt", "'(A): Child'", "'Child' (D)"),
        ({"answer_gt": True}, "answer_gt", "True", "'Child' (D)"),
        ({"adversarial_labels": ["Old"]}, "adversarial_labels", "'Old'", "'Child' (D)"),
        ({"adversarial_labels": "Child; Old"}, "adversarial_labels", "'Old'", "'Child' (D)"),
        ({"adversarial_labels": [["Child"]]}, "adversarial_labels", "['Child']", "'Child' (D)"),
        ({"adversarial_labels": {"a": 1}}, "adversarial_labels", "{'a': 1}", "'Child' (D)"),
        ({"adversarial_labels": ["Elderly adult"]}, "adversarial_labels", "the truth", "other than answer_gt"),
        ({"adversarial_labels": None}, "adversarial_labels", "nothing", "condition"),
        ({"question": ""}, "question", "nothing", "text"),
        ({"question": ["a"]}, "question", "['a']", "text"),
        ({"task_name": None}, "task_name", "nothing", "text"),
        ({"audio": None}, "audio", "nothing", "audio_path"),
        ({"audio": 3}, "audio", "3", "a path"),
        ({"audio": "a\0b"}, "audio", "'a\\x00b'", "a path"),
        ({"choice_b": "Young adult"}, "choice_a..choice_d", "'Young adult', 'Young adult'", "distinct"),
        ({"choice_b": None, "choice_c": None, "choice_d": None}, "choice_a..choice_d", "'Young adult'", "at least two"),
        ({"choice_b": {"x": 1}}, "choice_b", "{'x': 1}", "text"),
        ({"id": "good"}, "id", "'good'", "row 1 has it already"),
        ({"condition": "congruent", "said": ["Child"]}, "(row)", "without the truth", "agree"),
    ],
)
def test_each_problem_names_row_field_found_and_allowed(
    change: dict[str, Any], field: str, found: str, allowed: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        read(row(id="good"), row(**change))
    message = str(caught.value)
    assert "f.json, row 2" in message and f"field '{field}'" in message
    assert found in message and allowed in message
    assert "row 1," not in message


def test_one_bad_row_never_hides_the_others() -> None:
    rows = [row(id=f"r{i}", answer_gt="?") for i in range(25)]
    rows[3] = "not a record"
    with pytest.raises(SchemaError) as caught:
        read(*rows)
    message = str(caught.value)
    assert "25 problems in 25 of 25 rows" in message and "and 5 more" in message
    assert message.count("f.json, row") == 20 and "row 4, field '(row)'" in message


def test_several_problems_of_one_row_are_all_reported() -> None:
    with pytest.raises(SchemaError) as caught:
        read(row(question=None, answer_gt="?", audio=None))
    assert all(f"field '{name}'" in str(caught.value) for name in ("question", "answer_gt", "audio"))


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Child", "A", "[", "null"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([*row(), "said", "foils", "condition", "cell", "script", "said_level"]), _VALUES)
)
def test_any_record_is_an_item_or_a_schema_error(changes: dict[str, Any]) -> None:
    try:
        (item,) = read(row(**changes))
    except SchemaError as error:
        assert "row 1" in str(error)
    else:
        assert item.truth in item.choices and set(item.said) <= set(item.choices)


_OPTION = st.text("ab ,;|-'\"[]", min_size=1, max_size=6).map(str.strip).filter(lambda t: len(t) > 1)


@settings(deadline=None)
@given(st.lists(_OPTION, min_size=3, max_size=4, unique_by=lambda t: " ".join(t.split())), st.data())
def test_labels_as_list_and_as_json_agree(options: list[str], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from(options[1:]), min_size=1, unique=True))
    slots = {f"choice_{x}": None for x in "abcd"} | {
        f"choice_{x}": option for x, option in zip("abcd", options, strict=False)
    }
    as_list = read(row(**slots, answer_gt=options[0], adversarial_labels=labels))
    as_json = read(row(**slots, answer_gt=options[0], adversarial_labels=json.dumps(labels)))
    assert as_list[0].claims == as_json[0].claims == tuple(labels)


# --- files and folders -------------------------------------------------------------------------------------------


def expect_same(bench: Benchmark) -> None:
    assert bench.ids == ("r1", "r2") and bench.conditions == ("conflict",)
    assert bench[0].audio.load().size == 1600


@pytest.fixture
def two(tmp_path: Path) -> list[dict[str, Any]]:
    for name in ("r1", "r2"):
        clip(tmp_path / f"audio/{name}.wav")
    return [row(), row(id="r2", audio="audio/r2.wav")]


@pytest.mark.parametrize(
    "content",
    [lambda r: r, lambda r: {"data": r}, lambda r: {"test": r, "train": []}, lambda r: {x.pop("id"): x for x in r}],
)
def test_json_containers(tmp_path: Path, two: list[dict[str, Any]], content: Any) -> None:
    expect_same(load_benchmark(write(tmp_path / "voxparadox.json", content(two))))
    expect_same(load_benchmark(tmp_path))


def test_jsonl_csv_tsv_parquet(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    lines = "\n".join(json.dumps(r) for r in two) + "\n\n"
    expect_same(load_benchmark(write(tmp_path / "a.jsonl", lines)))
    flat = [r | {"adversarial_labels": "Young adult"} for r in two]
    for name, delimiter in (("a.csv", ","), ("b.csv", ";"), ("a.tsv", "\t")):
        table = "\n".join(delimiter.join(cells) for cells in (list(flat[0]), *(list(r.values()) for r in flat)))
        expect_same(load_benchmark(write(tmp_path / name, "\ufeff" + table)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(two), tmp_path / "a.parquet")
    expect_same(load_benchmark(tmp_path / "a.parquet"))


def test_parquet_shards_with_clips_inside(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    (tmp_path / "hub/data").mkdir(parents=True)
    for i, record in enumerate(two):
        cell = {"bytes": (tmp_path / record["audio"]).read_bytes(), "path": f"{i}.wav"}
        table = pyarrow.Table.from_pylist([record | {"audio": cell}])
        pyarrow.parquet.write_table(table, tmp_path / f"hub/data/test-0000{i}-of-00002.parquet")
    expect_same(load_benchmark(tmp_path / "hub"))
    with pytest.raises(SchemaError, match="split 'train' asked"):
        load_benchmark(tmp_path / "hub", split="train")


def test_soundfolder_with_splits(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    lines = [{k: v for k, v in r.items() if k != "audio"} | {"file_name": f"../{r['audio']}"} for r in two]
    write(tmp_path / "test/metadata.jsonl", "\n".join(json.dumps(r) for r in lines))
    expect_same(load_benchmark(tmp_path))
    expect_same(load_benchmark(tmp_path, split="test"))
    with pytest.raises(SchemaError, match="split 'train' asked; allowed: 'test'"):
        load_benchmark(tmp_path, split="train")


def test_release_folder_with_both_tables(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    write(tmp_path / "voxparadox.json", [{k: v for k, v in r.items() if k != "audio"} for r in two])
    write(tmp_path / "metadata.jsonl", "\n".join(json.dumps({"id": r["id"], "file_name": r["audio"]}) for r in two))
    expect_same(load_benchmark(tmp_path))


def test_split_column_and_split_errors(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    file = write(tmp_path / "a.json", [two[0] | {"split": "train"}, two[1] | {"split": "test"}])
    assert load_benchmark(file).ids == ("r2",) and load_benchmark(file, split="train").ids == ("r1",)
    with pytest.raises(SchemaError, match="allowed: 'test', 'train'"):
        load_benchmark(file, split="dev")
    with pytest.raises(SchemaError, match="without splits"):
        load_benchmark(write(tmp_path / "b.json", two), split="train")


def test_audio_root_and_paths_of_another_machine(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    two[0]["audio"], two[1]["audio"] = "/home/someone/vox/audio/r1.wav", "C:\\vox\\audio\\r2.wav"
    file = write(tmp_path / "elsewhere/vox.json", two)
    with pytest.raises(AudioError, match="no such file"):
        load_benchmark(file)[0].audio.load()
    bench = load_benchmark(file, audio_root=tmp_path)
    assert all(item.audio.load().size for item in bench)
    with pytest.raises(SchemaError, match="audio_root"):
        load_benchmark(file, audio_root=tmp_path / "nowhere")


def test_tasks_and_limit(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    file = write(tmp_path / "a.json", [*two, pitch(adversarial_labels="high") | {"id": "p"}])
    assert load_benchmark(file, tasks="pitch_comparison").ids == ("p",)
    assert load_benchmark(file, limit=2).ids == ("r1", "p")
    with pytest.raises(SchemaError, match="did you mean 'pitch_comparison'"):
        load_benchmark(file, tasks=["pitch_comparisons"])


def test_broken_containers_name_file_and_line(tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.json", "{", "not JSON .*line 1"),
        ("b.json", "3", "a JSON int"),
        ("c.json", "[]", "no rows"),
        ("d.jsonl", '{"id": 1}\n{\n[', "2 lines that are not JSON .line 2"),
        ("e.csv", "a,b\n1,2,3\n", "row 1 with more cells"),
        ("f.parquet", "PAR1", "a broken table"),
        ("g.json", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("h.txt", "x", "a .txt file"),
    ):
        with pytest.raises(SchemaError, match=reason) as caught:
            load_benchmark(write(tmp_path / name, content))
        assert name in str(caught.value)
    (tmp_path / "i.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SchemaError, match="not UTF-8"):
        load_benchmark(tmp_path / "i.json")


def test_what_is_not_there(tmp_path: Path) -> None:
    for source in ("nothing", "data/x.json", "/no/where", tmp_path / "gone", "a/b/c"):
        with pytest.raises(SchemaError, match="no such file or folder"):
            load_benchmark(source)
    with pytest.raises(SchemaError, match="no table and no subfolders"):
        load_benchmark(tmp_path)
    write(tmp_path / "a.json", [row()])
    write(tmp_path / "b.json", [row()])
    with pytest.raises(SchemaError, match=r"2 tables: a\.json, b\.json"):
        load_benchmark(tmp_path)
    with pytest.raises(SchemaError, match="revision 'main' of a local path"):
        load_benchmark(tmp_path / "a.json", revision="main")


# --- labelled clips ----------------------------------------------------------------------------------------------


def test_labelled_csv(tmp_path: Path) -> None:
    for name in "abc":
        clip(tmp_path / f"{name}.wav")
    file = write(
        tmp_path / "mood.csv", "path,label,speaker,script\na.wav,sad,s1,Hello\nb.wav,glad,s2,\nc.wav,sad,s1,Hi\n"
    )
    bench = load_benchmark(file)
    assert bench.name == "mood" and bench.tasks == ("labelled",) and bench.conditions == ("neutral",)
    first = bench[0]
    assert first.id == "a.wav" and first.choices == ("glad", "sad") and first.truth == "sad"
    assert (first.speaker, first.transcript, first.claims) == ("s1", "Hello", ())
    assert bench[1].transcript is None and first.audio.load().size == 1600


def test_labelled_table_with_tasks_and_questions(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{i}.wav", "label": label, "task_name": task, "question": "Who?", "id": str(i)}
        for i, (label, task) in enumerate([("x", "t1"), ("y", "t1"), (1, "t2"), (2, "t2")])
    ]
    bench = load_benchmark(write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows))))
    assert bench.tasks == ("t1", "t2") and bench["3"].choices == ("1", "2") and bench["3"].question == "Who?"


def test_labelled_folder(tmp_path: Path) -> None:
    for path in ("test/dog/1.wav", "test/cat/deep/2.wav", "train/dog/3.wav", "train/cat/4.wav"):
        clip(tmp_path / path)
    bench = load_benchmark(tmp_path)
    assert bench.ids == ("cat/deep/2.wav", "dog/1.wav") and bench[0].truth == "cat"
    assert bench[0].audio.load().size == 1600
    assert len(load_benchmark(tmp_path, split="train")) == 2
    assert load_benchmark(tmp_path / "test").ids == bench.ids
    with pytest.raises(SchemaError, match="subfolders of splits; allowed: 'test', 'train'"):
        load_benchmark(tmp_path, split="validation")


def test_labelled_problems(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="row 2, field 'label': found nothing"):
        load_benchmark(write(tmp_path / "a.csv", "path,label\na.wav,x\nb.wav,\nc.wav,y\n"))
    with pytest.raises(SchemaError, match="1 different labels"):
        load_benchmark(write(tmp_path / "b.csv", "path,label\na.wav,x\nb.wav,x\n"))
    many = "path,label\n" + "".join(f"{i}.wav,{i}\n" for i in range(27))
    with pytest.raises(SchemaError, match="27 different labels in the task 'labelled'; allowed: 2 to 26"):
        load_benchmark(write(tmp_path / "c.csv", many))


# --- mini and the Hub --------------------------------------------------------------------------------------------


def test_mini_is_asked_for_the_three_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(**kwargs: Any) -> Benchmark:
        asked.update(kwargs)
        return Benchmark([], name="mini", source="mini")

    monkeypatch.setattr(sources.importlib, "import_module", lambda name: SimpleNamespace(load=load))
    assert load_benchmark("mini", tasks="age_prediction", limit=3).name == "mini"
    conditions = ("conflict", "congruent", "neutral")
    assert asked == {"split": "test", "tasks": ("age_prediction",), "limit": 3, "conditions": conditions}
    with pytest.raises(SchemaError, match="revision='x'"):
        load_benchmark("mini", revision="x")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A dataset of three rows on a pretended Hub, whose client copies what the patterns select."""
    remote, cache = tmp_path / "remote", tmp_path / "cache" / COMMIT
    state = SimpleNamespace(remote=remote, calls=[])

    def snapshot_download(repo: str, **kwargs: Any) -> str:
        state.calls.append((repo, kwargs))
        for source in remote.rglob("*"):
            name = source.relative_to(remote).as_posix()
            patterns = kwargs["allow_patterns"]
            if source.is_file() and (patterns is None or any(source.match(p) or name == p for p in patterns)):
                target = cache / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
        cache.mkdir(parents=True, exist_ok=True)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for i in range(3):
        clip(remote / f"audio/r{i}.wav")
    write(remote / "voxparadox.json", [row(id=f"r{i}", audio=f"audio/r{i}.wav") for i in range(3)])
    state.cache = cache
    return state


def test_hub_dataset(hub: SimpleNamespace) -> None:
    bench = load_benchmark("IHP-Lab/VoxParadox", revision="main")
    assert bench.name == "VoxParadox" and bench.source == "IHP-Lab/VoxParadox" and bench.revision == COMMIT
    assert len(bench) == 3 and bench[2].audio.load().size == 1600
    assert hub.calls == [("IHP-Lab/VoxParadox", {"repo_type": "dataset", "revision": "main", "allow_patterns": None})]


def test_hub_limit_fetches_only_the_clips_that_are_needed(hub: SimpleNamespace) -> None:
    bench = load_benchmark("IHP-Lab/VoxParadox", limit=1)
    assert bench.ids == ("r0",) and bench[0].audio.load().size == 1600
    assert sorted(p.name for p in hub.cache.rglob("*.wav")) == ["r0.wav"]


def test_hub_dataset_in_parquet(hub: SimpleNamespace) -> None:
    (hub.remote / "voxparadox.json").unlink()
    (hub.remote / "data").mkdir()
    cell = {"bytes": (hub.remote / "audio/r0.wav").read_bytes(), "path": "r0.wav"}
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([row() | {"audio": cell}]), hub.remote / "data/test-00000-of-00001.parquet"
    )
    assert load_benchmark("IHP-Lab/VoxParadox", limit=1)[0].audio.load().size == 1600


def test_hub_dataset_in_another_form_needs_the_optional_reader(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.remote / "voxparadox.json").unlink()
    for file in hub.remote.rglob("*.wav"):
        file.unlink()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SchemaError, match=r"pip install 'vpanalysis\[hub\]'"):
        load_benchmark("IHP-Lab/VoxParadox")

    class Table(list[Any]):
        column_names = ("audio", "question")

        def cast_column(self, name: str, feature: Any) -> Table:
            assert (name, feature) == ("audio", {"decode": False})
            return self

    def load_dataset(repo: str, split: str, revision: str | None) -> Table:
        return Table([row(audio={"bytes": b"x", "path": None})])

    fake = SimpleNamespace(load_dataset=load_dataset, Audio=lambda **kwargs: kwargs)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    bench = load_benchmark("IHP-Lab/VoxParadox")
    assert bench.ids == ("r1",) and bench.source == "IHP-Lab/VoxParadox"


def test_offline_without_a_cache_says_what_to_do(tmp_path: Path) -> None:
    """In a process of its own, because the Hub client reads HF_HUB_OFFLINE when it is imported."""
    code = (
        "from vpanalysis.benchmark.sources import load_benchmark\n"
        "from vpanalysis.errors import SchemaError\n"
        "try:\n    load_benchmark('IHP-Lab/VoxParadox')\nexcept SchemaError as e:\n    print(e)\n"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "cannot fetch the dataset 'IHP-Lab/VoxParadox'" in done.stdout, done.stderr
    assert "HF_HUB_OFFLINE" in done.stdout and "pass its folder" in done.stdout
