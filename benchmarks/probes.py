"""Linear probes of all sites, folds and label shuffles at once, against the loop over scikit-learn pipelines.

    python benchmarks/probes.py                     # the whole of it, half an hour on a shared machine
    python benchmarks/probes.py --quick             # does it all work?

The loop is what everybody writes: for every site, label set and fold ``StandardScaler().fit(train)``, a classifier,
``predict_proba(test)``. Both run in one process, with the same number of BLAS threads, and every fit of the loop is
really made unless a line says "extrapolated". Ratios are of processor time: on a machine that others use too, the wall
clock measures them. Accuracy is part of the result: the largest difference of any probability, and in how many fits our
objective is above scikit-learn's.

States are noise with the labels planted more strongly from site to site. "flat" has independent features, which is the
easiest there is for a general solver; "falling" has the falling spectrum of the states of real networks (feature k of a
hidden basis has a standard deviation of 1/k).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First of all, for it sets the number of threads that libraries read when they are loaded.
from _shared import forget_peak, headline, megabytes, peak_bytes, report, resident_bytes, table  # isort: skip

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from vpanalysis.probes.solvers import DEFAULT_PENALTIES, Recipe, fit_many, train_many
from vpanalysis.probes.solvers.ridge import to_simplex

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
    where: Scene, make: Callable[[], Any], dtype: Any, *, sites: Sequence[int] | None = None, sets: int | None = None
) -> Loop:
    """Fit one pipeline after the other; only scikit-learn's own work is timed."""
    X = where.X.astype(dtype)
    classes = int(where.labels.max()) + 1
    shape = (len(X), len(where.folds), len(where.labels))
    out = Loop(np.full((len(X), *where.labels.shape, classes), np.nan), np.full(shape, np.nan), np.full(shape, np.nan))
    for site in range(len(X)) if sites is None else sites:
        for number, y in enumerate(where.labels[:sets]):
            for fold, (train, test) in enumerate(where.folds):
                start = time.process_time(), time.perf_counter()
                scaler = StandardScaler().fit(X[site, train])
                rows = scaler.transform(X[site, train])
                model = make().fit(rows, y[train])
                other = scaler.transform(X[site, test])
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


def objective(model: Any, rows: Array, y: Array) -> float:
    scores = rows @ model.coef_.T.astype(float) + model.intercept_
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return float(C * loss.sum() + 0.5 * (model.coef_.astype(float) ** 2).sum())


def logistic(options: argparse.Namespace, spectrum: str) -> tuple[list[str], dict[str, Any]]:
    where = scene(options, spectrum, options.shuffles)
    before = resident_bytes()
    forget_peak()
    fit_many(where.X, where.labels, where.folds, C=C)
    memory = peak_bytes() - before
    # Ours in turn with theirs, so that both meet the same neighbours.
    mine: list[tuple[float, float]] = []
    others: list[tuple[str, Loop]] = []

    def measure() -> Any:
        ours = None
        for _ in range(options.rounds):
            cpu, wall, ours = seconds(lambda: fit_many(where.X, where.labels, where.folds, C=C))
            mine.append((cpu, wall))
        return ours

    ends = (0, len(where.X) - 1)
    ours = measure()
    for name, dtype, tol, sites in (
        ("loop, float64", np.float64, 1e-4, None),
        ("loop, float32", np.float32, 1e-4, None),
        ("loop, tol=1e-12", np.float64, 1e-12, ends),
    ):
        other = loop(where, lambda tol=tol: LogisticRegression(C=C, tol=tol, max_iter=20000), dtype, sites=sites)
        others.append((name, other))
        measure()
    cpu, wall = np.median(mine, axis=0)
    rows = [["fit_many", f"{cpu:.2f}", f"{wall:.2f}", f"{1e3 * cpu / where.fits:.2f}", "", "", ""]]
    facts: dict[str, Any] = {"ours_cpu_s": float(cpu), "memory": memory, "gap": float(np.nanmax(ours.gap))}
    for name, other in others:
        scale = where.fits / other.fits
        done = ~np.isnan(other.objective)
        above = ((ours.objective - other.objective) / other.objective)[done]
        difference = np.nanmax(np.abs(other.values - ours.probabilities))
        facts[name] = {
            "cpu_s": other.cpu * scale,
            "ratio": other.cpu * scale / float(cpu),
            "fits": other.fits,
            "difference": float(difference),
            "above": float(above.max()),
        }
        rows.append(
            [
                name + ("" if scale == 1 else f" ({other.fits} fits, extrapolated)"),
                f"{other.cpu * scale:.2f}",
                f"{other.wall * scale:.2f}",
                f"{1e3 * other.cpu / other.fits:.2f}",
                f"{other.cpu * scale / cpu:.1f}",
                f"{difference:.1e}",
                # float32 pipelines scale in float32: another objective.
                "-" if "float32" in name else f"{(above > 1e-9).sum()} of {other.fits}",
            ]
        )
    lines = [
        f"logistic regression, C = {C}, {spectrum} spectrum: {where.fits} fits;"
        f" certified relative gap below {facts['gap']:.0e}; peak memory {megabytes(memory)} above the states",
        "",
        table(["", "cpu s", "wall s", "ms a fit", "cpu ratio", "max |dp|", "our objective above"], rows),
        "",
    ]
    return lines, facts


