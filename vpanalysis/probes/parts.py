"""Out-of-fold predictions, kept small until somebody looks at them.

Why it exists. A result keeps a row for every item and site, so that any other summary needs no refit. For 200 items and
33 sites that is a table like any other. For 100,000 items and 60 sites it is six million rows of fourteen columns, nine
of which repeat from site to site: gigabytes that nobody asked for, and the only part of a result that grows with items
times sites.

The idea. What differs between the sites of a plan is the class that was predicted and how sure the probe was: three to
twelve bytes an item. So a `Part` is those two arrays and the plan, which all its sites share; `Parts` are the parts of
a result; and the attribute ``predictions`` makes its table when it is first read, and keeps it.

>>> compact(np.array([2, 0, 1]), np.eye(3, dtype=np.float32)[[2, 0, 1]])[0].dtype
dtype('int8')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis.probes.plans import Plan
from vpanalysis.probes.splits import FloatArray

__all__ = ["PREDICTIONS", "Part", "Parts", "WhenRead", "compact", "prediction_rows"]

PREDICTIONS = (
    "task", "site", "target", "id", "condition", "group", "second_group", "fold", "label", "predicted", "correct",
    "confidence", "words", "weight",
)  # fmt: skip
"""Columns of a table of predictions."""


def compact(
    predicted: NDArray[Any], probabilities: NDArray[np.floating[Any]] | None
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Return predictions in as few bytes as hold them, and the probability of each predicted class.

    Parameters
    ----------
    predicted : array, shape (item,)
        Class numbers, or numbers (which stay as they are).
    probabilities : array, shape (item, class), float32, optional
    """
    chance = None
    if probabilities is not None:
        chance = np.take_along_axis(probabilities, predicted[:, None].astype(np.int64), 1)[:, 0].astype(np.float32)
    if predicted.dtype.kind != "f":
        # The smallest signed type that holds the largest number.
        predicted = predicted.astype(np.min_scalar_type(-int(predicted.max(initial=0)) - 1))
    return predicted, chance


@dataclass(frozen=True, eq=False)
class Part:
    """The predictions of one site.

    Attributes
    ----------
    task, site, target : str
    plan : Plan
        Shared by the sites of a task.
    predicted : array, shape (item,)
        Class numbers or numbers, from `compact`.
    confidence : array, shape (item,), float32, or None for numbers
    """

    task: str
    site: str
    target: str
    plan: Plan
    predicted: NDArray[Any]
    confidence: NDArray[np.float32] | None

    def rows(self) -> pd.DataFrame:
        """Return the rows of the table."""
        numeric, labels = self.plan.items.numbers is not None, self.plan.items.labels
        correct = np.full(len(labels), np.nan) if numeric else (self.predicted == labels).astype(np.float64)
        base = {"task": self.task, "site": self.site, "target": self.target}
        return prediction_rows(base, self.plan, self.predicted, correct, confidence=self.confidence)


@dataclass(frozen=True, eq=False)
class Parts:
    """The predictions of all sites, a `Part` each."""

    parts: Sequence[Part]

    @property
    def alike(self) -> bool:
        """Whether there are any, and all of classes or all of numbers: columns have the same types then."""
        return len({part.plan.items.numbers is None for part in self.parts}) == 1

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of one site after the other."""
        return (part.rows() for part in self.parts)

    def table(self) -> pd.DataFrame:
        """Return all of them, one row an item and site."""
        if not self.parts:
            return pd.DataFrame(columns=list(PREDICTIONS))
        return pd.concat(self.tables(), ignore_index=True)


class WhenRead:
    """An attribute of a frozen dataclass that may be given as `Parts`, and is a table once it is read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name]
        if isinstance(value, Parts):
            value = instance.__dict__[self._name] = value.table()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value


def prediction_rows(
    base: dict[str, Any],
    plan: Plan,
    predicted: NDArray[Any],
    correct: FloatArray,
    probabilities: NDArray[np.floating[Any]] | None = None,
    confidence: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """Return the out-of-fold predictions of one site as rows with the columns of a result.

    Parameters
    ----------
    base : dict
        With task, site and target.
    plan : Plan
    predicted : array, shape (item,)
        Class numbers, or numbers.
    correct : array, shape (item,), float64
    probabilities : array, shape (item, class), optional
        Of which the predicted class's is kept.
    confidence : array, shape (item,), optional
        That probability itself, in place of `probabilities`.
    """
    items = plan.items
    classes = np.array(items.classes, dtype=object)
    numeric = items.numbers is not None
    if probabilities is not None:
        confidence = compact(predicted, probabilities)[1]
    return pd.DataFrame(
        {
            "task": base["task"],
            "site": base["site"],
            "target": base["target"],
            "id": items.frame["id"].astype(str),
            "condition": items.frame["condition"].astype(str),
            "group": plan.clusters[0],
            "second_group": plan.clusters[1] if len(plan.clusters) > 1 else -1,
            "fold": plan.fold_of,
            "label": items.numbers if numeric else classes[items.labels],
            "predicted": predicted if numeric else classes[predicted],
            "correct": correct if numeric else correct.astype(bool),
            "confidence": np.nan if confidence is None else confidence.astype(np.float64),
            "words": items.words.astype(object),
            "weight": items.weights,
        },
        columns=list(PREDICTIONS),
    )
