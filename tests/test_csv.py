"""CSV that a spreadsheet shows and does not run; numbers stay numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis import _console
from vpanalysis._csv import csv_text, plain_cell
from vpanalysis._html import html_table, text_table

HOSTILE = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", " =1", "\xa0@x", "=HYPERLINK(\"x\")",
           "-2+3+cmd|' /C calc'!A0", "\t1", "+", "-")  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_would_be_run_is_marked_as_text(text: str) -> None:
    assert plain_cell(text) == "'" + text
    read = list(csv.reader(io.StringIO(csv_text(pd.DataFrame({text: [text, "age"], "n": [-1.5, 2.0]})), newline="")))
    # A carriage return would begin a new row, so ends of lines become one kind.
    cell = "'" + text.replace("\r", "\n")
    assert read == [[cell, "n"], [cell, "-1.5"], ["age", "2.0"]]


@pytest.mark.parametrize(
    "value", ["-0.5", "+3", "-1e-05", "-inf", "age", "a=b", "high-low", "", "'=1", -3, -0.5, None, True]
)
def test_numbers_and_harmless_text_stay_as_they_are(value: object) -> None:
    assert plain_cell(value) is value


def test_a_table_without_hostile_text_is_what_pandas_writes() -> None:
    frame = pd.DataFrame({
        "task": ["age", None], "x": [-0.1, np.nan], "n": [-1, 2], "b": [True, False], "o": [("a", "b"), 1.5],
        "s": pd.Series(["x", pd.NA], dtype="string"), "c": pd.Categorical(["u", "v"]),
    })  # fmt: skip
    for float_format in (None, "%.3g"):
        expected = frame.to_csv(index=False, lineterminator="\n", float_format=float_format)
        assert csv_text(frame, float_format=float_format) == expected


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=3), st.floats(allow_nan=False))
def test_no_cell_of_text_begins_like_a_formula(texts: list[str], number: float) -> None:
    frame = pd.DataFrame({"text": texts, "number": [number] * len(texts)})
    rows = list(csv.reader(io.StringIO(csv_text(frame), newline="")))
    for row in rows[1:]:
        assert float(row[1]) == number
        if row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            float(row[0])


def test_every_table_that_is_written_goes_through_it() -> None:
    """Only the card of the bundled checkpoints, which holds no strings from data, is written by pandas itself."""
    package = Path(__file__).resolve().parents[1] / "vpanalysis"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if ".to_csv(" in path.read_text()}
    # figures/_entry reads its own text back: what is written is made by csv_text.
    assert found == {"_csv.py", "figures/_entry.py", "organism/card.py"}


def test_a_row_is_a_row_whatever_ends_of_lines_are_in_it() -> None:
    frame = pd.DataFrame({"task": ["a\r=1+1", "b\r\n=2", "c\n=3"], "n": [1, 2, 3]})
    rows = list(csv.reader(io.StringIO(csv_text(frame), newline="")))
    assert rows == [["task", "n"], ["a\n=1+1", "1"], ["b\n=2", "2"], ["c\n=3", "3"]]
    from vpanalysis.figures._entry import as_read

    assert list(as_read(frame)[0]["n"]) == [1, 2, 3]


def test_the_table_of_a_figure_is_marked_and_its_picture_is_not() -> None:
    from vpanalysis.figures._entry import as_read

    data, text = as_read(pd.DataFrame({"task": ["=1+1", "age"], "gain": [-0.25, 0.5]}))
    assert list(data["task"]) == ["=1+1", "age"] and list(data["gain"]) == [-0.25, 0.5]
    assert text == "task,gain\n'=1+1,-0.25\nage,0.5\n"


EVIL = "<script>alert(1)</script>\x1b[2J\x1b]0;owned\x07\u202e\r\b=1+1&\"'"


def test_the_same_string_in_html_terminal_and_csv(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({EVIL: [EVIL]})
    html = html_table(frame, EVIL, EVIL)
    assert "<script" not in html
    for text in (text_table(frame, EVIL, EVIL), _console.as_sentence(OSError(2, "gone", EVIL))):
        assert all(c.isprintable() or c == "\n" for c in text)
    _console.remark(EVIL)
    _console.emit(frame, as_json=False, title=EVIL)
    _console.emit(frame, as_json=True, title=EVIL)
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err)
