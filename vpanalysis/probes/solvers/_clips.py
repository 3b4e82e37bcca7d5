"""What attentive pooling is fed: clips of unlike length in padded buckets, and labels and weights of all folds.

The pieces of :mod:`vpanalysis.probes.solvers.attention`: `Work` checks what all sites share; `Site` holds the frames of
one site and the mean and scale of every training fold's frames; `Padded` stacks sites whose clips are equally long;
`Task` are labels and weights of some label sets in a block's order.

Frames are centred and scaled as a whole first, in float64, so that float32 keeps their digits however large a constant
stands in front of them; fold statistics are exact on top of that, and no label is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._plan import Folds
from vpanalysis.probes.solvers.networks import held_out

if TYPE_CHECKING:
    from vpanalysis.probes.solvers.attention import AttentionRecipe

__all__ = ["Clips", "Padded", "Site", "Task", "Work", "room", "size_of"]

_MASKED = -1e30
_BUCKETS = 6
_BYTES, _DEVICE_BYTES = 8e8, 8e9
"""What the scores and pooled vectors of one step may take, roughly, on the CPU and elsewhere."""

Clips = Sequence[NDArray[np.floating[Any]]]


def room(device: str) -> float:
    return _BYTES if torch.device(device).type == "cpu" else _DEVICE_BYTES


def size_of(site: Site, sites: int, columns: int, recipe: AttentionRecipe) -> float:
    """Return about how many bytes a step takes: frames, and for every column scores and pooled vectors, thrice."""
    frames, items, features = int(site.lengths.sum()), len(site.lengths), site.features
    heads = 0 if recipe.frozen else recipe.heads
    return 4.0 * float(sites * (frames * features + 3 * columns * heads * (frames + items * features)))


class Work:
    """What all sites share: labels, folds, weights, the items held out in each fold."""

    def __init__(
        self,
        table: NDArray[np.int64],
        classes: int,
        folds: Folds,
        weights: NDArray[np.floating[Any]] | None,
        groups: NDArray[Any] | None,
        recipe: AttentionRecipe,
    ) -> None:
        self.table, self.classes, self.items = table, classes, table.shape[1]
        self.folds = [(f.train, f.test) if hasattr(f, "train") else (np.asarray(f[0]), np.asarray(f[1])) for f in folds]
        tested = np.concatenate([test for _, test in self.folds]) if self.folds else np.zeros(0, dtype=np.int64)
        if not self.folds or len(np.unique(tested)) != len(tested) or tested.max() >= self.items:
            raise RunError("cannot train the pooling", found="no folds, or an item tested in two")
        members = np.arange(self.items) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        given = None if weights is None else np.asarray(weights, dtype=np.float64)
        shapes = {1: (self.items,), 2: table.shape, 3: (len(self.folds), *table.shape)}
        if members.shape != (self.items,) or (
            given is not None
            and (given.shape != shapes.get(given.ndim) or not np.isfinite(given).all() or (given < 0).any())
        ):
            raise RunError(
                "cannot train the pooling",
                found=f"groups of shape {members.shape}, weights of {None if given is None else given.shape}",
                allowed=f"one group an item, weights that are finite, not negative, of shape {list(shapes.values())}",
            )  # fmt: skip
        self.weights = np.zeros((len(self.folds), *table.shape))
        self.member = np.zeros((len(self.folds), self.items), dtype=bool)
        self.test, self.held = self.member.copy(), self.member.copy()
        for number, (train, test) in enumerate(self.folds):
            if np.intersect1d(train, test).size or not len(train):
                raise RunError("cannot train the pooling", found=f"items on both sides of fold {number}, or none")
            own = getattr(folds[number], "weights", None)
            if given is not None:
                self.weights[number][:, train] = (given[number] if given.ndim == 3 else given)[..., train]
            else:
                self.weights[number][:, train] = 1.0 if own is None else own
            self.member[number, train], self.test[number, test] = True, True
            self.held[number, train] = held_out(members[train], recipe.holdout, number)

    def task(self, some: NDArray[np.int64], block: Padded) -> Task:
        return Task(self, some, block)


class Site:
    """Frames of one site, centred and scaled as a whole, and the mean and scale of each training fold's frames."""

    def __init__(self, clips: Clips, name: str, work: Work) -> None:
        asked = f"cannot probe the frames of {name!r}"
        sizes = {np.shape(clip)[1:] for clip in clips}
        if len(clips) != work.items or len(sizes) != 1 or len(next(iter(sizes))) != 1 or not all(map(len, clips)):
            raise RunError(
                asked, found=f"{len(clips)} clips with features {sorted(sizes)}, the shortest of "
                f"{min(map(len, clips), default=0)} frames", allowed=f"{work.items} clips, one frame or more",
            )  # fmt: skip
        self.lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
        packed = np.concatenate([np.asarray(clip, dtype=np.float64) for clip in clips])
        finite = np.isfinite(packed).all(axis=1)
        starts = np.cumsum(self.lengths) - self.lengths
        if not finite.all():
            bad = int(np.searchsorted(starts, int(np.argmin(finite)), side="right")) - 1
            raise RunError(asked, found=f"infinite or missing states, first in item {bad}", fix="record them again")
        self.features = packed.shape[1]
        centre, spread = packed.mean(axis=0), packed.std(axis=0)
        # A constant feature is rounding and no signal: it stays at zero.
        still = spread <= 1e-9 * np.abs(centre) + 1e-300
        packed = (packed - centre) / np.where(still, 1.0, spread)
        packed[:, still] = 0.0
        self.packed = packed
        member = work.member.astype(np.float64)
        count = (member @ self.lengths.astype(np.float64))[:, None]
        self.mean = member @ np.add.reduceat(packed, starts, axis=0) / count  # f d
        square = member @ np.add.reduceat(packed**2, starts, axis=0) / count
        variance = square - self.mean**2
        self.scale = np.where(variance <= 1e-12, 1.0, np.sqrt(np.maximum(variance, 1e-300)))

    def fits(self, other: Site) -> bool:
        """Whether both can be stacked."""
        return self.features == other.features and np.array_equal(self.lengths, other.lengths)