def ridge(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    where = scene(options, "flat", options.shuffles)
    penalties = np.array(DEFAULT_PENALTIES)
    theirs = loop(where, lambda: RidgeClassifierCV(penalties), np.float64)
    single = loop(where, lambda: RidgeClassifierCV(penalties), np.float32, sets=2)
    rows, facts = [], {}
    each = theirs.cpu / theirs.fits
    rows.append(
        ["RidgeClassifierCV, float64", str(options.shuffles), f"{theirs.cpu:.2f}", f"{1e3 * each:.3f}", "", "", ""]
    )
    slow = grouped_seconds(where, penalties)
    for name, value in (
        (f"RidgeClassifierCV, float32 ({single.fits} fits)", f"{1e3 * single.cpu / single.fits:.3f}"),
        ("RidgeClassifierCV, cv=groups (1 fit)", f"{1e3 * slow:.0f}"),
    ):
        rows.append([name, "-", "-", value, "", "", ""])
    for shuffles in options.ridge_shuffles:
        many = scene(options, "flat", shuffles)
        for choose in ("loo", "gcv", "groups"):
            base = slow if choose == "groups" else each
            cpu, _, fits = seconds(
                lambda choose=choose, many=many: fit_many(
                    many.X,
                    many.labels,
                    many.folds,
                    kind="ridge",
                    choose=choose,
                    groups=many.groups,
                    penalties=penalties,
                ),
                options.rounds if shuffles <= options.shuffles else 1,
            )
            same, difference = "", ""
            if choose == "loo" and shuffles == options.shuffles:
                equal = fits.penalty == theirs.penalty
                indicators = to_simplex(torch.from_numpy((theirs.values + 1) / 2)).numpy()
                at = equal.transpose(0, 2, 1)
                apart = np.abs(indicators - fits.probabilities)
                of_fold = np.zeros(where.X.shape[1], dtype=int)
                for fold, (_, test) in enumerate(where.folds):
                    of_fold[test] = fold
                same = f"{100 * equal.mean():.2f} %"
                difference = f"{apart[at[:, :, of_fold]].max():.1e}"
            ratio = base * many.fits / cpu
            facts[f"{choose}, {shuffles} shuffles"] = {"cpu_s": cpu, "ratio": ratio}
            row = [f"fit_many, {choose}", str(shuffles), f"{cpu:.2f}", f"{1e3 * cpu / many.fits:.3f}", f"{ratio:.0f}"]
            rows.append([*row, same, difference])
    lines = [
        f"ridge, {len(penalties)} penalties, one chosen in every fold and label set: {len(where.X)} sites,"
        f" {len(where.folds)} folds; ratios to {options.shuffles} shuffles of the loop in full, to others extrapolated"
        " from its time a fit (for groups: from one fit)",
        "",
        table(["", "shuffles", "cpu s", "ms a fit", "cpu ratio", "same penalty", "max |dp| there"], rows),
        "",
    ]
    return lines, facts


def grouped_seconds(where: Scene, penalties: Array) -> float:
    """Return the time of one RidgeClassifierCV that leaves out groups: scikit-learn then refits for every one."""
    train, test = where.folds[0]
    splits = list(LeaveOneGroupOut().split(train, groups=where.groups[train]))
    start = time.process_time()
    scaler = StandardScaler().fit(where.X[0, train].astype(float))
    model = RidgeClassifierCV(penalties, cv=splits).fit(scaler.transform(where.X[0, train]), where.labels[0, train])
    model.decision_function(scaler.transform(where.X[0, test]))
    return time.process_time() - start


def scaling(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    rows, facts = [], {}
    for kind in ("logistic", "ridge"):
        times = []
        for sites in options.scaling_sites:
            where = scene(options, "flat", options.shuffles, sites)
            cpu, _, _ = seconds(lambda w=where, k=kind: fit_many(w.X, w.labels, w.folds, kind=k), options.rounds)
            times.append(1e3 * cpu / sites)
        rows.append(
            [f"{kind}: ms a site, at {', '.join(map(str, options.scaling_sites))} sites", *map("{:.1f}".format, times)]
        )
        facts[f"{kind} sites"] = times
    few = options.scaling_sites[0]
    for kind in ("logistic", "ridge"):
        times = []
        for shuffles in options.scaling_shuffles:
            where = scene(options, "flat", shuffles, few)
            cpu, _, _ = seconds(lambda w=where, k=kind: fit_many(w.X, w.labels, w.folds, kind=k), options.rounds)
            times.append(1e3 * cpu / few)
        rows.append([f"{kind}: ms a site, with {', '.join(map(str, options.scaling_shuffles))} shuffles",
                     *map("{:.1f}".format, times)])  # fmt: skip
        facts[f"{kind} shuffles"] = times
    width = max(len(row) for row in rows)
    lines = ["growth", "", table(["", *[""] * (width - 1)], [row + [""] * (width - len(row)) for row in rows]), ""]
    return lines, facts


def networks(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    sites, seeds, steps = (1, 1, 10) if options.quick else (2, 3, 100)
    where = scene(options, "falling", 0, sites)
    rows, facts = [], {}
    for depth in (1, 3, 5):
        recipe = Recipe(depth=depth, choose_steps=False, max_steps=steps)
        cpu, _, _ = seconds(lambda r=recipe: train_many(where.X, where.labels, where.folds, r, seeds=seeds))
        nets = sites * len(where.folds) * seeds
        plain, _, _ = seconds(lambda r=recipe: plain_network(where, r))
        chosen, _, fits = seconds(
            lambda d=depth: train_many(where.X, where.labels, where.folds, Recipe(depth=d), seeds=seeds)
        )
        facts[f"depth {depth}"] = {"ms": 1e3 * cpu / nets, "ratio": plain * nets / cpu}
        rows.append([
            f"depth {depth}", f"{1e3 * cpu / nets:.1f}", f"{1e3 * plain:.1f}", f"{plain * nets / cpu:.1f}",
            f"{1e3 * chosen / nets:.1f}", f"{fits.steps.mean():.0f}",
        ])  # fmt: skip
    lines = [
        f"networks, width {Recipe().width}, {steps} full-batch steps, float32: {sites} sites, {len(where.folds)} folds,"
        f" {seeds} seeds; plain: one torch.nn network with Adam on all features (extrapolated from one)",
        "",
        table(["", "ms a network", "plain ms", "ratio", "ms with chosen steps", "steps"], rows),
        "",
    ]
    return lines, facts


def plain_network(where: Scene, recipe: Recipe) -> None:
    """Train one network as it is usually written."""
    torch.manual_seed(0)
    train, test = where.folds[0]
    scaler = StandardScaler().fit(where.X[0, train])
    rows, other = (torch.from_numpy(scaler.transform(where.X[0, part])) for part in (train, test))
    y = torch.from_numpy(where.labels[0, train])
    sizes = [rows.shape[1], *[recipe.width] * (recipe.depth - 1), int(where.labels.max()) + 1]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    for _ in range(recipe.max_steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), y).backward()
        optimizer.step()
    with torch.no_grad():
        torch.softmax(model(other), -1)


PARTS: dict[str, Callable[[argparse.Namespace], tuple[list[str], dict[str, Any]]]] = {
    "flat": lambda options: logistic(options, "flat"),
    "falling": lambda options: logistic(options, "falling"),
    "ridge": ridge,
    "growth": scaling,
    "networks": networks,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Probes of all sites, folds and shuffles at once.")
    parser.add_argument("--sites", type=int, default=33)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--ridge-shuffles", type=int, nargs="+", default=[20, 100, 200])
    parser.add_argument("--scaling-sites", type=int, nargs="+", default=[8, 16, 33, 66])
    parser.add_argument("--scaling-shuffles", type=int, nargs="+", default=[0, 20, 100, 200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of every BLAS")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="small numbers: does it all work?")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if options.classes < 3:
        parser.error("--classes: three at least (with two, scikit-learn's scores have another shape)")
    if options.quick:
        options.sites, options.items, options.features, options.folds, options.shuffles = 2, 40, 60, 4, 2
        options.ridge_shuffles, options.rounds = [2], 1
        options.scaling_sites, options.scaling_shuffles = [1, 2], [0, 2]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    lines = [headline(__file__, options.arguments, "cpu"), f"# scikit-learn {sklearn.__version__}", ""]
    facts: dict[str, Any] = {}
    with threadpool_limits(options.threads):
        for name in options.parts:
            more, facts[name] = PARTS[name](options)
            lines += more
            print("\n".join(more), file=sys.stderr, flush=True)
    lines.append("cpu: processor seconds. max |dp|: largest difference of a test probability to fit_many's.")
    report(lines, facts, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
