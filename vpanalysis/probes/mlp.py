"""``MLPProbe``: the paper's probe as a scikit-learn classifier, a ReLU network on standardised features.

Why it exists. "Decodable by a linear reader" and "decodable by a small network" are different claims, and the paper
makes both: its probes have one, three and five layers. For curves over sites use
:func:`vpanalysis.probes.solvers.train_many`, which trains all of them as one; this is one of those networks, by the
same code, for anything that speaks scikit-learn.

The number of training steps is chosen on a fifth of the training groups (identical items are one group, so that a copy
of a held-out item is not trained on), and the network is trained again on everything for that number.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> y = np.arange(60) % 3
>>> X = rng.normal(size=(60, 30)) + 3 * np.eye(3)[y] @ rng.normal(size=(3, 30))
>>> probe = MLPProbe(depth=3, width=16, random_state=0).fit(X, y)
>>> probe.predict_proba(X).shape, probe.score(X, y)
((60, 3), 1.0)
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from vpanalysis.probes._contract import ProbeValueError, encode
from vpanalysis.probes.solvers.networks import Nets, Recipe, Rows, Start, Task, held_out

__all__ = ["MLPProbe"]


class MLPProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multi-layer perceptron with ReLU units; `depth` layers, so 1 is a linear probe.

    Parameters
    ----------
    depth, width : int
        Layers with weights, and units of the hidden ones.
    learning_rate, weight_decay : float
        Of full-batch Adam with one second moment per weight matrix, and decoupled decay.
    max_steps : int
        Training steps, unless fewer are chosen.
    choose_steps : bool
        Choose the number of steps on held-out training groups.
    holdout : float
        Share of groups held out for that.
    patience : int
        Steps without improvement on them, after which the search ends.
    n_seeds : int
        Networks with different initial weights, whose probabilities are averaged.
    random_state : int, RandomState or None
        Seed of the first network; the others follow.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    classes_ : array, shape (class,)
    weights_ : list of arrays, shape (seed, inputs, outputs), float64
        Per layer; the first takes standardised features.
    biases_ : list of arrays, shape (seed, outputs), float64
    n_iter_ : int
        Training steps.
    seeds_ : list of int
    mean_, scale_ : array, shape (feature,), float64
    n_features_in_ : int
    """

    def __init__(
        self,
        depth: int = 3,
        width: int = 128,
        *,
        learning_rate: float = 0.001,
        weight_decay: float = 0.01,
        max_steps: int = 300,
        choose_steps: bool = True,
        holdout: float = 0.2,
        patience: int = 50,
        n_seeds: int = 1,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.depth = depth
        self.width = width
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_steps = max_steps
        self.choose_steps = choose_steps
        self.holdout = holdout
        self.patience = patience
        self.n_seeds = n_seeds
        self.random_state = random_state
        self.device = device

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> MLPProbe:
        """Train the network.

        Parameters
        ----------
        X : array_like, shape (item, feature)
        y : array_like, shape (item,)
        sample_weight : array_like, shape (item,), optional
            Weight of each item in the loss and in the scaling; zero means that the item is not there.
        groups : array_like, shape (item,), optional
            Items that are held out together; default identical items.

        Returns
        -------
        MLPProbe
            Itself.

        Raises
        ------
        ProbeValueError
            With one class only, or groups that do not fit.
        RunError
            For a size or rate that makes no network.
        ValueError
            For data that are not finite.
        """
        recipe = Recipe(
            self.depth, self.width, self.learning_rate, self.weight_decay, self.max_steps, self.choose_steps,
            self.holdout, self.patience,
        )  # fmt: skip
        data = encode(self, X, y, sample_weight, True)
        if groups is None:
            content = np.column_stack([data.labels, data.rows])
            members = np.unique(content, axis=0, return_inverse=True)[1].reshape(-1)
        elif np.asarray(groups).shape == (len(np.asarray(X)),):
            members = np.unique(np.asarray(groups)[data.kept], return_inverse=True)[1].reshape(-1)
        else:
            raise ProbeValueError("cannot hold out groups", found=f"groups of shape {np.asarray(groups).shape}")
        if isinstance(self.random_state, (int, np.integer)):
            first = int(self.random_state)
        else:
            first = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.seeds_ = list(range(first, first + self.n_seeds))
        device = torch.device(self.device)
        start = Start(recipe, self.seeds_, len(self.classes_), torch.float64, device)
        held = held_out(members.astype(np.int64), self.holdout, 0)
        task = Task(data.labels[None], data.weights[None], held, len(self.classes_), start)
        train = torch.from_numpy(data.rows).to(device)
        # Asked what unit vectors of feature space are mapped to, the first layer tells its weights in full.
        rows = Rows([(train, torch.eye(train.shape[1], dtype=train.dtype, device=device))], start)
        number = torch.full((1, 1), recipe.max_steps, device=device)
        if recipe.choose_steps and task.can_choose:
            number = Nets(rows, task, start).search()
        nets = Nets(rows, task, start)
        nets.train(number)
        self.weights_, self.biases_ = nets.in_full()
        self.n_iter_, self.mean_, self.scale_ = int(number[0, 0]), data.mean, data.scale
        return self

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return outputs, shape (seed, item, class)."""
        check_is_fitted(self)
        X = cast("NDArray[np.float64]", validate_data(self, X, dtype=np.float64, reset=False))
        h = ((X - self.mean_) / self.scale_)[None]
        for number, (weight, bias) in enumerate(zip(self.weights_, self.biases_, strict=True)):
            h = (np.maximum(h, 0.0) if number else h) @ weight + bias[:, None]
        return h

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, averaged over seeds, shape (item, class)."""
        logits = self._logits(X)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        out: NDArray[np.float64] = (weights / weights.sum(axis=2, keepdims=True)).mean(axis=0)
        return out

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return log-odds of the second class, shape (item,), with two classes; else log-probabilities."""
        log_p = np.log(np.maximum(self.predict_proba(X), 1e-300))
        return log_p[:, 1] - log_p[:, 0] if len(self.classes_) == 2 else log_p

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each item, shape (item,)."""
        number = self.predict_proba(X).argmax(axis=1)
        return cast("NDArray[Any]", self.classes_[number])
