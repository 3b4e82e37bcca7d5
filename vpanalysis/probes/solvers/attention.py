"""Attentive pooling: a learnt query looks for the frames that tell, for many sites, folds and label sets as one model.

Why it exists. A mean over frames drowns a property that is there for two hundred milliseconds of four seconds. A query
that weighs the frames finds it, and shows where it was.

The idea. Frame `t` of an item gets the score ``q . x_t / sqrt(d)``, the scores of its valid frames go through a
softmax, the weighted mean of the frames is read by a softmax classifier, and query and classifier are trained together
(Safari, India and Hernando 2020, "Self-attention encoding and pooling for speaker recognition", section on pooling;
the weights of Okabe, Koshinaka and Shinoda 2018, "Attentive statistics pooling for deep speaker embedding", eqs. 3 and
4, with a linear score and the mean only; with a frozen model below it, "attentive probing"). Several heads have a query
each; the classifier reads their pooled vectors side by side.

* *Start.* Queries begin at zero, so that step 0 pools evenly. Then all heads would be the same for ever, so the
  classifier of several heads begins at random numbers that add up to zero over the heads: the outputs of step 0 are
  zero, as with one head.
* *One model.* A fold's standardisation goes into its query (``q / scale``; shifts do not change a softmax) and behind
  its pooling, so that the frames are the same for all folds and label sets, and scores and poolings of all of them are
  two matrix products. Clips are sorted by length and padded in a few buckets; padding is masked and holds zeros.
* *Training.* Full-batch Adam (Kingma and Ba 2015) with one second moment per query and per classifier, as in
  :mod:`~vpanalysis.probes.solvers.networks`, on the weighted mean of the log losses plus ``l2 / 2`` times the squares
  of query and classifier. The number of steps is chosen on a fifth of the training groups, and all is trained again
  on the whole fold for that number. Every site, fold and label set has its own number and stops by itself, so that
  what is trained beside it changes nothing.

>>> import numpy as np
>>> rng = np.random.default_rng(0); y = np.arange(60) % 2
>>> clips = [rng.normal(size=(20, 8)) for _ in y]
>>> for clip, label in zip(clips, y): clip[13, :2] += [6, 6 * label]          # one frame says it
>>> folds = [(np.flatnonzero(np.arange(60) // 12 != f), np.flatnonzero(np.arange(60) // 12 == f)) for f in range(5)]
>>> fits = attend_many([clips], y, folds)
>>> bool(fits.attention[0][0][:, 0].argmax() == 13), float((fits.predicted[0, 0] == y).mean()) > 0.9
(True, True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._clips import Clips, Padded, Site, Task, Work, room, size_of
from vpanalysis.probes.solvers._plan import Folds, Progress, checked_labels
from vpanalysis.probes.solvers._threads import single_thread

__all__ = ["AttentionFits", "AttentionRecipe", "AttentivePooling", "attend_many"]

_BETA1, _BETA2, _EPS = 0.9, 0.99, 1e-12


@dataclass(frozen=True)
class AttentionRecipe:
    """How the poolings are built and trained.

    Attributes
    ----------
    heads : int
        Queries of a model.
    learning_rate : float
        Root mean square change of a weight in one step, at most.
    l2 : float
        Penalty of the squares of query and classifier, in units in which a score is ``q . x / sqrt(d)`` and a logit
        ``w . pooled / sqrt(d)``.
    max_steps : int
        Full-batch steps, unless fewer are chosen.
    choose_steps : bool
        Choose the number of steps inside the training fold.
    holdout : float
        Share of its groups held out for that.
    patience : int
        Steps without a better held-out loss after which the search ends.
    frozen : bool
        Leave the queries at zero: the same probe of mean-pooled frames.
    start : float
        Size of the first weights of the classifier with several heads.
    """

    heads: int = 1
    learning_rate: float = 0.03
    l2: float = 0.001
    max_steps: int = 300
    choose_steps: bool = True
    holdout: float = 0.2
    patience: int = 80
    frozen: bool = False
    start: float = 0.1

    def __post_init__(self) -> None:
        wrong = {
            "heads": self.heads < 1, "learning_rate": not self.learning_rate > 0, "l2": not self.l2 >= 0,
            "max_steps": self.max_steps < 1, "holdout": not 0 < self.holdout < 1, "patience": self.patience < 1,
            "start": not self.start > 0,
        }  # fmt: skip
        for name, bad in wrong.items():
            if bad:
                raise RunError("cannot train the pooling", found=f"{name}={getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class AttentionFits:
    """Out-of-fold predictions and attention.

    Attributes
    ----------
    probabilities : array, shape (site, label_set, item, class), float32
        NaN for items in no test set, and where a training set has fewer than two classes.
    attention : list of lists of arrays, shape (frame, head), float32
        Of the first label set: a list a site, an array an item, from the model that has not seen its fold. Sums to one
        over the frames.
    steps : array, shape (site, fold, label_set), int64
        Full-batch steps taken; 0 where nothing was fitted.
    settings : mapping
    """

    probabilities: NDArray[np.float32]
    attention: list[list[NDArray[np.float32]]]
    steps: NDArray[np.int64]
    settings: Mapping[str, Any]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class, shape (site, label_set, item), int64; -1 where there is no prediction."""
        missing = np.isnan(self.probabilities).any(axis=-1)
        return np.where(missing, -1, np.nan_to_num(self.probabilities).argmax(axis=-1)).astype(np.int64)


