"""Theirs and ours, cell by cell: the printed number, the measured one, and whether they agree.

Why it exists. A reproduction is judged cell by cell, and the temptation is to call close what is close enough. Here
every number that a Run measured and the paper reports has one row, and the verdict is arithmetic: the printed number
lies inside the interval of ours, or above it, or below it.

The idea. A verdict is given only where both are of one model on one benchmark: a Run of the released family, not of the
organism, on VoxParadox (or MMSU). Option logits are not the replies that the paper parsed, which the verdict says where
it applies. A Run on other clips has a row and no verdict. The organism's numbers have rows of their own, for whoever
wants to see how far the planted story follows the printed one; no agreement can be read from them.

What it cannot show: agreement in the proper sense. The printed numbers have no intervals, so one inside ours may still
differ, and a wide interval holds much: the number of items stands beside it. Nor is one row in twenty outside a
surprise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures import mmsu, static_fusion
from vpanalysis.figures._checkpoints import IDENTITY
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._ours import METRICS, PLANTED, is_voxparadox, overall, published_row, reading
from vpanalysis.figures._published import published
from vpanalysis.figures._sources import lacking
from vpanalysis.figures._tables import Notes, cell, draw_table, table_height
from vpanalysis.figures.leaderboard import RECORD
from vpanalysis.figures.leaderboard_table import named
from vpanalysis.plots.style import short_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ABOVE", "BELOW", "COLUMNS", "ENTRY", "INSIDE", "RECORD"]

INSIDE, ABOVE, BELOW = (f"theirs lies {where} our interval" for where in ("inside", "above", "below"))
COLUMNS = [*IDENTITY, "benchmark", "comparable", "published_row", "quantity", "theirs", "source", "place", "value",
           "low", "high", "n", "difference", "prediction", "verdict"]  # fmt: skip
_ANALOGUE = "AF3"
"""The organism is built like this model; its cells are the analogous ones."""

_FUSED = {("5 + 15", "1"): "AF3 + layers 5 and 15",
          ("5 + 15", "10, 1"): "AF3 + layers 5 and 15, 10x attention on layer 5"}  # fmt: skip


def data(sources: Sources) -> pd.DataFrame:
    """Return one row a cell that both have, in percent; difference is ours minus theirs."""
    rows = [_judged(row) for row in (*_ladder(sources), *_tasks(sources), *_mmsu(sources), *_fusion(sources))]
    if not rows:
        raise lacking("ours_and_theirs", "no Run that measured what the paper reports", RECORD)
    order = list(dict.fromkeys(row["name"] for row in rows))
    # Stable: comparable rows first, then Run by Run.
    rows.sort(key=lambda row: (not row["comparable"], row["planted"], order.index(row["name"])))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": float})


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """Complete a row with the difference and the verdict."""
    row["difference"] = row["value"] - row["theirs"]
    if row["planted"]:
        row["verdict"] = PLANTED
    elif not row["comparable"]:
        row["verdict"] = f"not comparable: measured on {row['benchmark']}"
    elif pd.isna(row["low"]):
        row["verdict"] = "no interval"
    else:
        row["verdict"] = ABOVE if row["theirs"] > row["high"] else BELOW if row["theirs"] < row["low"] else INSIDE
        if row["prediction"] != reading("pred_generated"):
            row["verdict"] += f" ({row['prediction']}, not replies)"
    return row


def _printed(table: str, row: str, column: str, *, conflicts: bool = False) -> Iterator[dict[str, Any]]:
    """Yield theirs, source and place of a cell: the number to use, and with `conflicts` later ones that differ."""
    found = published(table, use=False)
    found = found[(found["row"] == row) & (found["column"] == column)]
    for one in found.to_dict("records"):
        if one["use"] or (conflicts and str(one["note"]).startswith("conflict")):
            yield {"published_row": row, "theirs": float(one["value"]), "source": one["source"], "place": one["place"]}


def _ladder(sources: Sources) -> Iterator[dict[str, Any]]:
    for row in overall(sources):
        base = row["base"] or (_ANALOGUE if row["planted"] else "")
        if not base:
            continue
        comparable = bool(row["base"]) and is_voxparadox(sources.all[row["name"]])
        column = METRICS[row["metric"]]
        for theirs in _printed("ladder", published_row(base, row["variant"]), column, conflicts=comparable):
            ours = [(column, row)]
            if comparable and column == "ALA":
                ours.append(("ALA, first label only", _first_label(sources, row)))
            for quantity, measured in ours:
                yield {**measured, **theirs, "comparable": comparable, "quantity": quantity}


def _first_label(sources: Sources, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of ALA as it is when only the first adversarial label counts."""
    table = sources.score(row["name"]).overall
    found = table[table["metric"] == "ala_single"].to_dict("records")[0]
    return {**row, "value": 100 * found["estimate"], "low": 100 * found["low"], "high": 100 * found["high"]}


