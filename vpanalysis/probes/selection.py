"""Choosing a site without fooling oneself: pick it on one Run, test it on another.

The best of twenty layers is the best partly by luck, on the items it was picked on. So "the middle of the encoder knows
more than its end" is tested in two steps on speakers that do not overlap::

    validation = vp.open_run("runs/mini-pclm-validation")
    chosen = select_site(probe_layers(validation), "pitch_comparison", sites="encoder[*]")
    compare_sites(test, "pitch_comparison", chosen, "tower", train_run=validation)

The comparison is paired, item by item, and its interval takes the speaker as the unit.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes.estimator import DEFAULT_C, fit_predict, fit_sites, single_thread
from vpanalysis.probes.layers import LEVEL, choose_sites, reducer_for
from vpanalysis.probes.plans import choose_columns, make_plan
from vpanalysis.probes.result import ProbeResult
from vpanalysis.probes.splits import FloatArray, IntArray, group_ids
from vpanalysis.probes.targets import ProbeTask, RunLike, read_states, select_task

__all__ = ["SiteComparison", "compare_sites", "select_site"]


def select_site(
    result: ProbeResult, task: str, sites: str | Sequence[str] | Callable[[str], bool] | None = "encoder[*]"
) -> str:
    """Return the site with the highest probe accuracy for `task`.

    Parameters
    ----------
    result : ProbeResult
        Of a *validation* Run; the chosen site's accuracy there is optimistic.
    task : str
    sites : str, sequence of str, callable or None
        Candidates, as in :func:`~vpanalysis.probes.probe_layers`; default the outputs of the encoder's layers.

    Returns
    -------
    str
        The earliest of the best.

    Raises
    ------
    RunError
        When the task was not probed or no candidate has an accuracy.
    """
    curve = result.curve(task).dropna(subset=["accuracy"])
    allowed = choose_sites(result.sites, sites)
    curve = curve[curve["site"].isin(allowed)]
    if curve.empty:
        raise RunError(
            f"cannot select a site for {task!r}", found="no probe accuracy at any candidate", allowed=allowed
        )
    return str(curve["site"].iloc[int(curve["accuracy"].to_numpy(dtype=float).argmax())])


@dataclass(frozen=True, repr=False)
class SiteComparison:
    """Two sites probed on the same items.

    Attributes
    ----------
    task, target, site_a, site_b : str
    accuracy_a, accuracy_b : tuple of float
        Estimate, low, high.
    difference, low, high : float
        Accuracy at a minus accuracy at b, paired by item, with its interval.
    n, n_groups, n_train : int
        Test items, their groups, training items (0 when cross-validated within the test Run).
    group : str
        What the interval clusters by.
    note : str
    """

    task: str
    target: str
    site_a: str
    site_b: str
    accuracy_a: tuple[float, float, float]
    accuracy_b: tuple[float, float, float]
    difference: float
    low: float
    high: float
    n: int
    n_groups: int
    n_train: int
    group: str
    note: str

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row with all of it."""
        row: dict[str, Any] = {
            "task": self.task, "target": self.target, "site_a": self.site_a, "site_b": self.site_b,
            "difference": self.difference, "low": self.low, "high": self.high,
        }  # fmt: skip
        for side, values in (("a", self.accuracy_a), ("b", self.accuracy_b)):
            row |= dict(zip((f"accuracy_{side}", f"low_{side}", f"high_{side}"), values, strict=True))
        row |= {key: getattr(self, key) for key in ("n", "n_groups", "n_train", "group", "note")}
        return pd.DataFrame([row])

    def __repr__(self) -> str:
        how = f"trained on {self.n_train} items of another run" if self.n_train else "cross-validated"
        lines = [
            f"SiteComparison: {self.task}, {self.target}, {how}; n = {self.n}, {self.n_groups} groups by {self.group}",
            *(
                f"  {name:<14} {value:.3f} [{low:.3f}, {high:.3f}]"
                for name, (value, low, high) in ((self.site_a, self.accuracy_a), (self.site_b, self.accuracy_b))
            ),
            f"  {'difference':<14} {self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], paired",
        ]
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def compare_sites(
    run: RunLike,
    task: str,
    site_a: str,
    site_b: str,
    *,
    train_run: RunLike | None = None,
    target: str = "truth",
    conditions: Sequence[str] | None = None,
    reducer: str = "auto",
    group_by: str = "speaker",
    n_splits: int = 5,
    C: float = DEFAULT_C,
    random_state: int | None = 0,
) -> SiteComparison:
    """Test whether `site_a` tells more than `site_b` on the items of `run`.

    Parameters
    ----------
    run : Run
        Where the probes are tested.
    task, site_a, site_b : str
    train_run : Run, optional
        Where they are trained, a train or validation Run of the same model. Its items that share a speaker (or whatever
        `group_by` says) with `run` are left out and counted in the note. Default: cross-validation within `run`.
    target, conditions, reducer, group_by, n_splits, C, random_state
        As in :func:`~vpanalysis.probes.probe_layers`.

    Returns
    -------
    SiteComparison

    Raises
    ------
    RunError
        When a site is unknown or the task cannot be probed.
    """
    choose_sites(run.sites, [site_a, site_b])
    items = select_task(run, task, target, conditions)
    if items.numbers is not None:
        raise RunError(f"cannot compare sites on {task!r}", found=f"numbers in {target!r}", allowed="classes")
    if not len(items.rows) or len(items.classes) < 2:
        raise RunError(f"cannot compare sites on {task!r}", found=items.note or f"one class: {items.classes}")
    columns = choose_columns([items], target, group_by, n_splits=n_splits, random_state=random_state)
    found = [group_ids(items.frame, column) for column in columns]
    clusters, group = [g for g, _ in found], " and ".join(dict.fromkeys(used for _, used in found))
    correct: list[FloatArray] = []
    n_train, note = 0, items.note
    with single_thread():
        if train_run is None:
            plan = make_plan(items, columns, n_splits=n_splits, random_state=random_state)
            if not plan.folds:
                raise RunError(f"cannot compare sites on {task!r}", found=str(plan.facts["note"]))
            fits = fit_sites(
                lambda site: read_states(run, site, reducer_for(site, task, reducer), items.rows)[0], (site_a, site_b),
                plan.label_sets(0, random_state), C=C,
            )  # fmt: skip
            correct = [(fit.predicted == items.labels).astype(np.float64) for fit in fits]
        else:
            choose_sites(train_run.sites, [site_a, site_b])
            train, dropped = _training_items(train_run, items, columns, conditions)
            n_train = len(train.rows)
            note = "; ".join(
                p for p in (note, f"{dropped} training items dropped: shared {group}" * bool(dropped)) if p
            )
            labels = _common_labels(train, items)
            for site in (site_a, site_b):
                kind = reducer_for(site, task, reducer)
                states, _ = read_states(run, site, kind, items.rows)
                known, _ = read_states(train_run, site, kind, train.rows)
                predicted = fit_predict(known, labels[0], states, C=C, weights=train.weights)
                correct.append((predicted == labels[1]).astype(np.float64))
    a, b = correct
    # Probes of another Run were fitted once: no fold covaries with another.
    chance = 1.0 / len(items.classes) if train_run is None else None
    difference, low, high = difference_interval(a - b, clusters, items.weights, level=LEVEL)
    return SiteComparison(
        task, target, site_a, site_b,
        accuracy_interval(a, clusters, items.weights, level=LEVEL, chance=chance),
        accuracy_interval(b, clusters, items.weights, level=LEVEL, chance=chance),
        difference, low, high, len(items.rows), min(len(np.unique(c)) for c in clusters), n_train, group, note,
    )  # fmt: skip


