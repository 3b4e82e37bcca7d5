"""What every batched probe needs to be told, checked once: labels, folds, weights, groups, blocks of sites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpanalysis.errors import RunError
from vpanalysis.probes.solvers._scaling import Scaled, check_states
from vpanalysis.probes.solvers._streamed import Streamed
from vpanalysis.probes.solvers._threads import in_threads
from vpanalysis.probes.solvers.ridge import CHOICES
from vpanalysis.probes.solvers.strength import inner_folds

__all__ = ["MEMORY", "Folds", "Plan", "Progress", "checked_labels", "fitable"]

Folds = Sequence[Any]
Progress = Callable[[int, int], None]
ByFold = Callable[[int, NDArray[np.int64] | slice], NDArray[np.float64]]
"""From a fold and some label sets to their weights, shape (label_set, item)."""

BLOCK_ELEMENTS = 120_000
"""Fitted values of a block of sites on the CPU: a handful of such arrays stay in a core's cache."""

MEMORY = 1e9
"""Bytes that the work may take on the CPU, beside the states of a site as they were read."""

_ALIVE = 20
"""Arrays of fitted values that a worker takes the room of. Nine are alive at once, labels among them; the C library
keeps as much again of those that are gone (with two workers at 100,000 items, 12 to 24 were measured in all)."""

_SITES, _BYTES, _DEVICE_BYTES = 16, 4e8, 8e9
"""Largest block of sites: their number, and about what they take in memory, on the CPU and elsewhere."""


def checked_labels(labels: NDArray[np.integer[Any]], n_classes: int | None) -> tuple[NDArray[np.int64], int]:
    """Return labels of shape (label_set, item) and the number of classes."""
    table = np.atleast_2d(np.asarray(labels))
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer) or not table.size or table.min() < -1:
        raise RunError(
            "cannot fit probes", found=f"labels of shape {np.shape(labels)} and type {table.dtype}",
            allowed="class numbers from 0, shape (label_set, item); -1 for no label",
        )  # fmt: skip
    classes = int(table.max()) + 1 if n_classes is None else n_classes
    if classes < 2 or table.max() >= classes:
        raise RunError(
            "cannot fit probes", found=f"labels up to {table.max()}", allowed=f"{classes} classes, two at least"
        )
    return table.astype(np.int64, copy=False), classes


def fitable(table: NDArray[Any], plan: Plan, allowed: ByFold, one_class: str) -> NDArray[np.bool_]:
    """Return which label sets have two classes in the training rows of each fold, shape (fold, label_set)."""
    if one_class not in ("raise", "nan"):
        raise RunError("cannot fit probes", found=f"one_class={one_class!r}", allowed=("raise", "nan"), word=one_class)
    out = np.zeros((len(plan.folds), len(table)), dtype=bool)
    for fold, (train, _) in enumerate(plan.folds):
        for number, labels in enumerate(table):
            heavy = allowed(fold, np.array([number]))[0, train] > 0
            out[fold, number] = (np.bincount(labels[train][heavy]) > 0).sum() > 1
        if one_class == "raise" and not out[fold].all():
            number = int(np.argmin(out[fold]))
            heavy = allowed(fold, np.array([number]))[0, train] > 0
            found = sorted(set(table[number, train][heavy].tolist()))
            raise RunError(
                "cannot train a classifier",
                found=f"{'one class only, ' + str(found[0]) if found else 'no label at all'}, in label set {number} in"
                f" the training items of fold {fold}",
                fix="use fewer folds or a stratified split, or leave these cells empty with one_class='nan'",
            )
    return out


