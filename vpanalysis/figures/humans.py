"""Can people hear it? The human validation as printed, with the cells that cannot be right flagged.

Why it exists. "The voice makes true" is a claim about clips, and the paper's evidence is sixty annotators on two
hundred of them. It is also where its numbers do not add up: a total that is not the mean of its column, and shares that
twenty items a task cannot give. A reader should see both in one place.

The idea. Two framings, how it sounds and what is said, by three measures; below them the weak cells that the paper
names; then the cells that are flagged, with what they would have to be. Nothing is corrected: a printed number stays
printed, and a recomputed one stands beside it with its own source.

What it cannot show: which print is the error. The whole grid by task is not known to us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._published import published
from vpanalysis.figures._tables import Notes, draw_table, table_height
from vpanalysis.plots.style import short_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY"]

HEADS = {"individual accuracy": "Individual, %", "majority accuracy": "Majority, %", "Fleiss kappa": "Fleiss κ"}
FRAMINGS = {"how it sounds": "How it sounds (truth)", "what is said": "What is said (claim)"}
_DESIGN = "design"


def data(sources: Sources) -> pd.DataFrame:
    """Return every printed number of the human validation and the recomputed mean; no Run is needed."""
    found = published("humans", use=False)
    return found.rename(columns={"source": "origin"}).assign(
        planted=False, flagged=found["note"].str.startswith("flagged")
    )


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes, rules = Notes(), [2]
    rows: dict[str, dict[str, str]] = {}
    for one in data[data["row"] != _DESIGN].to_dict("records"):
        name = str(one["row"])
        if one["origin"] == "recomputed":
            name = "How it sounds, mean of the column"
        row = rows.setdefault(_named(name), dict.fromkeys(HEADS.values(), ""))
        digits = 3 if one["unit"] == "kappa" else 2 if one["origin"] == "recomputed" else 1
        mark = ""
        if one["flagged"]:
            # The same reason for cells that differ in what they would have to be.
            reason = str(one["note"]).removeprefix("flagged: ")
            mark = notes.mark(reason.partition(";")[0] if reason.startswith("not possible") else reason)
        elif one["origin"] == "recomputed":
            mark = notes.mark("recomputed by us, not printed")
        row[HEADS[str(one["column"])]] = f"{one['value']:.{digits}f}{mark}"
    order = sorted(rows, key=lambda name: (name not in FRAMINGS.values(), name.startswith("A cell")))
    rules.append(next((at for at, name in enumerate(order) if name.startswith("A cell")), len(order)))
    table = pd.DataFrame([{"Framing": name, **rows[name]} for name in order])
    design = {str(r["column"]): int(r["value"]) for r in data[data["row"] == _DESIGN].to_dict("records")}
    lines = [f"{design['items']} items ({design['items per task']} a task), {design['annotators']} annotators, "
             "printed without intervals; cells of other tasks are not known to us."]  # fmt: skip
    shares = [str(n).partition("; ")[2].removesuffix(" would print so") for n in data["note"] if "would print so" in n]
    if shares:
        lines.append(f"Of 9 answers, {', '.join(shares)} would print as the flagged majorities.")
    table.attrs.update(notes=[*notes.lines, *lines], rules=rules)
    return table


def _named(row: str) -> str:
    framing, _, task = row.partition(": ")
    if task:
        return f"{framing[0].upper()}{framing[1:]}: {short_task(task)}"
    return FRAMINGS.get(row, f"{row[0].upper()}{row[1:]}")


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    value = {(r["row"], r["column"]): r["value"] for r in data.to_dict("records") if r["use"]}
    return (
        "Table of human accuracy. Asked how it sounds, individuals are right on "
        f"{value['how it sounds', 'individual accuracy']:.1f} % and majorities on "
        f"{value['how it sounds', 'majority accuracy']:.1f} %; asked what is said, on "
        f"{value['what is said', 'individual accuracy']:.1f} % and {value['what is said', 'majority accuracy']:.1f} %. "
        f"{int(data['flagged'].sum())} printed cells are flagged as inexact."
    )


ENTRY = Entry(
    "humans", "Human validation of VoxParadox", "Tables 3 and 4",
    "Accuracy and agreement of annotators who were asked how a clip sounds, or what its words say. Flagged cells "
    "cannot be right as printed.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table", published=("humans",),
    record="vpanalysis figures --only humans", height=lambda table: table_height(layout(table)),
)  # fmt: skip