class Padded:
    """Sites of equal clips, stacked: frames in buckets of about equally long clips, with zeros on their padding."""

    def __init__(self, sites: Sequence[Site], dtype: torch.dtype, device: torch.device) -> None:
        self.device, self.dtype, self.lengths = device, dtype, sites[0].lengths
        self.sites, self.features = len(sites), sites[0].features
        self.order = np.argsort(self.lengths, kind="stable")
        starts = np.cumsum(self.lengths) - self.lengths
        self.buckets: list[tuple[Float[Tensor, "p n t d"], Bool[Tensor, "n t"]]] = []
        for rows in np.array_split(self.order, min(_BUCKETS, len(self.order))):
            frames = np.zeros((len(sites), len(rows), int(self.lengths[rows].max()), self.features))
            for place, row in enumerate(rows):
                for number, site in enumerate(sites):
                    first = starts[row]
                    frames[number, place, : self.lengths[row]] = site.packed[first : first + self.lengths[row]]
            valid = np.arange(frames.shape[2]) < self.lengths[rows, None]
            self.buckets.append((torch.from_numpy(frames).to(device, dtype), torch.from_numpy(valid).to(device)))
        self.mean, self.scale = (
            torch.from_numpy(np.stack(values)).to(device, dtype)
            for values in ([s.mean for s in sites], [s.scale for s in sites])
        )  # p f d
        self._site = sites[0]

    def split(self, sets: int, folds: int, recipe: AttentionRecipe, classes: int) -> list[NDArray[np.int64]]:
        """Return label sets in portions that fit into memory."""
        one = size_of(self._site, self.sites, folds, recipe) + 12.0 * self.sites * folds * len(self.lengths) * classes
        return np.array_split(np.arange(sets), min(sets, max(1, round(sets * one / room(self.device.type)))))


class Task:
    """Labels and weights of some label sets, for all folds, in the order of a block's items."""

    def __init__(self, work: Work, some: NDArray[np.int64], block: Padded) -> None:
        weights, table = work.weights[:, some][:, :, block.order], work.table[some][:, block.order]  # f l n
        held, member = work.held[:, None, block.order], work.member[:, None, block.order]
        onehot = table[:, :, None] == np.arange(work.classes)

        def classes(heavy: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.asarray(np.einsum("fln,lnk->flk", heavy, onehot) > 0)

        heavy = member & (weights > 0)
        exists = classes(heavy)
        inner = np.where(held, 0.0, weights)
        both = (classes(inner > 0).sum(-1) > 1) & (held & heavy).any(-1)

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(block.device, block.dtype)

        def shares(values: NDArray[np.float64]) -> Tensor:
            return tensor(values / np.maximum(values.sum(-1, keepdims=True), 1e-300))

        self.possible = torch.from_numpy(exists.sum(-1) > 1).to(block.device)  # f l
        self.can_choose = torch.from_numpy(both).to(block.device)
        self.onehot, self.mask = tensor(onehot), tensor(np.where(exists, 0.0, _MASKED))
        self.all, self.inner, self.held = shares(weights), shares(inner), shares(np.where(held, weights, 0.0))
        self.test = torch.from_numpy(work.test[:, block.order]).to(block.device)  # f n

    def shape(self, sites: int) -> tuple[int, int, int]:
        """Return (sites, folds, label sets)."""
        return sites, len(self.test), len(self.onehot)
