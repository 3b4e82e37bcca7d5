"""Tables 2 and 8 in one: every step of both published ladders in four measures, and one's own Runs below.

Why it exists. A step that raises Acc_GT on VoxParadox may cost something elsewhere. The paper has the two halves in two
tables, pages apart; side by side one sees that AF3 ends below its base on the whole of MMSU.

The idea. The rows of :mod:`vpanalysis.figures.ladder` with the MMSU columns beside them. A number that is not known to
us is an empty cell. Runs on MMSU belong to the Run of the same weights.

What it cannot show: what the paralinguistic subset of MMSU was; its size is not printed. See
:mod:`vpanalysis.figures.mmsu`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from vpanalysis.figures import ladder, mmsu
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import METRICS
from vpanalysis.figures._tables import Notes, cell, draw_table, table_height
from vpanalysis.figures.leaderboard_table import named, origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

UNKNOWN = "–"


def data(sources: Sources) -> pd.DataFrame:
    """Return both published ladders and own Runs, in percent."""
    ours = ladder.data(sources)
    columns = {"mmsu_para": "MMSU para", "mmsu_all": "MMSU all"}
    theirs = pd.DataFrame(ladder.published_rows("mmsu", columns), columns=ladder.COLUMNS)
    theirs = theirs.assign(benchmark="MMSU", n=float("nan"), chance=float("nan"))
    measured = pd.DataFrame(mmsu.measured_rows(sources)).reindex(columns=ladder.COLUMNS)
    parts = [part for part in (ours, theirs, measured) if len(part)]
    return pd.concat([part.astype({"planted": bool}) for part in parts], ignore_index=True).fillna(
        {"note": "", "place": ""}
    )


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes = Notes()
    rows: list[dict[str, str]] = []
    rules: list[int] = []
    titles = {**METRICS, "mmsu_para": "MMSU para", "mmsu_all": "MMSU all"}
    for group in dict.fromkeys(data["group"]):
        if rows:
            rules.append(len(rows))
        for name in dict.fromkeys(data.loc[data["group"] == group, "name"]):
            part = data[(data["group"] == group) & (data["name"] == name)]
            by, first = part.set_index("metric"), part.iloc[0]
            measured = first["origin"] == MEASURED
            row = {"Checkpoint": named(str(first["label"]), bool(first["planted"])) if measured else str(name)}
            for metric, title in titles.items():
                row[title] = ""
                if metric in by.index:
                    one = by.loc[metric]
                    row[title] = cell(one["value"], one["low"], one["high"], digits=1 if measured else 2)
            if not measured and "ala" not in by.index:
                row["ALA"] = UNKNOWN
            row["Source"] = origin(first, notes) if measured else "paper"
            rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs.update(notes=[*notes.lines, f"{UNKNOWN} not known to us"], rules=rules)
    return table


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    return ladder.alt(data[data["metric"].isin(list(METRICS))]).replace(
        "Acc_GT and ALA", "Table of Acc_GT, ALA and MMSU", 1
    )


ENTRY = Entry(
    "ladder_table", "Acc_GT, ALA and MMSU step by step", "Tables 2 and 8",
    "In percent: Acc_GT and ALA of conflict items of VoxParadox; accuracy on the paralinguistic subset of MMSU and on "
    "all of it. Published numbers were printed without intervals; Runs have 95 % intervals.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table", published=("ladder", "mmsu", "chance"),
    record="vpanalysis reproduce --out runs", height=lambda table: table_height(layout(table)),
)  # fmt: skip
