"""Tables print well and never let a string from data become markup or a terminal command."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis._html import html_table, text_table


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_strings_never_become_markup(cell: str, column: str, title: str, note: str) -> None:
    parser = Tags()
    parser.feed(html_table(pd.DataFrame({column: [cell]}), title, note))
    assert set(parser.tags) <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert parser.tags.count("td") == parser.tags.count("th") == 1


def test_values_and_hidden_rows() -> None:
    frame = pd.DataFrame({"x": [0.12345, np.nan, 2.0], "n": [1, 2, 3], "s": ["a", None, ("b", "c")]})
    html = html_table(frame, "T", "a note", max_rows=2)
    assert "0.123" in html and "–" in html and "1 more rows" in html and "a note" in html
    text = text_table(frame, "T", digits=1)
    assert text.splitlines()[0] == "T" and "0.1" in text and "b, c" in text
    assert len({len(line) for line in text.splitlines()[2:3]}) == 1


def test_named_index_and_column_levels_are_shown() -> None:
    frame = pd.DataFrame({("acc", "low"): [0.5]}, index=pd.Index(["age"], name="task"))
    assert "task" in html_table(frame, "T") and "acc low" in text_table(frame)
    assert "age" in text_table(frame)


def test_empty_table_and_control_characters() -> None:
    assert "T" in html_table(pd.DataFrame({"x": []}), "T")
    assert "\x1b" not in text_table(pd.DataFrame({"x": ["\x1b[2J"]}), "\x1b]0;t")
