"""The quantity of every attribution: by how much the model prefers the truth to what the words claim.

Why it exists. "Right or wrong" moves when something crosses a threshold; what pushed it there moves before. And an
attribution over *all* options mixes the question (voice or words?) with whatever makes a fifth option likely.

The idea. The *margin*, in nats, at the answer position::

    margin = log p(truth) - log sum over foils of p(foil)

over the offered options. The foils of an item are the claims of its conflict twin, on every twin, so that a clip and
the clip with other words are measured on the same options. Above 0 the truth is preferred. A constant added to all
logits changes nothing, so the probabilities need not be renormalised over the options.

>>> float(np.round(margin(np.log([0.6, 0.3, 0.1]), ("Child", "Adult", "Elderly"), "Child", ("Adult",)), 3))
0.693
>>> bool(np.isnan(margin(np.log([0.5, 0.5]), ("a", "b"), "a", ())))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis.errors import RunError

__all__ = ["LOGPROBS", "clusters_by_name", "margin", "margins_of"]

LOGPROBS = "option_logprobs"
"""Column of a Run's predictions with the log-probabilities of the offered options."""


def margin(logprobs: ArrayLike, choices: Sequence[str], truth: str, foils: Sequence[str]) -> float:
    """Return the margin of the truth over the foils, in nats.

    Parameters
    ----------
    logprobs : array_like, shape (option,)
        Log-probabilities (or logits) of the offered options.
    choices : sequence of str
        Their texts.
    truth : str
        One of them.
    foils : sequence of str
        Others of them.

    Returns
    -------
    float
        NaN without foils, where the truth is one of them, or where an option is not offered or has no number.
    """
    scores = np.asarray(logprobs, dtype=np.float64)
    place = {str(option): number for number, option in enumerate(choices)}
    others = [place.get(str(foil), -1) for foil in foils]
    at = place.get(str(truth), -1)
    if at < 0 or not others or min(others) < 0 or at in others or len(scores) != len(choices):
        return float("nan")
    against = scores[others]
    return float(scores[at] - np.logaddexp.reduce(against))


def margins_of(run: Any, truth: pd.Series[Any] | None = None) -> pd.Series[float]:
    """Return the margins of a Run's items.

    Parameters
    ----------
    run : Run or DataFrame
        With the columns id, choices, truth, foils and :data:`LOGPROBS`.
    truth : Series, optional
        Another option to take for the truth, by item id; items that it lacks are NaN.

    Returns
    -------
    Series, float64, nats
        By item id; NaN for failed items and those without foils.

    Raises
    ------
    RunError
        When the model did not answer.
    """
    table = cast("pd.DataFrame", run if isinstance(run, pd.DataFrame) else run.predictions)
    if LOGPROBS not in table.columns:
        raise RunError("cannot take margins", found=f"predictions without {LOGPROBS!r}", fix="run a model that answers")
    ids = table["id"].astype(str)
    wanted = table["truth"] if truth is None else pd.Series(ids.map(truth).to_numpy(), index=table.index)
    values = [
        margin(scores, list(choices), str(right), list(foils))
        if scores is not None and right is not None and right == right and foils is not None
        else float("nan")
        for scores, choices, right, foils in zip(table[LOGPROBS], table["choices"], wanted, table["foils"], strict=True)
    ]
    return pd.Series(values, index=pd.Index(ids, name="id"), dtype=np.float64, name="margin")


def clusters_by_name(rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Return the clusterings of items by speaker and by wording; one that nobody is named in is left out.

    An item without a name is a cluster by itself. Where no item has a name, every item is.

    Parameters
    ----------
    rows : DataFrame
        With the columns speaker and script.

    Returns
    -------
    dict of str to array, shape (row,), int64
    """
    out = {}
    for name in ("speaker", "script"):
        named = rows[name].notna().to_numpy()
        if named.any():
            codes = np.arange(len(rows), dtype=np.int64)
            codes[named] = len(rows) + np.unique(rows[name][named].astype(str), return_inverse=True)[1]
            out[name] = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return out or {"item": np.arange(len(rows))}
