"""``probe_layers``: one linear probe per task and site of a finished Run.

For every task the items, labels and weights are chosen once (``targets.py``), folds are made once and shared by all
sites (``splits.py``), and each site is read by the same linear probe (``estimator.py``). Every item is predicted once,
by a probe that has seen neither its speaker nor its twins, and accuracy and interval are taken over those predictions
with the speaker as the unit.

What the defaults mean, in one example: a task with 100 design cells gives 100 conflict and 100 congruent clips, 200
predictions in groups of one speaker, weighted so that knowing the words is worth nothing. An accuracy above chance
is then evidence about the voice.

>>> result = probe_layers(run, target="truth", tasks="age_prediction")   # doctest: +SKIP
>>> result.to_dataframe()[["site", "accuracy", "low", "high"]]           # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis.capture.sites import select_sites
from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval
from vpanalysis.probes.estimator import DEFAULT_C, cross_val_predict, single_thread
from vpanalysis.probes.result import COLUMNS, ProbeResult
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, check_grouping, group_ids, make_folds
from vpanalysis.probes.targets import REDUCER_OF_TASK, ProbeTask, RunLike, read_states, select_task, tasks_of

__all__ = ["choose_sites", "probe_layers", "reducer_for"]

LEVEL = 0.95

# What the prompt or the options determine is no place where a voice could be found.
_NOT_PROBED = ("gate", "options")


def probe_layers(
    run: RunLike,
    target: str = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    conditions: Sequence[str] | None = None,
    reducer: str = "auto",
    group_by: str = "speaker",
    n_splits: int = 5,
    C: float = DEFAULT_C,
    random_state: int | None = 0,
    progress: bool = True,
) -> ProbeResult:
    """Cross-validate a logistic regression per task and site.

    Parameters
    ----------
    run : Run
        A finished Run (or anything with its ``name``, ``predictions``, ``sites`` and ``states``).
    target : str
        ``"truth"`` (the voice), ``"claim"`` (the words, over items that assert something) or a column of the Run's
        predictions such as ``"speaker"``.
    tasks : str or sequence of str, optional
        Default: all tasks of the Run.
    sites : str, sequence of str or callable, optional
        Site names or patterns in which ``*`` stands for anything (``"encoder[*]"``), or a predicate on the name.
        Default: all but ``gate`` and ``options``.
    conditions : sequence of str, optional
        Default: conflict and congruent twins, weighted so that words and truth are independent.
    reducer : str
        ``"auto"`` takes :data:`~vpanalysis.probes.targets.REDUCER_OF_TASK` at audio sites and ``last`` at text sites.
    group_by : {"speaker", "script", "both"}
        What no fold may have on both sides. Cells are never split. ``"both"`` tests every crossing of a speaker fold
        with a script fold on a probe trained on the items in neither, at `n_splits` squared fits.
    n_splits : int
        Folds per grouping; fewer where there are fewer groups.
    C : float
        Inverse L2 penalty on standardised features, fixed for all sites.
    random_state : int or None
        Seed of the assignment of groups to folds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ProbeResult
        With ``accuracy``, interval, ``chance`` (one over the number of classes) and ``majority`` per task and site. A
        task that cannot be probed (one class, fewer than two groups, nothing said) has empty accuracies and a reason.

    Raises
    ------
    RunError
        For unknown tasks, sites, conditions, targets or groupings, a target that is its own group, and states that are
        not finite.
    """
    columns = check_grouping(group_by)
    if target in columns:
        other = "script" if target == "speaker" else "speaker"
        raise RunError(
            f"cannot probe {target!r} across folds that never share one",
            found=f"target={target!r} with group_by={group_by!r}",
            fix=f"use group_by={other!r}",
        )
    if n_splits < 2:
        raise RunError("cannot cross-validate", found=f"n_splits={n_splits}", allowed="2 or more")
    if not C > 0:
        raise RunError("cannot fit the probe", found=f"C={C}", allowed="a positive number")
    chosen_sites = choose_sites(run.sites, sites)
    chosen_tasks = tasks_of(run, tasks)
    order = {site: number for number, site in enumerate(run.sites)}
    table: list[dict[str, Any]] = []
    by_condition: list[dict[str, Any]] = []
    predictions: list[pd.DataFrame] = []
    bar = tqdm(total=len(chosen_tasks) * len(chosen_sites), desc=f"probe {target}", unit="fit", disable=not progress)
    with single_thread(), bar:
        for task in chosen_tasks:
            plan = _plan(run, task, target, conditions, columns, n_splits, random_state)
            for site in chosen_sites:
                base = {
                    "task": task, "site": site, "site_order": order[site], "reducer": reducer_for(site, task, reducer),
                    "target": target, **plan.facts,
                }  # fmt: skip
                if plan.folds:
                    states, base["reducer"] = read_states(run, site, str(base["reducer"]), plan.items.rows)
                    predicted = cross_val_predict(states, plan.items.labels, plan.folds, C=C)
                    correct = (predicted == plan.items.labels).astype(np.float64)
                    base |= _accuracy(correct, plan.clusters, plan.items.weights)
                    by_condition += _per_condition(base, plan, correct)
                    predictions.append(_prediction_rows(base, plan, predicted))
                table.append(base)
                bar.update()
    return ProbeResult(
        pd.DataFrame(table, columns=list(COLUMNS)),
        pd.DataFrame(by_condition, columns=list(_BY_CONDITION)),
        pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(columns=list(_PREDICTIONS)),
        target,
        {
            "run": run.name, "target": target, "group_by": group_by, "n_splits": n_splits, "C": C,
            "random_state": random_state, "reducer": reducer, "level": LEVEL,
            "conditions": None if conditions is None else list(conditions),
        },
    )  # fmt: skip


_BY_CONDITION = ("task", "site", "site_order", "target", "condition", "accuracy", "low", "high", "n", "n_groups")
_PREDICTIONS = ("task", "site", "id", "condition", "group", "fold", "label", "predicted", "correct", "weight")


class _Plan:
    """Everything about a task that its sites share: items, folds, clusters, and the columns that do not change."""

    def __init__(self, items: ProbeTask, clusters: list[IntArray], folds: list[Fold], group: str, reason: str) -> None:
        self.items, self.clusters, self.folds = items, clusters, folds
        self.fold_of = np.full(len(items.rows), -1, dtype=np.int64)
        for number, fold in enumerate(folds):
            self.fold_of[fold.test] = number
        classes = len(items.classes)
        share = (
            np.bincount(items.labels, weights=items.weights, minlength=max(classes, 1)) if len(items.rows) else [0.0]
        )
        self.facts: dict[str, Any] = {
            "accuracy": np.nan, "low": np.nan, "high": np.nan,
            "chance": 1.0 / classes if classes else np.nan,
            "majority": float(np.max(share) / max(float(items.weights.sum()), 1e-12)) if classes else np.nan,
            "n": len(items.rows),
            "n_groups": min((len(np.unique(c)) for c in clusters), default=0),
            "n_classes": classes, "group": group, "note": reason or items.note,
        }  # fmt: skip


def _plan(
    run: RunLike,
    task: str,
    target: str,
    conditions: Sequence[str] | None,
    columns: tuple[str, ...],
    n_splits: int,
    random_state: int | None,
) -> _Plan:
    items = select_task(run, task, target, conditions)
    if not len(items.rows):
        return _Plan(items, [], [], " and ".join(columns), items.note)
    found = [group_ids(items.frame, column) for column in columns]
    clusters, group = [g for g, _ in found], " and ".join(dict.fromkeys(used for _, used in found))
    if len(items.classes) < 2:
        return _Plan(items, clusters, [], group, f"one class only: {items.classes[0]!r}")
    folds = make_folds(items.labels, clusters, n_splits=n_splits, random_state=random_state, weigh=items.train_weights)
    reason = "" if folds else f"too few groups: {[len(np.unique(c)) for c in clusters]} by {group}, after joining cells"
    return _Plan(items, clusters, folds, group, reason)


def _accuracy(correct: FloatArray, clusters: list[IntArray], weights: FloatArray) -> dict[str, float]:
    accuracy, low, high = accuracy_interval(correct, clusters, weights, level=LEVEL)
    return {"accuracy": accuracy, "low": low, "high": high}


def _per_condition(base: dict[str, Any], plan: _Plan, correct: FloatArray) -> list[dict[str, Any]]:
    """Return the unweighted accuracy within each condition, from the same predictions."""
    condition = plan.items.frame["condition"].astype(str).to_numpy()
    rows = []
    for name in dict.fromkeys(condition):
        here = condition == name
        clusters = [c[here] for c in plan.clusters]
        rows.append(
            {
                **{key: base[key] for key in ("task", "site", "site_order", "target")},
                "condition": name,
                **_accuracy(correct[here], clusters, np.ones(int(here.sum()))),
                "n": int(here.sum()),
                "n_groups": min(len(np.unique(c)) for c in clusters),
            }
        )
    return rows


def _prediction_rows(base: dict[str, Any], plan: _Plan, predicted: IntArray) -> pd.DataFrame:
    classes = np.array(plan.items.classes, dtype=object)
    return pd.DataFrame(
        {
            "task": base["task"],
            "site": base["site"],
            "id": plan.items.frame["id"].astype(str),
            "condition": plan.items.frame["condition"].astype(str),
            "group": plan.clusters[0],
            "fold": plan.fold_of,
            "label": classes[plan.items.labels],
            "predicted": classes[predicted],
            "correct": predicted == plan.items.labels,
            "weight": plan.items.weights,
        },
        columns=list(_PREDICTIONS),
    )


def choose_sites(available: Sequence[str], selector: str | Sequence[str] | Callable[[str], bool] | None) -> list[str]:
    """Return the sites that `selector` names, in the order of the Run.

    Parameters
    ----------
    available : sequence of str
    selector : str, sequence of str, callable or None
        As `sites` of :func:`probe_layers`.

    Returns
    -------
    list of str

    Raises
    ------
    RunError
        When a name or pattern matches nothing.
    """
    if selector is None:
        return [name for name in available if name not in _NOT_PROBED]
    return select_sites(available, selector)


def reducer_for(site: str, task: str, reducer: str = "auto") -> str:
    """Return the reducer at which `site` is read for `task`.

    Parameters
    ----------
    site, task : str
    reducer : str
        ``"auto"``, or the name of a stored reducer, which is returned as it is.

    Returns
    -------
    str
        ``"last"`` at text sites, else the task's entry of :data:`~vpanalysis.probes.targets.REDUCER_OF_TASK`.
    """
    if reducer != "auto":
        return reducer
    return "last" if site.startswith("text") else REDUCER_OF_TASK.get(task, "mean")
