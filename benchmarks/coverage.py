"""Do intervals hold the truth, and do shuffles raise false alarms as often as they say? On states made up here.

``python benchmarks/coverage.py [--seeds 11 12 13] [--draws 2000] [--parts coverage alarms]`` prints two tables.

*Coverage.* A draw is a recording: speakers (groups) with a voice of their own, ten items each, and four layers in which
a label is planted at strengths that give fitted probes an accuracy of about .5, .7, .9 and .97 on new speakers. It goes
the way of ``probe_layers``: items and folds from ``make_plan``, all layers fitted by ``fit_many``, out-of-fold verdicts
to ``accuracy_interval``. What the interval has to hold is the accuracy *of the probes that were fitted* on new
speakers: states are Gaussian, so for a probe ``sign(w x + b)`` it is a normal probability, exactly, and its mean over
the folds is the truth of the draw. Probes are linear, so ``w`` and ``b`` are read off their own predictions at the
origin and at the unit vectors, which are tested along and never trained on. The old interval (without the covariance
between folds) stands beside the new one, from the same draws.

*Labels.* ``voice``: two classes, one for all items of a speaker, as gender is. ``manner``: two classes, half of the
items of every speaker each, as loudness is. At .5 nothing is planted. ``manner4`` has four classes, of which .5 is
twice chance; its truth is a normal probability of three dimensions, on 1,024 quasi-random points.

*False alarms.* The same recordings with nothing planted in any of two layers, 199 shuffles,
ridge probes, p of one layer and p adjusted for both. A test at 5 % should reject in 5 % of the draws; with few speakers
few labellings exist, and ties make it a little careful.

Strengths were set on other seeds. Draws come in batches that share labels, folds and shuffles and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from vpanalysis.probes._intervals import accuracy_interval
from vpanalysis.probes.estimator import DEFAULT_C, fit_sites, single_thread
from vpanalysis.probes.inputs import from_arrays
from vpanalysis.probes.plans import Plan, make_plan
from vpanalysis.probes.shuffles import evidence
from vpanalysis.probes.solvers import fit_many
from vpanalysis.probes.targets import select_task

FloatArray = NDArray[np.float64]

WIDTH = 12
SPEAKER = 0.7
"""Standard deviation of a speaker's voice in each feature; that of an item around it is one."""

ACCURACIES = (0.5, 0.7, 0.9, 0.97)
GROUPS = (10, 24, 48)
SEEDS = (11, 12, 13)
DRAWS = 2000
LEVEL = 0.95
COVERED, ALARMED = (0.92, 0.98), (0.035, 0.065)

_BATCH = {"coverage": 50, "alarms": 8}
_ITEMS, _ALARM_SITES, _SHUFFLES = 10, 2, 199