def attend_many(
    X: Sequence[Clips],
    labels: NDArray[np.integer[Any]],
    folds: Folds,
    recipe: AttentionRecipe | None = None,
    *,
    weights: NDArray[np.floating[Any]] | None = None,
    groups: NDArray[Any] | None = None,
    n_classes: int | None = None,
    seed: int | None = 0,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> AttentionFits:
    """Train a pooling and a probe for every site, fold and label set, and predict the test items.

    Parameters
    ----------
    X : sequence of sequences of arrays, shape (frame, feature), floating
        An entry a site (a lazy sequence is fine, entries are read once, in order), in it an array an item.
    labels : array, shape (label_set, item) or (item,), integer
        Class numbers.
    folds : sequence of (train, test) or of :class:`~vpanalysis.probes.splits.Fold`
        Row numbers; an item may be tested once. A `Fold`'s own weights apply where `weights` is None.
    recipe : AttentionRecipe, optional
    weights : array, shape (item,), (label_set, item) or (fold, label_set, item), floating, optional
        Weight of each item in the loss; not negative.
    groups : array, shape (item,), optional
        Items that are held out together when the number of steps is chosen; default every item by itself.
    n_classes : int, optional
        Length of the class axis; default one more than the largest label.
    seed : int, optional
        Of the first weights with several heads.
    names : sequence of str, optional
        Names of the sites, for messages.
    device : str
        ``"cpu"`` or ``"cuda"``.
    dtype : {"float32", "float64"}
        Of the training; standardisation is always in float64.
    progress : callable, optional
        Called with the number of finished and of all sites.

    Returns
    -------
    AttentionFits

    Raises
    ------
    RunError
        For frames that are not finite, a clip without any, and arguments that do not fit together.
    """
    recipe = AttentionRecipe() if recipe is None else recipe
    table, classes = checked_labels(labels, n_classes)
    if table.min() < 0 or dtype not in ("float32", "float64"):
        raise RunError("cannot train the pooling", found=f"labels from {table.min()}, dtype={dtype!r}")
    work = Work(table, classes, folds, weights, groups, recipe)
    names = [f"site {number}" for number in range(len(X))] if names is None else list(names)
    out = np.full((len(X), *table.shape, classes), np.nan, dtype=np.float32)
    steps = np.zeros((len(X), len(work.folds), len(table)), dtype=np.int64)
    attention: list[list[NDArray[np.float32]]] = []
    kind = torch.float64 if dtype == "float64" else torch.float32
    held: list[Site] = []

    def flush() -> None:
        at = len(attention)
        block = Padded(held, kind, torch.device(device))
        found: list[list[NDArray[np.float32]]] = []
        for some in block.split(len(table), len(work.folds), recipe, classes):
            task = work.task(some, block)
            number = torch.full(task.shape(len(held)), recipe.max_steps, device=block.device)
            if recipe.choose_steps and bool(task.can_choose.any()):
                searched = AttentivePooling(block, task, recipe, seed).search()
                number = torch.where(task.can_choose, searched, number)
            probabilities, looked = AttentivePooling(block, task, recipe, seed).train(number, attend=some[0] == 0)
            done = task.possible.cpu().numpy()
            steps[at : at + len(held), :, some] = np.where(done, number.cpu().numpy(), 0)
            values = probabilities.to(torch.float32).cpu().numpy()
            for row in range(len(held)):
                out[at + row][np.ix_(some, block.order)] = values[row]
            found = looked or found
        attention.extend(found)
        if progress is not None:
            progress(len(attention), len(X))
        held.clear()

    # One thread: the products are small, and the digits then do not depend on the machine's cores.
    with single_thread():
        for name, clips in zip(names, X, strict=True):
            site = Site(clips, name, work)
            size = size_of(held[0], len(held) + 1, len(work.folds), recipe) if held else 0.0
            if held and (not held[0].fits(site) or size > room(device)):
                flush()
            held.append(site)
        if held:
            flush()
    return AttentionFits(out, attention, steps, {**asdict(recipe), "seed": seed, "dtype": dtype})


class _Pooled(torch.autograd.Function):
    """Softmax pooling of one bucket, with its gradient: four products of (query x frame) with (frame x feature)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled vectors (p n c d) and attention (p n c t)."""
        p, n, t, d = frames.shape
        flat = frames.view(p * n, t, d)
        each = query[:, None].expand(-1, n, -1, -1).reshape(p * n, -1, d)
        score = torch.bmm(each, flat.mT).view(p, n, -1, t)
        weight = torch.softmax(score.masked_fill(~valid[None, :, None], -torch.inf), -1)
        ctx.save_for_backward(weight, frames)
        ctx.mark_non_differentiable(weight)
        return torch.bmm(weight.view(p * n, -1, t), flat).view(p, n, -1, d), weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the queries."""
        weight, frames = ctx.saved_tensors
        p, n, t, d = frames.shape
        flat, at = frames.view(p * n, t, d), weight.view(p * n, -1, t)
        slope = torch.bmm(gradients[0].reshape(p * n, -1, d), flat.mT)
        score = at * (slope - (at * slope).sum(-1, keepdim=True))
        return torch.bmm(score, flat).view(p, n, -1, d).sum(1), None, None


class AttentivePooling:
    """Queries and classifiers of a block: p sites x f folds x l label sets, h heads each; trained together.

    Parameters
    ----------
    block, task
        Frames and labels.
    recipe : AttentionRecipe
    seed : int or None
        Of the first weights of the classifier with several heads.
    """

    def __init__(self, block: Padded, task: Task, recipe: AttentionRecipe, seed: int | None) -> None:
        self.block, self.task, self.recipe = block, task, recipe
        self.shape = p, f, sets = task.shape(block.sites)
        d, k, h = block.features, task.onehot.shape[-1], recipe.heads
        place: dict[str, Any] = {"dtype": block.dtype, "device": block.device}
        first = np.zeros((h, d, k))
        if h > 1:
            drawn = np.random.default_rng(seed).normal(0.0, recipe.start, first.shape)
            first = drawn - drawn.mean(axis=0)
        self.query = torch.zeros((p, f, sets, h, d), **place)
        self.weight = torch.from_numpy(first).to(**place).expand(p, f, sets, h, d, k).clone()
        self.bias = torch.zeros((p, f, sets, k), **place)
        self._trained = [self.weight, self.bias] if recipe.frozen else [self.weight, self.bias, self.query]
        for value in self._trained:
            value.requires_grad_(True)
        self._moments = [(torch.zeros_like(v), torch.zeros(self.shape, **place)) for v in self._trained]
        self.step = 0
        self._root = float(d) ** 0.5
        self._even = self._look() if recipe.frozen else None

    def _pool(self, query: Tensor | None) -> tuple[Float[Tensor, "p n c d"], list[Tensor]]:
        """Return the pooled vectors and the attention (p n c t) of each bucket, for queries (p c d); None is even."""
        pooled, attention = [], []
        for frames, valid in self.block.buckets:
            if query is None:
                even = (valid / valid.sum(1, keepdim=True)).to(frames.dtype)
                weight = even[None, :, None].expand(len(frames), -1, -1, -1)
                vectors = weight @ frames
            else:
                vectors, weight = _Pooled.apply(query, frames, valid)  # type: ignore[no-untyped-call]
            attention.append(weight)
            pooled.append(vectors)
        return torch.cat(pooled, 1), attention

    def _standard(self, pooled: Float[Tensor, "p n f l h d"]) -> Float[Tensor, "p f l n hd"]:
        """Return pooled vectors as each fold standardises them, heads side by side."""
        rows = pooled.permute(0, 2, 3, 1, 4, 5) - self.block.mean[:, :, None, None, None]
        return (rows / self.block.scale[:, :, None, None, None]).flatten(4)

    def _look(self) -> tuple[Float[Tensor, "p f l n hd"], list[Tensor]]:
        """Return what the classifiers read and the attention of each bucket (p n c t), under the queries."""
        heads, (p, f, sets) = self.recipe.heads, self.shape
        if self.recipe.frozen:
            pooled, attention = self._pool(None)
            return self._standard(pooled[:, :, None, None].expand(-1, -1, f, sets, heads, -1)), attention
        scaled = self.query / (self._root * self.block.scale[:, :, None, None])
        pooled, attention = self._pool(scaled.flatten(1, 3))
        return self._standard(pooled.view(p, -1, f, sets, heads, self.block.features)), attention

    def forward(self) -> tuple[Float[Tensor, "p f l n k"], list[Tensor]]:
        """Return the outputs for all items, of training and test, and the attention of each bucket (p n c t)."""
        rows, attention = self._even or self._look()
        out = rows @ (self.weight.flatten(3, 4) / self._root) + self.bias[:, :, :, None]
        return out + self.task.mask[:, :, None], attention

    def _advance(self, losses: Float[Tensor, "p f l n"], weight: Float[Tensor, "f l n"]) -> None:
        """Take a step down the weighted mean loss and the penalty of every model."""
        squares = self.weight.square().sum() + (0.0 if self.recipe.frozen else self.query.square().sum())
        torch.autograd.backward((losses * weight).sum() + 0.5 * self.recipe.l2 * squares)
        self.step += 1
        with torch.no_grad():
            for value, (mean, square) in zip(self._trained, self._moments, strict=True):
                gradient = value.grad
                assert gradient is not None
                mean.lerp_(gradient, 1.0 - _BETA1)
                square.lerp_(gradient.square().flatten(3).mean(-1), 1.0 - _BETA2)
                size = (square / (1.0 - _BETA2**self.step)).sqrt() + _EPS
                size = size.view(*self.shape, *(1 for _ in value.shape[3:]))
                value.sub_(mean / size, alpha=self.recipe.learning_rate / (1.0 - _BETA1**self.step))
                value.grad = None

    def _losses(self, logits: Tensor) -> Float[Tensor, "p f l n"]:
        return -(torch.log_softmax(logits, -1) * self.task.onehot).sum(-1)

    def search(self) -> Int[Tensor, "p f l"]:
        """Train without the held-out items; return the number of steps with the smallest loss on them."""
        best = torch.full(self.shape, torch.inf, device=self.block.device)
        number = torch.ones(self.shape, dtype=torch.int64, device=self.block.device)
        active = torch.ones(self.shape, dtype=torch.bool, device=self.block.device)
        for step in range(self.recipe.max_steps + 1):
            losses = self._losses(self.forward()[0])
            if step:
                now = (losses.detach() * self.task.held).sum(-1)
                better = active & (now < best)
                best, number = torch.where(better, now, best), torch.where(better, step, number)
                active &= step - number < self.recipe.patience
                if not bool(active.any()):
                    break
            self._advance(losses, self.task.inner)
        return number

    def train(
        self, number: Int[Tensor, "p f l"], *, attend: bool
    ) -> tuple[Float[Tensor, "p l n k"], list[list[NDArray[np.float32]]]]:
        """Train on everything; return out-of-fold probabilities and, if asked, attention under the first label set.

        Each model is read at its own number of steps. Items are in the order of the block, attention in the items' own.
        """
        p, _, sets = self.shape
        n, k, h = len(self.block.lengths), self.task.onehot.shape[-1], self.recipe.heads
        out = self.bias.new_full((p, sets, n, k), torch.nan)
        kept = [frames.new_full((p, *valid.shape, h), torch.nan) for frames, valid in self.block.buckets]
        last = int(number.max())
        wanted = set(number.flatten().tolist())
        for step in range(last + 1):
            # The outputs before a step are those after the steps so far: of test items too, so nothing is run twice.
            logits, attention = self.forward()
            if step in wanted:
                now = (number == step) & self.task.possible  # p f l
                ready = now[..., None] & self.task.test[:, None]  # p f l n
                values = torch.softmax(logits.detach(), -1)
                # An item is tested in one fold, so that at most one of the summands is not zero.
                picked = torch.where(ready[..., None], values, 0.0).sum(1)
                out = torch.where(ready.any(1)[..., None], picked, out)
                if attend:
                    self._keep(kept, attention, ready[:, :, 0])
            if step < last:
                self._advance(self._losses(logits), self.task.all)
        return out, self._unpadded(kept) if attend else []

    def _keep(self, kept: list[Tensor], attention: list[Tensor], ready: Bool[Tensor, "p f n"]) -> None:
        first, (p, f, sets) = 0, self.shape
        for place, weight in zip(kept, attention, strict=True):
            n, t = weight.shape[1], weight.shape[3]
            now = ready[:, :, first : first + n]  # p f n
            every = weight.expand(p, n, f * sets * self.recipe.heads, t)
            mine = every.reshape(p, n, f, sets, -1, t)[:, :, :, 0]  # p n f h t
            picked = torch.where(now.mT[..., None, None], mine, 0.0).sum(2)
            place.copy_(torch.where(now.any(1)[..., None, None], picked.mT, place))
            first += n

    def _unpadded(self, kept: list[Tensor]) -> list[list[NDArray[np.float32]]]:
        rows = [row for bucket in kept for row in bucket.permute(1, 0, 2, 3).to(torch.float32).cpu().numpy()]
        place = np.argsort(self.block.order)
        return [
            [rows[place[i]][site, : int(self.block.lengths[i])].copy() for i in range(len(place))]
            for site in range(self.block.sites)
        ]
