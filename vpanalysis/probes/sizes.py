"""``learning_curves``: how probe accuracy depends on the number of training items, and what the last doubling brought.

Why it exists. Eighty training clips and 1,280 features: is the flat line a layer that knows nothing, or a probe that
was not shown enough? And a task with 100 cells beside one with 400 compares sizes, not tasks. The paper behind
VoxParadox probes 200 clips a task; the curve says how far such a number is from where it would settle.

The idea. The test folds stay what they are. From every training set whole groups are taken away, in an order that is
drawn once a repeat and fold (those that bring a class first), so that a smaller set is part of the next larger one.
Curves of this kind are those of Perlich et al. 2003, "Tree induction vs. logistic regression: a learning-curve
analysis". Every share is fitted at all sites, several times; items are scored by their mean over repeats. ``gain`` is
the paired difference to half as many training groups.

>>> learning_curves(run, tasks="age_prediction", sites=["encoder[2]", "tower"])      # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, run_identity, save_tables
from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes.estimator import DEFAULT_C, fit_sites, single_thread
from vpanalysis.probes.inputs import Held
from vpanalysis.probes.layers import LEVEL, choose_sites, reducer_for
from vpanalysis.probes.paired import paired_interval
from vpanalysis.probes.plans import Plan, choose_columns, make_plan, regression_interval
from vpanalysis.probes.splits import FloatArray, Fold, IntArray
from vpanalysis.probes.targets import ProbeTask, RunLike, read_states, select_task, tasks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CURVE", "LearningCurves", "learning_curves"]

CURVE = (
    "task", "target", "site", "site_order", "share", "n_train", "n_train_groups", "metric", "accuracy", "low", "high",
    "gain", "gain_low", "gain_high", "chance", "n", "n_groups", "group", "note",
)  # fmt: skip
"""Columns of :attr:`LearningCurves.table`."""

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of the training groups, each half of the next."""


