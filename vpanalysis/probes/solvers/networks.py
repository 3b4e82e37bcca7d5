"""ReLU networks for many probing problems, trained in lock-step: initial weights, rows in their span, the steps.

The pieces of :mod:`vpanalysis.probes.solvers.train`, in the order in which they are used: a :class:`Recipe` says what
the networks are; :class:`Start` draws their first weights, the same for all sites; :class:`Rows` puts the rows of a
block of sites into the span of the training rows; :class:`Task` holds labels and weights with and without the items
held out; :class:`Nets` are the networks, and take their steps.

What makes the span exact is the optimiser. Its step ``m / sqrt(v)`` has the gradient's running mean `m` per weight, as
in Adam (Kingma and Ba 2015), but the running mean square `v` per matrix. Then a rotation of the inputs rotates the
weights along their whole path, and directions in which the training rows have no extent never move, but for decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._spaces import span_of

__all__ = ["Nets", "Recipe", "Rows", "Start", "Task", "held_out"]

_MASKED = -1e30
_BETA1, _BETA2, _EPS = 0.9, 0.99, 1e-12


@dataclass(frozen=True)
class Recipe:
    """How the networks are built and trained.

    Attributes
    ----------
    depth : int
        Layers with weights: 1 is linear, 3 and 5 are the paper's.
    width : int
        Units of a hidden layer.
    learning_rate : float
        Root mean square change of a weight in one step, at most.
    weight_decay : float
        Decoupled; of weights, not of biases.
    max_steps : int
        Full-batch steps, unless fewer are chosen.
    choose_steps : bool
        Choose the number of steps inside the training fold.
    holdout : float
        Share of its groups held out for that.
    patience : int
        Steps without a better held-out loss anywhere in the block, after which the search ends.
    """

    depth: int = 3
    width: int = 128
    learning_rate: float = 0.001
    weight_decay: float = 0.01
    max_steps: int = 300
    choose_steps: bool = True
    holdout: float = 0.2
    patience: int = 50

    def __post_init__(self) -> None:
        wrong = {
            "depth": self.depth < 1, "width": self.width < 1, "learning_rate": not self.learning_rate > 0,
            "weight_decay": not self.weight_decay >= 0, "max_steps": self.max_steps < 1,
            "holdout": not 0 < self.holdout < 1, "patience": self.patience < 1,
        }  # fmt: skip
        for name, bad in wrong.items():
            if bad:
                raise RunError("cannot train the networks", found=f"{name}={getattr(self, name)}")


def held_out(members: NDArray[np.int64], share: float, fold: int) -> NDArray[np.bool_]:
    """Return which training items are held out to choose the number of steps.

    Parameters
    ----------
    members : array, shape (item,), int64
        Group of each training item.
    share : float
        Of the groups; at least one, but none where there are fewer than five.
    fold : int
        Seed of the draw.

    Returns
    -------
    array, shape (item,), bool
    """
    names = np.unique(members)
    if len(names) < 5:
        return np.zeros(len(members), dtype=bool)
    drawn = np.random.default_rng([fold, len(names)]).permutation(names)
    return np.isin(members, drawn[: max(1, round(share * len(names)))])


class Start:
    """Initial weights of all seeds. The last layer begins at zero: every class is as likely as any other."""

    def __init__(
        self, recipe: Recipe, seeds: Sequence[int], classes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.recipe, self.seeds, self.classes, self.dtype, self.device = recipe, seeds, classes, dtype, device
        self.sizes = [recipe.width] * (recipe.depth - 1) + [classes]
        self._drawn: dict[tuple[int, int, int], Tensor] = {}

    def layer(self, number: int, inputs: int) -> Float[Tensor, "seed inputs outputs"]:
        """Return the weights of a layer: He's scale for ReLU, drawn in the full space of its inputs."""
        outputs = self.sizes[number]
        key = (number, inputs, outputs)
        if key not in self._drawn:
            values = np.zeros((len(self.seeds), inputs, outputs))
            if number < len(self.sizes) - 1:
                for row, seed in zip(values, self.seeds, strict=True):
                    row[:] = np.random.default_rng([seed, number]).normal(0.0, np.sqrt(2.0 / inputs), row.shape)
            self._drawn[key] = torch.from_numpy(values).to(self.device)
        return self._drawn[key]


