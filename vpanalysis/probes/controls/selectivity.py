"""Selectivity: is the site rich in the property, or the probe able to memorise?

Why it exists. A probe with many features can learn *any* label of things that come back: give every script a random
label, and a site that knows its scripts will "predict" it. An accuracy that such a control task reaches as well says
nothing about the property that was asked for.

The idea (Hewitt and Liang 2019, "Designing and Interpreting Probes with Control Tasks"). Every *type*, here a script
or a speaker, gets a random label, in the proportions of the real labels (dealt, not drawn: of twelve scripts nine might
else get the same label, and naming it would look like memory). Task and control task are fitted on
the same items, weights and folds. Selectivity is the accuracy of the first less that of the second, item by item.

A random label can only be known of a type that was met in training, so this control needs another split than the probe
itself: folds in which types recur. They are grouped by the *other* column where that leaves types on both sides, else
by cell, so that twins are never parted. Items whose type does not recur are scored for neither task, and where none
does the cell is empty and says so.

Worked example: 20 speakers who read the same 12 scripts, folds by speaker: every script recurs. A site that holds the
truth alone has accuracy 0.95, control accuracy at chance, selectivity near 0.5; a site that holds the script alone has
a negative one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import (
    ProbeSetup,
    TaskPlan,
    adjusted,
    empty_row,
    fit,
    matrices,
    paired,
    plans,
    row,
)
from vpanalysis.probes.layers import choose_sites
from vpanalysis.probes.splits import Fold, IntArray, group_ids, make_folds
from vpanalysis.probes.targets import ProbeTask, RunLike

__all__ = ["TYPES", "control_labels", "selectivity"]

SOURCE = "Hewitt and Liang 2019"

TYPES = ("script", "speaker")
"""What a control task gives random labels to, each separately."""

# A split in which at least half of the items have a type that was trained on is taken before a looser one.
_ENOUGH = 0.5


def control_labels(types: NDArray[Any], labels: IntArray, *, draws: int, random_state: int) -> IntArray:
    """Give every type a random label, as often as the label occurs in `labels`.

    Parameters
    ----------
    types : array, shape (item,)
        Script or speaker of each item.
    labels : array, shape (item,), int64
        Real class numbers, whose shares the types are dealt in.
    draws : int
        Label sets.
    random_state : int

    Returns
    -------
    array, shape (draw, item), int64
        Constant within a type. Each label has its share of the types, rounded down or up at random; at least two
        labels occur in every draw.

    Raises
    ------
    RunError
        With fewer than two types or classes.
    """
    names, codes = np.unique(np.asarray(types).astype(str), return_inverse=True)
    if len(names) < 2 or len(np.unique(labels)) < 2:
        raise RunError("cannot make a control task", found=f"{len(names)} types", allowed="two types and two classes")
    rng = np.random.default_rng(random_state)
    out = np.empty((draws, len(labels)), dtype=np.int64)
    for draw in range(draws):
        # One label every n-th of the way through all labels in order, from a random start: each gets its share.
        ordered = np.sort(labels)
        places = (np.arange(len(names)) + rng.random()) * len(labels) / len(names)
        given = ordered[np.minimum(places.astype(np.int64), len(labels) - 1)]
        if given[0] == given[-1]:
            given[rng.integers(len(names))] = rng.choice(labels[labels != given[0]])
        out[draw] = rng.permutation(given)[codes]
    return out


def selectivity(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    *,
    types: Sequence[str] = TYPES,
    draws: int = 10,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return accuracy, control accuracy and selectivity by Hewitt and Liang's control task (2019).

    Parameters
    ----------
    run : Run
    tasks, sites
        As in :func:`vpanalysis.probes.probe_layers`.
    types : sequence of {"script", "speaker"}
        What gets a random label; one control task each.
    draws : int
        Random labelings; the control accuracy of an item is its mean over them.
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows with measure ``accuracy``, ``control accuracy`` and ``selectivity`` (their paired difference) for every
        task, site and type (in ``variant``). Intervals cluster by the group of the split and by type, whichever is
        wider; ``p`` flips the signs of clusters. Where no type recurs, ``value`` is NaN and ``note`` says why.

    Raises
    ------
    RunError
        For unknown types, tasks or sites.
    """
    made = setup or ProbeSetup()
    for name in types:
        if name not in TYPES:
            raise RunError("cannot make a control task", found=f"types={name!r}", allowed=TYPES, word=name)
    if draws < 1:
        raise RunError("cannot make a control task", found=f"draws={draws}", allowed="1 or more")
    chosen = choose_sites(run.sites, sites)
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        for kind in types:
            rows += _of_type(run, task, plan, chosen, kind, draws, made)
    return adjusted(rows)