@dataclass(frozen=True, repr=False)
class LearningCurves:
    """Probe accuracy against the number of training items.

    Attributes
    ----------
    table : DataFrame
        One row a task, site and share of the training groups, columns :data:`CURVE`. ``n_train`` is the mean over folds
        and repeats; ``gain`` with its interval is what the items beyond the half brought, paired by item.
    settings : mapping
    """

    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they were probed."""
        return list(dict.fromkeys(self.table["task"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def plot(self, ax: Axes | None = None, *, task: str | None = None) -> Axes:
        """Draw the curves of `task`, or of all tasks where one site was probed; :class:`RunError` for others."""
        from vpanalysis import plots

        rows = self.table
        if task is not None and task not in self.tasks:
            raise RunError("cannot draw the learning curves", found=repr(task), allowed=self.tasks, word=task)
        if task is not None or rows["site"].nunique() > 1:
            rows = rows[rows["task"] == (task or self.tasks[0])]
        return plots.learning_curves(rows, ax=ax)

    def save(self, path: str | Path | None = None) -> Path:
        """Write ``table.parquet`` and a JSON file; default in ``results/`` of the Run."""
        folder = home_of(self.settings, "learning-curves", tasks=self.tasks) if path is None else path
        return save_tables(folder, "LearningCurves", {"table": self.table}, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> LearningCurves:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "LearningCurves", ("table",))
        return cls(tables["table"], settings)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        drop = ["site_order", "metric", "target"] + ([] if (self.table["note"] != "").any() else ["note"])
        made = self.settings
        title = (
            f"LearningCurves: {made.get('target')} of {made.get('run', 'a run')}, folds by {made.get('grouped_by')}, "
            f"{made.get('repeats')} draws of training groups"
        )
        return self.table.drop(columns=drop), title, "gain: against half as many training items, paired by test item."

    def __repr__(self) -> str:
        return text_table(*self._parts(), max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(*self._parts(), max_rows=60)


def learning_curves(
    run: RunLike | str | Path,
    target: str = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    shares: Sequence[float] = SHARES,
    repeats: int = 3,
    conditions: Sequence[str] | None = None,
    reducer: str = "auto",
    group_by: str = "auto",
    n_splits: int = 5,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    random_state: int | None = 0,
    progress: bool = True,
) -> LearningCurves:
    """Probe with fewer and fewer training groups, on the same test items.

    Parameters
    ----------
    run : Run, str or Path
    target, tasks, sites, conditions, reducer, group_by, n_splits, estimator, C
        As in :func:`~vpanalysis.probes.probe_layers`.
    shares : sequence of float
        Of the training groups, more than 0 and at most 1; 1 is always made.
    repeats : int
        Draws of the groups that stay, over which items are averaged.
    random_state : int or None
        Seed of folds and draws.
    progress : bool

    Returns
    -------
    LearningCurves
        A share that leaves a training set without all its classes is an empty row with the reason.

    Raises
    ------
    RunError
        As :func:`~vpanalysis.probes.probe_layers`, and for shares or repeats that are none.
    """
    if isinstance(run, (str, Path)):
        from vpanalysis.runs import open_run

        run = cast("RunLike", open_run(run))
    if not len(shares) or not all(0 < share <= 1 for share in shares):
        raise RunError("cannot make learning curves", found=f"shares={list(shares)}", allowed="above 0, at most 1")
    if repeats < 1:
        raise RunError("cannot make learning curves", found=f"repeats={repeats}", allowed="1 or more")
    run = Held(run)
    steps = sorted({*map(float, shares), 1.0})
    names = choose_sites(run.sites, sites)
    split: dict[str, Any] = {"n_splits": n_splits, "random_state": random_state}
    listed = [select_task(run, task, target, conditions) for task in tasks_of(run, tasks)]
    columns = choose_columns(listed, target, group_by, **split)
    order = {site: number for number, site in enumerate(run.sites)}
    rows: list[dict[str, Any]] = []
    with single_thread(), tqdm(total=len(listed) * len(steps), desc="sizes", unit="fit", disable=not progress) as bar:
        for items in listed:
            plan = make_plan(items, columns, **split)
            before: dict[float, FloatArray] = {}
            for share in steps:
                made = {"task": items.task, "target": target, "share": share, "gain": np.nan, "gain_low": np.nan,
                        "gain_high": np.nan, **{k: v for k, v in plan.facts.items() if k in CURVE}}  # fmt: skip
                fits, sizes, reason = [], [], ""
                read = partial(_states, run, items, reducer)
                # All groups are all groups, whatever their order.
                for repeat in range(repeats if share < 1 else 1):
                    less = smaller(plan, share, repeat, random_state)
                    sizes.append([(len(fold.train), len(np.unique(plan.clusters[0][fold.train]))) for fold in less])
                    reason = reason or _poor(plan, less)
                    if reason or not less:
                        break
                    part = Plan(items, plan.clusters, less, str(plan.facts["group"]), "").label_sets(0, random_state)
                    fits.append(fit_sites(read, names, part, estimator=estimator, C=C))
                count = np.array(sizes, dtype=np.float64).reshape(-1, 2)
                made |= {"n_train": float(count[:, 0].mean()) if len(count) else 0.0,
                         "n_train_groups": float(count[:, 1].mean()) if len(count) else 0.0,
                         "note": reason or plan.facts["note"]}  # fmt: skip
                scores: FloatArray | None = None
                if plan.folds and not reason:
                    scores = np.stack([_score(plan, [fit[at].predicted for fit in fits]) for at in range(len(names))])
                    before[share] = scores
                for at, site in enumerate(names):
                    row = {**made, "site": site, "site_order": order[site]}
                    if scores is not None:
                        row |= _found(plan, scores[at], None if share / 2 not in before else before[share / 2][at])
                    rows.append(row)
                bar.update()
    settings = {
        **run_identity(run), "target": target, "grouped_by": " and ".join(columns), "group_by": group_by, **split,
        "shares": steps, "repeats": repeats, "estimator": estimator, "C": np.asarray(C, dtype=np.float64).tolist(),
        "reducer": reducer, "sites": names, "level": LEVEL,
        "conditions": None if conditions is None else list(conditions),
    }  # fmt: skip
    return LearningCurves(pd.DataFrame(rows, columns=list(CURVE)), settings)


def _states(run: RunLike, items: ProbeTask, reducer: str, site: str) -> FloatArray:
    return read_states(run, site, reducer_for(site, items.task, reducer), items.rows)[0]


def smaller(plan: Plan, share: float, repeat: int, seed: int | None) -> list[Fold]:
    """Return the folds of a plan with a share of their training groups; a smaller share is part of a larger one."""
    out = []
    for number, fold in enumerate(plan.folds):
        rng = np.random.default_rng(None if seed is None else (seed, repeat, number))
        own = plan.clusters[0][fold.train]
        order, new = _covering(rng.permutation(np.unique(own)), own, plan.items.labels[fold.train])
        kept = order[: max(new, math.ceil(share * len(order)))]
        train: IntArray = fold.train[np.isin(own, kept)]
        out.append(Fold(train, fold.test, plan.items.train_weights(train)))
    return out


def _covering(order: IntArray, groups: IntArray, labels: IntArray) -> tuple[IntArray, int]:
    """Put those groups first that bring a class of their own, and say how many they are: no set is without a class."""
    seen: set[int] = set()
    first: list[int] = []
    rest: list[int] = []
    for group in order:
        here = set(labels[groups == group].tolist())
        (rest if here <= seen else first).append(int(group))
        seen |= here
    return np.array([*first, *rest], dtype=np.int64), len(first)


def _poor(plan: Plan, folds: Sequence[Fold]) -> str:
    """Return why training sets are too small to compare; empty where they are not."""
    items = plan.items
    for fold in folds:
        if items.numbers is None:
            missing = set(range(len(items.classes))) - set(items.labels[fold.train].tolist())
            if missing:
                return f"no {items.classes[min(missing)]!r} among the {len(fold.train)} training items of a fold"
        elif len(np.unique(items.numbers[fold.train])) < 2:
            return f"one value only among the {len(fold.train)} training items of a fold"
    return ""


def _score(plan: Plan, predicted: Sequence[Any]) -> FloatArray:
    """Return what each item adds to the score, averaged over repeats, shape (item,)."""
    items = plan.items
    if items.numbers is None:
        scores = [np.asarray(p == items.labels, dtype=np.float64) for p in predicted]
    else:
        scores = [regression_interval(items.numbers, p, items.weights) for p in predicted]
    return cast("FloatArray", np.mean(scores, axis=0))


def _found(plan: Plan, score: FloatArray, half: FloatArray | None) -> dict[str, float]:
    weights, numeric = plan.items.weights, plan.items.numbers is not None
    if numeric:
        whole = difference_interval(score, plan.clusters, weights, level=LEVEL)
    else:
        whole = accuracy_interval(score, plan.clusters, weights, level=LEVEL, chance=plan.facts["chance"])
    out = dict(zip(("accuracy", "low", "high"), whole, strict=True))
    if half is not None:
        clusters = {str(number): ids for number, ids in enumerate(plan.clusters)}
        if numeric:
            gain = difference_interval(score - half, plan.clusters, weights, level=LEVEL)
        else:
            found = paired_interval(score, half, clusters, weights, level=LEVEL)
            gain = (found.value, found.low, found.high)
        out |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
    return out