def _tasks(sources: Sources) -> Iterator[dict[str, Any]]:
    for row in overall(sources):
        base = row["base"] or (_ANALOGUE if row["planted"] else "")
        if not base or row["metric"] != "acc_gt":
            continue
        name = published_row(base, row["variant"])
        table = sources.score(row["name"]).table
        for one in table[table["metric"] == "acc_gt"].to_dict("records"):
            for theirs in _printed("per_task", name, str(one["task"])):
                yield {
                    **row, **theirs, "comparable": bool(row["base"]) and is_voxparadox(sources.all[row["name"]]),
                    "quantity": f"Acc_GT, {short_task(str(one['task']))}", "n": int(one["n"]),
                    "value": 100 * one["estimate"], "low": 100 * one["low"], "high": 100 * one["high"],
                }  # fmt: skip


def _mmsu(sources: Sources) -> Iterator[dict[str, Any]]:
    for row in mmsu.measured_rows(sources):
        base = row["base"] or (_ANALOGUE if row["planted"] else "")
        if base:
            column = mmsu.COLUMNS[row["metric"]]
            for theirs in _printed("mmsu", published_row(base, row["variant"]), column):
                yield {**row, **theirs, "comparable": bool(row["base"]), "quantity": column}


def _fusion(sources: Sources) -> Iterator[dict[str, Any]]:
    bases = sources.variants("base")
    for row in static_fusion.measured_rows(sources):
        if row["name"] not in bases or row["tokens"] != "this clip" or not (row["planted"] or row["base"] == "AF3"):
            continue
        layers = row["layers"].replace("encoder[", "").replace("]", "")
        # Of the organism two layers as deep as the paper's, which are not called 5 and 15 there.
        if row["planted"] and layers.count("+") == 1:
            layers = "5 + 15"
        name = _FUSED.get((layers, row["weight"]))
        for theirs in _printed("static_fusion", name, "Acc_GT") if name else ():
            weight = "" if row["weight"] == "1" else ", 10x"
            yield {
                **row, **theirs, "comparable": bool(row["base"]) and "voxparadox" in row["benchmark"].lower(),
                "quantity": f"Acc_GT, fused{weight}",
            }  # fmt: skip


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes, rows = Notes(), []
    edges = data["comparable"].astype(str) + data["name"]
    first = [at == 0 or edges[at] != edges[at - 1] for at in range(len(data))]
    for new, one in zip(first, data.to_dict("records"), strict=True):
        verdict = str(one["verdict"])
        theirs = f"{one['theirs']:.2f}"
        if one["source"] != "paper":
            theirs += notes.mark(f"{one['source']}{', ' if one['place'] else ''}{one['place']}")
        if one["planted"]:
            head, _, reason = verdict.partition(": ")
            verdict = head + notes.mark(reason)
        elif verdict.endswith(")"):
            head, _, reason = verdict[:-1].partition(" (")
            verdict = head + notes.mark(f"ours: {reason}; theirs: parsed replies")
        rows.append({
            "Ours is": named(str(one["label"]), bool(one["planted"])) if new else "",
            "Theirs is": str(one["published_row"]).partition(" + layers")[0] if new else "",
            "Quantity, %": str(one["quantity"]),
            "Theirs": theirs,
            "Ours": cell(one["value"], one["low"], one["high"]),
            "Difference": f"{one['difference']:.1f}",
            "n": f"{one['n']:.0f}",
            "Verdict": verdict.removeprefix("theirs lies "),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    lines = ["inside, above, below: where theirs lies"] if data["comparable"].any() else []
    table.attrs.update(notes=[*notes.lines, *lines], rules=[at for at in range(1, len(data)) if first[at]])
    return table


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    judged = data[data["comparable"]]
    inside = int(judged["verdict"].str.startswith(INSIDE).sum())
    planted = int(data["planted"].sum())
    text = f"Table of {len(data)} printed numbers and our measurements. "
    if len(judged):
        text += f"{inside} of {len(judged)} printed numbers of the same model and benchmark lie inside our interval. "
    else:
        text += "None is of the same model on the same benchmark. "
    return text + (f"{planted} rows are of the planted organism and not comparable." if planted else "")


ENTRY = Entry(
    "ours_and_theirs", "Printed numbers and ours", "Tables 1, 2, 7 and 8",
    "In percent, ours with 95 % intervals. A verdict is given only for the same model on the same benchmark; printed "
    "numbers have no intervals. Rows of the organism are of a model whose layers were planted: no agreement or "
    "disagreement with the paper can be read from them.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table",
    published=("ladder", "per_task", "mmsu", "static_fusion"), record=RECORD,
    height=lambda table: table_height(layout(table)),
)  # fmt: skip