def _training_items(
    train_run: RunLike, test: ProbeTask, columns: tuple[str, ...], conditions: Sequence[str] | None
) -> tuple[ProbeTask, int]:
    """Return the training items that share no group with the test items, and how many were dropped."""
    train = select_task(train_run, test.task, test.target, conditions)
    keep = np.ones(len(train.rows), dtype=np.bool_)
    # The id as well, so that a Run compared with itself without a speaker column is caught.
    for column in (*columns, "id"):
        if column in train.frame.columns and column in test.frame.columns:
            shared = set(test.frame[column].dropna().astype(str))
            keep &= ~train.frame[column].astype(str).isin(shared).to_numpy()
    if not keep.any() or len(np.unique(train.labels[keep])) < 2:
        raise RunError(
            f"cannot train a probe of {test.task!r}",
            found=f"{int(keep.sum())} of {len(keep)} items of {train_run.name!r} left after dropping shared {columns}",
            fix="use a training run with other speakers and both labels",
        )
    return train.take(keep), int((~keep).sum())


def _common_labels(train: ProbeTask, test: ProbeTask) -> tuple[IntArray, IntArray]:
    """Number the classes of two Runs alike; a class that was never trained is never predicted."""
    names = {name: number for number, name in enumerate(dict.fromkeys((*train.classes, *test.classes)))}

    def renumber(items: ProbeTask) -> IntArray:
        return np.array([names[items.classes[label]] for label in items.labels], dtype=np.int64)

    return renumber(train), renumber(test)
