"""What is asked of a site: which items, which label, which reducer, which weights.

``truth``  the option that is right, as the voice renders it. For the pattern tasks that is the order of the three
           renditions ("low-high-medium"), so time must be kept.
``claim``  what the words assert, over items whose words assert something. For the pattern tasks that is the claimed
           *level* ("high"), not the options that begin with it.
a column   any metadata column of the Run's predictions: ``speaker`` (grouped by script), ``script``, ``condition`` ...
           A column of numbers is not cut into classes: it is read by ridge regression.

By default conflict and congruent items are pooled, twins of one design cell, and weighted so that the words carry no
information about the truth nor the truth about the words; see ``splits.py`` for why two-label tasks need it. What a
probe of one target finds then is not the other target in disguise.

>>> REDUCER_OF_TASK["gender_prediction"], REDUCER_OF_TASK["pitch_comparison"]
('mean', 'segments')
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes._finite import finite_rows
from vpanalysis.probes.splits import FloatArray, IntArray, independence_weights, mutual_information

__all__ = ["REDUCER_OF_TASK", "ProbeTask", "RunLike", "read_states", "select_task", "tasks_of"]

REDUCER_OF_TASK: Mapping[str, str] = MappingProxyType(
    {
        # One property of the whole clip: averaging over time loses nothing and leaves fewer features.
        "age_prediction": "mean",
        "gender_prediction": "mean",
        "emotion_recognition": "mean",
        # Three renditions whose order is the answer: an average is the same for all six orders.
        "pitch_comparison": "segments",
        "volume_comparison": "segments",
        "speed_comparison": "segments",
        "vocal_range_comparison": "segments",
        # A contour at the end of the sentence.
        "intonation_perception": "segments",
        # Who speaks when: turns follow one another.
        "speaker_identity_recognition": "segments",
        "total_speaker_counting": "segments",
    }
)
"""Reducer that ``reducer="auto"`` takes per task at audio sites; tasks that are not listed take ``mean``.