@dataclass(frozen=True)
class Design:
    """Which labels, and how strongly they are planted for each number of groups."""

    classes: int
    by_group: bool
    strengths: dict[int, tuple[float, ...]]

    def labels(self, groups: int, items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return group and label of each item."""
        group = np.repeat(np.arange(groups), items)
        return group, (group if self.by_group else np.arange(groups * items)) % self.classes


DESIGNS = {
    "voice": Design(
        2, True, {10: (0.0, 1.34, 2.64, 3.78), 24: (0.0, 1.14, 2.42, 3.52), 48: (0.0, 1.05, 2.32, 3.41)}
    ),
    "manner": Design(
        2, False, {10: (0.0, 1.09, 2.38, 3.55), 24: (0.0, 1.01, 2.30, 3.45), 48: (0.0, 0.97, 2.26, 3.36)}
    ),
    "manner4": Design(
        4, False, {10: (1.26, 2.04, 3.25, 4.25), 24: (1.15, 1.92, 3.11, 4.07), 48: (1.09, 1.87, 3.06, 4.01)}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Draws:
    """What came of some draws: verdicts (site, draw, item), truth (site, draw), groups (item,)."""

    correct: NDArray[np.bool_]
    truth: FloatArray
    groups: NDArray[np.int64]


def plan_of(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> Plan:
    """Return the plan that ``probe_layers(X, labels, groups=groups)`` makes."""
    held = from_arrays(np.zeros((len(labels), 1, 1)), labels, groups)
    return make_plan(select_task(held, "y", "y"), ("group",), n_splits=5, random_state=seed)


def states_of(
    rng: np.random.Generator, labels: NDArray[np.int64], groups: NDArray[np.int64], strengths: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return states (recording, item, feature) and where each class lies (recording, class, feature)."""
    size, classes = len(strengths), int(labels.max()) + 1
    frames = np.linalg.qr(rng.normal(size=(size, WIDTH, WIDTH)))[0][:, :classes]
    codes = strengths[:, None, None] * frames
    voices = SPEAKER * rng.normal(size=(size, int(groups.max()) + 1, WIDTH))
    return codes[:, labels] + voices[:, groups] + rng.normal(size=(size, len(labels), WIDTH)), codes


def fitted(states: FloatArray, plan: Plan) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
    """Return verdicts (recording, item), weights (recording, fold, feature, class) and biases of the fold probes."""
    sets = plan.label_sets(0, None)
    size, items, folds = len(states), states.shape[1], len(plan.folds)
    corners = np.concatenate([np.zeros((1, WIDTH)), np.eye(WIDTH)])
    more = np.broadcast_to(np.tile(corners, (folds, 1)), (size, folds * len(corners), WIDTH))
    pairs = [
        (fold.train, np.concatenate([fold.test, items + number * len(corners) + np.arange(len(corners))]))
        for number, fold in enumerate(plan.folds)
    ]
    fit = fit_many(
        np.concatenate([states, more], axis=1),
        np.concatenate([sets.values[0], np.full(folds * len(corners), -1)]),
        pairs, C=DEFAULT_C, one_class="nan", choose_weighted=False,
        weights=np.concatenate([sets.train_weights, np.ones((folds, 1, folds * len(corners)))], axis=2),
    )  # fmt: skip
    probability = fit.probabilities[:, 0]
    logs = np.log(probability[:, items:].astype(np.float64)).reshape(size, folds, len(corners), -1)
    return fit.predicted[:, 0, :items] == sets.values[0], logs[:, :, 1:] - logs[:, :, :1], logs[:, :, 0]


_POINTS = ndtri(qmc.Sobol(3, seed=0).random(1024))


def on_new_speakers(weights: FloatArray, bias: FloatArray, codes: FloatArray) -> FloatArray:
    """Return the accuracy of each fold probe on items of speakers it has not met, shape (recording, fold).

    An item of class c lies at its code plus a speaker plus noise, so the margins of class c over the others are jointly
    normal, and the probe is right where all of them are positive.
    """
    classes = codes.shape[1]
    found = np.zeros(bias.shape[:2])
    for c in range(classes):
        others = [k for k in range(classes) if k != c]
        across = weights[..., [c]] - weights[..., others]
        mean = bias[..., [c]] - bias[..., others] + np.einsum("rfdk,rd->rfk", across, codes[:, c])
        spread = (1 + SPEAKER**2) * np.einsum("rfdk,rfdl->rfkl", across, across)
        if classes == 2:
            found += ndtr(mean[..., 0] / np.sqrt(spread[..., 0, 0]))
            continue
        root = np.linalg.cholesky(spread)
        for number in range(len(found)):
            margins = mean[number][:, None] + np.einsum("fkl,ql->fqk", root[number], _POINTS)
            found[number] += (margins > 0).all(-1).mean(-1)
    return found / classes


def draw(design: Design, groups: int, draws: int, key: Sequence[int]) -> Iterator[Draws]:
    """Yield recordings that were probed; equal keys give equal draws."""
    strengths, batch = np.array(design.strengths[groups]), _BATCH["coverage"]
    for number in range(math.ceil(draws / batch)):
        rng = np.random.default_rng([*key, number])
        some = min(batch, draws - number * batch)
        group, label = design.labels(groups, _ITEMS)
        plan = plan_of(label, group, int(rng.integers(2**31)))
        states, codes = states_of(rng, label, group, np.repeat(strengths, some))
        correct, weights, bias = fitted(states, plan)
        share = np.array([len(fold.test) for fold in plan.folds]) / len(label)
        truth = on_new_speakers(weights, bias, codes) @ share
        yield Draws(correct.reshape(len(strengths), some, -1), truth.reshape(len(strengths), some), group)


def covered(found: Draws, chance: float | None) -> FloatArray:
    """Return below, inside, above (the truth against its interval) and width, shape (site, draw, 4)."""
    out = np.empty((*found.truth.shape, 4))
    ones = np.ones(len(found.groups))
    for at in np.ndindex(found.truth.shape):
        _, low, high = accuracy_interval(
            found.correct[at].astype(np.float64), [found.groups], ones, level=LEVEL, chance=chance
        )
        truth = found.truth[at]
        out[at] = truth < low, low <= truth <= high, truth > high, high - low
    return out


def alarms(design: Design, groups: int, draws: int, key: Sequence[int]) -> FloatArray:
    """Return p of the first site and the smallest adjusted p of all, shape (draw, 2), with nothing planted."""
    out = []
    for number in range(math.ceil(draws / _BATCH["alarms"])):
        rng = np.random.default_rng([*key, number])
        some = min(_BATCH["alarms"], draws - number * _BATCH["alarms"])
        group, label = design.labels(groups, _ITEMS)
        plan = plan_of(label, group, int(rng.integers(2**31)))
        sets = plan.label_sets(_SHUFFLES, int(rng.integers(2**31)))
        states, _ = states_of(rng, label, group, np.zeros(some * _ALARM_SITES))
        names = [str(site) for site in range(len(states))]
        fits = fit_sites(lambda site, held=states: held[int(site)], names, sets, estimator="ridge")
        scores = np.array([np.average(fit.predicted == label, weights=sets.weights[0]) for fit in fits])
        shuffled = np.stack([fit.shuffled for fit in fits])
        for first in range(0, len(fits), _ALARM_SITES):
            here = slice(first, first + _ALARM_SITES)
            said = evidence(scores[here], shuffled[here])
            out.append((said.p[0], said.p_adjusted.min()))
    return np.array(out)


# One unit of work: a part, a design, a number of groups, a seed -------------------------------------------------------


def unit(job: tuple[str, str, int, int, int]) -> dict[str, Any]:
    """Return the counts of one cell of a table."""
    part, name, groups, seed, draws = job
    design, begin = DESIGNS[name], time.process_time()
    key = (seed, groups, sorted(DESIGNS).index(name), part == "alarms")
    facts: dict[str, Any] = {"part": part, "design": name, "groups": groups, "seed": seed, "draws": draws}
    with single_thread():
        if part == "alarms":
            p = alarms(design, groups, draws, key)
            facts |= {"single": int((p[:, 0] <= 0.05).sum()), "family": int((p[:, 1] <= 0.05).sum())}
        else:
            chunks = list(draw(design, groups, draws, key))
            new, old = (
                np.concatenate([covered(chunk, chance) for chunk in chunks], axis=1)
                for chance in (1 / design.classes, None)
            )
            facts |= {
                "truth": np.concatenate([c.truth for c in chunks], axis=1).mean(1).tolist(),
                "estimate": np.concatenate([c.correct.mean(-1) for c in chunks], axis=1).mean(1).tolist(),
                "counts": new[..., :3].sum(1).astype(int).tolist(), "width": new[..., 3].mean(1).tolist(),
                "old": old[..., 1].sum(1).astype(int).tolist(), "old_width": old[..., 3].mean(1).tolist(),
            }  # fmt: skip
    return facts | {"seconds": round(time.process_time() - begin, 1)}


def tables(found: Sequence[dict[str, Any]]) -> tuple[list[str], bool]:
    """Return lines to print, and whether everything is within its bounds."""
    lines, fine = [], True
    cells = [one for one in found if one["part"] == "coverage"]
    if cells:
        lines.append(
            "coverage of 95 % intervals\n"
            "design    groups  seed  accuracy  estimate  covered  truth below  above  width | before  width"
        )
    for one in cells:
        for site, (below, inside, above) in enumerate(one["counts"]):
            share, n = inside / one["draws"], one["draws"]
            good = COVERED[0] <= share <= COVERED[1]
            fine &= good
            lines.append(
                f"{one['design']:9} {one['groups']:6}  {one['seed']:4}  {one['truth'][site]:8.3f}"
                f"  {one['estimate'][site]:8.3f}  {100 * share:5.1f} %  {100 * below / n:9.1f} %"
                f"  {100 * above / n:3.1f} %"
                f"  {one['width'][site]:5.3f} | {100 * one['old'][site] / n:4.1f} %  {one['old_width'][site]:5.3f}"
                + ("" if good else "  OUTSIDE")
            )
    tests = [one for one in found if one["part"] == "alarms"]
    if tests:
        lines.append("\nfalse alarms at 5 %\ndesign    groups  seed  one site  family of two")
    for one in tests:
        shares = [one["single"] / one["draws"], one["family"] / one["draws"]]
        good = all(ALARMED[0] <= share <= ALARMED[1] for share in shares)
        fine &= good
        lines.append(
            f"{one['design']:9} {one['groups']:6}  {one['seed']:4}  {100 * shares[0]:6.2f} %  {100 * shares[1]:11.2f} %"
            + ("" if good else "  OUTSIDE")
        )
    lines.append(
        f"\nBounds {COVERED[0]:.0%} to {COVERED[1]:.0%} and {ALARMED[0]:.1%} to {ALARMED[1]:.1%}:"
        f" {'all within' if fine else 'NOT ALL WITHIN'}. Processor time {sum(one['seconds'] for one in found):.0f} s."
    )
    return lines, fine


def main(arguments: Sequence[str]) -> int:
    asked = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    asked.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    asked.add_argument("--draws", type=int, default=DRAWS)
    asked.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    asked.add_argument("--designs", nargs="+", default=list(DESIGNS))
    asked.add_argument("--parts", nargs="+", default=["coverage", "alarms"])
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--progress", type=Path, help="finished cells, a line of JSON each; what is there is not redone")
    made = asked.parse_args(arguments)
    jobs = [
        (part, name, groups, seed, made.draws)
        for seed in made.seeds for part in made.parts for name in made.designs for groups in made.groups
        if part == "coverage" or name != "manner4"
    ]  # fmt: skip
    kept = made.progress.read_text(encoding="utf-8").splitlines() if made.progress and made.progress.is_file() else []
    done = {job_of(one): one for one in map(json.loads, kept)}
    left = [job for job in jobs if job not in done]
    with get_context("spawn").Pool(made.workers) as pool:
        for one in pool.imap_unordered(unit, left):
            done[job_of(one)] = one
            if made.progress:
                with made.progress.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
            print("\n".join(tables([one])[0][:-1]), file=sys.stderr, flush=True)
    lines, fine = tables([done[job] for job in sorted(jobs) if job in done])
    print(f"# benchmarks/coverage.py {' '.join(arguments)}, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} shared cores")
    print("\n".join(lines))
    return 0 if fine else 1


def job_of(one: dict[str, Any]) -> tuple[str, str, int, int, int]:
    return one["part"], one["design"], one["groups"], one["seed"], one["draws"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