class Plan:
    """What logistic and ridge share: checked arguments, blocks of sites, rows of folds on the device."""

    def __init__(
        self,
        X: Any,
        shape: tuple[int, ...],
        folds: Folds,
        weights: NDArray[np.floating[Any]] | ByFold | None,
        groups: NDArray[Any] | None,
        penalties: Any,
        choose: str,
        names: Sequence[str] | None,
        device: str,
        progress: Progress | None,
        workers: int = 1,
        memory: float = np.inf,
    ) -> None:
        self._X, self.sites, self.items, self._progress = X, len(X), shape[1], progress
        self._label_sets = shape[0]
        self.device = torch.device(device)
        if workers < 1:
            raise RunError("cannot fit probes", found=f"workers={workers}", allowed="1 or more")
        # A device is one worker, however many ask of it.
        self._workers = workers if self.device.type == "cpu" else 1
        self._memory = memory
        self._names = [f"site {number}" for number in range(self.sites)] if names is None else list(names)
        if len(self._names) != self.sites or not self.sites:
            raise RunError("cannot fit probes", found=f"{self.sites} sites and {len(self._names)} names")
        self.folds = [_checked(fold, self.items) for fold in folds]
        tested = np.concatenate([test for _, test in self.folds]) if self.folds else np.zeros(0, dtype=np.int64)
        if not len(self.folds) or len(np.unique(tested)) != len(tested):
            raise RunError("cannot fit probes", found="no folds" if not self.folds else "an item tested in two folds")
        self.rows = [
            (torch.from_numpy(train).to(self.device), torch.from_numpy(test).to(self.device))
            for train, test in self.folds
        ]
        own = [getattr(fold, "weights", None) for fold in folds]
        self._weights = _weights(weights, own, self.folds, self._label_sets, self.items)
        self.penalties = np.asarray(penalties, dtype=np.float64).reshape(-1)
        if not len(self.penalties) or not (np.isfinite(self.penalties) & (self.penalties > 0)).all():
            raise RunError(
                "cannot fit probes", found=f"penalties {self.penalties.tolist()}", allowed="positive numbers"
            )
        self.choose = choose
        if choose not in CHOICES:
            raise RunError("cannot choose a penalty", found=f"choose={choose!r}", allowed=CHOICES, word=choose)
        self._groups = np.arange(self.items)
        if groups is not None or choose == "groups":
            if groups is None or np.asarray(groups).shape != (self.items,):
                raise RunError(
                    "cannot leave out groups",
                    found="none" if groups is None else f"shape {np.asarray(groups).shape}",
                    allowed="(item,)",
                )
            self._groups = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1).astype(np.int64)

    def weighing(self, used: NDArray[np.bool_]) -> Callable[..., NDArray[np.float64]]:
        """Return the function from a fold, and some label sets, to their weights, zero where `used` is false."""

        def weights(fold: int, some: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float64]:
            if callable(self._weights):
                here = self._weights(fold, some)
            else:
                here = self._weights[fold if len(self._weights) > 1 else 0][some]
            return np.where(used[some], here, 0.0)

        return weights

    def room(self, scaled: list[Scaled] | list[Streamed], usual: float) -> float:
        """Return the bytes that one array of fitted values of a block may take: `usual`, or what a large site leaves.

        Beside them every worker has two of the features' inner products.
        """
        first = scaled[0]
        if not isinstance(first, Streamed):
            return usual
        left = self._memory / self._used_workers(first.features) - 2 * 8 * first.features**2
        return float(max(left, 0.1 * self._memory)) / _ALIVE

    def _used_workers(self, features: int) -> int:
        """Return how many workers have room for the inner products of a large site's features, some six of them."""
        return max(1, min(self._workers, int(0.5 * self._memory / (6 * 8 * features**2))))

    def _too_large(self, states: NDArray[Any]) -> bool:
        """Whether a site is worked in slices: in float64, thrice, it would fill half the memory."""
        fewest = min(len(train) for train, _ in self.folds)
        inner = self.choose == "gcv" or len(self.penalties) == 1
        # By then inner products of items are the larger ones (see `Scaled.by_items`), also for ridge.
        few_features = fewest**2 > states.shape[1] * (states.shape[1] + 2 * fewest)
        return self.device.type == "cpu" and inner and few_features and 24 * states.size > 0.5 * self._memory

    def groups(self, fold: int) -> list[Tensor] | None:
        """Return the positions, among the training rows of `fold`, of each group to leave out; None if none are."""
        if self.choose != "groups":
            return None
        here = self._groups[self.folds[fold][0]]
        if len(np.unique(here)) < 2:
            raise RunError("cannot leave out groups", found=f"one group in the training items of fold {fold}")
        return [torch.from_numpy(np.flatnonzero(here == g)).to(self.device) for g in np.unique(here)]

    def inner_folds(self, fold: int, splits: int) -> list[NDArray[np.bool_]]:
        """Return which training rows of `fold` each inner fold leaves out."""
        return inner_folds(self._groups[self.folds[fold][0]], splits, fold)

    def run(
        self, work: Callable[[list[int], list[Scaled] | list[Streamed], int], None], columns: int, *, iterates: bool
    ) -> None:
        """Call `work` for every block of sites and every fold, on as many threads as there are workers.

        `columns` says how many fitted values there are per item, `iterates` whether they are gone over again and again.
        """
        done, total = 0, self.sites * len(self.folds)

        turns: dict[int, threading.Semaphore] = {}

        def unit(sites: list[int], scaled: list[Scaled] | list[Streamed], fold: int) -> int:
            first = scaled[0]
            if isinstance(first, Streamed):
                # There may be fewer rooms than workers.
                with turns.setdefault(first.features, threading.Semaphore(self._used_workers(first.features))):
                    work(sites, scaled, fold)
            else:
                work(sites, scaled, fold)
            return len(sites)

        # A generator, and nothing here names a block: what is done with makes room before the next one is read.
        units = ((*block, fold) for block in self._blocks(columns, iterates) for fold in range(len(self.folds)))
        for finished in in_threads(unit, units, self._workers):
            done += finished
            if self._progress is not None:
                self._progress(done, total)

    def _largest_block(self, columns: int, features: int, iterates: bool) -> int:
        train = max(len(rows) for rows, _ in self.folds)
        size = 8 * (3 * self.items * features + 6 * train * train + 12 * train * columns)
        if self.device.type != "cpu":
            return max(1, int(_DEVICE_BYTES / size))
        cached = BLOCK_ELEMENTS / (train * columns) if iterates else _SITES
        limit = max(1, min(round(cached), int(_BYTES / size), _SITES))
        # Blocks of even size: a last one with a single site would pay what the others share.
        return -(-self.sites // -(-self.sites // limit))

    def _blocks(self, columns: int, iterates: bool) -> Iterator[tuple[list[int], list[Scaled] | list[Streamed]]]:
        sites: list[int] = []
        scaled: list[Scaled] = []
        for site in range(self.sites):
            states = np.asarray(self._X[site])
            check_states(states, self._names[site], self.items)
            if self._too_large(states):
                if sites:
                    yield sites, scaled
                    sites, scaled = [], []
                yield [site], [Streamed(states, self.rows)]
                continue
            tensor = torch.from_numpy(np.ascontiguousarray(states.astype(np.float64, copy=False))).to(self.device)
            one = Scaled(tensor, self.rows)
            # Sites of a block are solved in one batch, so they have to have coefficients of one kind and number.
            limit = self._largest_block(columns, states.shape[1], iterates)
            if sites and (len(sites) >= limit or one.kind != scaled[0].kind):
                yield sites, scaled
                sites, scaled = [], []
            sites.append(site)
            scaled.append(one)
        if sites:
            yield sites, scaled


def _checked(fold: Any, items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    train, test = (fold.train, fold.test) if hasattr(fold, "train") else fold
    train, test = (np.asarray(rows).astype(np.int64) for rows in (train, test))
    both = np.concatenate([train, test])
    if not len(train) or not len(test) or len(np.unique(both)) != len(both) or both.min() < 0 or both.max() >= items:
        raise RunError(
            "cannot use the fold", found=f"{len(train)} training and {len(test)} test items of {items}",
            allowed="disjoint row numbers, at least one on each side",
        )  # fmt: skip
    return train, test


def _weights(
    weights: NDArray[np.floating[Any]] | ByFold | None,
    own: list[Any],
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    label_sets: int,
    items: int,
) -> NDArray[np.float64] | ByFold:
    """Return weights of shape (1 or fold, label_set, item), or the function that gives those of a fold."""
    if callable(weights):
        return weights
    if weights is None:
        if any(w is None for w in own):
            return np.ones((1, label_sets, items))
        out = np.zeros((len(folds), label_sets, items))
        for fold, ((train, _), weight) in enumerate(zip(folds, own, strict=True)):
            out[fold][:, train] = weight
        return out
    given = np.asarray(weights, dtype=np.float64)
    shapes = {1: (items,), 2: (label_sets, items), 3: (len(folds), label_sets, items)}
    if given.shape != shapes.get(given.ndim) or not np.isfinite(given).all() or (given < 0).any():
        raise RunError(
            "cannot weigh the items", found=f"weights of shape {given.shape}",
            allowed=f"finite, not negative, shape {shapes[1]}, {shapes[2]} or {shapes[3]}",
        )  # fmt: skip
    return np.broadcast_to(given, (given.shape[0] if given.ndim == 3 else 1, label_sets, items))
