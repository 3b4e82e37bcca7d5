"""Table 1 with its conflicts: the base models as printed, the authors' second leaderboard, and one's own Runs.

Why it exists. Two sources by the authors disagree about two of the twelve models. Whoever cites a number should see the
other one beside it.

The idea. The rows of :mod:`vpanalysis.figures.leaderboard` and the printed means, as cells. The second leaderboard has
a column of its own, filled where it differs from the paper.

What it cannot show: which of the two numbers is right. That the second counts another adversarial label is inferred;
for a Run of the same model both ways of counting are in :mod:`vpanalysis.figures.ours_and_theirs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from vpanalysis.figures import leaderboard
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import METRICS
from vpanalysis.figures._tables import Notes, cell, draw_table, table_height

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY", "named", "origin"]


def data(sources: Sources) -> pd.DataFrame:
    """Return published models with their means, and own Runs, in percent."""
    return leaderboard.data(sources, mean=True)


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes = Notes()
    rows: list[dict[str, str]] = []
    rules: list[int] = []
    for group in dict.fromkeys(data["group"]):
        if rows:
            rules.append(len(rows))
        for label in dict.fromkeys(data.loc[data["group"] == group, "label"]):
            part = data[(data["group"] == group) & (data["label"] == label)]
            used = part[part["use"]].set_index("metric")
            second = part[~part["use"] & (part["metric"] == "ala")]["value"]
            if label == leaderboard.MEAN:
                rules.append(len(rows))
            measured = used["origin"].iloc[0] == MEASURED
            row = {"Model": named(str(label), bool(used["planted"].iloc[0]))}
            for metric, title in METRICS.items():
                one = used.loc[metric]
                row[title] = cell(one["value"], one["low"], one["high"], digits=1 if measured else 2)
            row["ALA, page"] = ""
            if len(second):
                row["ALA, page"] = cell(second.iloc[0], digits=2) + notes.mark(
                    "second version of the leaderboard on the authors' page, where it differs from the paper; a second "
                    "adversarial label of comparison items was probably counted (inferred)"
                )
            row["Guessing"] = cell(used["chance"].iloc[0])
            row["Source"] = origin(used.iloc[0], notes) if measured else "paper"
            rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs.update(notes=notes.lines, rules=rules)
    return table


def named(label: str, planted: bool) -> str:
    """Return how a Run is called in a table, where nothing but its row says whose it is."""
    return label if not planted else "organism" if label == "base" else f"organism {label}"


def origin(row: pd.Series, notes: Notes) -> str:
    """Return on what and how a Run was measured, with a note where it is the organism's."""
    text = f"{row['benchmark']}, {row['prediction']}"
    if row["planted"]:
        text += notes.mark("the bundled organism: what its layers hold was planted, so it is no evidence about the "
                           "published models")  # fmt: skip
    return text


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    return leaderboard.alt(data[data["label"] != leaderboard.MEAN], "Table")


ENTRY = Entry(
    "leaderboard_table", "Acc_GT and ALA of the base models", "Table 1",
    "In percent of conflict items. Published numbers were printed without intervals; Runs have 95 % intervals "
    "clustered by speaker or wording. Numbers of the organism were planted.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table", published=("leaderboard", "chance"),
    record=leaderboard.RECORD, height=lambda table: table_height(layout(table)),
)  # fmt: skip