def _of_type(
    run: RunLike, task: str, plan: TaskPlan, sites: list[str], kind: str, draws: int, setup: ProbeSetup
) -> list[dict[str, Any]]:
    items, common = plan.items, {"variant": kind, "target": setup.target}
    named = kind in items.frame.columns and bool(items.frame[kind].notna().all())
    reason = "" if len(items.rows) and len(items.classes) > 1 else plan.reason
    reason = reason or ("" if named else f"no {kind} is named")
    types = items.frame[kind].astype(str).to_numpy(dtype=np.str_) if named else np.zeros(0, dtype=np.str_)
    folds, recurs, groups, used = _recurring(items, types, kind, setup) if not reason else ([], np.zeros(0), None, "")
    if not reason and not recurs.any():
        reason = f"no {kind} recurs: none is in training and test of any split that keeps twins together"
    if reason:
        return [empty_row("selectivity", task, "selectivity", SOURCE, reason, site=s, **common) for s in sites]
    assert groups is not None
    fake = control_labels(types, items.labels, draws=draws, random_state=setup.random_state)
    fits = fit(matrices(run, sites, items, setup), np.vstack([items.labels, fake]), folds, items, setup, groups=groups)
    predicted = fits.predicted
    # A fold in which a draw gives all training items one label has no probe for it; naming that label is one.
    for number in range(draws + 1):
        truth = items.labels if number == 0 else fake[number - 1]
        for fold in folds:
            if (predicted[0, number, fold.test] < 0).any():
                predicted[:, number, fold.test] = np.bincount(truth[fold.train]).argmax()
    real = (predicted[:, 0] == items.labels).astype(np.float64)
    control = (predicted[:, 1:] == fake).mean(axis=1)
    keep, weights = recurs, items.weights[recurs]
    clusters = {used: groups[keep]}
    clusters.setdefault(kind, np.unique(types[keep], return_inverse=True)[1].astype(np.int64))
    note = f"folds by {used}; {int(keep.sum())} of {len(keep)} items have a {kind} that was trained on"
    rows: list[dict[str, Any]] = []
    made: dict[str, Any] = {"weights": weights, "level": setup.level, "chance": 1.0 / len(items.classes)}
    for number, site in enumerate(sites):
        a, b = real[number, keep], control[number, keep]
        more = {**common, "site": site, "note": note}
        rows += [
            row("selectivity", task, name, stats.proportion(v, clusters, **made), SOURCE, **more)
            for name, v in (("accuracy", a), ("control accuracy", b))
        ]  # fmt: skip
        found, p = paired(a, b, clusters, weights, level=setup.level, seed=setup.random_state)
        rows.append(row("selectivity", task, "selectivity", found, SOURCE, p=p, **more))
    return rows


def _recurring(
    items: ProbeTask, types: NDArray[np.str_], kind: str, setup: ProbeSetup
) -> tuple[list[Fold], NDArray[np.bool_], IntArray | None, str]:
    """Return folds in which types recur, which items' types do, and what the folds keep together."""
    best: tuple[list[Fold], NDArray[np.bool_], IntArray | None, str] = ([], np.zeros(len(types), dtype=bool), None, "")
    bare = items.frame.drop(columns=["speaker", "script"], errors="ignore")
    for frame, column in ((items.frame, "script" if kind == "speaker" else "speaker"), (bare, kind)):
        groups, used = group_ids(frame, column)
        folds = make_folds(
            items.labels, [groups], n_splits=setup.n_splits, random_state=setup.random_state, weigh=items.train_weights
        )
        recurs = np.zeros(len(types), dtype=bool)
        for fold in folds:
            recurs[fold.test] = np.isin(types[fold.test], types[fold.train])
        if recurs.sum() > best[1].sum():
            best = folds, recurs, groups, used
        if best[1].mean() >= _ENOUGH:
            break
    return best
