"""The model's own accuracy on the very items that a probe was scored on.

The utilization gap, what a linear reader finds less what the model answers, is only a gap when both are measured on the
same clips with the same weights. Probes pool conflict and congruent twins and weigh them so that the words give
nothing away; accuracy on conflict items alone would be another number.

>>> own_accuracy(run, probe_layers(run, tasks="age_prediction"))         # doctest: +SKIP
             task  accuracy   low  high    n
0  age_prediction      0.96  0.92  0.98  200
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval
from vpanalysis.probes.layers import LEVEL
from vpanalysis.probes.result import ProbeResult, clusters_of
from vpanalysis.probes.targets import RunLike

__all__ = ["own_accuracy"]


def own_accuracy(run: RunLike, result: ProbeResult, *, prediction: str = "pred_logits") -> pd.DataFrame:
    """Return how often the model itself picks the truth, on the items and weights of a probe.

    Parameters
    ----------
    run : Run
        The Run that was probed.
    result : ProbeResult
        Its probes; the items, weights and groups are taken from their predictions.
    prediction : str
        Column of the Run's predictions with the chosen option: ``"pred_logits"``, ``"pred_text_score"`` or
        ``"pred_generated"``. A missing reply counts as wrong.

    Returns
    -------
    DataFrame
        Columns task, accuracy, low, high (95 % interval, groups as the unit), n. Tasks that were not probed are absent.

    Raises
    ------
    RunError
        When the Run has no such column, or lacks an item that was probed.
    """
    if result.target == "both":
        result = result.of("truth")
    table = run.predictions
    if prediction not in table.columns:
        have = [str(c) for c in table.columns if str(c).startswith("pred_") and not str(c).endswith("_raw")]
        raise RunError(
            f"cannot read the answers of run {run.name!r}", found=repr(prediction), allowed=have, word=prediction
        )
    right = pd.Series(
        (table[prediction].astype(object) == table["truth"].astype(object)).to_numpy(dtype=np.float64),
        index=table["id"].astype(str),
    )
    rows: list[dict[str, Any]] = []
    for task, part in result.predictions.groupby("task", sort=False):
        # Every site of a task has the same items.
        one = part[part["site"] == part["site"].iloc[0]]
        correct = right.reindex(one["id"].astype(str)).to_numpy(dtype=np.float64)
        if np.isnan(correct).any():
            raise RunError(
                f"cannot compare run {run.name!r} with its probes",
                found=f"{int(np.isnan(correct).sum())} probed items that it lacks",
                fix="give the Run that was probed",
            )
        weights = one["weight"].to_numpy(dtype=np.float64)
        accuracy, low, high = accuracy_interval(
            correct, list(clusters_of(one).values()), weights, level=LEVEL, chance=None
        )
        rows.append({"task": str(task), "accuracy": accuracy, "low": low, "high": high, "n": len(one)})
    return pd.DataFrame(rows, columns=["task", "accuracy", "low", "high", "n"])