Text sites are read at the ``last`` position, where the answer is produced, whatever the task.
"""

#: Told apart from a column that merely looks like one: these never hold what the voice or the words say.
_NOT_LABELS = frozenset({"option_logprobs", "choices", "letters", "said", "claims", "foils", "text_scores"})


class RunLike(Protocol):
    """What a probe needs of a Run: four attributes, no model."""

    @property
    def name(self) -> str:
        """Short name of the Run."""

    @property
    def predictions(self) -> pd.DataFrame:
        """One row an item, in the order of the states."""

    @property
    def sites(self) -> Sequence[str]:
        """Names of the recorded sites, from the waveform to the answer."""

    def states(self, site: str, reducer: str = "mean") -> NDArray[Any]:
        """Return the states of `site`, shape (item, feature) or (item, segment, feature)."""


@dataclass(frozen=True)
class ProbeTask:
    """The items and labels of one task for one target.

    Attributes
    ----------
    task, target : str
    rows : array, shape (item,), int64
        Positions in the Run's predictions.
    frame : DataFrame
        Those rows.
    labels : array, shape (item,), int64
        Class number of each item.
    classes : tuple of str
        Class names by number.
    truth, words : array, shape (item,), str
        What the weights make independent. For a metadata target: the label, and nothing.
    weights : array, shape (item,), float64
        Of each item in the accuracy, mean 1; see :func:`vpanalysis.probes.splits.independence_weights`.
    note : str
        What a reader of the accuracy has to know; empty when nothing.
    numbers : array, shape (item,), float64, or None
        The values of a numeric target; `classes` is empty then, and `labels` are quarters of the range, to stratify by.
    """

    task: str
    target: str
    rows: IntArray
    frame: pd.DataFrame
    labels: IntArray
    classes: tuple[str, ...]
    truth: NDArray[np.str_]
    words: NDArray[np.str_]
    weights: FloatArray
    note: str
    numbers: FloatArray | None = None

    def train_weights(self, rows: IntArray) -> FloatArray:
        """Return the weights that make truth and words independent within the training items `rows`."""
        return independence_weights(self.truth, self.words, rows)

    def take(self, keep: NDArray[np.bool_]) -> ProbeTask:
        """Return the task with the items where `keep` is true, weighted anew."""
        truth, words = self.truth[keep], self.words[keep]
        weights = independence_weights(truth, words)
        return replace(
            self, rows=self.rows[keep], frame=self.frame[keep].reset_index(drop=True), labels=self.labels[keep],
            truth=truth, words=words, weights=weights,
            numbers=None if self.numbers is None else self.numbers[keep],
        )  # fmt: skip


def tasks_of(run: RunLike, tasks: str | Sequence[str] | None) -> list[str]:
    """Return the task names to probe, in the order in which the Run has them."""
    present = list(dict.fromkeys(run.predictions["task_name"].astype(str)))
    if tasks is None:
        return present
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    for task in wanted:
        if task not in present:
            raise RunError(
                "cannot probe this task", found=f"{task!r}, not in run {run.name!r}", allowed=present, word=task
            )
    return [task for task in present if task in wanted]


def select_task(run: RunLike, task: str, target: str = "truth", conditions: Sequence[str] | None = None) -> ProbeTask:
    """Choose the items of `task`, their labels and their weights.

    Parameters
    ----------
    run : Run
    task : str
    target : str
        ``"truth"``, ``"claim"`` or the name of a metadata column.
    conditions : sequence of str, optional
        Conditions to use. Default: conflict and congruent, restricted to cells that have both where any cell does;
        every condition that the task has, when it has neither.

    Returns
    -------
    ProbeTask
        Possibly without items, when nothing is said in a task and the target is ``"claim"``. Failed items and items
        without a label are left out.

    Raises
    ------
    RunError
        When `target` is neither a target nor a column, or a condition does not exist.
    """
    table = run.predictions
    keep = (table["task_name"].astype(str) == task).to_numpy(copy=True)
    if "status" in table.columns:
        keep &= (table["status"] != "failed").to_numpy()
    condition = table["condition"].astype(str)
    present = sorted(set(condition[keep]))
    if conditions is None:
        chosen = [name for name in ("conflict", "congruent") if name in present] or present
    else:
        chosen = list(conditions)
        for name in chosen:
            if name not in set(condition):
                raise RunError("cannot select the condition", found=repr(name), allowed=present, word=name)
    keep &= condition.isin(chosen).to_numpy()
    if conditions is None and chosen == ["conflict", "congruent"] and "cell" in table.columns:
        # Balanced by cell: a cell that lost a twin (a failed clip) would tilt the words towards one answer.
        twins = table.loc[keep].groupby("cell")["condition"].nunique()
        if len(twins):
            keep &= table["cell"].isin(twins.index[twins == 2]).to_numpy()
    values = _label_column(table, target, keep)
    keep &= values.notna().to_numpy()
    rows = np.flatnonzero(keep).astype(np.int64)
    frame = table.iloc[rows].reset_index(drop=True)
    if target not in ("truth", "claim") and _is_numeric(values):
        return _numeric(task, target, rows, frame, values.iloc[rows].to_numpy(dtype=np.float64))
    text = values.iloc[rows].astype(str).to_numpy(dtype=np.str_)
    classes, labels = np.unique(text, return_inverse=True)
    truth, words = text, np.full(len(text), "", dtype=np.str_)
    if target in ("truth", "claim"):
        truth = frame["truth"].astype(str).to_numpy(dtype=np.str_)
        words = _words(frame).to_numpy(dtype=np.str_)
    weights = independence_weights(truth, words) if len(rows) else np.ones(0)
    note = _what_is_left(truth, words, weights) if len(rows) else "no items with this label"
    return ProbeTask(
        task, target, rows, frame, labels.astype(np.int64), tuple(str(c) for c in classes), truth, words, weights, note
    )


def _is_numeric(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype))


def _numeric(task: str, target: str, rows: IntArray, frame: pd.DataFrame, numbers: FloatArray) -> ProbeTask:
    if not np.isfinite(numbers).all():
        raise RunError(f"cannot probe {target!r} of {task!r}", found="infinite values", allowed="finite numbers")
    cuts = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75])) if len(numbers) else np.zeros(0)
    quarter = np.unique(np.searchsorted(cuts, numbers, side="right"), return_inverse=True)[1].astype(np.int64)
    nothing, ones = np.full(len(rows), "", dtype=np.str_), np.ones(len(rows))
    note = "" if len(rows) else "no items with this label"
    return ProbeTask(task, target, rows, frame, quarter, (), nothing, nothing, ones, note, numbers)


def _label_column(table: pd.DataFrame, target: str, keep: NDArray[np.bool_]) -> pd.Series[Any]:
    if target == "truth":
        return table["truth"]
    if target == "claim":
        said = _words(table)
        return said.where(said != "")
    allowed = [c for c in table.columns if c not in _NOT_LABELS]
    if target not in allowed:
        raise RunError("cannot probe the target", found=repr(target), allowed=["truth", "claim", *allowed], word=target)
    return table[target]


def _words(table: pd.DataFrame) -> pd.Series[Any]:
    """Return what the words of each item assert, "" where they assert nothing."""
    said = table["said"] if "said" in table.columns else pd.Series([()] * len(table), index=table.index, dtype=object)
    level = table["said_level"] if "said_level" in table.columns else pd.Series([None] * len(table), index=table.index)
    words = []
    for options, claimed in zip(said, level, strict=True):
        listed = [] if options is None else [str(option) for option in options]
        if not listed:
            words.append("")
        else:
            words.append(" | ".join(sorted(listed)) if pd.isna(claimed) else str(claimed))
    return pd.Series(words, index=table.index, dtype=object)


def _what_is_left(truth: NDArray[np.str_], words: NDArray[np.str_], weights: FloatArray) -> str:
    """Return a note on what the words still give away under `weights`; empty when next to nothing."""
    left = mutual_information(truth, words, weights)
    if left > 0.99 * mutual_information(truth, truth, weights) and left > 0:
        return "truth and claim not separable: the words determine the truth"
    return f"words and truth still share {left:.2f} nats after weighting" if left > 0.01 else ""


def reads_rows(run: RunLike) -> bool:
    """Whether `run` can read some of its rows without the others: its `states` has a parameter ``rows``."""
    return "rows" in inspect.signature(run.states).parameters


def states_of(run: RunLike, site: str, reducer: str, rows: IntArray) -> NDArray[Any]:
    """Return the states of some items, reading no others where the Run can do that."""
    if reads_rows(run):
        return np.asarray(cast("Any", run).states(site, reducer, rows=rows))
    return np.asarray(run.states(site, reducer))[rows]


def read_states(run: RunLike, site: str, reducer: str, rows: IntArray) -> tuple[FloatArray, str]:
    """Return the states of the chosen items as a matrix, and the reducer that made them.

    Parameters
    ----------
    run : Run
    site : str
    reducer : str
        As stored in the Run: ``"mean"``, ``"segments"``, ``"last"`` ...
    rows : array, shape (item,), int64

    Returns
    -------
    states : array, shape (item, feature), floating
        Segments stand side by side.
    reducer : str

    Raises
    ------
    RunError
        When a state is not finite: a probe would fail or, worse, not fail.
    """
    states = states_of(run, site, reducer, rows)
    matrix = np.ascontiguousarray(states.reshape(len(states), -1))
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32)
    finite = finite_rows(matrix)
    if not finite.all():
        bad = str(run.predictions["id"].iloc[int(rows[int(np.argmin(finite))])])
        raise RunError(
            f"cannot probe site {site!r} of run {run.name!r}",
            found=f"{int((~finite).sum())} items with infinite or missing states, the first is {bad!r}",
            fix="record the run again, or leave the items out (probe_layers: nonfinite='drop')",
        )
    return cast("FloatArray", matrix), reducer
