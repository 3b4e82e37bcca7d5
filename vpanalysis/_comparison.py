"""Two runs side by side: what :func:`vpanalysis.compare` returns.

A difference between checkpoints is paired, item by item, because both answered the same clips: what is hard for both
cancels. The unit of chance is still the speaker (or the script), so the p-value is that of flipping whole clusters.
McNemar's stands beside it, labelled by what it assumes, since it is what many papers report and it is often far too
small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vpanalysis._calibrated import calibration_note
from vpanalysis._html import html_table, text_table
from vpanalysis._scores import OVERALL, SHOWN, below, interval, number, percent, without_empty
from vpanalysis._tables import Kind, from_json, read_record, to_json, write_record

__all__ = ["COMPARISON_KINDS", "Comparison"]

COMPARISON_KINDS: Mapping[str, Kind] = {
    "task": "text", "metric": "text", "a": "float", "b": "float", "difference": "float", "low": "float",
    "high": "float", "p": "float", "q": "float", "p_mcnemar": "float", "exact": "bool", "n": "int", "n_groups": "int",
    "group": "text", "mde": "float",
}  # fmt: skip
"""Columns of :attr:`Comparison.table`."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two runs over the same items, metric by metric: a minus b.

    Attributes
    ----------
    a, b : str
        Names of the runs, with the prediction that was judged.
    table : DataFrame
        One row a task (and ``"overall"``) and metric: a, b, difference, low, high (paired interval), p (sign-flip
        permutation of clusters; ``exact`` says whether all patterns were counted), q (p after Benjamini-Hochberg over
        the tasks of that metric), p_mcnemar (exact; **assumes independent items**), n items, n_groups, group (which
        gave the interval), mde (the smallest difference that would be found in 80 % of replications).
    unpaired : mapping of str to tuple of str
        Ids that only ``"a"`` or only ``"b"`` has; they are left out.
    settings : mapping
        Level and random_state.
    """

    a: str
    b: str
    table: pd.DataFrame
    unpaired: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overall(self) -> pd.DataFrame:
        """The rows of :attr:`table` over all tasks."""
        return self.table[self.table["task"] == OVERALL].drop(columns=["task", "q"]).reset_index(drop=True)

    @property
    def per_task(self) -> pd.DataFrame:
        """The rows of :attr:`table` task by task."""
        return self.table[self.table["task"] != OVERALL].reset_index(drop=True)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`, tidy: one row a task and metric."""
        return self.table.copy()

    def save(self, path: str | Path) -> Path:
        """Write one JSON file (``comparison.json`` where `path` is a folder) and return it."""
        record = {
            "kind": "Comparison", "version": 1, "a": self.a, "b": self.b, "table": to_json(self.table),
            "unpaired": {key: list(ids) for key, ids in self.unpaired.items()}, "settings": dict(self.settings),
        }  # fmt: skip
        return write_record(path, record, "comparison.json")

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what :meth:`save` wrote; :class:`RunError` when the file is something else."""
        record = read_record(path, "Comparison", "comparison.json")
        unpaired = {key: tuple(ids) for key, ids in record["unpaired"].items()}
        return cls(record["a"], record["b"], from_json(record["table"]), unpaired, record["settings"])

    def _summary(self) -> pd.DataFrame:
        single = self.per_task["task"].nunique() == 1
        certain = self.table["q"] < 0.05
        shown = self.table[(self.table["task"] == OVERALL) | certain | single]
        # Overall first: it is one test a metric, while the tasks below are those that stood out of many.
        shown = pd.concat([shown[shown["task"] == OVERALL], shown[shown["task"] != OVERALL]])
        rows = [
            {
                "task": row["task"],
                "metric": SHOWN.get(row["metric"], row["metric"]),
                "a": number(row["a"]),
                "b": number(row["b"]),
                "a - b": interval(row["difference"], row["low"], row["high"]),
                "p": _p(row["p"]),
                "q (over tasks)": _p(row["q"]),
                "McNemar p (assumes independent items)": _p(row["p_mcnemar"]),
                "MDE": number(row["mde"]),
                "n": row["n"],
                "groups": _groups(row["n_groups"], row["group"]),
            }
            for row in shown.to_dict("records")
        ]
        return without_empty(pd.DataFrame(rows))

    def _title(self) -> str:
        return f"Comparison: a = {self.a}, b = {self.b}"

    def _notes(self) -> list[str]:
        hidden = self.per_task["task"].nunique() > 1
        parts = [
            f"{percent(self.settings.get('level', 0.95))} intervals, paired by item; p: sign flips of whole clusters, "
            "the larger of speaker and script; MDE: smallest difference found in 80 % of replications.",
            "Tasks are shown where q < 0.05; all are in to_dataframe()." if hidden else "",
            *(f"{len(ids)} items only in {key}, left out." for key, ids in self.unpaired.items() if ids),
            calibration_note(self.settings["calibration"]) if "calibration" in self.settings else "",
        ]
        return [part for part in parts if part]

    def __repr__(self) -> str:
        return text_table(self._summary(), self._title()) + below(self._notes())

    def _repr_html_(self) -> str:
        return html_table(self._summary(), self._title(), " ".join(self._notes()))


def _p(value: float) -> str:
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _groups(count: int, group: str) -> str:
    return "none" if group == "none" else f"{count} x {group}"
