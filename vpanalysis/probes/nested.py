"""``best_site``: how much the best layer tells, without having looked.

Why it exists. The best of twenty layers is the best partly by luck, and its accuracy on the items that it was picked on
is too high; so it is for the best of two poolings and of five penalties. A number that stands for "the best layer" has
to come from items that had no say in which layer that is.

The idea. Nested cross-validation (Cawley and Talbot 2010, "On over-fitting in model selection and subsequent selection
bias in performance evaluation"; Varma and Simon 2006). In every outer fold the candidates (sites, and where asked
poolings) are compared by inner folds of whole groups *within the training items*, the best is fitted on all of them,
and only then are the test items predicted. The estimate is of the procedure "choose, then fit"; the chosen site may
differ between folds, and how often each was chosen is told.

>>> best_site(run, tasks="age_prediction")                               # doctest: +SKIP
>>> best_site(run, sites="encoder[2]", reducers=("mean", "segments"), C=(0.001, 0.01, 0.1))  # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, run_identity, save_tables
from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval
from vpanalysis.probes.estimator import DEFAULT_C, single_thread
from vpanalysis.probes.inputs import Held
from vpanalysis.probes.layers import LEVEL, choose_sites, reducer_for
from vpanalysis.probes.parts import prediction_rows
from vpanalysis.probes.plans import Plan, choose_columns, make_plan
from vpanalysis.probes.result import PREDICTIONS
from vpanalysis.probes.solvers import fit_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, make_folds
from vpanalysis.probes.targets import ProbeTask, RunLike, read_states, select_task, tasks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BEST_COLUMNS", "BestSites", "best_site", "choose_nested", "restricted"]

BEST = "best"
"""What stands for the site in predictions of a choice that may differ between folds."""

BEST_COLUMNS = (
    "task", "target", "site", "site_order", "metric", "accuracy", "low", "high", "optimistic", "chance", "majority",
    "chosen", "n", "n_train", "n_groups", "group", "note",
)  # fmt: skip
"""Columns of :attr:`BestSites.table`."""

_TEXT = "text"


def restricted(
    chances: NDArray[np.floating[Any]], classes: Sequence[str], offered: Sequence[Sequence[str]]
) -> IntArray:
    """Return the most probable class among the options that each item offers.

    Parameters
    ----------
    chances : array, shape (..., item, class)
        Class probabilities; NaN where there is no prediction.
    classes : sequence of str
        Names of the classes.
    offered : sequence of sequence of str, one an item

    Returns
    -------
    array, shape (..., item), int64
        Class numbers; -1 without a prediction, or where no offered option is a class.
    """
    allowed = np.array([[name in set(map(str, options)) for name in classes] for options in offered], dtype=bool)
    scores = np.where(allowed, chances, -1.0)
    best = scores.argmax(axis=-1)
    none = np.isnan(chances).any(axis=-1) | ~allowed.any(axis=-1)
    return np.where(none, -1, best).astype(np.int64)


def choose_nested(
    states: Sequence[FloatArray],
    items: ProbeTask,
    clusters: Sequence[IntArray],
    folds: Sequence[Fold],
    *,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    inner_splits: int = 5,
    random_state: int | None = 0,
    offered: Sequence[Sequence[str]] | None = None,
) -> IntArray:
    """Return the number of the best candidate for every fold, judged on its training items alone.

    Parameters
    ----------
    states : sequence of array, shape (item, feature)
        One a candidate.
    items : ProbeTask
    clusters : sequence of array, shape (item,), int64
        What no inner fold may split.
    folds : sequence of Fold
        The outer folds.
    estimator : {"logistic", "ridge"}
    C : float or sequence of float
    inner_splits : int
        Inner folds per grouping.
    random_state : int or None
    offered : sequence of sequence of str, optional
        Options of each item, to which predictions are restricted.

    Returns
    -------
    array, shape (fold,), int64
        The earliest of the best by weighted accuracy over grouped inner folds; -1 where no inner folds can be made.
    """
    chosen = []
    for fold in folds:
        inner = make_folds(
            items.labels[fold.train], [ids[fold.train] for ids in clusters], n_splits=inner_splits,
            random_state=random_state,
        )  # fmt: skip
        # Back to the numbers of all items, weighted to what this part of the training items holds.
        parts = [
            Fold(fold.train[one.train], fold.train[one.test], items.train_weights(fold.train[one.train]))
            for one in inner
        ]
        if not parts:
            chosen.append(-1)
            continue
        chances = _chances(states, items, parts, clusters[0], estimator, C)[:, fold.train]
        options = [items.classes] * len(fold.train) if offered is None else [offered[i] for i in fold.train]
        right = restricted(chances, items.classes, options) == items.labels[fold.train]
        chosen.append(int(np.average(right, axis=1, weights=fold.weights).argmax()))
    return np.asarray(chosen, dtype=np.int64)


def _chances(
    states: Sequence[FloatArray], items: ProbeTask, folds: Sequence[Fold], groups: IntArray, estimator: str,
    C: float | Sequence[float],
) -> NDArray[np.floating[Any]]:  # fmt: skip
    """Return out-of-fold class probabilities, shape (candidate, item, class)."""
    with single_thread():
        fits = fit_many(
            states, items.labels, folds, kind=estimator, C=C, one_class="nan", n_classes=len(items.classes),
            groups=groups if np.size(C) > 1 else None,
        )  # fmt: skip
    return fits.probabilities[:, 0]


@dataclass(frozen=True, repr=False)
class BestSites:
    """The best site of every task, chosen within the training items of each fold.

    Attributes
    ----------
    table : DataFrame
        One row a task, columns :data:`BEST_COLUMNS`. ``site`` is the candidate that was chosen most often, ``chosen``
        tells how often each was, ``accuracy`` is honest, and ``optimistic`` is what the best site scores on the items
        that it would have been picked on.
    predictions : DataFrame
        One row an item, as in :attr:`~vpanalysis.probes.ProbeResult.predictions`, with ``"best"`` for the site: two
        results can be given to :func:`~vpanalysis.probes.compare_probes`.
    settings : mapping
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they were probed."""
        return list(dict.fromkeys(self.table["task"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the honest accuracy of every task beside what picking and testing on the same items would claim."""
        from vpanalysis import plots

        return plots.best_sites(self.table, ax=ax)

    def save(self, path: str | Path | None = None) -> Path:
        """Write two parquet files and a JSON file; default in ``results/`` of the Run."""
        folder = home_of(self.settings, "best-site", tasks=self.tasks) if path is None else path
        tables = {"table": self.table, "predictions": self.predictions}
        return save_tables(folder, "BestSites", tables, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> BestSites:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "BestSites", ("table", "predictions"))
        return cls(tables["table"], tables["predictions"], settings)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        drop = ["site_order", "metric"] + ([] if (self.table["note"] != "").any() else ["note"])
        made = self.settings
        title = f"BestSites: {made.get('target')} of {made.get('run', 'a run')}, chosen within the training items"
        return self.table.drop(columns=drop), title, (
            "optimistic: what the best site scores on the items it would have been picked on; do not report it."
        )  # fmt: skip

    def __repr__(self) -> str:
        return text_table(*self._parts(), max_rows=40)

    def _repr_html_(self) -> str:
        return html_table(*self._parts(), max_rows=40)


