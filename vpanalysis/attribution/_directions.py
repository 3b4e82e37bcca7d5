"""Directions that are added to a state, made on items that the steered ones share no speaker and no wording with.

Why it exists. "The direction of the voice" is an average over training items. If the steered items are among them, or
share their speakers or sentences, the direction knows more than the voice. And if on all training items the words say
the opposite of the voice, it is a direction of the words as much.

The idea. Every option has a mean state: of the training items whose *truth* it is, or of those whose *words* say it
(an item that says one of two options counts half for each). Items are weighted so that words carry no information
about the truth (:func:`vpanalysis.probes.splits.independence_weights`). A *push* from some options to another is

* ``"difference of means"``  the mean of the target less the mean of the others (Marks and Tegmark 2023, "The geometry
  of truth"; Rimsky et al. 2024, "Steering Llama 2 via contrastive activation addition");
* ``"probe"``                the weights of a logistic probe for the target less those for the others, of unit length,
  times the distance of the two means along them: what the probe reads moves as far, at the shortest length.

Beside it stand pushes of the same length in every part of a clip: ``"random"`` ones are Gaussian, ``"shuffled"`` ones
are differences of means of the same training states with their labels permuted, so that they lie where the states vary.
The second is the harder control: most random directions point where no state ever goes.

In tasks whose answer is an order in time the mean over a clip is the same for all answers. There a state is cut into
equal parts, each of which has its own means and is pushed its own way.

>>> means = OptionMeans.fit(np.array([[0.0, 1.0], [2.0, 1.0]]), np.eye(2), ("low", "high"))
>>> means.push("high", ("low",))
array([2., 0.])
>>> bool(np.isclose(np.linalg.norm(random_push(means.push("high", ("low",)), [0, 1])), 2.0))
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis.errors import RunError
from vpanalysis.probes.splits import independence_weights, mutual_information
from vpanalysis.probes.targets import REDUCER_OF_TASK
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.attribution._plans import Plan
    from vpanalysis.benchmark.items import Item

__all__ = [
    "ABOUT", "CONTROLS", "KINDS", "Compass", "OptionMeans", "membership", "random_push", "segments_of", "train_weights",
    "words_of",
]  # fmt: skip

KINDS = ("difference of means", "probe")
CONTROLS = ("random", "shuffled")
ABOUT = ("truth", "words")
_PARTS = 6
"""Equal parts of a clip, in tasks whose answer is an order: two for each rendition."""


def segments_of(task: str) -> int:
    """Return into how many parts of equal length a clip of the task is cut."""
    return _PARTS if REDUCER_OF_TASK.get(task) == "segments" else 1


def words_of(item: Item) -> str:
    """Return what the words of an item say, as one label; empty where they say nothing."""
    return "" if not item.said else item.said_level or "|".join(item.said)


def train_weights(items: Sequence[Item]) -> tuple[FloatArray, float]:
    """Return the weights of training items, and what the words still tell about the truth under them, in nats.

    Returns
    -------
    weights : array, shape (item,), float64
        Mean 1.
    information : float
        Mutual information; 0 where every truth occurs with all words.
    """
    truth = np.array([item.truth for item in items])
    words = np.array([words_of(item) for item in items])
    weights = independence_weights(truth, words)
    return weights, mutual_information(truth, words, weights)


def membership(items: Sequence[Item], about: str) -> tuple[FloatArray, tuple[str, ...]]:
    """Return how much each item counts for each option.

    Parameters
    ----------
    items : sequence of Item
    about : {"truth", "words"}

    Returns
    -------
    array, shape (item, option), float64
        Rows of sum 1; of sum 0 where the words say nothing.
    options : tuple of str
    """
    named = [(item.truth,) if about == "truth" else item.said for item in items]
    options = tuple(dict.fromkeys(option for each in named for option in each))
    at = {option: number for number, option in enumerate(options)}
    out = np.zeros((len(items), len(options)))
    for row, each in enumerate(named):
        for option in each:
            out[row, at[option]] = 1.0 / len(each)
    return out, options


@dataclass(frozen=True, eq=False)
class OptionMeans:
    """The mean state of every option, and what a probe looks at.

    Attributes
    ----------
    options : tuple of str
    means : array, shape (option, feature), float64
    axes : array, shape (option, feature), float64, or None
        Weights of a logistic probe.
    """

    options: tuple[str, ...]
    means: FloatArray
    axes: FloatArray | None = None

    @classmethod
    def fit(
        cls, states: FloatArray, members: FloatArray, options: tuple[str, ...], weights: FloatArray | None = None,
        kind: str = KINDS[0],
    ) -> OptionMeans:  # fmt: skip
        """Take the means, and fit the probe where one is asked for.

        Parameters
        ----------
        states : array, shape (item, feature), float64
        members : array, shape (item, option), float64
            From :func:`membership`.
        options : tuple of str
        weights : array, shape (item,), float64, optional
        kind : str
            Of :data:`KINDS`.
        """
        each = members * (1.0 if weights is None else weights[:, None])
        total = each.sum(axis=0)
        means = (each.T @ states) / np.where(total > 0, total, np.nan)[:, None]
        if kind == KINDS[0] or (total > 0).sum() < 2:
            return cls(options, means)
        from vpanalysis.probes.logistic import LogisticProbe

        # An item that says one of several options is there once for each.
        rows, labels = np.nonzero(each)
        probe = LogisticProbe().fit(states[rows], labels, sample_weight=each[rows, labels])
        coef = np.asarray(probe.coef_)
        axes = np.full_like(means, np.nan)
        axes[np.asarray(probe.classes_)] = coef if len(coef) > 1 else np.concatenate([-0.5 * coef, 0.5 * coef])
        return cls(options, means, axes)

    def knows(self, target: str, others: Sequence[str]) -> bool:
        """Whether there are training items of all these options."""
        known = {o for o, mean in zip(self.options, self.means, strict=True) if np.isfinite(mean).all()}
        return target in known and bool(others) and set(others) <= known

    def push(self, target: str, others: Sequence[str]) -> FloatArray:
        """Return what moves a state from the mean of `others` to that of `target`, shape (feature,), float64."""
        to, away = self.options.index(target), [self.options.index(other) for other in others]
        gap: FloatArray = self.means[to] - self.means[away].mean(axis=0)
        if self.axes is None:
            return gap
        axis: FloatArray = self.axes[to] - self.axes[away].mean(axis=0)
        length = float(np.linalg.norm(axis))
        if length == 0:
            return np.zeros_like(axis)
        unit: FloatArray = axis / length
        return unit * float(gap @ unit)

    def shuffled(
        self, states: FloatArray, members: FloatArray, weights: FloatArray, seed: Sequence[int]
    ) -> OptionMeans:
        """Return the means of the same states under permuted labels."""
        order = np.random.default_rng(list(seed)).permutation(len(states))
        return OptionMeans.fit(states[order], members, self.options, weights)


def random_push(
    push: FloatArray, seed: Sequence[int], like: FloatArray | None = None, parts: int = 1
) -> FloatArray:  # fmt: skip
    """Return another push of the same length, part by part.

    A push that lies in one part of a clip must not stand beside random ones that are spread over all of it: each part
    of these is as long as its own part of the push.

    Parameters
    ----------
    push : array, shape (part x feature,), float64
    seed : sequence of int
    like : array, shape (part x feature,), float64, optional
        Where it should point; by default anywhere, all directions alike.
    parts : int

    Returns
    -------
    array, shape (part x feature,), float64
    """
    where = np.random.default_rng(list(seed)).normal(size=push.shape) if like is None else like
    pairs = zip(np.split(push, parts), np.split(where, parts), strict=True)
    return np.concatenate([_as_long(one, other) for one, other in pairs])


def _as_long(push: FloatArray, where: FloatArray) -> FloatArray:
    """Return what points where one vector does and is as long as another."""
    length = float(np.linalg.norm(where))
    if length == 0:
        return np.zeros_like(push)
    out: FloatArray = where * (float(np.linalg.norm(push)) / length)
    return out


class Compass:
    """The pushes of a task at a site, and random ones of the same length.

    Parameters
    ----------
    one : Plan
    pool : sequence of Item
        Training items, in the order of `states`.
    states : array, shape (item, part x width), float64
    kind, about, control : str
        Of :data:`KINDS`, :data:`ABOUT`, :data:`CONTROLS`.
    seed : tuple of int
        Of random pushes.
    parts : int
        Into which states are cut.
    """

    def __init__(
        self, one: Plan, pool: Sequence[Item], states: FloatArray, kind: str, about: str, control: str,
        seed: tuple[int, int], parts: int = 1,
    ) -> None:  # fmt: skip
        self.plan, self.control, self.seed, self.parts = one, control, seed, parts
        row = {item.id: number for number, item in enumerate(pool)}
        self._folds, self.information = [], 0.0
        for train in one.train:
            items = [item for item in train if item.id in row]
            mine = states[[row[item.id] for item in items]]
            weights, information = train_weights(items)
            members, options = membership(items, about)
            self._folds.append((OptionMeans.fit(mine, members, options, weights, kind), mine, members, weights))
            self.information = max(self.information, information)
        keys = zip(one.fold.tolist(), one.targets, one.others, strict=True)
        self._number = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._known: dict[int, FloatArray] = {}
        self._shuffles: dict[tuple[int, int], OptionMeans] = {}

    def _key(self, number: int) -> tuple[int, str, tuple[str, ...]]:
        return int(self.plan.fold[number]), self.plan.targets[number], self.plan.others[number]

    def push(self, number: int) -> FloatArray:
        """Return what a coefficient of 1 adds to an item, shape (part x width,)."""
        fold, target, others = key = self._key(number)
        at = self._number[key]
        if at not in self._known:
            means = self._folds[fold][0]
            if not means.knows(target, others):
                raise RunError(
                    f"cannot make a direction for {self.plan.task!r}",
                    found=f"no usable training clip of one of {[target, *others]}",
                )
            self._known[at] = means.push(target, others)
        return self._known[at]

    def drawn(self, number: int, draw: int) -> FloatArray:
        """Return a random push of the same length; items with one push have one random push."""
        fold, target, others = key = self._key(number)
        push = self.push(number)
        if self.control == "random":
            return random_push(push, (*self.seed, draw, self._number[key]), None, self.parts)
        if (fold, draw) not in self._shuffles:
            means, states, members, weights = self._folds[fold]
            self._shuffles[fold, draw] = means.shuffled(states, members, weights, (*self.seed, draw, fold))
        return random_push(push, (*self.seed, draw), self._shuffles[fold, draw].push(target, others), self.parts)

    def described(self) -> dict[str, Any]:
        """Return how long pushes and states are, and what they come from."""
        parts = self.parts
        lengths = [np.linalg.norm(self.push(number)) for number in range(len(self.plan.items))]
        states = np.concatenate([states for _, states, _, _ in self._folds])
        return {
            "length": float(np.mean(lengths) / math.sqrt(parts)),
            "state_length": float(np.sqrt(np.square(states).sum(axis=1).mean() / parts)),
            "parts": parts,
            "n_train": min(len(states) for _, states, _, _ in self._folds),
            "options": len(self._folds[0][0].options),
            "folds": len(self._folds),
            "information": self.information,
        }
