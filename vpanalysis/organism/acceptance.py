"""What the organism promises, measured on finished Runs: a table of bars that the model card quotes.

The seven checkpoints are useful as known answers only if they are what their names say: the base reads, the mixer hears
more than its controls, the inverter is worse where words and voice agree. Each promise was fixed before training as a
number, a *bar*; :func:`check` measures every one on Runs over the whole test split and says whether it is met, with its
95 % interval beside it. A bar that is missed stays in the table.

Nothing is loaded but Runs, so the table can be made anew from the folders that ``vpanalysis reproduce`` leaves. One
bar needs more: that a middle layer tells more about the voice than the tower's output. The layer is chosen on a Run
over the *validation* split, and tested on speakers that neither the choice nor the probe has met.

>>> import vpanalysis as vp                                              # doctest: +SKIP
>>> runs = {name: vp.open_run(f"runs/{name}") for name in CHECKPOINTS}   # doctest: +SKIP
>>> table = check(runs, validation=vp.open_run("runs/validation"))       # doctest: +SKIP
>>> table[table["kind"] == "bar"][["bar", "measured", "low", "high", "met"]]     # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._outcomes import clusterings
from vpanalysis._scores import OVERALL, Score
from vpanalysis._tables import Kind, typed
from vpanalysis.errors import RunError
from vpanalysis.organism import CHECKPOINTS, DEFAULT
from vpanalysis.organism.sizes import EXPOSED, audio_config
from vpanalysis.probes import compare_sites, probe_layers, select_site
from vpanalysis.scoring import compare, score

__all__ = ["COLUMNS", "check", "mixtures", "variation"]

COLUMNS: Mapping[str, Kind] = {
    "kind": "text", "bar": "text", "checkpoint": "text", "what": "text", "measured": "float", "low": "float",
    "high": "float", "rule": "text", "threshold": "float", "met": "text", "note": "text",
}  # fmt: skip
"""Columns of the table. ``met`` is "yes", "no", or None where there is no threshold or nothing to measure it on."""

MIDDLE = tuple(f"encoder[{number - 1}]" for number in EXPOSED if 1 < number < audio_config()["num_hidden_layers"])
"""The candidates for a middle site: what the mixer can draw on, except the encoder's first layer."""

_TASKS_HEARD, _TASKS_AIMED = 5, 8
_MIDDLE_LEAD, _MIDDLE_TASKS = 0.10, 3
_VARIATION = 0.15


