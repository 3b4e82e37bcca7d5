"""How much noise does a decodable property survive?

Why it exists. Two sites may be decoded equally well, one with a margin as wide as the states themselves and one by a
hair. Whoever reads the states downstream is not a fitted probe; a property that drowns in a little noise is hardly
there for them. So noise is added and the probe asked again.

The idea. Gaussian noise is added to every feature, in units of the site's own spread: the standard deviation of that
feature over the items. A level of 1 thus means noise as large as the variation that there is, whether a site's states
are of the size 0.01 or 100, and sites can be compared. (Accuracy against graded corruption is how Hendrycks and
Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", test image
classifiers.) By default the noise is there in training and test; ``where="test"`` keeps the probe of the clean states
and disturbs it.

Worked example::

    at 0.0   accuracy 0.98
    at 1.0   accuracy 0.92
    at 4.0   accuracy 0.41
    half     2.9            level at which half of the distance to chance is lost, interpolated
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import ProbeSetup, TaskPlan, adjusted, empty_row, fit, matrices, plans, row
from vpanalysis.probes.layers import choose_sites
from vpanalysis.probes.splits import FloatArray
from vpanalysis.probes.targets import RunLike

__all__ = ["LEVELS", "added_noise"]

SOURCE = "added noise in units of the states' spread, after Hendrycks and Dietterich 2019"

LEVELS: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the noise, in units of each feature's own."""


def added_noise(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    draws: int = 3,
    where: str = "both",
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return probe accuracy against Gaussian noise in units of the site's own spread (Hendrycks and Dietterich 2019).

    Parameters
    ----------
    run : Run
    tasks, sites
        As in :func:`vpanalysis.probes.probe_layers`.
    levels : sequence of float
        Standard deviations of the noise in units of the feature's own; 0 is the clean probe and always made.
    draws : int
        Noises a level; accuracies are means over them.
    where : {"both", "test"}
        Whether the probe is trained on noisy states as well, or only tested on them.
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows per task and site with measure ``accuracy`` (level in ``at``, clustered interval) and ``half`` (the level
        at which half of the distance from the clean accuracy to chance is lost, linear between levels; NaN where the
        interval of the clean probe reaches chance or no level is enough).

    Raises
    ------
    RunError
        For negative levels, no draws, or another `where`.
    """
    made = setup or ProbeSetup()
    steps = sorted({0.0, *(float(level) for level in levels)})
    if steps[0] < 0 or not np.isfinite(steps).all() or draws < 1:
        raise RunError(
            "cannot add noise", found=f"levels={tuple(levels)}, draws={draws}", allowed="0 or more, one draw"
        )
    if where not in ("both", "test"):
        raise RunError("cannot add noise", found=f"where={where!r}", allowed=("both", "test"), word=where)
    chosen = choose_sites(run.sites, sites)
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        more = {"variant": where, "target": made.target}
        if not plan.folds:
            rows += [empty_row("noise", task, "accuracy", SOURCE, plan.reason, site=s, **more) for s in chosen]
            continue
        for site, states in zip(chosen, matrices(run, chosen, plan.items, made), strict=True):
            rows += _of_site(task, site, plan, states, steps, draws, where, made)
    return adjusted(rows)


class _Disturbed(Sequence[FloatArray]):
    """Noisy copies of a site's states, made when they are asked for: one array a level and draw."""

    def __init__(self, states: FloatArray, steps: list[float], draws: int, where: str, seed: int) -> None:
        self._states, self._where, self._seed = np.asarray(states, dtype=np.float64), where, seed
        self._spread = self._states.std(axis=0)
        self.levels = [step for step in steps for _ in range(draws if step else 1)]

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, number: Any) -> Any:
        level = self.levels[number]
        rng = np.random.default_rng([self._seed, int(number)])
        noisy = self._states + level * self._spread * rng.standard_normal(self._states.shape)
        # For a clean probe under noise the clean items come first and the noisy ones, which are tested, after them.
        return noisy if self._where == "both" else np.concatenate([self._states, noisy])

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[number] for number in range(len(self)))


def _of_site(
    task: str, site: str, plan: TaskPlan, states: FloatArray, steps: list[float], draws: int, where: str,
    setup: ProbeSetup,
) -> list[dict[str, Any]]:  # fmt: skip
    items, n = plan.items, len(plan.items.rows)
    noisy = _Disturbed(states, steps, draws, where, setup.random_state)
    labels, folds, groups = items.labels, list(plan.folds), plan.first
    if where == "test":
        labels, groups = np.tile(labels, 2), np.tile(groups, 2)
        folds = [type(fold)(fold.train, fold.test + n, fold.weights) for fold in folds]
    predicted = fit(noisy, labels, folds, items, setup, groups=groups).predicted[:, 0, -n:]
    right = (predicted == items.labels).astype(np.float64)
    more = {"site": site, "variant": where, "target": setup.target}
    rows, means = [], []
    for step in steps:
        here = right[[level == step for level in noisy.levels]].mean(axis=0)
        found = stats.proportion(here, plan.clusters, weights=items.weights, level=setup.level, chance=plan.chance)
        means.append(found.value)
        rows.append(row("noise", task, "accuracy", found, SOURCE, at=step, **more))
    half, note = _half(steps, means, rows[0]["low"], 1.0 / len(items.classes))
    rows.append(row("noise", task, "half", half, SOURCE, n=n, note=note, group=plan.group, **more))
    return rows


def _half(steps: Sequence[float], means: Sequence[float], low: float, chance: float) -> tuple[float, str]:
    """Return the first level at which the accuracy is half-way from clean to chance, and why there is none."""
    # Half of nothing is anywhere: the clean accuracy has to be above chance with its interval.
    if not low > chance:
        return math.nan, "the clean probe is not above chance"
    middle = (means[0] + chance) / 2
    for (a, one), (b, two) in zip(zip(steps, means, strict=True), zip(steps[1:], means[1:], strict=True), strict=False):
        if two <= middle <= one:
            return (a + (b - a) * (one - middle) / (one - two) if one > two else b), ""
    return math.nan, f"more than half is left at {steps[-1]:g}"
