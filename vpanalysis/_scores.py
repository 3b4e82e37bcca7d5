"""What scoring returns: one score, and several side by side.

Both are tidy tables first (:meth:`to_dataframe`: one row a task and metric, with interval, sizes and the grouping
that gave the interval) and print as what a person wants to read: rows of ``estimate [low, high]``. Each says which
prediction it shows, because option logits, option texts and generated replies are different measurements and only the
last may stand beside published numbers. They are saved as one JSON file.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis._calibrated import calibration_note
from vpanalysis._html import _printable, html_table, text_table
from vpanalysis._outcomes import OUTCOMES, task_order
from vpanalysis._replies import describe
from vpanalysis._tables import Kind, from_json, read_record, to_json, write_record
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["OVERALL", "PER_TASK_KINDS", "SHOWN", "TABLE_KINDS", "Score", "Scores"]

OVERALL = "overall"
"""The task name of rows over all tasks."""

TABLE_KINDS: Mapping[str, Kind] = {
    "task": "text", "metric": "text", "estimate": "float", "low": "float", "high": "float", "n": "int",
    "n_effective": "float", "n_groups": "int", "group": "text", "mde": "float",
}  # fmt: skip
"""Columns of :attr:`Score.table`."""

SHOWN: Mapping[str, str] = {
    "acc_gt": "Acc_GT", "ala": "ALA", "acc_congruent": "congruent", "acc_neutral": "neutral", "hearing": "hearing",
}  # fmt: skip

PER_TASK_KINDS: Mapping[str, Kind] = {
    "task": "text",
    **{f"n_{c}": "int" for c in ("conflict", "congruent", "neutral")},
    **{metric + end: "float" for metric in (*SHOWN, "ala_single") for end in ("", "_low", "_high")},
    "m": "float",
    "r": "float",
    "blind": "float",
    "heard": "text",
    "unparsed": "int",
    "failed": "int",
}
"""Columns of :attr:`Score.per_task`."""


@dataclass(frozen=True, repr=False)
class Score:
    """One run, scored: does it listen, or does it read?

    Attributes
    ----------
    name : str
        Of the run.
    prediction : str
        The prediction column that was judged.
    table : DataFrame
        One row a task (and ``"overall"``) and metric: estimate, low, high, n (items), n_effective, n_groups, group (the
        clustering that gave the interval, ``"none"`` for plain Wilson intervals of items taken as independent) and mde
        (the distance from a fixed number that a test would find in 80 % of replications). Metrics:

        ==================  ====================================================================================
        acc_gt              conflict items: picked the truth
        ala                 conflict items: picked any of the claims
        ala_single          conflict items: picked the first claim, as if there was one label
        other               conflict items: picked neither
        acc_congruent       congruent items: picked the truth; ``acc_neutral`` and others likewise
        hearing             hearing index; overall the mean over tasks
        both_right          cells with both twins right; ``reads``: only congruent; ``inverts``: only conflict;
                            ``neither``
        unparsed, failed    all items
        ==================  ====================================================================================

        Accuracies overall are over all items of all tasks.
    per_task : DataFrame
        One row a task: numbers of items, each main metric with ``_low`` and ``_high``, m and r and ``blind`` (the best
        voice-blind rule: see :mod:`vpanalysis._hearing`), ``heard`` ("yes", "no", or None where it cannot be said), and
        numbers of unparsed and failed items.
    outcomes : DataFrame
        One row an item: id, task_name, condition, cell, speaker, script, choices, truth, said, claims, predicted,
        outcome, twins, reason.
    settings : mapping
        Level, thresholds of the verdict and, for replies from a file, how the file fitted.
    """

    name: str
    prediction: str
    table: pd.DataFrame
    per_task: pd.DataFrame
    outcomes: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overall(self) -> pd.DataFrame:
        """The rows of :attr:`table` over all tasks: metric, estimate, low, high, ..."""
        return self.table[self.table["task"] == OVERALL].drop(columns="task").reset_index(drop=True)

    @property
    def tasks(self) -> list[str]:
        """Task names, in leaderboard order."""
        return list(self.per_task["task"])

    @property
    def heard(self) -> list[str]:
        """The tasks that are really heard."""
        return list(self.per_task.loc[self.per_task["heard"] == "yes", "task"])

    def value(self, metric: str, task: str = OVERALL) -> float:
        """Return one estimate; :class:`RunError` for one that was not taken."""
        row = self.table[(self.table["task"] == task) & (self.table["metric"] == metric)]
        if row.empty:
            # The word that does not occur is the one to be corrected.
            known = list(dict.fromkeys(self.table["task"]))
            wrong, allowed = (task, known) if task not in known else (
                metric, list(self.table.loc[self.table["task"] == task, "metric"])
            )  # fmt: skip
            raise RunError(f"cannot find {metric!r} of {task!r}", found=repr(wrong), allowed=allowed, word=wrong)
        return float(row["estimate"].iloc[0])

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`, with name and prediction in front."""
        out = self.table.copy()
        out.insert(0, "name", self.name)
        out.insert(1, "prediction", self.prediction)
        return out

    def outcome_counts(self) -> pd.DataFrame:
        """Return numbers of items: one row a task and condition (named index), one column an outcome."""
        counts = self.outcomes.groupby(["task_name", "condition", "outcome"], sort=False).size().unstack("outcome")
        return counts.reindex(columns=list(OUTCOMES)).fillna(0).astype("int64").rename_axis(columns=None)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw accuracies and hearing index (:func:`vpanalysis.plots.hearing_bars`)."""
        return Scores({self.name: self}).plot(ax, **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write one JSON file (``score.json`` where `path` is a folder) and return it."""
        return write_record(path, self._record(), "score.json")

    @classmethod
    def load(cls, path: str | Path) -> Score:
        """Read what :meth:`save` wrote; :class:`RunError` when the file is something else."""
        return cls._from(read_record(path, "Score", "score.json"))

    def _record(self) -> dict[str, Any]:
        tables = {key: to_json(getattr(self, key)) for key in ("table", "per_task", "outcomes")}
        return {
            "kind": "Score", "version": 1, "name": self.name, "prediction": self.prediction,
            "settings": dict(self.settings), **tables,
        }  # fmt: skip

    @classmethod
    def _from(cls, record: Mapping[str, Any]) -> Score:
        tables = {key: from_json(record[key]) for key in ("table", "per_task", "outcomes")}
        return cls(record["name"], record["prediction"], settings=record["settings"], **tables)

    def _summary(self) -> pd.DataFrame:
        rows = []
        for task in [*self.tasks, *([OVERALL] if len(self.tasks) > 1 else [])]:
            row: dict[str, Any] = {"task": task, **_cells(self.table[self.table["task"] == task])}
            here = self.per_task[self.per_task["task"] == task]
            if len(here):
                row |= {"blind": number(here["blind"].iloc[0]), "heard": here["heard"].iloc[0] or ""}
            else:
                row |= {"blind": "", "heard": self._heard_of()}
            counts = here if len(here) else self.per_task
            row |= {key: int(counts[key].sum()) for key in ("unparsed", "failed")}
            rows.append(row)
        return without_empty(pd.DataFrame(rows).fillna(""))

    def _heard_of(self) -> str:
        """Return "7 of 10", of the tasks on which it can be said."""
        judged = int(self.per_task["heard"].notna().sum())
        return f"{len(self.heard)} of {judged}" if judged else ""

    def _title(self) -> str:
        return (
            f"Score of {self.name}, prediction {self.prediction}: {len(self.outcomes)} items, {len(self.tasks)} tasks"
        )

    def __repr__(self) -> str:
        return text_table(self._summary(), self._title()) + below(_notes([self]))

    def _repr_html_(self) -> str:
        return html_table(self._summary(), self._title(), " ".join(_notes([self])))


