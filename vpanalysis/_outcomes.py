"""What became of each item: listened, read, other, unparsed or failed.

Why it exists. Accuracy alone hides three different things behind one "wrong": the model believed the words, it picked
something that neither voice nor words say, or it gave no usable answer at all. Every number of a score is a count of
these outcomes, so they are made once, here, from the predictions of a Run.

========  =======================================================================
listened  picked what the voice makes true
read      picked a claim of the words (conflict items only: elsewhere none is false)
other     picked another offered option
unparsed  answered, but no option could be read from the reply
failed    no answer, because the item itself failed (unreadable audio, missing reply)
========  =======================================================================

Twins of one design cell say more together than alone: a model that is right on the congruent twin only *reads*, one
that is right on the conflict twin only *inverts* the words, and only one that is right on both can be said to hear.
The verdict is kept on the conflict twin.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from vpanalysis._tables import Kind, is_missing, typed
from vpanalysis.benchmark.items import TASKS
from vpanalysis.errors import RunError, SchemaError
from vpanalysis.stats import Labels

__all__ = [
    "ITEM_KINDS", "OUTCOMES", "PREDICTIONS", "TWINS", "RunLike", "clusterings", "options", "outcome_table", "read_run",
    "task_order",
]  # fmt: skip

OUTCOMES = ("listened", "read", "other", "unparsed", "failed")
"""Every item has exactly one of these."""

TWINS = ("both_right", "reads", "inverts", "neither")
"""Verdicts on a cell with a conflict and a congruent twin."""

PREDICTIONS = ("pred_logits", "pred_generated", "pred_text_score")
"""Prediction columns of a Run, kept apart because they are different measurements."""

_ASK = {"pred_generated": "run(..., generate=True)", "pred_text_score": "run(..., text_scores=True)"}
_NEEDED = ("id", "task_name", "condition", "choices", "truth", "said")

ITEM_KINDS: Mapping[str, Kind] = {
    name: "text"
    for name in (
        "id", "task_name", "condition", "cell", "speaker", "script", "choices", "truth", "said", "claims",
        "predicted", "outcome", "twins", "reason",
    )
}  # fmt: skip
"""Columns of an outcome table."""


@runtime_checkable
class RunLike(Protocol):
    """What scoring needs of a Run."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    @property
    def predictions(self) -> pd.DataFrame:
        """One row an item, with the columns of a Benchmark and the predictions."""


def read_run(source: RunLike | pd.DataFrame | str | Path) -> tuple[str, pd.DataFrame]:
    """Return name and predictions of a Run, of a Run folder, or of a table of predictions.

    Raises
    ------
    RunError
        If `source` is none of these, or the Run of an encoder that answers nothing.
    """
    if isinstance(source, pd.DataFrame):
        return "predictions", source
    if isinstance(source, (str, Path)):
        # Imported when asked: scoring a table needs nothing of what makes a Run.
        source = importlib.import_module("vpanalysis.runs").open_run(source)
    if not isinstance(source, RunLike):
        raise RunError(
            "cannot score", found=f"a {type(source).__name__}", allowed="a Run, the path of one, or a predictions table"
        )
    if not getattr(source, "answers", True):
        raise RunError(
            f"cannot score the Run {source.name!r}",
            found="an encoder that answers nothing",
            fix="probe it with vpanalysis.probe_layers, or score a Run of a model that answers",
        )
    return str(source.name), source.predictions


def options(value: Any) -> tuple[str, ...]:
    """Return a list of options however a table holds it: list, tuple, array, JSON text, or nothing."""
    if is_missing(value):
        return ()
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else [value]
    return tuple(str(v) for v in value)


def task_order(tasks: Iterable[str]) -> list[str]:
    """Return distinct tasks: official ones in leaderboard order, then others as met."""
    met = dict.fromkeys(tasks)
    return [*(t for t in TASKS if t in met), *(t for t in met if t not in TASKS)]


def outcome_table(predictions: pd.DataFrame, prediction: str, name: str) -> pd.DataFrame:
    """Return one row an item with its outcome, columns :data:`ITEM_KINDS`.

    Parameters
    ----------
    predictions : DataFrame
        Of a Run.
    prediction : str
        The column to judge.
    name : str
        Of the Run, for messages.

    Raises
    ------
    RunError
        If the column is missing or was not recorded.
    SchemaError
        If items are not unique, or a prediction is no offered option.
    """
    _check(predictions, prediction, name)
    rows = [_judge(row, prediction, name) for row in predictions.to_dict("records")]
    _pair(rows)
    return typed(rows, ITEM_KINDS)


