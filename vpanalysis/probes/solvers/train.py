"""The paper's probes: linear, three-layer and five-layer ReLU networks on pooled states, many trained as one.

Why it exists. The paper reads the layers of Audio Flamingo 3 with multi-layer perceptrons and asks how depth changes
what is found. A curve over 33 sites with ten folds and three seeds is 990 networks; trained one after the other most
of the time goes into starting small operations. Here sites, folds, label sets and seeds are axes of one batched
network.

The idea. All networks of a block take their steps together, on all their training items at once (full batch), each on
its own rows, labels and initial weights. Two things keep this exact and small:

* *Span.* Gradients of the first layer lie in the span of the training rows. With an optimiser that does not care about
  the choice of axes the network can therefore be trained in the coordinates of that span, 180 instead of 1,280 columns,
  and is the same network. Adam does care (every weight has a step size of its own), so the second moment is kept per
  weight *matrix* instead (as a mean over it). Initial weights are drawn in the full space; what a test item sees of
  them outside the span is carried along.
* *Number of steps.* It is chosen inside the training fold: a fifth of its groups is held out, the mean loss on them
  over the seeds gives the number of steps for each site and label set, and the networks are trained again from the same
  initial weights on the whole fold for that number. Nothing of the test fold is used.

Worked example::

    fits = train_many(states, labels, folds, Recipe(depth=3), seeds=3)     # (33, 200, 1280), (200,), ten folds
    fits.probabilities.shape         # (33, 1, 3, 200, 4): site, label set, seed, item, class
    fits.steps                       # (33, 10, 1): chosen in each fold
    fits.settings                    # everything that makes the networks what they are

The paper gives neither width nor optimiser; ours are in `settings`, which belongs beside any number made with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._plan import Folds, Plan, Progress, checked_labels, fitable
from vpanalysis.probes.solvers._scaling import Scaled
from vpanalysis.probes.solvers._streamed import Streamed
from vpanalysis.probes.solvers.networks import Nets, Recipe, Rows, Start, Task, held_out

__all__ = ["MLPFits", "train_many"]


@dataclass(frozen=True, eq=False)
class MLPFits:
    """Out-of-fold predictions of networks.

    Attributes
    ----------
    probabilities : array, shape (site, label_set, seed, item, class), float32
        NaN for items in no test set and for label sets that could not be fitted.
    steps : array, shape (site, fold, label_set), int64
        Full-batch steps taken; 0 where nothing was fitted.
    settings : mapping
        The recipe and the seeds.
    """

    probabilities: NDArray[np.float32]
    steps: NDArray[np.int64]
    settings: Mapping[str, Any]

    @property
    def mean(self) -> NDArray[np.float32]:
        """Probabilities averaged over seeds, shape (site, label_set, item, class)."""
        out: NDArray[np.float32] = self.probabilities.mean(axis=2, dtype=np.float32)
        return out


def train_many(
    X: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]],
    labels: NDArray[np.integer[Any]],
    folds: Folds,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] | int = 1,
    weights: NDArray[np.floating[Any]] | None = None,
    groups: NDArray[Any] | None = None,
    n_classes: int | None = None,
    one_class: str = "raise",
    names: Sequence[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    workers: int = 1,
    progress: Progress | None = None,
) -> MLPFits:
    """Train a network for every site, fold, label set and seed, and predict the test items.

    Parameters
    ----------
    X, labels, folds, weights, n_classes, one_class, names, device, workers, progress
        As in :func:`~vpanalysis.probes.solvers.engine.fit_many`.
    recipe : Recipe, optional
    seeds : sequence of int, or int
        Of the initial weights; a number `n` stands for the seeds 0 to n - 1. All sites and folds share them.
    groups : array, shape (item,), optional
        Items that are held out together when the number of steps is chosen; default every item by itself.
    dtype : {"float32", "float64"}
        Of the training; standardisation is always in float64.

    Returns
    -------
    MLPFits

    Raises
    ------
    RunError
        As :func:`~vpanalysis.probes.solvers.engine.fit_many`.
    """
    recipe = Recipe() if recipe is None else recipe
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not numbers or min(numbers) < 0 or dtype not in ("float32", "float64"):
        raise RunError("cannot train the networks", found=f"seeds={seeds!r}, dtype={dtype!r}")
    table, classes = checked_labels(labels, n_classes)
    plan = Plan(X, table.shape, folds, weights, None, (1.0,), "gcv", names, device, progress, workers)
    allowed = plan.weighing(table >= 0)
    possible = fitable(table, plan, allowed, one_class)
    members = np.arange(plan.items) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if members.shape != (plan.items,):
        raise RunError("cannot hold out groups", found=f"groups of shape {members.shape}", allowed=f"({plan.items},)")
    out = np.full((plan.sites, len(table), len(numbers), plan.items, classes), np.nan, dtype=np.float32)
    steps = np.zeros((plan.sites, len(plan.folds), len(table)), dtype=np.int64)
    start = Start(recipe, numbers, classes, torch.float64 if dtype == "float64" else torch.float32, plan.device)

    def work(sites: list[int], scaled: list[Scaled] | list[Streamed], fold: int) -> None:
        used = np.flatnonzero(possible[fold])
        if not len(used):
            return
        train, test = plan.folds[fold]
        task = Task(
            table[used][:, train], allowed(fold)[used][:, train], held_out(members[train], recipe.holdout, fold),
            classes, start,
        )  # fmt: skip
        rows = Rows([one.rows(fold) for one in cast("list[Scaled]", scaled)], start)
        number = torch.full((len(sites), len(used)), recipe.max_steps, device=plan.device)
        if recipe.choose_steps and task.can_choose:
            number = Nets(rows, task, start).search()
        probability = Nets(rows, task, start).train(number)
        steps[np.ix_(np.array(sites), np.array([fold]), used)] = number.cpu().numpy()[:, None]
        values = probability.to(torch.float32).cpu().numpy()
        for row, site in enumerate(sites):
            out[site][np.ix_(used, np.arange(len(numbers)), test)] = values[row]

    plan.run(work, len(table) * len(numbers) * recipe.width * recipe.depth, iterates=True)
    return MLPFits(out, steps, {**asdict(recipe), "seeds": numbers, "dtype": dtype})
