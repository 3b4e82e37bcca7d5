"""Scenes for `probes.py`, the loop over scikit-learn pipelines, and turns in which it is compared with ours."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

Array = NDArray[Any]
C = 0.01


@dataclass(frozen=True)
class Scene:
    """States (site, item, feature), label sets (the labels and shuffles), folds, groups of two items."""

    X: Array
    labels: Array
    folds: list[tuple[Array, Array]]
    groups: Array

    @property
    def fits(self) -> int:
        return len(self.X) * len(self.labels) * len(self.folds)


def scene(options: argparse.Namespace, spectrum: str, shuffles: int, sites: int | None = None) -> Scene:
    rng = np.random.default_rng(0)
    items, features, classes = options.items, options.features, options.classes
    y = rng.permutation(np.arange(items) % classes)
    count = options.sites if sites is None else sites
    X = np.empty((count, items, features), dtype=np.float32)
    for site in range(count):
        noise = rng.normal(size=(items, features))
        if spectrum == "falling":
            noise = noise / np.arange(1, features + 1) @ np.linalg.qr(rng.normal(size=(features, features)))[0]
            noise /= noise.std()
        X[site] = noise + 0.15 * site / max(1, count - 1) * (np.eye(classes)[y] @ rng.normal(size=(classes, features)))
    fold_of = rng.permutation(np.arange(items) % options.folds)
    folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(options.folds)]
    labels = np.stack([y, *(rng.permutation(y) for _ in range(shuffles))])
    return Scene(X, labels, folds, np.arange(items) // 2)


def seconds(work: Callable[[], Any], rounds: int = 1) -> tuple[float, float, Any]:
    """Return median processor time, median wall time and the last result."""
    cpu, wall, out = [], [], None
    for _ in range(rounds):
        start = time.process_time(), time.perf_counter()
        out = work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return float(np.median(cpu)), float(np.median(wall)), out


@dataclass
class Loop:
    """What the loop over pipelines gave."""

    values: Array
    objective: Array
    penalty: Array
    cpu: float = 0.0
    wall: float = 0.0
    fits: int = 0


def loop(
    where: Scene, make: Callable[[], Any], dtype: Any, into: Loop | None, *, sites: Sequence[int], sets: Sequence[int]
) -> Loop:
    """Fit one pipeline after the other; only scikit-learn's own work is timed. Values join those of earlier rounds."""
    classes = int(where.labels.max()) + 1
    shape = (len(where.X), len(where.folds), len(where.labels))
    out = into or Loop(
        np.full((len(where.X), *where.labels.shape, classes), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    )
    out.cpu, out.wall, out.fits = 0.0, 0.0, 0
    for site in sites:
        X = where.X[site].astype(dtype)
        for number in sets:
            y = where.labels[number]
            for fold, (train, test) in enumerate(where.folds):
                start = time.process_time(), time.perf_counter()
                scaler = StandardScaler().fit(X[train])
                rows = scaler.transform(X[train])
                model = make().fit(rows, y[train])
                other = scaler.transform(X[test])
                ours = model.predict_proba(other) if hasattr(model, "predict_proba") else model.decision_function(other)
                out.cpu += time.process_time() - start[0]
                out.wall += time.perf_counter() - start[1]
                out.fits += 1
                out.values[site, number, test] = ours
                if hasattr(model, "alpha_"):
                    out.penalty[site, fold, number] = model.alpha_
                else:
                    out.objective[site, fold, number] = objective(model, rows.astype(float), y[train])
    return out


def in_turns(
    where: Scene, ours: Callable[[], Any], others: Sequence[tuple[str, Callable[[], Any], Any, int]], rounds: int
) -> tuple[Any, list[tuple[float, float]], dict[str, tuple[Loop, Array]]]:
    """Let contenders take turns.

    `others` are a name, what makes a classifier, a dtype, and in how many rounds it takes part. Returns our last
    result, our times (processor, wall), and by name the loop's values and its times, scaled to all fits:
    (round, processor and wall and their ratios to ours).
    """
    result: Any = None
    mine: list[tuple[float, float]] = []
    found: dict[str, tuple[Loop, list[list[float]]]] = {}
    sites = sorted({0, len(where.X) // 2, len(where.X) - 1})
    each = min(2, len(where.labels))
    for number in range(rounds):
        cpu, wall, result = seconds(ours)
        mine.append((cpu, wall))
        sets = [(number * each + k) % len(where.labels) for k in range(each)]
        for name, make, dtype, until in others:
            if number >= until:
                continue
            before, times = found.get(name, (None, []))
            one = loop(where, make, dtype, before, sites=sites, sets=sets)
            scale = where.fits / one.fits
            times.append([one.cpu * scale, one.wall * scale, one.cpu * scale / cpu, one.wall * scale / wall])
            found[name] = one, times
    return result, mine, {name: (one, np.array(times)) for name, (one, times) in found.items()}


def objective(model: Any, rows: Array, y: Array) -> float:
    scores = rows @ model.coef_.T.astype(float) + model.intercept_
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return float(C * loss.sum() + 0.5 * (model.coef_.astype(float) ** 2).sum())