class Scores(Mapping[str, Score]):
    """Scores of several runs by name, in order; prints the table that compares them.

    Parameters
    ----------
    scores : mapping of str to Score
    """

    def __init__(self, scores: Mapping[str, Score]) -> None:
        self._scores = dict(scores)

    def __getitem__(self, name: str) -> Score:
        if name not in self._scores:
            raise RunError("cannot find a score", found=repr(name), allowed=list(self._scores), word=name)
        return self._scores[name]

    def __contains__(self, name: object) -> bool:
        return name in self._scores

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the tidy tables below each other: name, prediction, task, metric, estimate, low, high, ..."""
        named = [one.to_dataframe().assign(name=name) for name, one in self.items()]
        return pd.concat(named, ignore_index=True) if named else pd.DataFrame()

    def overall(self) -> pd.DataFrame:
        """Return one row a run, with each main metric and its ``_low`` and ``_high``, tasks heard, unparsed, failed."""
        rows = []
        for name, one in self.items():
            row: dict[str, Any] = {"name": name, "prediction": one.prediction, "n": len(one.outcomes)}
            found = {str(r["metric"]): r for r in one.overall.to_dict("records")}
            for metric in (*SHOWN, "ala_single", "both_right", "reads", "inverts"):
                for end, column in (("", "estimate"), ("_low", "low"), ("_high", "high")):
                    row[metric + end] = found[metric][column] if metric in found else math.nan
            row |= {"heard": len(one.heard), "tasks": len(one.tasks)}
            row |= {key: int(one.per_task[key].sum()) for key in ("unparsed", "failed")}
            rows.append(row)
        return pd.DataFrame(rows)

    def hearing(self) -> pd.DataFrame:
        """Return hearing indices: one row a task (named index, ``"overall"`` last), one column a run."""
        wide = {
            name: one.table[one.table["metric"] == "hearing"].set_index("task")["estimate"]
            for name, one in self.items()
        }
        met = [t for one in self.values() for t in one.tasks]
        return pd.DataFrame(wide).reindex([*task_order(met), OVERALL]).rename_axis("task")

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw accuracies and hearing index of all runs (:func:`vpanalysis.plots.hearing_bars`)."""
        from vpanalysis import plots

        shown = list(dict.fromkeys(one.prediction for one in self.values()))
        return plots.hearing_bars(self._scores, ax=ax, **{"note": f"prediction: {', '.join(shown)}", **kwargs})

    def save(self, path: str | Path) -> Path:
        """Write one JSON file (``scores.json`` where `path` is a folder) and return it."""
        scores = {name: one._record() for name, one in self.items()}
        return write_record(path, {"kind": "Scores", "version": 1, "scores": scores}, "scores.json")

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what :meth:`save` wrote; :class:`RunError` when the file is something else."""
        record = read_record(path, "Scores", "scores.json")
        return cls({name: Score._from(one) for name, one in record["scores"].items()})

    def _summary(self) -> pd.DataFrame:
        rows = []
        for name, one in self.items():
            row: dict[str, Any] = {
                "name": name,
                **_cells(one.overall),
                "heard": one._heard_of(),
            }
            row |= {key: int(one.per_task[key].sum()) for key in ("unparsed", "failed")}
            rows.append(row)
        return without_empty(pd.DataFrame(rows).fillna(""))

    def _title(self) -> str:
        shown = list(dict.fromkeys(one.prediction for one in self.values()))
        return f"Scores of {len(self)} runs, prediction {', '.join(shown)}"

    def __repr__(self) -> str:
        if not self._scores:
            return "Scores of 0 runs"
        return text_table(self._summary(), self._title()) + below(_notes(list(self.values())))

    def _repr_html_(self) -> str:
        if not self._scores:
            return repr(self)
        return html_table(self._summary(), self._title(), " ".join(_notes(list(self.values()))))


def _cells(rows: pd.DataFrame) -> dict[str, str]:
    """Return the main metrics of one task as ``estimate [low, high]``, by heading."""
    found = {
        metric: interval(value, low, high)
        for metric, value, low, high in zip(rows["metric"], rows["estimate"], rows["low"], rows["high"], strict=True)
    }
    return {heading: found.get(metric, "") for metric, heading in SHOWN.items()}


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def percent(level: float) -> str:
    return f"{100 * level:g} %"


def interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return ""
    ends = "no interval: one group" if math.isnan(low) else f"{low:.2f}, {high:.2f}"
    return f"{value:.2f} [{ends}]"


def without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns in which nothing stands: a benchmark without congruent twins has no hearing index."""
    keep = [name for name in table.columns if not (table[name].astype(str) == "").all()]
    return table[keep]


