"""MMSU beside VoxParadox: does what helps on conflicting words also help, or cost, on ordinary speech?

Why it exists. A model can be taught to distrust words on one benchmark and be worse everywhere else. The paper reports
accuracy on MMSU, on its paralinguistic part and on all of it, for every step of both ladders.

The idea. A Run on MMSU (``ddwang2000/MMSU``, whose benchmark name says so) is scored like any other; its items claim
nothing, so that what counts is plain accuracy over all of them, failed and unparsed ones included. The paralinguistic
part are the items that the data set itself files under ``Paralinguistics`` (1,345 of 5,000), which a Run keeps as the
item's category.

What it cannot show: that this part is the paper's, whose size is not printed. Without a Run on MMSU the table has the
published columns alone and says which command records ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis.figures import ladder
from vpanalysis.figures._checkpoints import identity
from vpanalysis.figures._entry import MEASURED, Entry
from vpanalysis.figures._ours import base_of, is_mmsu, reading
from vpanalysis.figures._published import published
from vpanalysis.figures._tables import Notes, cell, draw_table, table_height
from vpanalysis.figures.leaderboard_table import named, origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.figures._sources import Sources

__all__ = ["ENTRY", "RECORD", "measured_rows"]

RECORD = "vpanalysis run MODEL ddwang2000/MMSU --split train --generate --out runs/NAME-mmsu"
"""What records a Run on MMSU."""

PART = "Paralinguistics"
COLUMNS = {"mmsu_para": "MMSU para", "mmsu_all": "MMSU all"}


def measured_rows(sources: Sources) -> list[dict[str, Any]]:
    """Return the accuracies of every Run on MMSU, in percent with intervals.

    Parameters
    ----------
    sources : Sources

    Returns
    -------
    list of dict
        One a Run and part of MMSU: the columns of :mod:`vpanalysis.figures.ladder`. Where another Run has the same
        weights, the row bears its name and label.
    """
    who = identity(sources, [*sources.names, *sources.others])
    plain = {name: run for name, run in sources.all.items() if name in who and not is_mmsu(run)}
    rows = []
    for name in who:
        run = sources.all[name]
        if not is_mmsu(run):
            continue
        weights = run.manifest["model"]["weights"]
        twin = next((n for n, other in plain.items() if other.manifest["model"]["weights"] == weights), name)
        score, kept = sources.score(name), run.predictions
        category = dict(zip(kept["id"], kept["category"], strict=True)) if "category" in kept else {}
        para = np.array([PART in (category.get(one) or "").split("/") for one in score.outcomes["id"]], dtype=bool)
        for metric, part in (("mmsu_para", para), ("mmsu_all", np.ones(len(para), dtype=bool))):
            if not part.any():
                continue
            found = _accuracy(score.outcomes[part], float(score.settings["level"]))
            rows.append({
                **who[twin], "base": base_of(sources, name), "benchmark": "MMSU", "metric": metric,
                "value": 100 * found.value, "low": 100 * found.low, "high": 100 * found.high, "n": found.n,
                "chance": 100 * float(np.mean([1 / len(c) for c in score.outcomes.loc[part, "choices"]])),
                "prediction": reading(score.prediction), "place": "", "note": f"Run {name}",
            })  # fmt: skip
    return rows


def _accuracy(outcomes: pd.DataFrame, level: float) -> stats.Estimate:
    from vpanalysis._outcomes import clusterings

    return stats.proportion(outcomes["outcome"] == "listened", clusterings(outcomes) or None, level=level)


def data(sources: Sources) -> pd.DataFrame:
    """Return the published accuracies of both ladders and of the base models, and those of Runs, in percent."""
    theirs = pd.DataFrame(ladder.published_rows("mmsu", COLUMNS), columns=ladder.COLUMNS)
    bases = [_base_row(one) for one in published("leaderboard").to_dict("records") if one["column"] == "MMSU para"]
    # The two bases of the ladder are there already.
    bases = [row for row in bases if row["name"] not in ("Audio Flamingo 3", "Qwen2-Audio-7B-Instruct")]
    parts = [theirs, pd.DataFrame(bases, columns=ladder.COLUMNS)]
    parts = [part.assign(benchmark="MMSU", n=float("nan"), chance=float("nan")) for part in parts]
    ours = pd.DataFrame(measured_rows(sources), columns=ladder.COLUMNS)
    if len(ours):
        parts.append(ours)
    return pd.concat([part.astype({"planted": bool}) for part in parts], ignore_index=True)


def _base_row(one: dict[Any, Any]) -> dict[str, Any]:
    return {
        "name": one["row"], "label": "base", "variant": "base", "group": "other base models (published)",
        "origin": one["source"], "planted": False, "base": "", "metric": "mmsu_para", "value": float(one["value"]),
        "low": float("nan"), "high": float("nan"), "prediction": "parsed replies", "place": one["place"],
        "note": one["note"],
    }  # fmt: skip


def layout(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cells."""
    notes = Notes()
    rows: list[dict[str, str]] = []
    rules: list[int] = []
    subset = notes.mark("the size of the published subset is not printed; for Runs, the items that the data set files "
                        f"under {PART}")  # fmt: skip
    for group in dict.fromkeys(data["group"]):
        if rows:
            rules.append(len(rows))
        for name in dict.fromkeys(data.loc[data["group"] == group, "name"]):
            part = data[(data["group"] == group) & (data["name"] == name)]
            by, first = part.set_index("metric"), part.iloc[0]
            measured = first["origin"] == MEASURED
            row = {"Checkpoint": named(str(first["label"]), bool(first["planted"])) if measured else str(name)}
            for metric, title in COLUMNS.items():
                head = f"{title}{subset if metric == 'mmsu_para' else ''}"
                row[head] = ""
                if metric in by.index:
                    one = by.loc[metric]
                    row[head] = cell(one["value"], one["low"], one["high"], digits=1 if measured else 2)
            row["Source"] = origin(first, notes) if measured else str(first["origin"])
            rows.append(row)
    table = pd.DataFrame(rows)
    lines = notes.lines
    if not (data["origin"] == MEASURED).any():
        lines.append(f"Published numbers only: no Run on MMSU. To record one: {RECORD}")
    table.attrs.update(notes=lines, rules=rules)
    return table


def draw(data: pd.DataFrame, figure: Figure) -> None:
    """Draw the table."""
    draw_table(layout(data), figure)


def alt(data: pd.DataFrame) -> str:
    """Return what the table shows in words."""
    theirs = data[(data["origin"] != MEASURED) & (data["metric"] == "mmsu_para")].set_index("name")["value"]
    text = (
        f"Table of accuracy on MMSU. Published, paralinguistic part: AF3 {theirs['AF3']:.2f} % and with PCLM and DPO "
        f"{theirs['AF3 + PCLM + DPO']:.2f} %; Qwen2-Audio {theirs['Qwen2-Audio']:.2f} % and "
        f"{theirs['Qwen2-Audio + PCLM + DPO']:.2f} %."
    )
    ours = data[(data["origin"] == MEASURED) & (data["metric"] == "mmsu_all")]
    return text + (f" Runs of ours, with intervals: {len(ours)}." if len(ours) else " No Run of ours.")


ENTRY = Entry(
    "mmsu", "Accuracy on MMSU", "Table 8",
    "In percent. Published numbers were printed without intervals; Runs have 95 % intervals, their items taken as "
    "independent where no speaker is known.",
    data=data, draw=draw, alt=alt, layout=layout, kind="table", published=("mmsu", "leaderboard", "mmsu_items"),
    record=RECORD, height=lambda table: table_height(layout(table)),
)  # fmt: skip
