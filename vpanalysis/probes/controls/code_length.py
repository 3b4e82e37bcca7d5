"""Minimum description length: how many nats does it take to send the labels to someone who has the states?

Why it exists. Accuracy says what a probe reaches with all the data; it does not say how easily. A site where ten items
are enough and one where a hundred are needed may end at the same accuracy. The length of an *online code* counts both:
the labels are sent in blocks, each coded with the probe trained on the blocks before it, so a property that is easy to
extract is cheap from early on (Voita and Titov 2020, "Information-Theoretic Probing with Minimum Description Length";
the surplus over a tolerated loss: Whitney et al. 2020, "Evaluating representations by the complexity of learning
low-loss predictors").

The idea. Groups (speakers) come in random order and are never parted, or a later block would be coded by a probe that
has met its voices. The first block costs ln K nats an item. A training set that has one class only codes with the
uniform distribution as well. Probabilities are mixed with the uniform one by Laplace's rule, ``(m p + 1) / (m + K)``
for m training items, which the receiver can do too: a class not yet met then costs ln(m + K) nats and not infinity.

Worked example, 120 items of 4 classes::

    uniform code   166 nats      120 x ln 4
    prior code     171 nats      class frequencies learnt online: nothing is gained on balanced labels
    code length     60 nats      a site that knows
    compression     2.8          uniform / code length
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import ProbeSetup, TaskPlan, adjusted, empty_row, fit, matrices, plans, row
from vpanalysis.probes.layers import choose_sites
from vpanalysis.probes.splits import FloatArray, Fold, IntArray
from vpanalysis.probes.targets import RunLike
from vpanalysis.stats import Estimate

__all__ = ["PORTIONS", "description_length", "online_blocks"]

SOURCE = "Voita and Titov 2020; Whitney et al. 2020"

PORTIONS: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Where blocks end, in parts of the data: each block is as large as everything before it."""


def online_blocks(groups: IntArray, portions: Sequence[float] = PORTIONS, *, random_state: int = 0) -> list[IntArray]:
    """Cut items into blocks for an online code, in random order with groups kept whole.

    Parameters
    ----------
    groups : array, shape (item,), int64
    portions : sequence of float
        Ascending, the last 1: where blocks end, rounded up to whole groups.
    random_state : int

    Returns
    -------
    list of array of int64
        Row numbers of each block; every item is in one. Fewer blocks where groups are large.

    Raises
    ------
    RunError
        For portions that do not ascend to 1.
    """
    if list(portions) != sorted(set(portions)) or not portions or portions[0] <= 0 or portions[-1] != 1:
        raise RunError("cannot cut an online code", found=f"portions={tuple(portions)}", allowed="ascending, up to 1")
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(random_state).permutation(len(names))
    ends = np.cumsum(sizes[order])
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    cuts = sorted({int(np.searchsorted(ends, portion * len(groups) - 1e-9)) + 1 for portion in portions})
    place = np.searchsorted(np.asarray(cuts), rank[codes], side="right")
    return [np.flatnonzero(place == block).astype(np.int64) for block in range(len(cuts))]


