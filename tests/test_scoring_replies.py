"""Replies of any model, from a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from vpanalysis.benchmark.audio import FileAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import SchemaError
from vpanalysis.scoring import score_predictions


@pytest.fixture
def bench() -> Benchmark:
    items = []
    for number in range(6):
        truth, claim = ("Female", "Male") if number % 2 else ("Male", "Female")
        for condition in ("conflict", "congruent"):
            said = (claim,) if condition == "conflict" else (truth,)
            items.append(
                Item(
                    id=f"g{number}-{condition}",
                    task_name="gender_prediction",
                    question="Who speaks?",
                    choices=("Female", "Male"),
                    letters=("B", "D"),
                    truth=truth,
                    said=said,
                    condition=condition,
                    foils=(claim,),
                    audio=FileAudio(Path("none.wav")),
                    cell=f"g{number}",
                    speaker=f"s{number}",
                )
            )
    return Benchmark(items, name="six", source="by hand")


def answers(bench: Benchmark, style: str = "letter") -> dict[str, str]:
    shown = {"letter": lambda i: i.letter_of(i.truth), "text": lambda i: i.truth,
             "raw": lambda i: f"({i.letter_of(i.truth).lower()}) {i.truth.lower()}."}  # fmt: skip
    return {item.id: shown[style](item) for item in bench}


@pytest.mark.parametrize("style", ["letter", "text", "raw"])
@pytest.mark.parametrize("form", ["jsonl", "json", "mapping.json", "csv", "parquet"])
def test_every_form_gives_the_same_score(bench: Benchmark, tmp_path: Path, style: str, form: str) -> None:
    file, replies = tmp_path / f"replies.{form}", answers(bench, style)
    rows = [{"id": i, "response": text} for i, text in replies.items()]
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif form == "json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif form == "mapping.json":
        file.write_text(json.dumps(replies), encoding="utf-8")
    elif form == "csv":
        with file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, ["id", "response"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(file)
    found = score_predictions(file, bench)
    assert (found.value("acc_gt"), found.value("hearing"), found.prediction) == (1, 1, "pred_generated")
    assert found.settings["replies"]["missing"] == []
    assert "12 replies from replies" in repr(found)
    assert found.name == file.stem


def test_what_does_not_fit_is_reported_and_never_guessed(bench: Benchmark, tmp_path: Path) -> None:
    replies = answers(bench)
    rows = [{"id": i, "raw": t} for i, t in replies.items() if i != "g0-conflict"]
    rows += [
        {"id": "g1-conflict", "raw": f"({replies['g1-conflict']})"},  # the same again, in other words
        {"id": "g2-conflict", "raw": "B" if replies["g2-conflict"] == "D" else "D"},  # another answer
        {"id": "stranger", "raw": "B"},
    ]
    rows[4]["raw"] = "I cannot tell."
    rows[5]["raw"] = None
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = score_predictions(file, bench, name="mine")
    report = found.settings["replies"]
    assert report["missing"] == ["g0-conflict"]
    assert report["surplus"] == ["stranger"]
    assert report["duplicates"] == ["g1-conflict", "g2-conflict"]
    assert report["contradicted"] == ["g2-conflict"]
    outcomes = found.outcomes.set_index("id")["outcome"]
    assert outcomes["g0-conflict"] == "failed"
    assert outcomes["g1-conflict"] == "listened"
    assert outcomes["g2-conflict"] == "unparsed"
    assert (outcomes == "unparsed").sum() == 3
    assert found.value("acc_gt") == pytest.approx((6 - 2 - (outcomes[["g3-conflict"]] == "unparsed").sum()) / 6)
    text = repr(found)
    for part in ("1 items without a reply (failed): g0-conflict", "1 replies to unknown ids (left out): stranger"):
        assert part in text.replace("\n", " ")
    assert found.name == "mine"


def test_raw_text_goes_before_letters_and_the_column_can_be_named(bench: Benchmark, tmp_path: Path) -> None:
    right = answers(bench)
    rows = [
        {"id": i, "letter": right[i], "raw": "B" if right[i] == "D" else "D", "answer_gt": "Male"} for i in bench.ids
    ]
    file = tmp_path / "r.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert score_predictions(file, bench).value("acc_gt") == 0
    assert score_predictions(file, bench).settings["replies"]["column"] == "raw"
    assert score_predictions(file, bench, column="letter").value("acc_gt") == 1
    with pytest.raises(SchemaError, match="did you mean 'letter'"):
        score_predictions(file, bench, column="leter")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": "g0-conflict", "answer_gt": "Male"}]', "reply column"),
        ('[{"name": "g0-conflict", "raw": "B"}]', "id column"),
        ('[{"id": "x", "raw": "B"}]', "no id of 'six'"),
        (
            '[{"id": null, "raw": "B"}, {"id": "g0-conflict", "raw": ["B"]}]',
            r"row 1 without 'id'; row 2: 'raw' is a list",
        ),
        ('["B"]', "row 1 that is no record"),
        ("[]", "no records"),
        ("{", "read the replies .* not JSON"),
    ],
)
def test_files_that_cannot_be_scored_say_why(bench: Benchmark, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SchemaError, match=message):
        score_predictions(file, bench)


def test_a_missing_file_is_one_sentence(bench: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"cannot read the replies .*No such file"):
        score_predictions(tmp_path / "none.jsonl", bench)