def best_site(
    run: RunLike | str | Path,
    target: str = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    reducers: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    group_by: str = "auto",
    n_splits: int = 5,
    inner_splits: int = 3,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    random_state: int | None = 0,
    progress: bool = True,
) -> BestSites:
    """Choose the best site within the training items of every fold, and say how well it does on the others.

    Parameters
    ----------
    run : Run, str or Path
    target : str
        ``"truth"``, ``"claim"`` or a column of classes.
    tasks, sites, conditions, group_by, n_splits
        As in :func:`~vpanalysis.probes.probe_layers`; `sites` are the candidates.
    reducers : sequence of str, optional
        Poolings of audio sites that are candidates as well, of those that the Run recorded: ``("mean", "segments")``.
        Default: the task's own.
    inner_splits : int
        Folds per grouping in which candidates are compared.
    estimator : {"logistic", "ridge"}
    C : float or sequence of float
        Inverse penalty; of several, one is chosen within the training items, too.
    random_state : int or None
    progress : bool

    Returns
    -------
    BestSites
        A task that cannot be probed, or has too few groups to choose within, has an empty accuracy and a reason.

    Raises
    ------
    RunError
        As :func:`~vpanalysis.probes.probe_layers`, and for a target of numbers.
    """
    if isinstance(run, (str, Path)):
        from vpanalysis.runs import open_run

        run = cast("RunLike", open_run(run))
    if estimator not in ("logistic", "ridge"):
        raise RunError("cannot choose a site", found=f"estimator={estimator!r}", allowed=("logistic", "ridge"),
                       word=estimator)  # fmt: skip
    if inner_splits < 2:
        raise RunError("cannot choose a site", found=f"inner_splits={inner_splits}", allowed="2 or more")
    run = Held(run)
    names = choose_sites(run.sites, sites)
    split: dict[str, Any] = {"n_splits": n_splits, "random_state": random_state}
    listed = [select_task(run, task, target, conditions) for task in tasks_of(run, tasks)]
    for items in listed:
        if items.numbers is not None:
            raise RunError("cannot choose a site", found=f"numbers in {target!r}", allowed="classes")
    columns = choose_columns(listed, target, group_by, **split)
    order = {site: number for number, site in enumerate(run.sites)}
    rows, predictions = [], []
    for items in tqdm(listed, desc="best site", unit="task", disable=not progress):
        plan = make_plan(items, columns, **split)
        base = {"task": items.task, "target": target, **{k: v for k, v in plan.facts.items() if k in BEST_COLUMNS}}
        base |= {"site": "", "site_order": -1, "chosen": "", "optimistic": np.nan}
        rows.append(base)
        if not plan.folds:
            continue
        candidates = _candidates(run, names, items.task, reducers)
        states = [read_states(run, site, kind, items.rows)[0] for site, kind in candidates]
        number = choose_nested(
            states, items, plan.clusters, plan.folds, estimator=estimator, C=C, inner_splits=inner_splits,
            random_state=random_state,
        )  # fmt: skip
        if (number < 0).any():
            base["note"] = "too few groups in the training items to choose a site within them"
            continue
        several = len({kind for _, kind in candidates if kind != "last"}) > 1
        said = [f"{site} ({kind})" if several else site for site, kind in candidates]
        chances = _chances(states, items, plan.folds, plan.clusters[0], estimator, C)
        chance, best = _assembled(chances, number, plan)
        predicted = chance.argmax(axis=-1)
        correct = (predicted == items.labels).astype(np.float64)
        accuracy, low, high = accuracy_interval(
            correct, plan.clusters, items.weights, level=LEVEL, chance=plan.facts["chance"]
        )
        all_right = chances.argmax(axis=-1) == items.labels
        most = Counter(said[i] for i in number).most_common()
        base |= {
            "site": most[0][0], "site_order": order[candidates[best][0]], "accuracy": accuracy, "low": low,
            "high": high, "optimistic": float(np.average(all_right, axis=1, weights=items.weights).max()),
            "chosen": ", ".join(f"{name}: {times}" for name, times in most),
        }  # fmt: skip
        predictions.append(prediction_rows({**base, "site": BEST}, plan, predicted, correct, chance))
    made = {
        **run_identity(run), "target": target, "grouped_by": " and ".join(columns), "group_by": group_by, **split,
        "inner_splits": inner_splits, "estimator": estimator, "C": np.asarray(C, dtype=np.float64).tolist(),
        "reducers": None if reducers is None else list(reducers), "sites": names, "level": LEVEL,
        "conditions": None if conditions is None else list(conditions),
    }  # fmt: skip
    kept = pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(columns=list(PREDICTIONS))
    return BestSites(pd.DataFrame(rows, columns=list(BEST_COLUMNS)), kept, made)


def _candidates(run: RunLike, sites: Sequence[str], task: str, reducers: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return pairs of site and reducer; text sites have one."""
    out = []
    for site in sites:
        kinds = [reducer_for(site, task)] if reducers is None or site.startswith(_TEXT) else list(reducers)
        out += [(site, kind) for kind in dict.fromkeys(kinds)]
    return out


def _assembled(
    chances: NDArray[np.floating[Any]], number: IntArray, plan: Plan
) -> tuple[NDArray[np.floating[Any]], int]:
    """Return every item's class probabilities by the candidate of its fold, and the candidate chosen most often."""
    out = np.empty(chances.shape[1:], dtype=chances.dtype)
    for fold, one in zip(plan.folds, number, strict=True):
        out[fold.test] = chances[one][fold.test]
    return out, int(np.bincount(number).argmax())