class Rows:
    """Training and test rows of a block of sites for one fold, in the span of the training rows where that is smaller.

    `first` are the initial weights of the first layer there, `beyond` what test rows see of them outside.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], start: Start) -> None:
        train, test, first, beyond = [], [], [], []
        for rows, others in pairs:
            full = start.layer(0, rows.shape[1])  # seed d w
            z, zt, weights = rows, others, full
            if len(rows) < rows.shape[1]:
                z, to_items = span_of(rows @ rows.mT)
                basis = rows.mT @ to_items  # d r, orthonormal
                zt, weights = others @ basis, basis.mT @ full
            train.append(z)
            test.append(zt)
            first.append(weights)
            beyond.append(others @ full - zt @ weights)
        self.features = torch.tensor([rows.shape[1] for rows, _ in pairs], dtype=start.dtype, device=start.device)
        width = max(z.shape[1] for z in train)
        # Sites of a block may differ in rank; directions without data have no gradient and no effect.
        grow = torch.nn.functional.pad
        self.train = torch.stack([grow(z, (0, width - z.shape[1])) for z in train]).to(start.dtype)
        self.test = torch.stack([grow(z, (0, width - z.shape[1])) for z in test]).to(start.dtype)
        self.first = torch.stack([grow(w, (0, 0, 0, width - w.shape[1])) for w in first]).to(start.dtype)
        self.beyond = torch.stack(beyond).to(start.dtype)  # p seed m w


class Task:
    """Labels and weights of one fold, with and without the held-out items."""

    def __init__(
        self,
        labels: NDArray[np.int64],
        weights: NDArray[np.float64],
        held: NDArray[np.bool_],
        classes: int,
        start: Start,
    ) -> None:
        onehot = labels[:, :, None] == np.arange(classes)
        heavy = weights > 0
        exists = (onehot & heavy[:, :, None]).any(axis=1)
        inner = np.where(held, 0.0, weights)
        both = ((onehot & (inner > 0)[:, :, None]).any(axis=1).sum(axis=1) > 1) & (held & heavy).any(axis=1)
        # One label set without a usable split is enough to do without: all label sets of a fold are treated alike.
        self.can_choose = bool(both.all())

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(start.device, start.dtype)

        def shares(values: NDArray[np.float64]) -> Tensor:
            return tensor(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300))

        self.onehot = tensor(onehot)  # l n k
        self.mask = tensor(np.where(exists, 0.0, _MASKED))  # l k
        self.all, self.inner, self.held = shares(weights), shares(inner), shares(np.where(held, weights, 0.0))  # l n


class Nets:
    """All networks of a block: p problems (sites) x l label sets x s seeds."""

    def __init__(self, rows: Rows, task: Task, start: Start) -> None:
        self.rows, self.task, self.start, self.recipe = rows, task, start, start.recipe
        p, (sets, _, _), s = len(rows.train), task.onehot.shape, len(start.seeds)
        self.shape = (p, sets, s)
        first = rows.first.permute(0, 2, 1, 3)[:, :, None].expand(-1, -1, sets, -1, -1)  # p r l s w
        self.weights = [first.flatten(2).clone()]
        self.biases = [first.new_zeros((p, 1, first[0, 0].numel()))]
        for number, outputs in enumerate(start.sizes[1:], start=1):
            layer = start.layer(number, start.sizes[number - 1]).to(start.dtype)
            self.weights.append(layer.expand(p, sets, -1, -1, -1).flatten(0, 2).clone())
            self.biases.append(layer.new_zeros((p * sets * s, 1, outputs)))
        for tensor in (*self.weights, *self.biases):
            tensor.requires_grad_(True)
        self._moments = [
            (torch.zeros_like(t), torch.zeros_like(self._mean_square(i, t))) for i, t in enumerate(self._parameters())
        ]
        self.step = 0

    def _parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def logits(self, test: bool = False) -> Float[Tensor, "p sets s n k"]:
        """Return the outputs for the training rows or the test rows."""
        p, sets, s = self.shape
        h = torch.baddbmm(self.biases[0], self.rows.test if test else self.rows.train, self.weights[0])
        h = h.view(p, h.shape[1], sets, s, -1)
        if test:
            # Outside the span the first weights have no gradient; all that happens to them is decay.
            left = (1.0 - self.recipe.learning_rate * self.recipe.weight_decay) ** self.step
            h = h + left * self.rows.beyond.permute(0, 2, 1, 3)[:, :, None]
        h = h.permute(0, 2, 3, 1, 4)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            h = torch.baddbmm(bias, h.relu().flatten(0, 2), weight).view(p, sets, s, h.shape[3], -1)
        return h + self.task.mask[:, None, None]

    def losses(self) -> Float[Tensor, "p sets s n"]:
        """Return the loss of each training item."""
        return -(torch.log_softmax(self.logits(), -1) * self.task.onehot[:, None]).sum(-1)

    def advance(self, losses: Tensor, weight: Float[Tensor, "sets n"]) -> None:
        """Take a step down the weighted mean loss of every network: Adam with one second moment per matrix."""
        torch.autograd.backward((losses * weight[:, None]).sum())
        self.step += 1
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        with torch.no_grad():
            for number, value in enumerate(self._parameters()):
                gradient = value.grad
                assert gradient is not None
                mean, square = self._moments[number]
                mean.lerp_(gradient, 1.0 - _BETA1)
                square.lerp_(self._mean_square(number, gradient), 1.0 - _BETA2)
                size = (square / (1.0 - _BETA2**self.step)).sqrt() + _EPS
                if number < len(self.weights):
                    value.mul_(1.0 - rate * decay)
                value.sub_(mean / self._spread(number, size), alpha=rate / (1.0 - _BETA1**self.step))
                value.grad = None

    def _mean_square(self, number: int, tensor: Tensor) -> Tensor:
        """Return the mean square over each network's matrix. In the first layer over *all* its rows, in span or not."""
        p, sets, s = self.shape
        if number % len(self.weights):
            return tensor.detach().square().mean((1, 2))
        per_net = tensor.detach().square().view(p, tensor.shape[1], sets, s, -1)
        rows = self.rows.features if number == 0 else torch.ones_like(self.rows.features)
        return per_net.sum((1, 4)) / (rows[:, None, None] * per_net.shape[-1])

    def _spread(self, number: int, size: Tensor) -> Tensor:
        """Return one value per network in the shape of parameter `number`."""
        if number % len(self.weights):
            return size[:, None, None]
        return size.repeat_interleave(self.start.sizes[0], -1).flatten(1)[:, None]

    def search(self) -> Int[Tensor, "p sets"]:
        """Train without the held-out items; return the number of steps with the smallest loss on them."""
        best = torch.full(self.shape[:2], torch.inf, device=self.start.device)
        number = torch.ones(self.shape[:2], dtype=torch.int64, device=self.start.device)
        for step in range(self.recipe.max_steps + 1):
            losses = self.losses()
            now = (losses.detach() * self.task.held[:, None]).sum(-1).mean(-1)
            better: Bool[Tensor, "p sets"] = now < best
            if step:
                best, number = torch.where(better, now, best), torch.where(better, step, number)
                if step - int(number.max()) >= self.recipe.patience:
                    break
            self.advance(losses, self.task.inner)
        return number

    def train(self, number: Int[Tensor, "p sets"]) -> Float[Tensor, "p sets s m k"]:
        """Train on everything; return the test probabilities of each network at its own number of steps."""
        p, sets, s = self.shape
        out = self.rows.test.new_zeros((p, sets, s, self.rows.test.shape[1], self.start.classes))
        wanted = set(number.flatten().tolist())
        for step in range(1, max(wanted) + 1):
            self.advance(self.losses(), self.task.all)
            if step in wanted:
                with torch.no_grad():
                    now = torch.softmax(self.logits(test=True), -1)
                out = torch.where((number == step)[:, :, None, None, None], now, out)
        return out

    def in_full(self) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Return weights (seed, inputs, outputs) and biases (seed, outputs) per layer, of the one problem there is.

        The first layer is in the full space where the test rows are its unit vectors.
        """
        s = self.shape[2]
        with torch.no_grad():
            left = (1.0 - self.recipe.learning_rate * self.recipe.weight_decay) ** self.step
            inside = (self.rows.test[0] @ self.weights[0][0]).view(-1, s, self.start.sizes[0]).permute(1, 0, 2)
            weights = [inside + left * self.rows.beyond[0], *self.weights[1:]]
            biases = [self.biases[0].view(s, -1), *(bias[:, 0] for bias in self.biases[1:])]
            return [w.double().cpu().numpy() for w in weights], [b.double().cpu().numpy() for b in biases]