def below(notes: Sequence[str]) -> str:
    """Return notes as lines under a text table; ids and file names in them come from data."""
    return "".join(f"\n{textwrap.fill(_printable(note), 116)}" for note in notes)


def _notes(scores: Sequence[Score]) -> list[str]:
    """Return what to know about the intervals and predictions of tables."""
    level = scores[0].settings.get("level", 0.95)
    groups = sorted({str(group) for one in scores for group in one.table["group"]} - {"none"})
    parts = []
    if groups:
        parts.append(
            f"{percent(level)} intervals: Wilson on the cluster-effective sample size with a t quantile, the wider of "
            f"the groupings ({', '.join(groups)})."
        )
    if any((one.table["group"] == "none").all() for one in scores):
        parts.append(
            f"{percent(level)} plain Wilson intervals: no speaker, script or cell is known, so items count as "
            "independent."
        )
    if any("hearing" in set(one.table["metric"]) for one in scores):
        parts.append(
            "hearing 0: no better than a voice-blind rule, 1: always right; blind: the best such rule on both."
        )
    else:
        parts.append("No hearing index: it needs congruent twins beside conflict items.")
    if any(one.prediction != "pred_generated" for one in scores):
        parts.append("Only pred_generated is comparable with published numbers.")
    parts += [f"{describe(one.settings['replies'])}." for one in scores if "replies" in one.settings]
    for one in scores:
        if "calibration" in one.settings:
            whose = f"{one.name}: " if len(scores) > 1 else ""
            parts.append(whose + calibration_note(one.settings["calibration"]))
    return parts