def check(
    runs: Mapping[str, Any],
    *,
    validation: Any | None = None,
    probe_on: str = "validation",
    level: float = 0.95,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure every bar of the organism.

    Parameters
    ----------
    runs : mapping of str to Run or path
        Runs over the whole test split by checkpoint name (`CHECKPOINTS`). Bars of a checkpoint that is not there are
        left unmeasured.
    validation : Run or path, optional
        A Run over the validation split, of any checkpoint: the encoder is shared. Without it the bar of the middle
        layers is left unmeasured.
    probe_on : {"validation", "test"}
        Where the probes of the chosen site and of the tower are trained: on the validation Run, or cross-validated
        within the test Run, where there are more items.
    level : float
        Confidence level of the intervals.
    progress : bool
        Show a progress bar over the probes.

    Returns
    -------
    DataFrame
        One row a bar, with the columns `COLUMNS`. ``kind`` is ``"bar"`` (has a threshold), ``"detail"`` (a task behind
        a bar that counts tasks) or ``"report"`` (told as it is).

    Raises
    ------
    RunError
        For a name that is no checkpoint, or another `probe_on`.
    """
    for name in runs:
        if name not in CHECKPOINTS:
            raise RunError("cannot check the organism", found=f"a Run of {name!r}", allowed=CHECKPOINTS, word=name)
    if probe_on not in ("validation", "test"):
        raise RunError("cannot check the organism", found=f"probe_on={probe_on!r}", allowed=["validation", "test"])
    opened = {name: _opened(run) for name, run in runs.items()}
    scores = {name: score(run, level=level) for name, run in opened.items()}
    rows = [
        *_reading(scores),
        *_leads(opened, level),
        *_inverting(scores, level),
        *_heard(scores),
        *_middles(opened, None if validation is None else _opened(validation), probe_on, level, progress),
        *_gates(opened),
    ]
    return typed(rows, COLUMNS)


def _opened(run: Any) -> Any:
    from vpanalysis.runs import open_run

    return open_run(run) if isinstance(run, (str, Path)) else run


def _row(
    bar: str,
    checkpoint: str,
    what: str,
    measured: float,
    interval: tuple[float, float] = (np.nan, np.nan),
    *,
    rule: str | None = None,
    threshold: float = np.nan,
    also: bool = True,
    kind: str | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """Return one row; a bar is met when the measured number keeps the rule and `also` holds."""
    met = None
    if rule is not None and not np.isnan(measured):
        # Rounding must not decide about a number that is exactly at the bar.
        kept = measured >= threshold - 1e-9 if rule == ">=" else measured <= threshold + 1e-9
        met = "yes" if kept and also else "no"
    return {
        "kind": kind or ("report" if rule is None else "bar"), "bar": bar, "checkpoint": checkpoint, "what": what,
        "measured": measured, "low": interval[0], "high": interval[1], "rule": rule, "threshold": threshold,
        "met": met, "note": note,
    }  # fmt: skip


def _missing(bar: str, checkpoint: str, what: str, rule: str, threshold: float, lacks: str) -> dict[str, Any]:
    return _row(bar, checkpoint, what, np.nan, rule=rule, threshold=threshold, note=f"not measured: {lacks}")


def _lacks(runs: Mapping[str, Any], *names: str) -> str:
    missing = [name for name in names if name not in runs]
    return f"no Run of {' and '.join(missing)}" if missing else ""


# --- accuracies --------------------------------------------------------------------------------------------------


def _reading(scores: Mapping[str, Score]) -> Iterator[dict[str, Any]]:
    for metric, what, rule, threshold in (
        ("ala", "picks what the words claim", ">=", 0.90),
        ("acc_gt", "picks what the voice says", "<=", 0.10),
    ):
        bar = f"mini-base {metric}"
        if "mini-base" not in scores:
            yield _missing(bar, "mini-base", what, rule, threshold, _lacks(scores, "mini-base"))
            continue
        overall = scores["mini-base"].overall
        found = overall[overall["metric"] == metric].to_dict("records")[0]
        ends = (float(found["low"]), float(found["high"]))
        yield _row(bar, "mini-base", what, float(found["estimate"]), ends, rule=rule, threshold=threshold)


_LEADS: tuple[tuple[str, str, str, float | None], ...] = (
    ("mini-pclm", "mini-sft", "acc_gt", 0.15),
    ("mini-pclm", "mini-final", "acc_gt", 0.15),
    ("mini-pclm", "mini-static", "acc_gt", None),
    ("mini-pclm-dpo", "mini-pclm", "acc_gt", 0.0),
    ("mini-pclm-dpo", "mini-pclm", "acc_congruent", 0.0),
)
"""Who must be ahead of whom, in what, by how much; None where the distance is told as it is."""

_CONDITION_OF = {"acc_gt": "conflict", "acc_congruent": "congruent"}


def _leads(runs: Mapping[str, Any], level: float) -> Iterator[dict[str, Any]]:
    for one, other, metric, threshold in _LEADS:
        bar, what = f"{one} - {other} {metric}", f"accuracy on {_CONDITION_OF[metric]} clips, minus that of {other}"
        rule = None if threshold is None else ">="
        lacks = _lacks(runs, one, other)
        if lacks:
            yield _row(bar, one, what, np.nan, rule=rule, threshold=_number(threshold), note=f"not measured: {lacks}")
            continue
        table = compare(runs[one], runs[other], level=level).table
        found = table[(table["task"] == OVERALL) & (table["metric"] == metric)].iloc[0]
        ends = (float(found["low"]), float(found["high"]))
        note = f"{found['a']:.3f} against {found['b']:.3f}, p = {found['p']:.4f}"
        yield _row(bar, one, what, float(found["difference"]), ends, rule=rule, threshold=_number(threshold), note=note)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _inverting(scores: Mapping[str, Score], level: float) -> Iterator[dict[str, Any]]:
    bar, name, what = "mini-inverter conflict - congruent", "mini-inverter", "accuracy lost where the words are right"
    if name not in scores:
        yield _missing(bar, name, what, ">=", 0.2, _lacks(scores, name))
        return
    items = scores[name].outcomes
    items = items[items["condition"].isin(["conflict", "congruent"])].reset_index(drop=True)
    right = (items["outcome"] == "listened").to_numpy(dtype=float)
    parts = (items["condition"] == "congruent").to_numpy(dtype=np.int64)
    found = stats.combination(right, parts, (1.0, -1.0), clusterings(items), level=level)
    note = f"{right[parts == 0].mean():.3f} on conflict, {right[parts == 1].mean():.3f} on congruent clips"
    yield _row(bar, name, what, found.value, (found.low, found.high), rule=">=", threshold=0.2, note=note)


def _heard(scores: Mapping[str, Score]) -> Iterator[dict[str, Any]]:
    bar, what = f"{DEFAULT} tasks heard", "tasks that are heard beyond every voice-blind rule"
    if DEFAULT not in scores:
        yield _missing(bar, DEFAULT, what, ">=", _TASKS_HEARD, _lacks(scores, DEFAULT))
        return
    found = scores[DEFAULT]
    note = f"of {len(found.tasks)}; aim: {_TASKS_AIMED}"
    yield _row(bar, DEFAULT, what, float(len(found.heard)), rule=">=", threshold=_TASKS_HEARD, note=note)
    for task in found.per_task.to_dict("records"):
        least = task["blind"] + found.settings["heard_margin"]
        told = (
            f"conflict {task['acc_gt']:.2f}, congruent {task['acc_congruent']:.2f}, both must reach {least:.2f}; "
            f"neutral {task['acc_neutral']:.2f}"
        )
        ends = (float(task["hearing_low"]), float(task["hearing_high"]))
        yield _row(
            f"hears {task['task']}", DEFAULT, "hearing index", float(task["hearing"]), ends, rule=">=",
            threshold=float(found.settings["heard_index"]), also=task["heard"] == "yes", kind="detail", note=told,
        )  # fmt: skip


# --- layers and gates --------------------------------------------------------------------------------------------


def _middles(
    runs: Mapping[str, Any], validation: Any | None, probe_on: str, level: float, progress: bool
) -> Iterator[dict[str, Any]]:
    bar, what = "middle over tower", "tasks where a middle layer tells more about the voice than the tower's output"
    # The encoder is shared, so any Run will do.
    name = next((name for name in (DEFAULT, *CHECKPOINTS) if name in runs), None)
    if validation is None or name is None:
        lacks = "no Run over the validation split" if validation is None else "no Run"
        yield _missing(bar, "all", what, ">=", _MIDDLE_TASKS, lacks)
        return
    run = runs[name]
    chosen = probe_layers(validation, "truth", sites=list(MIDDLE), group_by="speaker", shuffles=0, progress=progress)
    rows = []
    for task in dict.fromkeys(run.predictions["task_name"].astype(str)):
        if task not in chosen.tasks or chosen.curve(task)["accuracy"].isna().all():
            continue
        site = select_site(chosen, task, MIDDLE)
        found = compare_sites(run, task, site, "tower", train_run=validation if probe_on == "validation" else None)
        note = f"{site} {found.accuracy_a[0]:.2f}, tower {found.accuracy_b[0]:.2f}"
        rows.append(
            _row(
                f"{bar} {task}", "all", "probe accuracy, middle minus tower", found.difference, (found.low, found.high),
                rule=">=", threshold=_MIDDLE_LEAD, also=found.low > 0, kind="detail", note=note,
            )
        )  # fmt: skip
    count = sum(row["met"] == "yes" for row in rows)
    note = f"of {len(rows)}; site chosen on the validation split, probe trained on the {probe_on} split"
    yield _row(bar, "all", what, float(count), rule=">=", threshold=_MIDDLE_TASKS, note=note)
    yield from rows


def mixtures(run: Any) -> pd.DataFrame:
    """Return the mean gate weights of each task: one row a task, one column a stream.

    Raises
    ------
    RunError
        If the Run holds no gate weights.
    """
    gates = run.gates
    if gates is None:
        raise RunError(f"cannot average the gate of {run.name!r}", found="no gate weights", allowed="a model with PCLM")
    task = run.predictions.set_index("id")["task_name"].reindex(gates.index)
    means: pd.DataFrame = gates.groupby(task.to_numpy(), sort=False).mean()
    return means.rename_axis("task")


def variation(table: pd.DataFrame) -> tuple[float, tuple[str, str]]:
    """Return the largest total variation distance between two rows of `mixtures`, and whose rows they are."""
    weights, names = table.to_numpy(dtype=np.float64), [str(name) for name in table.index]
    pairs = list(itertools.combinations(range(len(names)), 2))
    if not pairs:
        return 0.0, ("", "")
    apart = [0.5 * float(np.abs(weights[a] - weights[b]).sum()) for a, b in pairs]
    one, other = pairs[int(np.argmax(apart))]
    return max(apart), (names[one], names[other])


def _gates(runs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    what = "largest total variation distance between the mean mixtures of two tasks"
    for name, rule, threshold in (
        ("mini-pclm", ">=", _VARIATION),
        (DEFAULT, None, np.nan),
        ("mini-static", None, np.nan),
    ):
        bar, lacks = f"{name} gate", _lacks(runs, name)
        if lacks:
            yield _row(bar, name, what, np.nan, rule=rule, threshold=threshold, note=f"not measured: {lacks}")
            continue
        # Every question of a task has one mixture, so there is no chance in it and no interval.
        apart, (one, other) = variation(mixtures(runs[name]))
        yield _row(bar, name, what, apart, rule=rule, threshold=threshold, note=f"{one} against {other}")
