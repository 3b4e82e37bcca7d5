"""Static fusion without training: the paper's gain, ours, and the control that the paper does not have.

Why it exists. Handing the language model tokens of middle layers raises Acc_GT of AF3 from 17.40 to 19.75 %, and with
ten times the attention to 20.80 %. More tokens are an intervention by themselves: they push the words away and make the
prompt unlike any other. Without tokens of *another* clip beside it nobody can say that the gain is of this clip's
voice.

The idea. The published rows, then those of every FusionResult that a Run kept: the unfused model, each fusion, and each
control with as many tokens of the same layers but of another clip. For each the difference to the unfused model, and
for a fusion what it has over its control, both paired by item with intervals.

What it cannot show: that a layer lacks the voice. A projector that was trained on the last layer need not translate an
earlier one. The organism's rows are of a planted model and say nothing about AF3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._checkpoints import IDENTITY, identity
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import base_of
from vpanalysis.figures._published import published
from vpanalysis.figures._tables import Notes, cell, draw_table, table_height
from vpanalysis.figures.leaderboard_table import named, origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["COLUMNS", "ENTRY", "RECORD", "measured_rows"]

RECORD = "vpanalysis reproduce --full --out runs"
BASE = "AF3"
COLUMNS = [*IDENTITY, "base", "benchmark", "setting", "layers", "weight", "tokens", "value", "low", "high",
           "difference", "difference_low", "difference_high", "over_control", "over_control_low", "over_control_high",
           "n", "prediction", "place", "note"]  # fmt: skip
_TOKENS = {"": "", "own": "this clip", "other clip": "another clip (control)"}
_MISSING = float("nan")
_NOT_PRINTED = ("difference_low", "difference_high", "over_control", "over_control_low", "over_control_high")


def measured_rows(sources: Sources) -> list[dict[str, Any]]:
    """Return Acc_GT under every fusion of the newest FusionResult of each Run, in percent with intervals."""
    rows = []
    for name, who in identity(sources).items():
        found = next((f for _, f in sources.results("FusionResult", name)
                      if list(f.settings["conditions"]) == ["conflict"]), None)  # fmt: skip
        if found is None:
            continue
        specific = found.specific[found.specific["measure"] == "accuracy"].set_index("setting")
        for one in found.table[found.table["measure"] == "accuracy"].to_dict("records"):
            over = specific.loc[one["setting"]] if one["setting"] in specific.index else None
            row = {
                **who, "base": base_of(sources, name), "benchmark": str(found.settings["benchmark"]),
                "setting": one["setting"], "layers": one["layers"], "weight": str(one["weight"]),
                "tokens": _TOKENS[one["source"]], "n": int(one["n"]), "prediction": "option logits", "place": "",
                "note": "",
            }  # fmt: skip
            for key, column in (("value", "value"), ("low", "low"), ("high", "high")):
                row[column] = 100 * float(one[key])
            for end in ("", "_low", "_high"):
                row[f"difference{end}"] = 100 * float(one[f"difference{end}"])
                row[f"over_control{end}"] = _MISSING if over is None else 100 * float(over[end[1:] or "difference"])
            rows.append(row)
    return rows


def data(sources: Sources) -> pd.DataFrame:
    """Return the published rows and those of Runs."""
    printed = published("static_fusion").to_dict("records")
    first = float(printed[0]["value"])
    theirs = []
    for one in printed:
        name = str(one["row"])
        theirs.append({
            "name": name, "label": "base", "variant": "base", "group": "Audio Flamingo 3 (published)",
            "origin": one["source"], "planted": False, "base": BASE, "benchmark": "VoxParadox",
            "setting": name, "layers": "" if name == BASE else "5 + 15",
            "weight": "" if name == BASE else "10, 1" if "10x" in name else "1",
            "tokens": "" if name == BASE else _TOKENS["own"], "value": float(one["value"]), "low": _MISSING,
            "high": _MISSING, "difference": _MISSING if name == BASE else float(one["value"]) - first,
            **dict.fromkeys(_NOT_PRINTED, _MISSING), "n": _MISSING, "prediction": "parsed replies",
            "place": one["place"], "note": one["note"],
        })  # fmt: skip
    table = pd.DataFrame([*theirs, *measured_rows(sources)], columns=COLUMNS)
    return table.astype({"n": float})


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes = Notes()
    rows: list[dict[str, str]] = []
    rules: list[int] = []
    for name in dict.fromkeys(data["name"]):
        part = data[data["name"] == name]
        measured = part["origin"].iloc[0] == MEASURED
        if measured:
            rules.append(len(rows))
        for at, one in enumerate(part.to_dict("records")):
            digits = 1 if measured else 2
            difference = cell(one["difference"], one["difference_low"], one["difference_high"], digits=digits)
            if difference and not measured:
                difference += notes.mark("difference of the printed numbers")
            rows.append({
                "Model": BASE if not measured else named(str(one["label"]), bool(one["planted"])) if at == 0 else "",
                "Layers": str(one["layers"]).replace("encoder[", "").replace("]", "") or "none",
                "Weight": str(one["weight"]),
                "Tokens of": str(one["tokens"]).removesuffix(" (control)"),
                "Acc_GT": cell(one["value"], one["low"], one["high"], digits=digits),
                "To unfused": difference,
                "To control": cell(one["over_control"], one["over_control_low"], one["over_control_high"]),
                "Source": (origin(pd.Series(one), notes) if at == 0 else "") if measured else "paper",
            })  # fmt: skip
    table = pd.DataFrame(rows)
    lines = ["Weight: factor on the attention to the appended tokens, by layer. The paper counts layers of 32; Runs "
             "from 0 (outputs of blocks). Tokens of another clip: the control."]  # fmt: skip
    if not (data["origin"] == MEASURED).any():
        lines.append(f"Published numbers only: no FusionResult in a Run. To record one: {RECORD}")
    table.attrs.update(notes=[*notes.lines, *lines], rules=rules)
    return table


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    theirs = data[data["origin"] != MEASURED]["value"]
    text = f"Table of static fusion. Published Acc_GT of AF3: {', '.join(f'{value:.2f} %' for value in theirs)}."
    for name in dict.fromkeys(data.loc[data["origin"] == MEASURED, "name"]):
        part = data[data["name"] == name]
        own, other = (part[part["tokens"] == _TOKENS[key]]["difference"].max() for key in ("own", "other clip"))
        text += f" {name}: at most {own:+.1f} points with tokens of this clip"
        text += "." if pd.isna(other) else f", {other:+.1f} with those of another."
    return text


ENTRY = Entry(
    "static_fusion", "Static fusion without training", "Table 7",
    "Acc_GT in percent of conflict items with tokens of encoder layers appended to the audio tokens. Published numbers "
    "were printed without intervals and without a control; those of Runs have 95 % intervals, differences are paired "
    "by item. What a fusion does not have over tokens of another clip is not of this clip's voice.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table", published=("static_fusion",), record=RECORD,
    height=lambda table: table_height(layout(table)),
)  # fmt: skip
