"""Linear probes of all sites, folds and label shuffles at once, against the loop over scikit-learn pipelines.

    python benchmarks/probes.py                     # the whole of it, some five minutes of processor time
    python benchmarks/probes.py --run RUN           # and what probing all audio sites of that Run takes
    python benchmarks/probes.py --quick             # does it all work?

The loop is what everybody writes: for every site, label set and fold ``StandardScaler().fit(train)``, a classifier,
``predict_proba(test)``. Both run in one process, with the same number of BLAS threads. Ours makes all fits. The loop
would take an hour for its own, so in every round it makes those of three sites (the first, the middle, the last) and of
two label sets, other ones in every round, and its time is scaled to all of them. Contenders take turns, and a ratio is
the median of those within the rounds; it is given of processor time, because on a machine that others use too the wall
clock measures them, and of wall time. Accuracy is part of the result: the largest difference of any probability, and in
how many fits our objective is above scikit-learn's.

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
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# First of all, for it sets the number of threads that libraries read when they are loaded.
from _shared import forget_peak, headline, megabytes, peak_bytes, report, resident_bytes, table  # isort: skip
from _loops import Array, C, Loop, Scene, in_turns, scene, seconds  # isort: skip

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from vpanalysis.probes import probe_layers
from vpanalysis.probes.estimator import _MEMO as memory
from vpanalysis.probes.solvers import DEFAULT_PENALTIES, Recipe, fit_many, train_many
from vpanalysis.probes.solvers._threads import cores
from vpanalysis.probes.solvers.ridge import to_simplex
from vpanalysis.runs import open_run


def logistic(options: argparse.Namespace, spectrum: str) -> tuple[list[str], dict[str, Any]]:
    where = scene(options, spectrum, options.shuffles)
    before = resident_bytes()
    forget_peak()
    fit_many(where.X, where.labels, where.folds, C=C)
    memory = peak_bytes() - before
    ours, mine, others = in_turns(
        where,
        lambda: fit_many(where.X, where.labels, where.folds, C=C),
        [
            ("loop, float64", lambda: LogisticRegression(C=C, max_iter=20000), np.float64, options.rounds),
            ("loop, float32", lambda: LogisticRegression(C=C, max_iter=20000), np.float32, options.rounds),
            ("loop, tol=1e-12", lambda: LogisticRegression(C=C, tol=1e-12, max_iter=20000), np.float64, 1),
        ],
        options.rounds,
    )
    cpu, wall = np.median(mine, axis=0)
    rows = [["fit_many", str(where.fits), f"{cpu:.2f}", f"{wall:.2f}", f"{1e3 * cpu / where.fits:.2f}", *[""] * 5]]
    facts: dict[str, Any] = {"ours_cpu_s": float(cpu), "memory": memory, "gap": float(np.nanmax(ours.gap))}
    for name, (other, times) in others.items():
        done = ~np.isnan(other.objective)
        above = ((ours.objective - other.objective) / other.objective)[done]
        difference = np.nanmax(np.abs(other.values - ours.probabilities))
        middle = np.median(times, axis=0)
        facts[name] = {
            "cpu_s": middle[0],
            "ratio": middle[2],
            "wall_ratio": middle[3],
            "fits": int(done.sum()),
            "difference": float(difference),
            "above": float(above.max()),
        }
        rows.append(
            [
                name,
                str(int(done.sum())),
                f"{middle[0]:.0f}",
                f"{middle[1]:.0f}",
                f"{1e3 * middle[0] / where.fits:.2f}",
                f"{middle[2]:.1f}",
                f"{times[:, 2].min():.1f} .. {times[:, 2].max():.1f}",
                f"{middle[3]:.1f}",
                f"{difference:.1e}",
                # float32 pipelines scale in float32: another objective.
                "-" if "float32" in name else f"{(above > 1e-9).sum()} of {done.sum()}",
            ]
        )
    lines = [
        f"logistic regression, C = {C}, {spectrum} spectrum: {where.fits} fits ({len(where.X)} sites,"
        f" {len(where.folds)} folds, {len(where.labels)} label sets); certified relative gap below"
        f" {facts['gap']:.0e}; peak memory {megabytes(memory)} above the states; {options.rounds} rounds",
        "",
        table(
            ["", "fits", "cpu s", "wall s", "ms a fit", "cpu ratio", "of rounds", "wall ratio", "max |dp|",
             "our objective above"],
            rows,
        ),
        "",
    ]  # fmt: skip
    return lines, facts


def ridge(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    where = scene(options, "flat", options.shuffles)
    penalties = np.array(DEFAULT_PENALTIES)
    contender = [("RidgeClassifierCV", lambda: RidgeClassifierCV(penalties), np.float64, options.rounds)]
    slow = grouped_seconds(where, penalties)
    rows: list[list[str]] = []
    facts: dict[str, Any] = {}
    for shuffles in options.ridge_shuffles:
        many = scene(options, "flat", shuffles)
        for choose in ("loo", "gcv", "groups")[: 3 if shuffles <= options.shuffles else 2]:

            def ours(many: Scene = many, choose: str = choose) -> Any:
                return fit_many(
                    many.X, many.labels, many.folds, kind="ridge", choose=choose, groups=many.groups,
                    penalties=penalties,
                )  # fmt: skip

            rounds = options.rounds if choose != "groups" and shuffles <= options.shuffles else 1
            fits, mine, others = in_turns(many, ours, contender if choose != "groups" else [], rounds)
            cpu, wall = np.median(mine, axis=0)
            row = [f"fit_many, {choose}", str(shuffles), f"{cpu:.2f}", f"{wall:.2f}", f"{1e3 * cpu / many.fits:.3f}"]
            if choose == "groups":
                ratio = slow * many.fits / cpu
                row += [f"{1e3 * slow:.0f} (1 fit)", f"{ratio:.0f}", "", "", ""]
            else:
                theirs, times = others["RidgeClassifierCV"]
                middle = np.median(times, axis=0)
                ratio = float(middle[2])
                row += [f"{1e3 * middle[0] / many.fits:.2f}", f"{ratio:.0f}", f"{middle[3]:.0f}"]
                row += list(agreement(many, fits, theirs)) if choose == "loo" else ["", ""]
            facts[f"{choose}, {shuffles} shuffles"] = {"cpu_s": float(cpu), "ratio": ratio}
            rows.append(row)
    lines = [
        f"ridge, {len(penalties)} penalties, one chosen in every fold and label set: {len(where.X)} sites,"
        f" {len(where.folds)} folds; against RidgeClassifierCV with the same penalties, leaving out items (to groups:"
        " with cv=groups)",
        "",
        table(
            ["", "shuffles", "cpu s", "wall s", "ms a fit", "theirs", "cpu ratio", "wall ratio", "same penalty",
             "max |dp| there"],
            rows,
        ),
        "",
    ]  # fmt: skip
    return lines, facts


def agreement(where: Scene, fits: Any, theirs: Loop) -> tuple[str, str]:
    """Return in how many fits of the loop the penalty is the same, and how far apart probabilities then are."""
    done = ~np.isnan(theirs.penalty)
    equal = (fits.penalty == theirs.penalty) & done
    of_fold = np.zeros(where.X.shape[1], dtype=int)
    for fold, (_, test) in enumerate(where.folds):
        of_fold[test] = fold
    indicators = to_simplex(torch.from_numpy((np.nan_to_num(theirs.values) + 1) / 2)).numpy()
    apart = np.abs(indicators - fits.probabilities)[equal.transpose(0, 2, 1)[:, :, of_fold]]
    return f"{100 * equal.sum() / done.sum():.2f} % of {done.sum()}", f"{apart.max():.1e}"


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
            cpu, _, _ = seconds(lambda w=where, k=kind: fit_many(w.X, w.labels, w.folds, kind=k))
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
            cpu, _, _ = seconds(lambda w=where, k=kind: fit_many(w.X, w.labels, w.folds, kind=k))
            times.append(1e3 * cpu / few)
        rows.append([f"{kind}: ms a site, with {', '.join(map(str, options.scaling_shuffles))} shuffles",
                     *map("{:.1f}".format, times)])  # fmt: skip
        facts[f"{kind} shuffles"] = times
    width = max(len(row) for row in rows)
    lines = ["growth", "", table(["", *[""] * (width - 1)], [row + [""] * (width - len(row)) for row in rows]), ""]
    return lines, facts


def networks(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    sites, seeds, steps = (1, 1, 10) if options.quick else (1, 3, 100)
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


AUDIO = ("encoder*", "tower", "streams*", "projector", "mixed")
"""Audio sites, as far as a Run has them."""


def probing(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Time `probe_layers` on a finished Run: mean states of all audio sites, all tasks, the folds that it chooses."""
    if options.run is None:
        return [], {}
    run = open_run(options.run)
    sites = [site for site in run.sites if any(fnmatch(site, pattern) for pattern in AUDIO)]
    rows, facts = [], {}
    for estimator, shuffles in (("ridge", 100), ("logistic", 20)):
        times = []
        for _ in range(options.rounds):
            memory.clear()
            times.append(
                seconds(
                    lambda e=estimator, n=shuffles: probe_layers(
                        run, sites=sites, reducer="mean", estimator=e, shuffles=n, progress=False
                    )
                )
            )
        cpu, wall = (float(np.median([one[k] for one in times])) for k in (0, 1))
        found = times[-1][2].to_dataframe()
        facts[estimator] = {"cpu_s": cpu, "wall_s": wall}
        rows.append([estimator, str(shuffles), str(found["task"].nunique()), str(len(sites)), f"{cpu:.1f}",
                     f"{wall:.1f}", f"{min(one[1] for one in times):.1f}"])  # fmt: skip
    lines = [
        f"probe_layers on {run.name}, folds by {found['group'].iloc[0]}, {cores()} worker(s)",
        "",
        table(["", "shuffles", "tasks", "sites", "cpu s", "wall s", "least wall s"], rows),
        "",
    ]
    return lines, facts


PARTS: dict[str, Callable[[argparse.Namespace], tuple[list[str], dict[str, Any]]]] = {
    "flat": lambda options: logistic(options, "flat"),
    "falling": lambda options: logistic(options, "falling"),
    "ridge": ridge,
    "growth": scaling,
    "networks": networks,
    "run": probing,
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
    parser.add_argument("--run", type=Path, help="a finished Run: also time probe_layers on it")
    parser.add_argument("--scaling-sites", type=int, nargs="+", default=[8, 16, 33])
    parser.add_argument("--scaling-shuffles", type=int, nargs="+", default=[0, 20, 100])
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