def _check(predictions: pd.DataFrame, prediction: str, name: str) -> None:
    asked = f"cannot score {prediction!r} of {name!r}"
    missing = [column for column in _NEEDED if column not in predictions.columns]
    if missing:
        raise RunError(asked, found=f"no column {', '.join(missing)}", allowed=_NEEDED)
    if not len(predictions):
        raise RunError(asked, found="no items")
    recorded = [c for c in PREDICTIONS if c in predictions.columns and _was_recorded(predictions, c)]
    if prediction not in predictions.columns or (prediction in PREDICTIONS and prediction not in recorded):
        fix = f"record it with {_ASK[prediction]}" if prediction in _ASK else None
        raise RunError(asked, found="no such predictions", allowed=recorded or PREDICTIONS, fix=fix, word=prediction)
    twice = predictions["id"][predictions["id"].duplicated()]
    if len(twice):
        raise SchemaError(
            asked, found=f"{len(twice)} ids more than once, such as {twice.iloc[0]!r}", allowed="unique ids"
        )


def _was_recorded(predictions: pd.DataFrame, column: str) -> bool:
    """Whether a prediction was asked for at all, as against asked for and never readable."""
    if predictions[column].notna().any():
        return True
    if column == "pred_generated" and "pred_generated_raw" in predictions.columns:
        return bool(predictions["pred_generated_raw"].notna().any())
    # All items failed: then nothing could be recorded, and that is the result.
    return "status" in predictions.columns and bool((predictions["status"] == "failed").all())


def _judge(row: Mapping[Any, Any], prediction: str, name: str) -> dict[str, Any]:
    condition, truth = str(row["condition"]), str(row["truth"])
    said = options(row["said"])
    claims = options(row.get("claims")) if "claims" in row else said
    claims = claims if condition == "conflict" else ()
    choices = options(row["choices"])
    picked = None if is_missing(row[prediction]) else str(row[prediction])
    if picked is not None and picked not in choices:
        raise SchemaError(
            f"cannot score {prediction!r} of {name!r}", found=f"{picked!r} for the item {row['id']!r}", allowed=choices
        )
    if row.get("status", "ok") == "failed":
        outcome, picked = "failed", None
    elif picked is None:
        outcome = "unparsed"
    elif picked == truth:
        outcome = "listened"
    else:
        outcome = "read" if picked in claims else "other"
    known = {key: row.get(key) for key in ("cell", "speaker", "script", "reason")}
    return {
        **{key: None if is_missing(value) else str(value) for key, value in known.items()},
        "id": str(row["id"]),
        "task_name": str(row["task_name"]),
        "condition": condition,
        "choices": choices,
        "truth": truth,
        "said": said,
        "claims": claims,
        "predicted": picked,
        "outcome": outcome,
    }


def _pair(rows: list[dict[str, Any]]) -> None:
    """Write the verdict on each cell to its conflict twin."""
    right: dict[tuple[str, str, str], bool] = {}
    for row in rows:
        if row["cell"] is not None:
            key = (row["task_name"], row["cell"], row["condition"])
            # A cell with several renditions of one kind is right when all of them are.
            right[key] = right.get(key, True) and row["outcome"] == "listened"
    seen: set[tuple[str, str]] = set()
    for row in rows:
        cell = (row["task_name"], str(row["cell"]))
        row["twins"] = None
        if row["condition"] == "conflict" and (*cell, "congruent") in right and cell not in seen:
            seen.add(cell)
            pair = (right[(*cell, "conflict")], right[(*cell, "congruent")])
            row["twins"] = TWINS[{(True, True): 0, (False, True): 1, (True, False): 2, (False, False): 3}[pair]]


def clusterings(items: pd.DataFrame) -> dict[str, Labels]:
    """Return the groups that an interval must respect: speaker and script, and the cell where no speaker is known.

    An item without a label is a group of its own, shared with its twins. No clustering at all means that nothing is
    known about dependence.
    """
    alone = [
        f"item {i}" if c is None else f"cell {t} {c}"
        for i, t, c in zip(items["id"], items["task_name"], items["cell"], strict=True)
    ]
    found: dict[str, Labels] = {}
    for column in ("speaker", "script"):
        if items[column].notna().any():
            # The prefix keeps a label and the name of a lone item apart.
            labels = [a if v is None else f"= {v}" for v, a in zip(items[column], alone, strict=True)]
            found[column] = np.array(labels, dtype=object)
    if "speaker" not in found and items["cell"].notna().any():
        found["cell"] = np.array(alone, dtype=object)
    return found
