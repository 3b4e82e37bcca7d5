"""Probes by the thousand: one factorisation per site and fold for every task, shuffle and penalty.

Why it exists. Evidence about a layer is not one accuracy but a curve over sites, with its shuffles, folds and controls:
for 33 sites, ten folds and 20 shuffles 6,930 fits, for publishable p values ten times as many. This package does them
together, exactly. It knows arrays only; tasks, targets, splits and Runs are its callers' business.

* :func:`fit_many`: logistic regression to a certificate, or ridge in closed form; out-of-fold class probabilities for
  all sites and label sets.
* :func:`regress_many`: ridge regression of numbers.
* :func:`train_many`: the paper's linear, three- and five-layer networks.

For a single fit with scikit-learn's interface see :class:`~vpanalysis.probes.logistic.LogisticProbe`,
:class:`~vpanalysis.probes.ridge.RidgeProbe` and :class:`~vpanalysis.probes.mlp.MLPProbe`.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> y = np.arange(60) % 3
>>> states = rng.normal(size=(2, 60, 200))                     # site, item, feature
>>> states[1] += 2 * np.eye(3)[y] @ rng.normal(size=(3, 200))  # only the second site knows
>>> fold_of = np.arange(60) // 12
>>> folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(5)]
>>> shuffles = [rng.permutation(y) for _ in range(20)]
>>> fits = fit_many(states, np.stack([y, *shuffles]), folds)
>>> fits.probabilities.shape
(2, 21, 60, 3)
>>> [round(float((fits.predicted[site, 0] == y).mean()), 2) for site in (0, 1)]
[0.4, 1.0]
"""

from vpanalysis.probes.solvers.engine import DEFAULT_PENALTIES, Fits, fit_many, regress_many
from vpanalysis.probes.solvers.networks import Recipe
from vpanalysis.probes.solvers.train import MLPFits, train_many

__all__ = ["DEFAULT_PENALTIES", "Fits", "MLPFits", "Recipe", "fit_many", "regress_many", "train_many"]
