"""Does it listen, or does it read? Outcomes, accuracies and the hearing index, with honest intervals.

Why it exists. On a clip whose voice says one thing and whose words claim another, picking the truth (Acc_GT) and
picking the claim (ALA) are both evidence, and neither is enough: a model that inverts the words gets the first right
without hearing. So conflict items are scored beside their congruent and neutral twins, and the hearing index
(:mod:`vpanalysis._hearing`) puts them into one number that is 0 for every rule that cannot hear.

The idea. :func:`score` reads the predictions of a Run, gives each item an outcome (:mod:`vpanalysis._outcomes`), and
takes every metric (:mod:`vpanalysis._measures`) per task and over all, with the intervals of :mod:`vpanalysis.stats`.
:func:`compare` does the same for the difference between two runs over the same items. :func:`score_predictions` scores
replies that were made elsewhere. Nothing here loads a model.

A task counts as *heard* when its hearing index is at least 0.3 with its interval above 0, and conflict and congruent
accuracy are both at least 0.15 above what the best voice-blind rule can reach on both at once.

Worked example::

    vp.score(run)                                # prints a row a task: Acc_GT, ALA, congruent, neutral, hearing ...
    vp.score([run_a, run_b])                     # prints a row a run
    vp.score(run, prediction="pred_generated")   # what may stand beside published numbers
    vp.compare(run_a, run_b)                     # paired differences, a minus b
    vp.score_predictions("replies.jsonl", vp.load_benchmark("VoxParadox"))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._calibrated import COLUMN, CalibrationLike, keys_of, known_items, without_calibration
from vpanalysis._comparison import COMPARISON_KINDS, Comparison
from vpanalysis._hearing import HEARD_INDEX, HEARD_MARGIN, Blind, hearing_index, voice_blind
from vpanalysis._measures import COMPARED, Items, as_row, difference, estimate, measures, paired_tests
from vpanalysis._outcomes import OUTCOMES, PREDICTIONS, RunLike, outcome_table, read_run, task_order
from vpanalysis._replies import read_replies
from vpanalysis._scores import OVERALL, PER_TASK_KINDS, TABLE_KINDS, Score, Scores
from vpanalysis._tables import typed
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark

__all__ = [
    "OUTCOMES",
    "PREDICTIONS",
    "Blind",
    "Comparison",
    "Score",
    "Scores",
    "compare",
    "hearing_index",
    "score",
    "score_predictions",
    "voice_blind",
]

Source = RunLike | pd.DataFrame | str | Path
"""A Run, its folder, or a table of predictions."""

Several = Mapping[str, Source] | Sequence[RunLike | pd.DataFrame | Path] | list[str]
"""Runs by name, or in a list. (A plain text is a sequence of texts to a type checker, hence the list.)"""


@overload
def score(
    runs: Source,
    *,
    prediction: str = "pred_logits",
    level: float = 0.95,
    random_state: int | None = 0,
    include_calibration_items: bool = False,
) -> Score: ...
@overload
def score(
    runs: Several,
    *,
    prediction: str = "pred_logits",
    level: float = 0.95,
    random_state: int | None = 0,
    include_calibration_items: bool = False,
) -> Scores: ...
def score(
    runs: Source | Several,
    *,
    prediction: str = "pred_logits",
    level: float = 0.95,
    random_state: int | None = 0,
    include_calibration_items: bool = False,
) -> Score | Scores:
    """Score one run, or several side by side.

    Parameters
    ----------
    runs : Run, path, DataFrame, or a list or mapping of them
        A mapping gives the names; a list takes those of the runs.
    prediction : {"pred_logits", "pred_generated", "pred_text_score"}
        Which predictions to judge: the option with the largest logit of its letter, the one parsed from the generated
        reply, or the one whose text is most likely. Only the second is comparable with published numbers.
    level : float
        Confidence level of the intervals.
    random_state : int or None
        Kept in the settings. Nothing in a score is random; in a comparison the sign flips are.
    include_calibration_items : bool
        Also score the items that chose how the model is read (`vpanalysis.calibrate`). By default they are left out;
        either way the result says how many there are.

    Returns
    -------
    Score or Scores
        One Score for one run, else a mapping of names to them.

    Raises
    ------
    RunError
        If a run lacks the predictions asked for, two runs of a list share a name, or the model was calibrated on all
        items of a run.
    SchemaError
        If ids are not unique, or a prediction is no offered option.
    """
    options = (prediction, level, random_state, include_calibration_items)
    if isinstance(runs, Mapping):
        return Scores({name: _score(read_run(source)[1], name, *options) for name, source in runs.items()})
    if isinstance(runs, Sequence) and not isinstance(runs, (str, bytes)):
        read = [read_run(source) for source in runs]
        names = [name for name, _ in read]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RunError(
                "cannot score these runs side by side", found=f"the name {twice[0]!r} more than once",
                allowed="distinct names", fix="give a mapping of names to runs",
            )  # fmt: skip
        return Scores({name: _score(table, name, *options) for name, table in read})
    name, table = read_run(runs)
    return _score(table, name, *options)


def score_predictions(
    file: str | Path,
    benchmark: Benchmark | str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    name: str | None = None,
    level: float = 0.95,
    calibration: CalibrationLike | None = None,
    include_calibration_items: bool = False,
) -> Score:
    """Score replies that any model or script left in a file.

    Parameters
    ----------
    file : str or Path
        JSON (a list of records, or ``{id: reply}``), JSON lines, CSV, TSV or parquet with an id and a reply: raw text,
        a letter, or an option.
    benchmark : Benchmark, str or Path
        What was asked, or where to load it from.
    column, id_column : str, optional
        Where replies and ids stand. By default the first known name that the file has, raw text before letters; the
        result says which.
    name : str, optional
        What to call it in tables; by default the name of the file.
    level : float
        Confidence level of the intervals.
    calibration : Calibration, Run or path of one, optional
        The calibration of the model that replied, whose items are left out. Records that say ``"calibration": true``,
        as those that a Run exported, are left out without it.
    include_calibration_items : bool
        As in `score`.

    Returns
    -------
    Score
        Its ``settings["replies"]`` holds missing, surplus, duplicate and contradicted ids. Items without a reply are
        ``failed``, those whose replies differ ``unparsed``; both stay in the denominator.

    Raises
    ------
    SchemaError
        If the file cannot be read, has no ids or replies, or none of its ids is an item.
    """
    if isinstance(benchmark, (str, Path)):
        from vpanalysis.benchmark.sources import load_benchmark

        benchmark = load_benchmark(str(benchmark))
    table, report = read_replies(file, benchmark, column=column, id_column=id_column)
    if calibration is not None:
        table[COLUMN] |= table["id"].isin(known_items(benchmark, keys_of(calibration)))
    return _score(
        table, name or Path(file).stem, "pred_generated", level, 0, include_calibration_items,
        replies=report.to_dict(), benchmark=benchmark.name,
    )  # fmt: skip


def compare(
    a: Source | Score,
    b: Source | Score,
    *,
    prediction: str | tuple[str, str] = "pred_logits",
    level: float = 0.95,
    random_state: int | None = 0,
    include_calibration_items: bool = False,
) -> Comparison:
    """Compare two runs over the same items, paired by item id: a minus b.

    Parameters
    ----------
    a, b : Run, path, DataFrame or Score
        A Score brings its own predictions; of the others `prediction` is judged.
    prediction : str or (str, str)
        One column for both, or one each, for example to set generated replies against logits of one run.
    level : float
        Confidence level of the intervals.
    random_state : int or None
        Of the sign flips, where there are too many clusters to count all patterns.
    include_calibration_items : bool
        As in `score`. By default an item that one of the models was calibrated on is left out of both.

    Returns
    -------
    Comparison
        Differences of acc_gt, ala, acc_congruent, acc_neutral and hearing, per task and overall.

    Raises
    ------
    RunError
        If the runs share no item, or an item is not the same in both.
    """
    columns = (prediction, prediction) if isinstance(prediction, str) else prediction
    (name_a, table_a, used_a), (name_b, table_b, used_b) = (
        _outcomes(source, column, include_calibration_items) for source, column in zip((a, b), columns, strict=True)
    )
    used = list(dict.fromkeys([*used_a, *used_b]))
    if used and not include_calibration_items:
        table_a, table_b = (t[~t["id"].isin(used)].reset_index(drop=True) for t in (table_a, table_b))
    table_a, table_b, unpaired = _matched(table_a, table_b, (name_a, name_b))
    items_a, items_b = Items.of(table_a), Items.of(table_b)
    blind = voice_blind(table_a)
    tasks = task_order(table_a["task_name"])
    rng = np.random.default_rng(random_state)
    rows: list[dict[str, Any]] = []
    for task in (*tasks, OVERALL):
        for metric, measure in measures(items_a, tasks if task == OVERALL else [task], blind).items():
            if metric not in COMPARED:
                continue
            paired = difference(items_a, items_b, measure, level)
            flip, mcnemar = paired_tests(items_a, items_b, measure, rng)
            rows.append(
                {
                    "task": task, "metric": metric, "a": estimate(items_a, measure, level).value,
                    "b": estimate(items_b, measure, level).value, "difference": paired.value, "low": paired.low,
                    "high": paired.high, "p": flip.p, "q": math.nan, "p_mcnemar": mcnemar, "exact": flip.exact,
                    "n": len(measure.rows), "n_groups": paired.n_groups, "group": paired.group,
                    "mde": paired.minimum_detectable_effect,
                }
            )  # fmt: skip
    for metric in COMPARED:
        family = [row for row in rows if row["metric"] == metric and row["task"] != OVERALL]
        for row, q in zip(family, stats.benjamini_hochberg([row["p"] for row in family]), strict=True):
            row["q"] = float(q)
    settings: dict[str, Any] = {"level": level, "random_state": random_state}
    if used:
        settings["calibration"] = {"items": len(used), "included": include_calibration_items, "ids": used}
    return Comparison(name_a, name_b, typed(rows, COMPARISON_KINDS), unpaired, settings)


def _score(
    predictions: pd.DataFrame,
    name: str,
    prediction: str,
    level: float,
    random_state: int | None,
    include_calibration_items: bool = False,
    **more: Any,
) -> Score:
    predictions, used = without_calibration(predictions, include=include_calibration_items, name=name)
    if used is not None:
        more["calibration"] = used
    table = outcome_table(predictions, prediction, name)
    items = Items.of(table)
    blind = voice_blind(table)
    tasks = task_order(table["task_name"])
    rows = []
    for task in (*tasks, OVERALL):
        for metric, measure in measures(items, tasks if task == OVERALL else [task], blind).items():
            rows.append(as_row(estimate(items, measure, level), task=task, metric=metric))
    found = typed(rows, TABLE_KINDS)
    per_task = typed([_task_row(table, found, task, blind[task]) for task in tasks], PER_TASK_KINDS)
    settings = {
        "level": level, "random_state": random_state, "heard_index": HEARD_INDEX, "heard_margin": HEARD_MARGIN, **more
    }  # fmt: skip
    return Score(name, prediction, found, per_task, table, settings)


def _task_row(outcomes: pd.DataFrame, found: pd.DataFrame, task: str, blind: Blind) -> dict[str, Any]:
    here = outcomes[outcomes["task_name"] == task]
    row: dict[str, Any] = {"task": task, "m": blind.m, "r": blind.r, "blind": blind.accuracy}
    row |= {f"n_{c}": int((here["condition"] == c).sum()) for c in ("conflict", "congruent", "neutral")}
    row |= {key: int((here["outcome"] == key).sum()) for key in ("unparsed", "failed")}
    for one in found[found["task"] == task].to_dict("records"):
        metric = str(one["metric"])
        if f"{metric}_low" in PER_TASK_KINDS:
            row |= {metric: one["estimate"], f"{metric}_low": one["low"], f"{metric}_high": one["high"]}
    row["heard"] = _verdict(row) if blind.known else None
    return row


def _verdict(row: Mapping[str, Any]) -> str | None:
    """Say whether a task is heard; None where there is no interval to say it with."""
    if math.isnan(row["hearing_low"]):
        return None
    lead = min(row["acc_gt"], row["acc_congruent"]) - row["blind"]
    # Rounding must not decide about an accuracy that is exactly at the threshold.
    return (
        "yes"
        if row["hearing"] >= HEARD_INDEX - 1e-9 and row["hearing_low"] > 0 and lead >= HEARD_MARGIN - 1e-9
        else "no"
    )


def _outcomes(source: Source | Score, prediction: str, include: bool) -> tuple[str, pd.DataFrame, list[str]]:
    """Return what to call a run, its outcomes, and the ids of the items that its model was calibrated on."""
    if isinstance(source, Score):
        return (
            f"{source.name} ({source.prediction})",
            source.outcomes,
            (source.settings.get("calibration") or {}).get("ids", []),
        )
    name, predictions = read_run(source)
    predictions, used = without_calibration(predictions, include=include, name=name)
    return f"{name} ({prediction})", outcome_table(predictions, prediction, name), used["ids"] if used else []


def _matched(
    a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, tuple[str, ...]]]:
    """Return the shared items in the same order, and the ids that only one has."""
    ids_a, ids_b = set(a["id"]), set(b["id"])
    asked = f"cannot compare {names[0]} with {names[1]}"
    if not ids_a & ids_b:
        raise RunError(asked, found="no item in both", fix="compare runs over one benchmark")
    unpaired = {"a": _only(a["id"], ids_b), "b": _only(b["id"], ids_a)}
    a = a[a["id"].isin(ids_b)].reset_index(drop=True)
    b = b.set_index("id").loc[a["id"]].reset_index()
    for column in ("task_name", "condition", "truth", "said"):
        unlike = np.flatnonzero([x != y for x, y in zip(a[column], b[column], strict=True)])
        if len(unlike):
            first = unlike[0]
            raise RunError(
                asked,
                found=f"{column} {a[column][first]!r} and {b[column][first]!r} for the item {a['id'][first]!r}",
                fix="compare runs over one benchmark",
            )
    return a, b, unpaired


def _only(ids: Iterable[str], others: set[str]) -> tuple[str, ...]:
    return tuple(i for i in ids if i not in others)
