import re

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vpanalysis.figures._drawing import styled
from vpanalysis.figures._tables import SMALL, TYPE, Notes, cell, draw_table, table_height


def drawn(layout, width=6.75, factor=1.0):
    figure = Figure(figsize=(width * factor, table_height(layout, width) * factor), dpi=200)
    with styled("paper"):
        draw_table(layout, figure, width)
    return figure, figure.axes[0]


def boxes(figure, ax):
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in ax.texts if text.get_text()]


@pytest.fixture
def layout():
    long = "a very long account of where this number is from, which has no room in one line of a page, and less in two"
    table = pd.DataFrame({
        "Model": ["AF3 + PCLM + DPO", "organism inverter (control)", "x"],
        "Acc_GT": ["65.20", "51.0 [46.9, 55.1]", "7.1†"],
        "Difference": ["", "-16.0 [-25.8, -6.2]", "2.35"],
        "Source": ["paper", long, "page"],
    })  # fmt: skip
    table.attrs.update(notes=["† a note " + "that goes on " * 20, "second"], rules=[1])
    return table


@pytest.mark.parametrize("factor", [1.0, 1.6])
def test_nothing_is_cut_and_nothing_overlaps(layout, factor):
    figure, ax = drawn(layout, factor=factor)
    found = boxes(figure, ax)
    whole = figure.bbox
    for text, box in found:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    for at, (text, box) in enumerate(found):
        for other, second in found[at + 1 :]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            down = min(box.y1, second.y1) - max(box.y0, second.y0)
            # Boxes of lines of one cell touch by the depth of a letter.
            assert across <= 0 or down <= 0.25 * TYPE * factor * 200 / 72, (text, other)


def test_text_is_whole_and_in_order(layout):
    _, ax = drawn(layout)
    text = " ".join(t.get_text() for t in ax.texts)
    words = [w for column in ("Model", "Acc_GT", "Source") for value in layout[column] for w in value.split()]
    assert set(words) <= set(text.split()) and "−16.0 [−25.8, −6.2]" in text and "-16" not in text
    for note in layout.attrs["notes"]:
        assert set(note.split()) <= set(text.split())


def test_numbers_are_aligned_on_the_right_and_words_on_the_left(layout):
    figure, ax = drawn(layout)
    at = dict(boxes(figure, ax))
    ends = [at[text].x1 for text in ("Acc_GT", "65.20", "51.0 [46.9, 55.1]", "7.1†")]
    starts = [at[text].x0 for text in ("Model", "AF3 + PCLM + DPO", "x")]
    assert max(ends) - min(ends) < 4 and max(starts) - min(starts) < 4


def test_rules_are_level_and_where_they_were_asked_for(layout):
    _, ax = drawn(layout)
    lines = [line.get_ydata() for line in ax.lines]
    assert len(lines) == 4  # above, under the head, between the groups, below
    assert all(y[0] == y[1] for y in lines)
    rows = {t.get_text().split(" ")[0]: t.get_position()[1] for t in ax.texts}
    between = sorted(y[0] for y in lines)[2]
    assert rows["65.20"] < between < rows["organism"] - TYPE / 2


def test_type_is_legible_at_final_size(layout):
    _, ax = drawn(layout)
    sizes = {t.get_fontsize() for t in ax.texts}
    assert sizes == {TYPE, SMALL} and min(sizes) >= 6
    _, wide = drawn(layout, factor=1.6)
    assert [t.get_text() for t in ax.texts] == [t.get_text() for t in wide.texts]
    assert {t.get_fontsize() for t in wide.texts} == {TYPE * 1.6, SMALL * 1.6}


def test_a_figure_that_is_too_low_gets_smaller_type(layout):
    figure = Figure(figsize=(6.75, table_height(layout) / 2), dpi=200)
    with styled("paper"):
        draw_table(layout, figure)
    assert all(box.y0 >= figure.bbox.y0 for _, box in boxes(figure, figure.axes[0]))


def test_height_grows_with_rows_and_notes(layout):
    more = pd.concat([layout, layout], ignore_index=True)
    assert table_height(more) > table_height(layout) > table_height(layout.copy().iloc[:1])
    bare = layout.copy()
    bare.attrs["notes"] = []
    assert table_height(bare) < table_height(layout)


def test_columns_of_long_words_do_not_loop_for_ever():
    table = pd.DataFrame({name: ["unbreakable" * 9] for name in "abc"})
    assert table_height(table) > 0


def test_data_cannot_be_mathematics():
    figure, ax = drawn(pd.DataFrame({"a": ["$\\frac$ broken", "b"], "b": ["1", "2"]}))
    assert "$\\frac$ broken" in [t.get_text() for t in ax.texts] and figure.axes


def test_notes_and_cells():
    notes = Notes()
    marks = [notes.mark(f"note {i}") for i in range(10)]
    assert len(set(marks)) == 10 and notes.mark("note 3") == marks[3]
    assert [line.split(" ", 1)[1] for line in notes.lines] == [f"note {i}" for i in range(10)]
    assert all(re.fullmatch(r"[†‡*]+", mark) for mark in marks[:8]) and marks[9] == "(10)"
    assert cell(1.25, float("nan"), float("nan"), digits=2) == "1.25" and cell(-1.0, -2, 0.5) == "-1.0 [-2.0, 0.5]"