def description_length(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    *,
    portions: Sequence[float] = PORTIONS,
    orders: int = 5,
    tolerance: float | None = None,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return the online (prequential) code length of the labels in nats (Voita and Titov 2020; Whitney et al. 2020).

    Parameters
    ----------
    run : Run
    tasks, sites
        As in :func:`vpanalysis.probes.probe_layers`.
    portions : sequence of float
        Where blocks end.
    orders : int
        Random orders of the groups; lengths are means over them.
    tolerance : float, optional
        Loss in nats an item that is good enough; adds Whitney et al.'s ``surplus`` description length over it.
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows per task and site with measure ``code length``, ``uniform code``, ``prior code`` (class frequencies learnt
        online, without the states), ``saved`` (prior less code length, paired, with `p`), ``compression`` (uniform
        over code length) and ``loss`` (nats an item of the block that was coded with ``at`` training items, a mean
        over orders). Intervals cluster by the groups. Items count by their weights, whose mean is one.

    Raises
    ------
    RunError
        For unknown tasks and sites, and portions that do not ascend to 1.
    """
    made = setup or ProbeSetup()
    if orders < 1:
        raise RunError("cannot cut an online code", found=f"orders={orders}", allowed="1 or more")
    chosen = choose_sites(run.sites, sites)
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        groups = _whole(plan.clusters) if plan.clusters else np.zeros(0, dtype=np.int64)
        reason = plan.reason if len(plan.items.classes) < 2 else ""
        if not reason and len(np.unique(groups)) < 2:
            reason = f"one group only: {plan.group} hang together, so nothing can be coded from anything else"
        if reason:
            more = {"variant": "online", "target": made.target}
            rows += [empty_row("mdl", task, "code length", SOURCE, reason, site=s, **more) for s in chosen]
        else:
            rows += _of_task(run, task, plan, groups, chosen, portions, orders, tolerance, made)
    return adjusted(rows)


def _whole(clusters: Mapping[str, IntArray]) -> IntArray:
    """Return the components of "same group in any clustering"."""
    found = list(clusters.values())
    if len(found) == 1:
        return found[0]
    size, total = len(found[0]), 0
    heads: list[NDArray[np.int64]] = []
    for ids in found:
        heads.append(size + total + ids)
        total += int(ids.max()) + 1
    rows, columns = np.tile(np.arange(size), len(found)), np.concatenate(heads)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size + total, size + total))
    return np.unique(connected_components(graph, directed=False)[1][:size], return_inverse=True)[1].astype(np.int64)


def _of_task(
    run: RunLike, task: str, plan: TaskPlan, groups: IntArray, sites: list[str], portions: Sequence[float],
    orders: int, tolerance: float | None, setup: ProbeSetup,
) -> list[dict[str, Any]]:  # fmt: skip
    items, k = plan.items, len(plan.items.classes)
    states = matrices(run, sites, items, setup)
    size, weights = len(items.rows), items.weights
    probe, prior = np.zeros((len(sites), size)), np.zeros(size)
    surplus = np.zeros((len(sites), size))
    curve: dict[int, list[tuple[int, FloatArray]]] = {}
    for number in range(orders):
        blocks = online_blocks(groups, portions, random_state=setup.random_state + number)
        folds = []
        for block in range(1, len(blocks)):
            train = np.concatenate(blocks[:block])
            folds.append(Fold(train, blocks[block], items.train_weights(train)))
        cost = np.full((len(sites), size), math.log(k))
        base = np.full(size, math.log(k))
        if folds:
            chances = fit(states, items.labels, folds, items, setup, groups=groups).probabilities[:, 0]
            for fold in folds:
                cost[:, fold.test] = _cost(chances[:, fold.test], items.labels[fold.test], len(fold.train), k)
                count = np.bincount(items.labels[fold.train], weights=fold.weights, minlength=k)
                share = (count + 1) / (count.sum() + k)
                base[fold.test] = -np.log(share[items.labels[fold.test]])
        probe += cost / orders
        prior += base / orders
        for step, rows_of in enumerate(blocks):
            here = np.average(cost[:, rows_of], axis=1, weights=weights[rows_of])
            trained = sum(len(b) for b in blocks[:step])
            curve.setdefault(step, []).append((trained, here))
            if tolerance is not None:
                surplus[:, rows_of] += np.maximum(here - tolerance, 0.0)[:, None] / orders
    return _rows(task, plan, sites, probe, prior, surplus if tolerance is not None else None, curve, setup)


def _cost(chances: NDArray[np.float32], labels: IntArray, trained: int, k: int) -> FloatArray:
    """Return the nats of each label, shape (site, item)."""
    p = chances[:, np.arange(len(labels)), labels].astype(np.float64)
    # One class in training: no probe, and the uniform code.
    p = np.where(np.isnan(p), 1.0 / k, (trained * p + 1.0) / (trained + k))
    return np.asarray(-np.log(p), dtype=np.float64)


def _rows(
    task: str, plan: TaskPlan, sites: list[str], probe: FloatArray, prior: FloatArray, surplus: FloatArray | None,
    curve: Mapping[int, list[tuple[int, FloatArray]]], setup: ProbeSetup,
) -> list[dict[str, Any]]:  # fmt: skip
    items, size = plan.items, len(plan.items.rows)
    uniform = size * math.log(len(items.classes))
    out = []

    def total(values: FloatArray) -> Estimate:
        one = stats.mean(values, plan.clusters, weights=items.weights, level=setup.level)
        return Estimate(size * one.value, size * one.low, size * one.high, size, math.nan, one.n_groups, one.group,
                        setup.level)  # fmt: skip

    for number, site in enumerate(sites):
        more = {"site": site, "variant": "online", "target": setup.target}
        length, saved = total(probe[number]), prior - probe[number]
        # More nats is less compression, so the ends change places.
        low, high = (uniform / v if v > 0 else math.nan for v in (length.high, length.low))
        ratio = Estimate(uniform / length.value, low, high, size, math.nan, length.n_groups, length.group, setup.level)
        p = stats.sign_flip_test(saved * items.weights, plan.clusters, random_state=setup.random_state).p
        out += [
            row("mdl", task, "code length", length, SOURCE, **more),
            row("mdl", task, "uniform code", uniform, SOURCE, n=size, **more),
            row("mdl", task, "prior code", total(prior), SOURCE, **more),
            row("mdl", task, "saved", total(saved), SOURCE, p=p, **more),
            row("mdl", task, "compression", ratio, SOURCE, **more),
        ]
        if surplus is not None:
            out.append(row("mdl", task, "surplus", size * float(np.average(surplus[number], weights=items.weights)),
                           SOURCE, n=size, **more))  # fmt: skip
        for found in curve.values():
            at = float(np.mean([trained for trained, _ in found]))
            loss = float(np.mean([here[number] for _, here in found]))
            out.append(row("mdl", task, "loss", loss, SOURCE, at=at, n=size, **more))
    return out
